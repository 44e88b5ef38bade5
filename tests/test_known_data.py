"""A run knows its images: what is added, removed, renamed, replaced or moved is said before anything is written."""
import csv, json, os, shutil
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from sphere_mnist import checkpoints, cli, clustering, look_again

TINY = ['cluster', '--data', 'pics', '--preset', 'published', '--epochs', '2', '--batch-size', '8']


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    "A folder of two classes, and no figures."
    monkeypatch.chdir(tmp_path)
    for room in (clustering, look_again): monkeypatch.setattr(room, 'run_figures', lambda *args, **kw: [])
    for k, name in enumerate(['cat', 'dog']):
        for i in range(10): picture(f'pics/{name}/{i}.png', k, i)
    return tmp_path


def picture(file, place, seed=0):
    "A bright bar at a place of its own."
    array = np.random.default_rng(seed).integers(0, 60, (12, 12), dtype=np.uint8)
    array[:, 3*place:3*place + 3] += 150
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def state(): return {f: f.read_bytes() for f in sorted(Path('run').rglob('*')) if f.is_file()}


def stop(monkeypatch, line=TINY, after=1):
    "A run that is stopped after so many checkpoints."
    calls, write = [], checkpoints.save_checkpoint
    def writing(*args):
        write(*args)
        calls.append(1)
        if len(calls) == after: raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, 'save_checkpoint', writing)
        assert cli.main([*line, '--out', 'run']) == 130


def refused(line, words, capsys):
    "A command that ends in one sentence and leaves the run as it was."
    before = state()
    capsys.readouterr()
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1, said
    assert state() == before


CHANGES = dict( # what is done to the pictures, what is said
    removed=(lambda: os.remove('pics/cat/3.png'), '1 picture is gone (cat/3.png)'),
    added=(lambda: [picture(f'pics/dog/{i}.png', 1, i) for i in (20, 21)], '2 pictures were added (dog/20.png, dog/21.png)'),
    renamed=(lambda: os.rename('pics/cat/3.png', 'pics/cat/x.png'), '1 file was renamed (cat/3.png to cat/x.png)'),
    moved=(lambda: os.rename('pics/cat/3.png', 'pics/dog/x.png'), 'cat/3.png to dog/x.png'),
    replaced=(lambda: picture('pics/dog/9.png', 3, 5), '1 picture was replaced (dog/9.png)'),
    relabelled=(lambda: os.rename('pics/dog', 'pics/wolf'), '1 class was added (wolf), 1 class is gone (dog)'),
    class_added=(lambda: [picture(f'pics/ant/{i}.png', 2, i) for i in range(4)], '1 class was added (ant)'))


@pytest.mark.parametrize('change', CHANGES)
def test_changed_pictures_are_named_before_anything_is_written(change, monkeypatch, capsys):
    stop(monkeypatch)
    shutil.copytree('pics', 'before')
    does, words = CHANGES[change]
    does()
    refused('cluster --resume --out run', words, capsys)
    shutil.rmtree('pics'); os.rename('before', 'pics')
    assert cli.main('cluster --resume --out run'.split()) == 0
    does()
    for line in ('evaluate run', 'name run --names cat dog'): refused(line, words, capsys)


def test_the_last_stage_too(monkeypatch, capsys):
    stop(monkeypatch, [*TINY[:3], '--epochs', '5'], 6)
    picture('pics/dog/x.png', 1, 77)
    refused('cluster --resume --out run', '1 picture was added (dog/x.png)', capsys)


@pytest.mark.parametrize('file, words', [('few.npz', 'there are 30 images and were 40'), ('shape.npz', 'their shape is'), ('labels.npz', 'labels or their order')])
def test_changed_arrays(file, words, capsys):
    x, y = np.random.default_rng(0).random((40, 8, 8)), np.arange(40) % 2
    def save(file, x, y): np.savez(file, x=x, y=y)
    save('a.npz', x, y)
    assert cli.main('cluster --data a.npz --preset published --epochs 0 --out run'.split()) == 0
    save('a.npz', *{'few.npz': (x[:30], y[:30]), 'shape.npz': (np.pad(x, ((0, 0), (1, 1), (1, 1))), y), 'labels.npz': (x, 1 - y)}[file])
    refused('evaluate run', words, capsys)


@pytest.mark.parametrize('finished', [False, True])
def test_data_that_moved(finished, monkeypatch, capsys):
    if finished: assert cli.main([*TINY, '--out', 'run']) == 0
    else: stop(monkeypatch)
    os.rename('pics', 'elsewhere')
    line = 'evaluate run' if finished else 'cluster --resume --out run'
    refused(line, 'have moved, say where they are with --data', capsys)
    refused(f'{line} --data nowhere.npz', 'nowhere.npz does not exist', capsys)
    assert cli.main(f'{line} --data elsewhere'.split()) == 0
    assert cli.main(['evaluate', 'run']) == 0 # which knows the new place
    os.rename('elsewhere/dog/3.png', 'elsewhere/cat/x.png')
    refused('evaluate run --data elsewhere', 'dog/3.png to cat/x.png', capsys)


def test_run_and_data_that_moved_together():
    Path('project').mkdir()
    os.rename('pics', 'project/pics')
    assert cli.main('cluster --data project/pics --preset published --epochs 0 --out project/run'.split()) == 0
    os.rename('project', 'moved')
    assert cli.main(['evaluate', 'moved/run']) == 0


@pytest.mark.parametrize('while_training', [lambda: os.rename('pics/cat/0.png', 'pics/dog/zz.png'), lambda: (os.remove('pics/cat/0.png'), picture('pics/cat/00.png', 0)), lambda: shutil.rmtree('pics')])
def test_the_list_names_the_pictures_that_were_scored(while_training, monkeypatch):
    train = clustering.train_again
    def training(*args, **kw):
        while_training()
        return train(*args, **kw)
    names = sorted(p.relative_to('pics').as_posix() for p in Path('pics').rglob('*.png'))
    monkeypatch.setattr(clustering, 'train_again', training)
    assert cli.main([*TINY, '--out', 'run']) == 0
    assert [row['picture'] for row in csv.DictReader(Path('run/clusters.csv').open())] == names


def test_scores_go_by_the_names_of_classes():
    "An older run, which does not know its data, after a class that comes first has been added."
    assert cli.main([*TINY, '--out', 'run']) == 0
    result = json.loads(Path('run/result.json').read_text())
    os.remove('run/data.json')
    Path('pics/ant').mkdir()
    for i in range(10): os.rename(f'pics/dog/{i}.png', f'pics/ant/{i}.png') if i == 9 else None
    assert cli.main(['evaluate', 'run']) == 0
    again = json.loads(Path('run/result.json').read_text())
    assert abs(again['acc_exemplar'] - result['acc_exemplar']) <= .051 # but for the one that is an ant now


@pytest.mark.parametrize('text', ['no JSON', '[]', '{"trained": 1, "scored": {}}', '{}'])
def test_a_damaged_record_is_one_sentence(text, capsys):
    assert cli.main([*TINY[:-4], '--epochs', '0', '--out', 'run']) == 0
    Path('run/data.json').write_text(text)
    refused('evaluate run', 'data.json is damaged', capsys)


@pytest.mark.parametrize('limit', ['0.01', '2', '1000'])
def test_a_run_that_leaves_out_what_is_unusual_knows_all_images(limit, monkeypatch, capsys):
    line = [*TINY, '--outliers', limit]
    stop(monkeypatch, line)
    known = json.loads(Path('run/data.json').read_text())['trained']['files']
    assert len(known) == 20
    assert cli.main('cluster --resume --out run'.split()) == cli.main('evaluate run'.split()) == cli.main('name run --names dog cat'.split()) == 0
    assert cli.main([*line, '--out', 'unbroken']) == 0
    assert Path('run/strangers.safetensors').read_bytes() == Path('unbroken/strangers.safetensors').read_bytes()
    Path('said.csv').write_text('picture,action,value\ncat/1.png,label,cat\n')
    assert cli.main('correct run said.csv'.split()) == 0
    os.remove('pics/cat/3.png')
    refused('name run --names cat dog', '1 picture is gone (cat/3.png)', capsys)
