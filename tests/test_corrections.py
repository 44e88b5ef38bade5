"""What a person says of a run is in its tables and in its system at once, is applied once, and is refused where it cannot be meant."""
import csv, errno, os, shutil
from pathlib import Path
from unittest import mock
import numpy as np
import pytest
import torch
from PIL import Image
from sphere_mnist import cli, clustering, look_again, sort as room
from sphere_mnist.corrections import Correction, correct, known_again, prints
from sphere_mnist.data import InputError, to_float
from sphere_mnist.evaluation import assign_all
from sphere_mnist.models import pack, read_tensors
from sphere_mnist.runs import load_run
from sphere_mnist.share import export, load_system


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "A run of a few steps on 30 pictures of three kinds."
    top = tmp_path_factory.mktemp('corrected')
    generator = np.random.default_rng(0)
    for n in range(30):
        picture = generator.integers(0, 60, (12, 12), dtype=np.uint8)
        picture[:, 4*(n % 3):4*(n % 3) + 3] += 150
        (top/'pile').mkdir(exist_ok=True)
        Image.fromarray(picture).save(top/f'pile/{n:02}.png')
    with pytest.MonkeyPatch.context() as patch:
        for part in (clustering, look_again): patch.setattr(part, 'run_figures', lambda *a: [])
        assert cli.main(['cluster', '--data', str(top/'pile'), '--preset', 'fast', '--clusters', '3', '--epochs', '6', '--width', '4', '--dim', '8', '--quiet', '--out', str(top/'run')]) == 0
    return top


@pytest.fixture
def top(finished, tmp_path, monkeypatch):
    shutil.copytree(finished/'run', tmp_path/'run')
    shutil.copytree(finished/'pile', tmp_path/'pile')
    for module in (clustering, room): monkeypatch.setattr(module, 'run_figures', lambda *a: [])
    config = (tmp_path/'run/config.yaml').read_text()
    (tmp_path/'run/config.yaml').write_text(config.replace(str(finished/'pile'), str(tmp_path/'pile')))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def say(*lines, head='picture,action,value'):
    Path('said.csv').write_text('\n'.join([head, *lines, '']))
    return cli.main(['correct', 'run', 'said.csv'])

def table(name='clusters.csv'): return {row['picture']: row for row in csv.DictReader(Path('run', name).open())}


def test_all_at_once(top, capsys):
    before = table()
    a, b, c = ([name for name, row in before.items() if row['cluster'] == k] for k in '012')
    assert min(map(len, (a, b, c))) > 4
    assert say('cluster:0,name,lines', 'cluster:1,merge,lines', 'cluster:cluster:2,split,2'.replace('cluster:cluster', 'cluster'),
               f'{c[0]},move,lines', f'{a[0]},stranger,', f'{a[1]},label,lines', f'{b[1]},label,odd') == 0
    after = table()
    assert {after[name]['cluster'] for name in [*a[2:], b[0], *b[2:]]} == {'0'} and after[b[0]]['label'] == 'lines'
    assert after[c[0]]['cluster'] == '0' and after[c[0]]['confidence'] == '1.0000'
    assert (after[a[0]]['cluster'], after[a[0]]['label'], after[a[0]]['confidence']) == ('-1', '', '1.0000')
    assert after[b[1]]['label'] == 'odd' and {after[name]['cluster'] for name in c[1:]} == {'2', '3'}
    assert '1 merge' in capsys.readouterr().out and len(Path('run/corrected.csv').read_text().splitlines()) == 8
    assert cli.main(['predict', f'pile/{a[0]}', f'pile/{c[0]}', '--run', 'run']) == 0 # the system knows it, too
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].endswith(',,1.0000,-1') and rows[2].endswith(',lines,1.0000,0')
    assert cli.main(['sort', 'run', '--to', 'sorted']) == 0
    assert os.listdir('sorted/_strangers') == [a[0]] and Path('sorted/lines', c[0]).is_symlink()
    evaluated = table()
    assert cli.main(['evaluate', 'run']) == 0 and table() == evaluated
    page = Path('run/report.html').read_text()
    assert '<b>lines</b>' in page


def test_a_file_is_applied_once(top, capsys):
    lines = ('cluster:2,split,2', 'cluster:0,name,first')
    assert say(*lines) == 0
    weights, before = Path('run/model.safetensors').read_bytes(), table()
    Path('run/clusters.csv').unlink() # as when it was killed before the tables
    assert say(*lines) == 0 and 'was applied before' in capsys.readouterr().out
    unchanged = Path('run/model.safetensors').read_bytes() == weights # not in the assertion, which would print them
    assert unchanged and table() == before
    assert say('cluster:2,split,2', 'cluster:0,name,second') == 0 and {row['cluster'] for row in table().values()} > {row['cluster'] for row in before.values()}


@pytest.mark.parametrize('at', range(1, 8))
@pytest.mark.parametrize('error', [KeyboardInterrupt(), OSError(errno.ENOSPC, 'No space left on device')], ids=['stopped', 'full'])
def test_stopped_at_any_file(top, at, error, capsys):
    "Each file is whole, old or new, and the same command goes on."
    lines, written, replace = ('cluster:2,split,2', 'cluster:0,name,first', '03.png,stranger,'), [], os.replace
    def failing(*args):
        written.append(args[1])
        if len(written) == at: raise error
        replace(*args)
    with mock.patch.object(os, 'replace', failing): status = say(*lines)
    assert status in ((130, 1) if len(written) >= at else (0,))
    load_run(Path('run'))
    assert say(*lines) == 0 and not [*Path('run').glob('.*')]
    after, K = table(), {row['cluster'] for row in table().values()}
    assert after['03.png']['cluster'] == '-1' and '4' not in K and 'first' in {row['label'] for row in after.values()}


def test_labels_of_a_table_and_training(top, capsys):
    names = [f'{n:02}.png' for n in range(12)]
    Path('said.csv').write_text('picture,label\n' + ''.join(f'{name},{"abc"[n % 3]}\n' for n, name in enumerate(names)))
    assert cli.main(['correct', 'run', 'said.csv', '--train']) == 0 and 'learned from 12 pictures' in capsys.readouterr().out
    after = table()
    assert all(after[name]['label'] == 'abc'[n % 3] for n, name in enumerate(names))
    assert np.mean([row['label'] == 'abc'[int(name[:2]) % 3] for name, row in after.items()]) > .9
    assert cli.main(['correct', 'run', 'said.csv', '--train']) == 0 # once more


def test_pictures_that_come_later(top, capsys):
    shutil.copy('pile/00.png', 'pile/later.png')
    Image.fromarray(np.asarray(Image.open('pile/01.png'))[::-1]).save('pile/zoo.png')
    assert cli.main(['predict', 'pile', '--run', 'run']) == 0
    out = capsys.readouterr()
    assert [line.split(',')[0] for line in out.out.splitlines()[1:]] == ['pile/later.png', 'pile/zoo.png'] and '30 of 32 pictures were named before' in out.err
    assert cli.main(['predict', 'pile', '--run', 'run']) == 0 and capsys.readouterr().out == ''
    assert cli.main(['predict', 'pile', '--run', 'run', '--again']) == 0 and len(capsys.readouterr().out.splitlines()) == 33
    later = str(top/'pile/zoo.png')
    Path('run/later.csv').write_text(''.join(line for line in Path('run/later.csv').open() if 'later.png' in line or 'zoo' in line or 'label' in line))
    assert say(f'{later},stranger,') == 0 and table('later.csv')[later]['cluster'] == '-1'
    assert cli.main(['sort', 'run', '--to', 'sorted']) == 0 and os.listdir('sorted/_strangers') == ['zoo.png']


REFUSED = {
    '01.png,burn,': "Line 2 of said.csv has the action 'burn'", '01.png': 'Line 2', 'nobody.png,label,cat': "no picture 'nobody.png'",
    'cluster:9,name,cat': "no cluster '9'", 'cluster:1,merge,cats': "no cluster 'cats'", 'cluster:1,split,3': 'a cluster is split in 2',
    '01.png,move,nowhere': "no cluster 'nowhere'", '01.png,label,': 'has no name', 'cluster:1,name,': 'has no name', 'cluster:1,label,cat': "no picture 'cluster:1'"}

@pytest.mark.parametrize('line', REFUSED)
def test_refused(top, line, capsys):
    before = {f: f.read_bytes() for f in Path('run').rglob('*') if f.is_file()}
    assert say(line) == 2 and REFUSED[line] in capsys.readouterr().err
    assert {f: f.read_bytes() for f in Path('run').rglob('*') if f.is_file()} == before


@pytest.mark.parametrize('text, words', [('', 'picture,action,value'), ('a,b\n', 'picture,action,value'), ('picture,action,value\n\n', '')])
def test_odd_files(top, text, words, capsys):
    Path('odd.csv').write_text(text)
    assert cli.main(['correct', 'run', 'odd.csv']) == (2 if words else 0) and words in capsys.readouterr().err
    assert cli.main(['correct', 'run', 'nowhere.csv']) == 2


DAMAGE = dict(steps=lambda v: v + 9, poles=lambda v: v[:0], given=lambda v: v[:2], answers=lambda v: v + 40, labels=lambda v: v + 40, prints=lambda v: v[:0], text=lambda v: v[:-3])

@pytest.mark.parametrize('name', DAMAGE)
def test_damaged_corrections_are_refused(top, name, capsys):
    assert say('cluster:2,split,2', 'cluster:0,name,a', '01.png,move,a', '02.png,label,a') == 0
    values = read_tensors(Path('run/model.safetensors'))
    values[f'corrections.{name}'] = DAMAGE[name](values[f'corrections.{name}']).contiguous()
    Path('run/model.safetensors').write_bytes(pack(values))
    assert cli.main(['evaluate', 'run']) == 2 and 'damaged' in capsys.readouterr().err


def test_a_corrected_system_is_shared_and_exported(top):
    assert say('cluster:1,merge,cluster:0', '01.png,stranger,') == 0
    system, images = load_system('run'), torch.stack([torch.from_numpy(np.array(Image.open(f'pile/{n:02}.png')))[None] for n in range(5)])
    answers = assign_all(system, images)
    assert answers[1].sum() == 0 and answers[:, 1].sum() == 0
    again = load_system('run')
    again.save_pretrained('saved')
    assert torch.equal(assign_all(load_system('saved'), images), answers)
    export(system, 'graph.pt2')
    exported = torch.export.load('graph.pt2').module()(images)[0]
    torch.testing.assert_close(exported[[0, 2, 3, 4]], answers[[0, 2, 3, 4]], atol=1e-5, rtol=0) # what was said of single pictures stays behind


def test_a_system_is_left_as_it_was(top):
    _, _, system = load_run(Path('run'))
    images = torch.zeros(8, *system.shape, dtype=torch.uint8)
    before = assign_all(system, images)
    from sphere_mnist.data import load_images
    corrected = correct(system, [Correction('merge', '0', '1')], load_images('pile'))
    assert torch.equal(assign_all(system, images), before) and not hasattr(system, 'corrections') and hasattr(corrected, 'corrections')
    assert known_again(prints(to_float(images[:1])), prints(to_float(images[:1]))).tolist() == [0]
    with pytest.raises(InputError, match='no action on a picture'): correct(system, [Correction('merge', images[0], '1')], load_images('pile'))
