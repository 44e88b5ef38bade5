"""A folder with something wrong in it: what is said, what is left out, and that nothing of it is changed."""
import csv, json, re
import numpy as np
import pytest
from PIL import Image
from sphere_mnist.cli import main
from sphere_mnist.data import InputError, load_images


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "24 pictures of two kinds, and five that are wrong."
    top, generator = tmp_path_factory.mktemp('audit')/'pictures', np.random.default_rng(0)
    top.mkdir()
    for i in range(24):
        picture = generator.integers(0, 120, (16, 16), dtype=np.uint8)
        picture[:, 3 + 7*(i % 2):6 + 7*(i % 2)] += 120
        Image.fromarray(picture).save(top/f'{i:02d}.png')
    (top/'copy.png').write_bytes((top/'05.png').read_bytes())
    Image.new('L', (16, 16), 90).save(top/'blank.png')
    (top/'cut.png').write_bytes((top/'07.png').read_bytes()[:150])
    (top/'words.jpg').write_text('no picture')
    (top/'phone.heic').write_bytes(b'something else')
    return top


@pytest.fixture(scope='module')
def run(folder):
    assert main(['cluster', '--data', str(folder), '--preset', 'published', '--epochs', '1', '--clusters', '2', '--quiet', '--out', str(folder.parent/'run')]) == 0
    return folder.parent/'run'


def rows(file):
    with open(file, newline='') as f: return [*csv.DictReader(f)]


def test_check(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert main(['check', str(folder)]) == 0
    said = capsys.readouterr().out
    for line in ('28  pictures', '2  unreadable  left out: cut.png, words.jpg', '1  copy        the same bytes as another: copy.png', '1  blank', '1  other file'): assert line in said
    assert {(r['picture'], r['problem'], r['of']) for r in rows('audit.csv')} == {('cut.png', 'unreadable', ''), ('words.jpg', 'unreadable', ''), ('copy.png', 'copy', '05.png'),
                                                                             ('blank.png', 'blank', ''), ('phone.heic', 'other file', '')}
    assert main(['check', str(folder), '--strict']) == 2
    assert re.match(r'sphere_mnist: 2 of the files in .* cannot be read, the first is cut.png \(.*\): replace or remove them', capsys.readouterr().err)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before and [p.name for p in tmp_path.iterdir()] == ['audit.csv']


def test_a_run_leaves_out_what_cannot_be_read(folder, run):
    names = [r['picture'] for r in rows(run/'clusters.csv')]
    assert names == [*(f'{i:02d}.png' for i in range(24)), 'blank.png', 'copy.png']
    assert [r['picture'] for r in rows(run/'map.csv')] == names and len(rows(run/'audit.csv')) == 5
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', (run/'map.html').read_text())[1])
    assert dict(zip(data['pictures'], data['audit'])) == {name: '' for name in names} | {'copy.png': 'copy', 'blank.png': 'blank'}
    assert 'What the audit found' in (run/'report.html').read_text()


def test_strict_ends_before_anything_is_written(folder, tmp_path, capsys):
    assert main(['cluster', '--data', str(folder), '--strict', '--out', str(tmp_path/'run')]) == 2
    assert 'cannot be read, the first is cut.png' in capsys.readouterr().err and not (tmp_path/'run').exists()


def test_from_python_there_is_a_warning(folder, tmp_path):
    with pytest.warns(UserWarning, match=r'2 of 28 files are left out: .*cut.png cannot be read as a picture .*words.jpg'): assert len(load_images(folder)) == 26
    (tmp_path/'a.png').write_text('no picture')
    with pytest.raises(InputError, match='a.png cannot be read as a picture'): load_images(tmp_path)


SAVED = dict(the_same=lambda p: p, lighter=lambda p: p.point(lambda v: v//2 + 90), coarser=lambda p: p.point(lambda v: v//4*4))


@pytest.mark.parametrize('how', SAVED)
def test_copies_do_not_straddle_train_and_test(how, folder, tmp_path, capsys):
    for part, numbers in dict(train=range(16), test=range(12, 24)).items():
        (tmp_path/'parted'/part).mkdir(parents=True)
        for i in numbers:
            with Image.open(folder/f'{i:02d}.png') as picture: (SAVED[how] if part == 'test' else SAVED['the_same'])(picture).save(tmp_path/'parted'/part/f'{i}.png')
    assert main(['cluster', '--data', str(tmp_path/'parted'), '--preset', 'published', '--epochs', '1', '--clusters', '2', '--out', str(tmp_path/'run')]) == 0
    said = capsys.readouterr()
    assert '4 pictures look like pictures in another part (test/12.png)' in said.out and '4 of 12 images to score are copies or near copies of images to train on' in said.err
    assert [r['picture'] for r in rows(tmp_path/'run/clusters.csv')] == [f'test/{i}.png' for i in range(16, 24)]


def test_pictures_of_floats_are_left_out(folder, tmp_path, capsys):
    "Nobody knows what is white in them. The audit and the loader have to agree, or the figure of the audit stops the run."
    top = tmp_path/'pictures'
    top.mkdir()
    for i in range(8): (top/f'{i}.png').write_bytes((folder/f'{i:02d}.png').read_bytes())
    Image.fromarray(np.random.default_rng(0).random((16, 16)).astype(np.float32)).save(top/'f.tif')
    Image.new('L', (16, 16), 90).save(top/'blank.png')
    assert main(['cluster', '--data', str(top), '--preset', 'published', '--epochs', '1', '--clusters', '2', '--quiet', '--out', str(tmp_path/'run')]) == 0
    assert {(r['picture'], r['problem']) for r in rows(tmp_path/'run'/'audit.csv')} == {('f.tif', 'unreadable'), ('blank.png', 'blank')}
    assert len(rows(tmp_path/'run'/'clusters.csv')) == 9
