"""The page of a run, read by a parser of HTML as a browser would."""
import json, re, shlex
from html.parser import HTMLParser
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from sphere_mnist import cli, clustering, data, report, runs
from sphere_mnist.spherical import Spherical
from browser import chromium, keep, no_wider_than_the_window, visit # noqa: F401, chromium is a fixture

NASTY = '<script>alert("1")</script>&\'"><img onerror>'
VOID = {'meta', 'img', 'br', 'input'}


class Page(HTMLParser):
    "Elements with their attributes, the text, and whether tags are balanced."
    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open, self.style = [], [], [], ''
        self.feed(html)
        self.close()
        assert not self.open, self.open
    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID: self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag, tag
    def handle_data(self, data):
        if self.open and self.open[-1] == 'style': self.style += data
        else: self.text.append(data)
    def all(self, tag): return [attributes for name, attributes in self.elements if name == tag]
    def words(self): return ' '.join(' '.join(self.text).split())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A run of one epoch on two classes with names that mean mischief, in a folder with such a name; its figures are drawn here."
    top = tmp_path_factory.mktemp('pages')/'<b>"runs"'
    generator = np.random.default_rng(0)
    for name, place in (('ant', 2), ('bee', 8)):
        for i in range(12):
            picture = generator.integers(0, 60, (12, 12), dtype=np.uint8)
            picture[:, place:place + 3] += 150
            path = top/'data & more'/f'{name}-{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    exemplars = [f'{NASTY}={top}/data & more/ant-0.png', f'bee={top}/data & more/bee-0.png']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustering, 'run_figures', drawn)
        assert cli.main(['cluster', '--data', str(top/'data & more'), '--preset', 'published', '--epochs', '1', '--quiet',
                         '--exemplars', *exemplars, '--out', str(top/'run')]) == 0
    return top/'run'


def drawn(system, images, folder, *args):
    "Stands for the seconds that figures take."
    (folder/'figures').mkdir()
    for name in ('curves.png', 'tsne.png', 'novel.png', 'training.gif'): Image.new('L', (9, 9)).save(folder/'figures'/name)
    (folder/'figures/captions.json').write_text(json.dumps(dict(curves='Loss "3" < 4', tsne='92% of neighbours & more')))
    return []


@pytest.fixture(scope='module')
def page(folder): return Page((folder/'report.html').read_text(encoding='utf-8'))


def test_every_picture_has_words_and_is_inside(page):
    pictures = page.all('img')
    assert len([p for p in pictures if not p['alt'].startswith('a picture of cluster')]) == 4 + 2 # figures and exemplars
    assert len(pictures) > 6
    assert all(p['src'].startswith(('data:image/png;base64,', 'data:image/gif;base64,')) and len(p['alt']) > 10 for p in pictures)
    alt = ' '.join(p['alt'] for p in pictures)
    for words in ('Line charts', 'Loss "3" < 4.', '92% of neighbours & more.', 'A figure of the spherical system, novel.', 'the exemplar of bee'): assert words in alt


def test_nothing_leads_out(page):
    addresses = [v for _, a in page.elements for k, v in a.items() if k in ('src', 'href', 'srcset', 'action', 'data', 'poster')]
    assert addresses and all(a.startswith('data:') for a in addresses)
    assert {tag for tag, _ in page.elements}.isdisjoint({'script', 'link', 'iframe', 'object', 'embed', 'base', 'form'})
    assert 'url(' not in page.style and '@import' not in page.style
    assert not [k for _, a in page.elements for k in a if k.startswith('on')]
    policy = next(m['content'] for m in page.all('meta') if m.get('http-equiv') == 'Content-Security-Policy')
    assert policy.startswith("default-src 'none'") and 'http' not in policy


def test_names_and_paths_are_text(page, folder):
    assert NASTY in page.words() and f'the exemplar of {NASTY}' in [p['alt'] for p in page.all('img')]
    assert str(folder.parent/'data & more') in page.words() and '<b>' not in (folder/'report.html').read_text().replace('<b>bee</b>', '').replace('<b>&lt;', '')


def test_a_phone_and_the_dark_are_thought_of(page):
    assert any(m.get('name') == 'viewport' and 'width=device-width' in m['content'] for m in page.all('meta'))
    assert 'prefers-color-scheme: dark' in page.style and 'max-width: 100%' in page.style and page.all('html') == [{'lang': 'en'}]


@pytest.mark.parametrize('width', [390, 1280])
def test_no_window_is_too_narrow(chromium, folder, width, tmp_path):
    with visit(chromium, (folder/'report.html').absolute().as_uri(), width) as page:
        assert no_wider_than_the_window(page)
        assert page.locator('img').evaluate_all('all => all.every(i => i.complete && i.naturalWidth)')
        keep(page, f'report-{width}', tmp_path)


def test_the_numbers_of_the_result_are_on_it(page, folder):
    result, words = json.loads((folder/'result.json').read_text()), page.words()
    for key, value in result.items(): assert (said := report.spelled(value)) == '–' or said in words, key # without labels dashes are left out
    assert all(f'--{key.replace("_", "-")}' in words for key in ('system', 'data', 'epochs', 'exemplars'))
    size = (folder/'report.html').stat().st_size
    assert f'one file of {size/1000:,.0f} kB' in words and size < 3_000_000


@pytest.mark.parametrize('text', ['[]', '[1]', 'null', '{', '3'])
def test_captions_that_are_damaged_cost_no_figure(tmp_path, text):
    place = tmp_path/'figures'
    place.mkdir()
    Image.new('L', (4, 4)).save(place/'curves.png')
    (place/'captions.json').write_text(text)
    assert [f['heading'] for f in report.figures_of_run(tmp_path, Spherical)[0]] == ['Curves']


def test_the_same_run_again_is_a_line_for_a_shell(folder):
    said = Page((folder/'report.html').read_text()).words()
    again = shlex.split(re.search(r'The same run again: (.*?config\.yaml\S*)', said)[1])
    assert again[:3] == ['sphere_mnist', 'cluster', '--config'] and Path(again[3]).samefile(folder/'config.yaml')
    result = json.loads((folder/'result.json').read_text())
    (folder/'result.json').write_text(json.dumps(result | dict(torch='0.1', version='0.0.1', hardware='8 x abacus')))
    assert cli.main(['evaluate', str(folder), '--quiet']) == 0
    assert 'sphere_mnist 0.0.1, torch 0.1, 8 x abacus' in Page((folder/'report.html').read_text()).words()
    (folder/'result.json').write_text(json.dumps(result))
    assert cli.main(['evaluate', str(folder), '--quiet']) == 0


def test_evaluate_writes_page_and_list_anew(folder, capsys):
    before = {name: (folder/name).read_bytes() for name in ('report.html', 'clusters.csv')}
    for name in before: (folder/name).unlink()
    assert cli.main(['evaluate', str(folder), '--quiet']) == 0
    assert {name: (folder/name).read_bytes() for name in before} == before
    assert capsys.readouterr() == ('', '')
    assert not list(folder.glob('.*'))


def test_the_list_names_each_picture(folder):
    lines = (folder/'clusters.csv').read_text().splitlines()
    assert lines[0] == 'picture,label,confidence,cluster' and len(lines) == 25
    assert [l.split(',')[0] for l in lines[1:3]] == ['ant-0.png', 'ant-1.png']


def test_large_figures_stay_in_the_folder(folder, tmp_path):
    import shutil
    copy = Path(shutil.copytree(folder, tmp_path/'copy'))
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(copy/'figures/style.png')
    args, result, system = runs.load_run(copy)
    html = report.report(copy, system, data.load_images(args['data']), result, args)
    assert len(html.encode()) < 3_000_000
    assert 'Style: figures/style.png is 2.4 MB and was left in the folder.' in Page(html).words()


@pytest.mark.parametrize('draw', ['0', 'none'])
def test_features_and_no_figures(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(clustering, 'run_figures', lambda *args: [])
    points = np.random.default_rng(0).normal(size=(60, 5)) + np.repeat(np.eye(3, 5)*9, 20, 0)
    np.savez(tmp_path/'points.npz', x=points, y=np.repeat([0, 1, 2], 20))
    assert cli.main(['cluster', '--data', str(tmp_path/'points.npz'), '--preset', 'published', '--epochs', '0', '--draw', draw, '--out', str(tmp_path/'run')]) == 0
    page = Page((tmp_path/'run/report.html').read_text())
    assert not page.all('img') and 'This run has no figures.' in page.words()
    assert ('exemplars in it' in page.words()) == (draw == '0')
    assert (tmp_path/'run/clusters.csv').read_text().splitlines()[1].startswith('0,')
