"""The documentation site: built once, with warnings as errors, and looked at in a browser that has no network."""
import json, re, shutil, subprocess, sys, threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote, urldefrag
import pytest
from browser import chromium, keep, no_wider_than_the_window, visit # noqa: F401, chromium is a fixture

pytest.importorskip('myst_nb', reason="the documentation's tools are not installed: pip install 'sphere_mnist[dev]'")
root = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder of the site."
    folder = tmp_path_factory.mktemp('docs')/'_docs'
    done = subprocess.run([sys.executable, root/'.ci/docs/build.py', folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope='module')
def served(site):
    "The address of the site, whose search fetches pages."
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *said): pass
    def do_GET(self):
        if self.path != '/favicon.ico': return super().do_GET() # a browser asks for it once
        self.send_response(204)
        self.end_headers()


class Links(HTMLParser):
    "Where a page leads, what it fetches, and the names of its places."
    def __init__(self, text):
        super().__init__()
        self.links, self.fetched, self.names = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.names.add(told.get('id'))
        if tag == 'a': self.links.add(told.get('href') or '')
        else: self.fetched |= {told[k] for k in ('src', 'href') if told.get(k)}


def test_every_link_leads_somewhere(site):
    pages = {f.resolve(): Links(f.read_text(encoding='utf-8')) for f in site.rglob('*.html') if '_static' not in f.parts}
    notebooks = {f.stem for f in (root/'nbs').glob('[!_.]*.ipynb')}
    modules = {f.stem for f in (root/'sphere_mnist').glob('[!_]*.py')}
    assert notebooks <= {f.stem for f in site.glob('*.html')} and modules <= {f.stem for f in (site/'api').glob('*.html')}
    for file, page in pages.items():
        for link in page.fetched: assert not link.startswith(('http:', 'https:', '//')), (file.name, link)
        for link in page.links | page.fetched:
            path, place = urldefrag(link)
            if re.match('https?:|data:|mailto:', path): continue
            target = (file.parent/unquote(path.partition('?')[0])).resolve() if path else file
            assert target.exists(), (file.name, link)
            if place and target in pages: assert unquote(place) in pages[target].names, (file.name, link)
    text = {f: f.read_text(encoding='utf-8') for f in pages}
    assert not [f.name for f in text if re.search(r'#\|\s*(export|hide|default_exp|echo)', text[f])], 'a directive is shown'


@pytest.mark.parametrize('name', sorted(f.stem for f in (root/'nbs').glob('[0-9]*.ipynb')))
def test_the_first_cell_installs_the_package_on_colab_only(name, monkeypatch):
    notebook = json.loads((root/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))
    first, asked = next(''.join(c['source']) for c in notebook['cells'] if c['cell_type'] == 'code'), []
    shell = SimpleNamespace(run_line_magic=lambda *magic: asked.append(magic))
    exec(first, dict(get_ipython=lambda: shell))
    assert not asked
    monkeypatch.setitem(sys.modules, 'google.colab', ModuleType('google.colab'))
    exec(first, dict(get_ipython=lambda: shell))
    assert asked == [('pip', 'install -q "sphere_mnist[dev]"')]


def with_an_address(folder):
    "The settings of a repository that lives somewhere."
    settings = (root/'settings.ini').read_text(encoding='utf-8')
    (folder/'settings.ini').write_text(re.sub('(?m)^git_url =.*', 'git_url = https://github.com/someone/sphere_mnist', settings), encoding='utf-8')


def test_an_address_brings_badges(tmp_path):
    for path in ('.ci/readme.py', 'nbs/index.ipynb'):
        (tmp_path/path).parent.mkdir()
        shutil.copy(root/path, tmp_path/path)
    written = []
    for prepare in (lambda folder: shutil.copy(root/'settings.ini', folder), with_an_address):
        prepare(tmp_path)
        subprocess.run([sys.executable, tmp_path/'.ci/readme.py'], check=True, capture_output=True)
        written.append((tmp_path/'README.md').read_text(encoding='utf-8'))
    assert written[0] == (root/'README.md').read_text(encoding='utf-8') and 'badge' not in written[0]
    assert 'https://github.com/someone/sphere_mnist/actions/workflows/test.yaml/badge.svg' in written[1]
    for notebook in (root/'nbs').glob('[0-9]*.ipynb'): assert f'colab.research.google.com/github/someone/sphere_mnist/blob/main/nbs/{notebook.name})' in written[1]


def test_an_address_brings_a_link_to_colab(tmp_path):
    (tmp_path/'.ci').mkdir()
    shutil.copytree(root/'.ci/docs', tmp_path/'.ci/docs')
    with_an_address(tmp_path)
    (tmp_path/'pages').mkdir()
    shutil.copy(root/'nbs/01_sphere.ipynb', tmp_path/'pages/index.ipynb')
    done = subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-c', tmp_path/'.ci/docs', tmp_path/'pages', tmp_path/'site'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'https://colab.research.google.com/github/someone/sphere_mnist/blob/main/nbs/index.ipynb' in (tmp_path/'site/index.html').read_text(encoding='utf-8')


def test_first_page(site, chromium, tmp_path):
    with visit(chromium, (site/'index.html').as_uri()) as page:
        assert page.get_by_role('heading', level=1).first.inner_text().startswith('sphere_mnist')
        assert page.locator('nav a[href="14_spherical.html"]').count() and page.locator('nav a[href="api/index.html"]').count()
        keep(page, 'docs-index', tmp_path)


def test_a_notebook_with_formulas_and_figures(site, chromium, tmp_path):
    with visit(chromium, (site/'12_discover.html').as_uri(), width=390) as page:
        sizes = page.locator('math').evaluate_all('all => all.map(m => m.getBoundingClientRect().width)')
        assert len(sizes) > 10 and min(sizes) > 1
        images = page.locator('.cell_output img').evaluate_all('all => all.map(i => [i.naturalWidth, i.alt.length])')
        assert len(images) > 1 and all(width > 100 and alt > 10 for width, alt in images), images
        assert no_wider_than_the_window(page)
        keep(page, 'docs-notebook', tmp_path)


def test_a_page_of_the_package(site, chromium, tmp_path):
    with visit(chromium, (site/'api/sphere.html').as_uri()) as page:
        entry = page.locator('dl.py.function', has=page.locator('[id="sphere_mnist.sphere.chord"]'))
        said = entry.inner_text()
        for part in ('a: Tensor', 'Parameters', 'points, (N, D)', 'Returns', 'Straight-line distance'): assert part in said, (part, said)
        keep(page, 'docs-api', tmp_path)
        entry.get_by_role('link', name='The sphere').or_(entry.locator('a[href*="01_sphere.html"]')).first.click()
        page.wait_for_url('**/01_sphere.html*')
        assert page.locator('a[href="api/sphere.html#sphere_mnist.sphere.chord"]').count()


def test_the_page_of_the_front_door_says_what_every_parameter_means(site):
    text = re.sub(r'<[^>]*>', '', (site/'api/estimator.html').read_text(encoding='utf-8'))
    from sphere_mnist import GMVAEClusterer, MetricEmbedder, SphericalClusterer
    for made in (SphericalClusterer, GMVAEClusterer, MetricEmbedder):
        entry = text[text.index(f'class {made.__name__}('):]
        head, _, meanings = entry.partition('Parameters')
        for name in made().get_params(): assert re.search(rf'\b{name}(: | ?= ?)', head) and re.search(rf'\b{name} – \S', meanings), (made, name)


@pytest.mark.parametrize('words, page', [('folder of pictures', '51_sources.html#'), ('own pictures', 'index.html#'), ('the published method', '10_published.html')])
def test_search_finds_the_page_whose_heading_has_the_words(site, chromium, served, words, page):
    with visit(chromium, f'{served}/search.html?q={words.replace(" ", "+")}') as shown:
        shown.wait_for_selector('#search-results li a')
        shown.wait_for_function("!/Searching|^$/.test(document.querySelector('#search-results h2').innerText)")
        assert shown.locator('#search-results li a').first.get_attribute('href').startswith(page)


@pytest.mark.parametrize('width', [390, 800])
def test_the_menus_open(site, chromium, width):
    with visit(chromium, (site/'01_sphere.html').as_uri(), width=width) as page:
        link = page.locator('.bd-sidebar-primary a[href="04_losses.html"]').last
        assert not link.is_visible()
        page.locator('button.primary-toggle:visible').first.click()
        link.wait_for(state='visible')
        link.click()
        page.wait_for_url('**/04_losses.html*')
        contents = page.locator('.bd-sidebar-secondary a[href^="#"]').last
        assert not contents.is_visible()
        page.locator('button.secondary-toggle:visible').first.click()
        contents.wait_for(state='visible')


@pytest.mark.parametrize('width', [390, 800, 1280])
def test_equations_begin_where_the_text_does(site, chromium, width):
    with visit(chromium, (site/'01_sphere.html').as_uri(), width=width) as page:
        boxes = page.locator('div.math').evaluate_all("""all => all.map(d => {
            d.scrollLeft = 0
            const box = d.getBoundingClientRect(), math = d.querySelector('math').getBoundingClientRect()
            return [box.left, box.right, math.left, window.innerWidth] })""")
        assert len(boxes) > 3
        for left, right, begins, window in boxes: assert left >= 0 and right <= window and begins >= left - 1, (left, right, begins)
        assert no_wider_than_the_window(page)


def test_code_fits_a_desk(site, chromium):
    with visit(chromium, (site/'10_published.html').as_uri(), width=1280) as page:
        cut = page.locator('div.highlight pre').evaluate_all('all => all.map(p => p.scrollWidth > p.clientWidth + 1)')
        assert len(cut) > 10 and sum(cut)/len(cut) < .45, f'{sum(cut)} of {len(cut)} blocks overflow'


@pytest.mark.parametrize('module', ['sphere', 'estimator', 'training'])
def test_a_page_of_the_package_fits_a_telephone(site, chromium, module):
    with visit(chromium, (site/f'api/{module}.html').as_uri(), width=390) as page: assert no_wider_than_the_window(page)
