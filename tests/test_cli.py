"""The command line as its user meets it: signals to real processes, mistakes, and what they leave behind."""
import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from sphere_mnist import cli, data

root = Path(__file__).parent.parent
TINY = ['--data', 'digits', '--preset', 'published']


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    "Each test in a folder of its own, without the seconds that figures take."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setattr(cli, 'run_figures', lambda *args, **kw: [])
    return tmp_path


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
    "A finished run of two epochs, with its figures."
    folder = tmp_path_factory.mktemp('finished')/'run'
    assert cli.main(['cluster', *TINY, '--epochs', '2', '--out', str(folder)]) == 0
    return folder


def start(*args):
    "The command in a process of its own."
    call = 'import sys; from sphere_mnist.cli import main; sys.exit(main())'
    env = dict(os.environ, PYTHONPATH=str(root))
    return subprocess.Popen([sys.executable, '-c', call, *args], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition, process, seconds=120):
    "Wait until something is there, while the process runs."
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(.02)


def state(folder):
    "Names, contents' sizes and times of all files."
    return {f: (f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(Path(folder).rglob('*'))}


def pictures(folder, names, n=8, size=(12, 12)):
    "A folder of pictures, `n` of each name: a bright bar at a place of its own."
    generator = np.random.default_rng(0)
    for k, name in enumerate(names):
        for i in range(n):
            array = generator.integers(0, 60, size, dtype=np.uint8)
            array[:, 3*k:3*k + 3] += 150
            path = Path(folder, name, f'{k}-{i}.png')
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


@pytest.mark.parametrize('number, status, word', [(signal.SIGINT, 130, 'interrupted'), (signal.SIGTERM, 143, 'terminated')])
def test_a_stopped_run_goes_on_to_the_same_bits(number, status, word):
    epochs = ['--epochs', '12'] if number == signal.SIGINT else ['--epochs', '2']
    process = start('cluster', *TINY, *epochs, '--out', 'my run')
    sign = Path('my run', 'checkpoints' if number == signal.SIGINT else 'config.yaml') # after an epoch; before the first
    wait_for(lambda: sign.exists() and (sign.is_file() or any(not p.name.startswith('.') for p in sign.iterdir())), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert without_bar(err) == [f"sphere_mnist: {word}; go on with: sphere_mnist cluster --resume --out 'my run'"]
    assert not Path('my run/result.json').exists() and not Path('my run/model.safetensors').exists()
    assert cli.main(['cluster', '--resume', '--out', 'my run']) == 0
    assert cli.main(['cluster', *TINY, *epochs, '--out', 'unbroken']) == 0
    assert Path('my run/model.safetensors').read_bytes() == Path('unbroken/model.safetensors').read_bytes()
    results = [json.loads(Path(run, 'result.json').read_text()) for run in ('my run', 'unbroken')]
    for result in results: result.pop('seconds')
    assert results[0] == results[1]


@pytest.mark.parametrize('call', [20, 40]) # in the second epoch of the second stage; in the first of the third
def test_stages_that_discover_go_on_to_the_same_bits(monkeypatch, call):
    from sphere_mnist import spherical
    fast, calls, original = ['--data', 'digits', '--epochs', '11'], [], spherical.consistency_loss
    def stopped(*args):
        calls.append(1)
        if len(calls) == call: raise KeyboardInterrupt
        return original(*args)
    monkeypatch.setattr(spherical, 'consistency_loss', stopped)
    assert cli.main(['cluster', *fast, '--out', 'run']) == 130
    assert cli.main(['cluster', '--resume', '--out', 'run']) == 0
    assert cli.main(['cluster', *fast, '--out', 'unbroken']) == 0
    assert Path('run/model.safetensors').read_bytes() == Path('unbroken/model.safetensors').read_bytes()


def test_a_signal_before_the_folder_leaves_nothing(monkeypatch, capsys):
    def killed(*args, **kw): os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)
    monkeypatch.setattr(cli, 'load_images', killed)
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    assert cli.main(['cluster', '--out', 'run']) == 143
    assert capsys.readouterr().err == 'sphere_mnist: terminated; nothing was written.\n'
    assert not Path('run').exists()
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]


def test_a_finished_run_is_left_alone(finished, capsys):
    before = state(finished)
    assert cli.main(['cluster', '--resume', '--out', str(finished)]) == 0
    assert 'is finished: nothing to do' in capsys.readouterr().out
    assert state(finished) == before


def test_evaluate_recomputes(finished):
    result = json.loads((finished/'result.json').read_text())
    (finished/'result.json').write_text(json.dumps({**result, 'acc': 0, 'nmi': 2}))
    assert cli.main(['evaluate', str(finished)]) == 0
    assert json.loads((finished/'result.json').read_text()) == result
    assert tuple(result) == cli.RESULT


def test_help_loads_no_more_than_it_needs():
    code = ('import sys; from sphere_mnist.cli import main; main(["cluster", "--help"]); '
            'print([m for m in ("torchvision", "sklearn", "matplotlib", "scipy", "accelerate", "pandas") if m in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], env=dict(os.environ, PYTHONPATH=str(root)), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == '[]' and not done.stderr


def test_print_config_comes_back(capsys):
    said = ['--data', 'digits', '--draw', '3', '--epochs', '0', '--weights.cluster', '0.5', '--preset', 'published']
    assert cli.main(['cluster', *said, '--print_config']) == 0
    Path('settings.yaml').write_text(capsys.readouterr().out)
    assert cli.main(['cluster', '--config', 'settings.yaml', '--out', 'run']) == 0
    config = cli.read_config(Path('run'))
    assert (config.draw, config.weights, config.epochs) == (3, {'cluster': .5}, 0)


def test_the_config_of_a_run_repeats_it(finished):
    assert cli.main(['cluster', '--config', str(finished/'config.yaml'), '--out', 'again']) == 0
    for file in ('model.safetensors', 'config.yaml'): assert Path('again', file).read_bytes() == (finished/file).read_bytes()


def test_without_a_network_the_shipped_digits_are_used(monkeypatch, capsys):
    def offline(*args): raise ConnectionError('no network')
    monkeypatch.setattr(data, 'download_raw', offline)
    monkeypatch.delenv('SPHERE_MNIST_DATA', raising=False)
    data.failed_downloads.clear()
    assert cli.main(['cluster', '--epochs', '0', '--out', 'run']) == 0
    told = without_bar(capsys.readouterr().err)
    assert len(told) == 1 and told[0].startswith('sphere_mnist: MNIST is not in') and 'mnist5k' in told[0]
    assert json.loads(Path('run/result.json').read_text())['data'] == 'mnist5k'
    assert cli.read_config(Path('run')).data == 'mnist5k'
    data.failed_downloads.clear()


def test_own_pictures_name_the_clusters(capsys):
    pictures('many', [''] , 30)
    pictures('mine', ['ant', 'bee'], 1, (20, 17))
    mine = ['ant=mine/ant/0-0.png', 'bee=mine/bee/1-0.png']
    assert cli.main(['cluster', '--data', 'many', '--preset', 'published', '--epochs', '1', '--out', 'run', '--exemplars', *mine]) == 0
    result = json.loads(Path('run/result.json').read_text())
    assert (result['draw'], result['exemplars'], result['acc'], result['n'], result['data']) == (None, None, None, 30, 'folder')
    capsys.readouterr()
    Image.new('RGBA', (50, 31), (200, 30, 90, 128)).save('odd.png')
    assert cli.main(['predict', 'odd.png', 'mine/ant/0-0.png', '--run', 'run']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'picture,label,confidence,cluster' and len(lines) == 3
    assert all(l.split(',')[1] in ('ant', 'bee') for l in lines[1:])


@pytest.mark.parametrize('preset', ['published', 'fast'])
def test_a_small_folder_with_classes(preset):
    pictures('train', ['cat', 'dog', 'emu'], 10)
    assert cli.main(['cluster', '--data', 'train', '--preset', preset, '--epochs', '3', '--out', 'run', '--draw', '1']) == 0
    result = json.loads(Path('run/result.json').read_text())
    assert result['draw'] == 1 and len(result['exemplars']) == 3 and 0 <= result['acc_exemplar'] <= 1


def test_the_validation_split():
    assert cli.main(['cluster', *TINY, '--epochs', '0', '--split', 'validation', '--draw', 'none', '--out', 'run']) == 0
    result = json.loads(Path('run/result.json').read_text())
    assert (result['split'], result['n'], result['draw'], result['acc_exemplar']) == ('validation', 240, 'none', None)
    assert result['acc'] is not None


def test_without_labels():
    pictures('flat', [''], 30)
    assert cli.main(['cluster', '--data', 'flat', '--epochs', '0', '--clusters', '4', '--out', 'run']) == 0
    result = json.loads(Path('run/result.json').read_text())
    assert result['draw'] == 'none' and result['exemplars'] is result['acc_exemplar'] is result['acc'] is None


@pytest.mark.parametrize('preset', ['published', 'fast'])
def test_features(preset, capsys):
    points = np.random.default_rng(0).normal(size=(60, 5)) + np.repeat(np.eye(3, 5)*9, 20, 0)
    np.savez('points.npz', x=points, y=np.repeat([0, 1, 2], 20))
    assert cli.main(['cluster', '--data', 'points.npz', '--preset', preset, '--epochs', '3', '--out', 'run']) == 0
    assert json.loads(Path('run/result.json').read_text())['data'] == 'points.npz'
    Image.new('L', (9, 9)).save('x.png')
    assert cli.main(['predict', 'x.png', '--run', 'run']) == 2
    assert 'trained on features' in capsys.readouterr().err


def test_figures(tmp_path, monkeypatch, finished):
    monkeypatch.undo()
    (tmp_path/'metrics.jsonl').write_text((finished/'metrics.jsonl').read_text())
    _, _, system = cli.load_run(finished)
    assert cli.run_figures(system, data.load_images('digits', 'test'), tmp_path, 60) == []
    assert {f.name for f in (tmp_path/'figures').iterdir()} == {
        'captions.json', *(f'{name}.png' for name in ('curves', 'centers', 'tsne', 'clusters', 'reconstructions', 'confusion'))}


def prepare(name):
    "What a mistake needs beside it."
    if name == 'files':
        Path('file').write_text('x')
        Path('empty').mkdir()
        Path('taken').mkdir(); Path('taken/notes.txt').touch()
        Path('text').mkdir(); Path('text/a.png').write_text('no picture')
        Path('build.yaml').write_text('data: !!python/object/apply:os.system ["touch built"]\n')
        Path('unknown.yaml').write_text('datta: digits\n')
        Path('kind.yaml').write_text('seed: {class_path: torch.nn.Linear}\n')
        images = np.random.default_rng(0).random((40, 8, 8))
        np.savez('nan.npz', x=np.where(images > .99, np.nan, images), y=np.arange(40) % 4)
        np.savez('range.npz', x=images*3, y=np.arange(40) % 4)
        np.savez('lacks.npz', x=images, y=np.array([0, 1, 3, 4]*10))
        np.savez('few.npz', x=images[:6], y=np.arange(6) % 2)
        np.savez('plain.npz', x=images)
        raw = Path('idx/MNIST/raw'); raw.mkdir(parents=True)
        for f in data.RAW_FILES: (raw/f).write_bytes(b'\0\0\x08\x03\0\0')


NEW = ['--out', 'new']
MISTAKES = [
    ('cluster --data mnits', 'did you mean'),
    ('cluster --data digits --system sferical', "did you mean 'spherical'"),
    ('cluster --data digits --preset fats', "did you mean 'fast'"),
    ('cluster --data digits --encoder smal', 'small'),
    ('cluster --data digits --warp digit', 'digits'),
    ('cluster --data digits --weights.clutser 1', "did you mean 'cluster'"),
    ('cluster --data digits --weights.cluster .nan', 'not a schedule'),
    ('cluster --data digits --weights.cluster much', 'give a number'),
    ('cluster --data digits --epochs few', '--epochs few'),
    ('cluster --data digits --epochs -1', 'give 0 or more'),
    ('cluster --data digits --seed -1', 'out of range'),
    ('cluster --data digits --device warp9', "'warp9' is not available"),
    ('cluster --data digits --precision float8', 'float8'),
    ('cluster --data digits --split tset', "did you mean 'test'"),
    ('cluster --data digits --draw some', "no draw 'some'"),
    ('cluster --data digits --draw -3', 'draw -3'),
    ('cluster --data digits --draw 1 --exemplars 1 2', 'both choose'),
    ('cluster --data digits --exemplars 0 10 1 2 3 4 5 6 7 8', 'has 2 exemplars'),
    ('cluster --data digits --exemplars 0 1 2', 'has no exemplar'),
    ('cluster --data digits --exemplars 0 1 2 3 4 5 6 7 8 99999', '99999 is outside the data'),
    ('cluster --data digits --exemplars 0 one', 'NAME=PICTURE'),
    ('cluster --data digits --exemplars a=nowhere.png b=file', 'nowhere.png'),
    ('cluster --data digits --batch-size 1', '--batch-size 1'),
    ('cluster --data digits --lr -1', 'The learning rate is -1.0'),
    ('cluster --data digits --lr [.1,-1,linear]', 'give 0 or more'),
    ('cluster --data digits --lr fast', '--lr fast'),
    ('cluster --data digits --weights.cluster -1', "The weight of 'cluster' is -1"),
    ('cluster --data digits --dim 0', '--dim 0: give 1 or more'),
    ('cluster --data digits --kappa .nan', '--kappa nan'),
    ('cluster --data digits --together maybe', 'give true or false'),
    ('cluster --data digits --estimator gumbel', "'spherical' has no --estimator: it has --dim"),
    ('cluster --data digits --system gmvae --temperature 1', "'gmvae' has no --temperature: it has --latent-dim"),
    ('cluster --data digits --system gmvae --network fcc', "did you mean 'fc'"),
    ('cluster --data digits --system gmvae --network conv', 'is for images of 28 x 28'),
    ('cluster --data digits --system gumbel --temperature [1,0,exponential]', 'above 0'),
    ('cluster --data digits --system gumbel --estimater gumbel', 'did you mean --estimator'),
    ('cluster --data digits --clusters 1', 'give 2 or more'),
    ('cluster --data digits --clusters 0', 'give 2 or more'),
    ('cluster --data few.npz --clusters 7', '7 clusters for 6 images'),
    ('cluster --data plain.npz', 'give 2 or more'),
    ('cluster --data plain.npz --draw 0 --clusters 3', 'no labels'),
    ('cluster --data lacks.npz', 'no image is labelled 2'),
    ('cluster --data nan.npz', 'NaN'),
    ('cluster --data range.npz', 'scale floats'),
    ('cluster --data ./nowhere', 'does not exist'),
    ('cluster --data empty', 'empty'),
    ('cluster --data text', 'cannot be read as a picture'),
    ('cluster --data mnist --data-dir idx', 'delete it and load again'),
    ('cluster --data digits --out taken', 'exists already'),
    ('cluster --data digits --out taken --resume', 'not a run folder'),
    ('cluster --data digits --out nowhere --resume', 'not a run folder'),
    ('cluster --resume', 'give it as --out'),
    ('cluster --data digits --ledger nowhere/l.jsonl', 'make it first'),
    ('cluster --data digits --track tensorbord', "did you mean 'tensorboard'"),
    ('cluster --data digits --track aim', "'aim' is not installed: pip install aim"),
    ('completion fish', 'fish'),
    ('cluster --config build.yaml', 'os.system'),
    ('cluster --config unknown.yaml', 'datta'),
    ('cluster --config kind.yaml', '--seed'),
    ('cluster --config nowhere.yaml', 'nowhere.yaml'),
    ('cluster --epoch 3', 'did you mean --epochs'),
    ('clutser', 'cluster'),
    ('', 'command'),
    ('evaluate nowhere', 'not a run folder'),
    ('evaluate file', 'not a run folder'),
    ('predict x.png', 'x.png cannot be read as a picture'),
    ('predict x.png --run nowhere', 'not a run folder'),
]


def without_bar(text):
    "The lines of a text that are not a progress bar."
    return [l for l in text.replace('\r', '\n').splitlines() if l.strip() and not re.search(r'step(/s)?\]', l)]


def only_line(capsys):
    "The one line on stderr."
    lines = without_bar(capsys.readouterr().err)
    assert len(lines) == 1 and lines[0].startswith('sphere_mnist: '), lines
    return lines[0]


@pytest.mark.parametrize('line, fragment', MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(line, fragment, capsys):
    prepare('files')
    before = sorted(Path().rglob('*'))
    words = line.split()
    if 'cluster' in words and '--out' not in words and '--resume' not in words: words += NEW
    assert cli.main(words) == 2
    assert fragment in only_line(capsys)
    assert sorted(Path().rglob('*')) == before


@pytest.mark.parametrize('out', ['file/run', '/proc/nowhere/run'])
def test_a_folder_that_cannot_be_made(out, capsys):
    prepare('files')
    before = sorted(Path().rglob('*'))
    assert cli.main(['cluster', *TINY, '--out', out]) == 1
    assert 'choose another --out' in only_line(capsys)
    assert sorted(Path().rglob('*')) == before


def copied(finished, name='copy'):
    "A copy of the finished run."
    import shutil
    return Path(shutil.copytree(finished, name))


@pytest.mark.parametrize('file, change, fragment', [
    ('model.safetensors', lambda b: b[:-9], 'is damaged'), ('model.safetensors', None, 'does not exist'),
    ('config.json', lambda b: b[:-9], 'config.json is damaged'), ('config.json', lambda b: b'[]', 'config.json is damaged'),
    ('config.json', lambda b: b.replace(b'"dim": 5', b'"dim": "x"'), 'config.json is damaged'),
    ('config.json', lambda b: b.replace(b'"dim": 5', b'"dim": 6'), 'other settings'),
    ('config.json', lambda b: b.replace(b'spherical', b'gmvae'), "holds a 'gmvae' system"),
    ('config.yaml', lambda b: b'system: [', 'config.yaml is damaged'), ('config.yaml', lambda b: b'\xff\xfe\0', 'config.yaml is damaged'),
    ('config.yaml', lambda b: b + b'sead: 1\n', 'config.yaml is damaged'), ('config.yaml', None, 'no config.yaml'),
    ('result.json', lambda b: b[:-9], 'result.json is damaged'), ('result.json', lambda b: b'{}', 'result.json is damaged'),
    ('result.json', None, 'is not finished')])
@pytest.mark.parametrize('command', ['evaluate', 'predict'])
def test_a_damaged_run(finished, file, change, fragment, command, capsys):
    folder = copied(finished)
    path = folder/file
    if change: path.write_bytes(change(path.read_bytes()))
    else: path.unlink()
    Image.new('L', (8, 8)).save('x.png')
    before = state(folder)
    assert cli.main(['evaluate', 'copy'] if command == 'evaluate' else ['predict', 'x.png', '--run', 'copy']) == 2
    assert fragment in only_line(capsys)
    assert state(folder) == before


@pytest.mark.parametrize('file', ['checkpoints/*/systems.safetensors', 'checkpoints/*/state.json', 'metrics.jsonl'])
def test_a_damaged_checkpoint(finished, file, capsys):
    folder = copied(finished)
    (folder/'result.json').unlink()
    path = next(folder.glob(file))
    path.write_bytes(b'{' + path.read_bytes()[1:-5])
    assert cli.main(['cluster', '--resume', '--out', 'copy']) == 2
    assert 'is damaged' in only_line(capsys)


def test_a_run_without_its_result_is_finished_by_resuming(finished):
    folder = copied(finished)
    result = json.loads((folder/'result.json').read_text())
    (folder/'result.json').unlink()
    assert cli.main(['cluster', '--resume', '--out', 'copy']) == 0
    again = json.loads((folder/'result.json').read_text())
    assert {k: v for k, v in again.items() if k != 'seconds'} == {k: v for k, v in result.items() if k != 'seconds'}


def test_a_full_disk_leaves_a_resumable_run(monkeypatch, capsys):
    original, count = Path.open, [0]
    def full(path, mode='r', *args, **kw):
        if path.name == 'systems.safetensors' and 'w' in mode:
            count[0] += 1
            if count[0] > 1: raise OSError(28, 'No space left on device')
        return original(path, mode, *args, **kw)
    monkeypatch.setattr(Path, 'open', full)
    assert cli.main(['cluster', *TINY, '--epochs', '3', '--out', 'run']) == 1
    line = only_line(capsys)
    assert 'No space left on device' in line and 'go on with: sphere_mnist cluster --resume --out run' in line
    assert not list(Path('run').rglob('.*')) and not Path('run/result.json').exists()
    monkeypatch.setattr(Path, 'open', original)
    assert cli.main(['cluster', '--resume', '--out', 'run']) == 0
    assert cli.main(['cluster', *TINY, '--epochs', '3', '--out', 'unbroken']) == 0
    assert Path('run/model.safetensors').read_bytes() == Path('unbroken/model.safetensors').read_bytes()


def test_a_loss_that_diverges(monkeypatch, capsys):
    from sphere_mnist import spherical
    monkeypatch.setattr(spherical, 'reconstruction_loss', lambda decoded, images: decoded.sum()*float('inf'))
    assert cli.main(['cluster', *TINY, '--epochs', '1', '--out', 'run']) == 1
    assert "'reconstruction' is not finite at step 0" in only_line(capsys)
    assert not Path('run/result.json').exists() and not Path('run/model.safetensors').exists()


def test_a_ledger_row_knows_its_overrides_and_no_paths(tmp_path):
    args = ['--epochs', '0', '--warp', 'none', '--weights.cluster', '0', '--ledger', str(tmp_path/'l.jsonl'), '--out', str(tmp_path/'run')]
    assert cli.main(['cluster', *TINY, *args]) == 0
    row = json.loads(Path('l.jsonl').read_text())
    assert set(row) == {*cli.RESULT, 'warp', 'weights'}
    assert row['weights'] == {'cluster': 0} and str(tmp_path) not in json.dumps(row)


def test_a_card_knows_the_runs_of_other_seeds_in_the_ledger(tmp_path, capsys):
    for seed, epochs in ((0, 0), (1, 0), (2, 1)):
        assert cli.main(['cluster', *TINY, '--epochs', str(epochs), '--seed', str(seed), '--ledger', 'l.jsonl', '--out', f'run{seed}']) == 0
    assert [' of 2' in Path(f'run{seed}/README.md').read_text() for seed in range(3)] == [False, True, False]
    for seed in range(3): assert cli.main(['evaluate', f'run{seed}']) == 0
    assert [' of 2' in Path(f'run{seed}/README.md').read_text() for seed in range(3)] == [True, True, False]
    Path('run2/result.json').unlink()
    assert cli.main(['cluster', '--resume', '--out', 'run2']) == 0
    assert [json.loads(row)['seed'] for row in Path('l.jsonl').read_text().splitlines()] == [0, 1, 2, 2]
    with open('l.jsonl', 'a') as f: f.write('{"torn": ')
    capsys.readouterr()
    assert cli.main(['cluster', *TINY, '--ledger', 'l.jsonl', '--out', 'refused']) == 2
    assert 'line 5 of l.jsonl is no row' in only_line(capsys) and not Path('refused').exists()


def test_a_system_is_told_its_settings(capsys):
    said = ['--system', 'gumbel', '--data', 'digits', '--preset', 'published', '--epochs', '1', '--batch-size', '64', '--lr', '[2e-3,0,linear]',
            '--hidden', '32', '--estimator', 'straight_through', '--temperature', '[1,.5,exponential]', '--exact-kl', 'true']
    assert cli.main(['cluster', *said, '--out', 'run', '--ledger', 'l.jsonl']) == 0
    row, config = json.loads(Path('l.jsonl').read_text()), cli.read_config(Path('run'))
    told = dict(batch_size=64, lr=[.002, 0, 'linear'], hidden=32, estimator='straight_through', temperature=[1, .5, 'exponential'], exact_kl=True)
    for key, value in told.items(): assert row[key] == config[key] == value
    assert set(row) == {*cli.RESULT, *told}
    assert not {'encoder', 'latent_dim', 'warp'} & set(Path('run/config.yaml').read_text().replace(':', '').split())
    _, _, system = cli.load_run(Path('run'))
    assert (system.estimator, system.temperature, system.exact_kl) == ('straight_through', [1, .5, 'exponential'], True)
    assert len(Path('run/metrics.jsonl').read_text().splitlines()) == 1 and json.loads(Path('run/metrics.jsonl').read_text())['step'] == 23
    assert cli.main(['cluster', *said, '--resume', '--out', 'run']) == 0
    capsys.readouterr()
    Path('run/result.json').unlink()
    assert cli.main(['cluster', '--resume', '--out', 'run', '--hidden', '64']) == 2
    assert 'started with hidden 32, not 64' in only_line(capsys)
    assert cli.main(['cluster', '--config', 'run/config.yaml', '--print_config']) == 0
    Path('settings.yaml').write_text(capsys.readouterr().out)
    assert cli.main(['cluster', '--config', 'settings.yaml', '--out', 'again']) == 0
    assert Path('again/model.safetensors').read_bytes() == Path('run/model.safetensors').read_bytes()


@pytest.mark.parametrize('system', ['gmvae', 'gumbel'])
def test_every_system_goes_on_to_the_same_bits(system, monkeypatch):
    from sphere_mnist import gmvae, gumbel
    module, calls = dict(gmvae=gmvae, gumbel=gumbel)[system], []
    original = module.consistency_loss
    def stopped(*args):
        calls.append(1)
        if len(calls) == 20: raise KeyboardInterrupt
        return original(*args)
    monkeypatch.setattr(module, 'consistency_loss', stopped)
    said = ['--system', system, '--data', 'digits', '--epochs', '6']
    assert cli.main(['cluster', *said, '--out', 'run']) == 130
    assert cli.main(['cluster', '--resume', '--out', 'run']) == 0
    assert cli.main(['cluster', *said, '--out', 'unbroken']) == 0
    assert Path('run/model.safetensors').read_bytes() == Path('unbroken/model.safetensors').read_bytes()
    result = json.loads(Path('run/result.json').read_text())
    assert ('acc_aae' in result) == (system == 'gmvae')
    Image.new('L', (20, 20), 128).save('x.png')
    assert cli.main(['evaluate', 'run']) == cli.main(['predict', 'x.png', '--run', 'run']) == 0
    assert json.loads(Path('run/result.json').read_text()) == result


def test_figures_of_a_mixture(tmp_path, monkeypatch):
    said = ['--system', 'gmvae', '--preset', 'spiral', '--data', 'spiral', '--epochs', '2', '--visualise', '1']
    assert cli.main(['cluster', *said, '--out', str(tmp_path/'run')]) == 0
    _, result, system = cli.load_run(tmp_path/'run')
    assert (result['data'], result['epochs'], system.n_clusters) == ('spiral', 2, 8)
    monkeypatch.undo()
    warned = cli.run_figures(system, data.load_images('spiral', 'test'), tmp_path/'run', 60)
    assert not [line for line in warned if line.startswith('no figure')]
    names = {f.name for f in (tmp_path/'run/figures').iterdir()}
    assert {'curves.png', 'tsne.png', 'latent.png', 'training.gif'} <= names
    assert (tmp_path/'run/figures/training.gif').read_bytes()[:3] == b'GIF'


def test_old_run_folders_load(finished):
    "Settings that came later are missing from the folders of earlier versions."
    folder = copied(finished)
    config = [l for l in (folder/'config.yaml').read_text().splitlines(True) if not l.startswith(('batch_size', 'lr'))]
    (folder/'config.yaml').write_text(''.join(config) + 'encoder: null\nwarp: null\n')
    assert cli.main(['evaluate', 'copy']) == cli.main(['cluster', '--resume', '--out', 'copy']) == 0


def test_the_published_encoder_says_how_long_it_takes(monkeypatch, capsys):
    monkeypatch.setattr(cli, 'step_seconds', lambda *args: 1.)
    monkeypatch.setattr(cli, 'train_again', lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(['cluster', *TINY, '--encoder', 'resnet18', '--out', 'run']) == 130
    assert 'about 85 minutes for 5,100 steps on this machine' in capsys.readouterr().out


def test_what_help_promises_can_be_said(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    assert set(cli.EXAMPLES) == set(cli.COMMANDS)
    assert cli.main(['--help']) == 0
    shown = capsys.readouterr().out
    assert all(f'  {status} ' in shown for status in cli.EXITS) and max(map(len, shown.splitlines())) <= 80
    for name, lines in cli.EXAMPLES.items():
        assert cli.main([name, '--help']) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= 80 and '\x1b' not in shown
        for line in lines:
            assert line in shown
            assert cli.parser().parse_args(re.search('sphere_mnist ([^>)]*)', line)[1].split()).command == name


@pytest.mark.parametrize('result', [
    dict(acc_exemplar=.9531, acc=1., nmi=None, ari=-.01, clusters_used=100, seconds=1234567.8),
    {f'measure_number_{i}': i/7 for i in range(9)}])
def test_tables_fit_80_columns(result):
    text = cli.table(result) if 'acc' in result else cli.in_columns(result)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80 and len({len(l) for l in lines[:2]}) == 1
    for value in result.values(): assert ('-' if value is None else f'{value:.4f}' if isinstance(value, float) and value < 9 else f'{value:g}') in text


def test_quiet_says_what_goes_wrong_and_nothing_else(finished, capfd):
    assert cli.main(['cluster', *TINY, '--epochs', '1', '--quiet', '--out', 'run']) == 0
    assert cli.main(['evaluate', '--quiet', 'run']) == 0
    assert capfd.readouterr() == ('', '')
    assert cli.main(['cluster', '--resume', '--out', 'run', '--quiet']) == 0 and capfd.readouterr() == ('', '')
    assert cli.main(['evaluate', 'nowhere', '--quiet']) == 2
    assert capfd.readouterr() == ('', 'sphere_mnist: nowhere is not a run folder: it has no config.yaml; give the folder of a run, or start a new one.\n')
    assert 'quiet' not in Path('run/config.yaml').read_text()


@pytest.mark.parametrize('raised, status, said', [
    (OSError(28, 'No space left on device', 'x'), 1, 'No space left on device: x'), (MemoryError(), 1, 'Not enough memory'),
    (RuntimeError('CUDA out of memory'), 1, 'Not enough memory'), (data.InputError('Wrong.'), 2, 'Wrong.'),
    (KeyboardInterrupt(), 130, 'interrupted; nothing was written.'), (cli.Terminated(), 143, 'terminated; nothing was written.'),
    (cli.NonFiniteLoss('NaN.'), 1, 'NaN.')])
def test_exit_statuses(raised, status, said, monkeypatch, capsys):
    def fail(args): raise raised
    monkeypatch.setattr(cli, 'info', fail)
    assert cli.main(['info']) == status in cli.EXITS
    assert said in only_line(capsys)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, 'info', lambda args: (_ for _ in ()).throw(RuntimeError('a bug')))
    with pytest.raises(RuntimeError, match='a bug'): cli.main(['info'])


def test_a_pipe_that_closes_is_no_traceback():
    process = start('info')
    process.stdout.close()
    assert process.wait(60) == 1 and process.stderr.read() == ''


def test_info_says_where_the_data_are(monkeypatch, capsys, tmp_path):
    raw = tmp_path/'data'/'MNIST'/'raw'
    raw.mkdir(parents=True)
    (tmp_path/'data/SVHN').mkdir()
    for f in data.RAW_FILES: (raw/f).touch()
    monkeypatch.setenv('SPHERE_MNIST_DATA', str(tmp_path/'data'))
    assert cli.main(['info']) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {l[:17].strip(): l[17:] for l in lines if l[:17].strip()}
    assert found['mnist'] == str(raw) and found['svhn'] == str(tmp_path/'data/SVHN') and 'fashion' in found['not found']
    assert {'sphere_mnist', 'python', 'torch', 'device', 'threads', 'memory', 'precision', 'bfloat16', 'trackers', 'mnist5k'} <= found.keys()
    assert all(len(l) <= 80 for l in lines if str(tmp_path) not in l)


@pytest.fixture(scope='session')
def scripts(tmp_path_factory):
    "The completion scripts of both shells, as files."
    folder = tmp_path_factory.mktemp('completion')
    for shell in cli.SHELLS: (folder/shell).write_text(cli.completion_script(shell))
    return folder


ASKED = [(['clu'], 'cluster'), (['cluster', '--sys'], '--system'), (['cluster', '--system', 'gu'], 'gumbel'), (['cluster', '--track', 'tensor'], 'tensorboard'),
         (['cluster', '--data', 'fash'], 'fashion'), (['embed', '--loss', 'cosf'], 'cosface'), (['completion', 'ba'], 'bash')]


@pytest.mark.parametrize('words, answer', [*ASKED, (['predict', 'a_pic'], 'a_picture.png'), (['cluster', '--data', 'a_pic'], 'a_picture.png')])
def test_bash_completes(scripts, words, answer):
    Path('a_picture.png').touch()
    call = ['bash', '--norc', '-c', 'source "$1"; shift; COMP_WORDS=(sphere_mnist "$@"); COMP_CWORD=$#; _shtab_sphere_mnist; printf "%s\n" "${COMPREPLY[@]}"', 'bash']
    done = subprocess.run([*call, scripts/'bash', *words], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [answer], done


# Types into an interactive zsh on a terminal of its own, presses tab, and has a widget print the line as it stands.
TYPED = r'''
zmodload zsh/zpty
zpty shell 'zsh -f -i'
zpty -w shell "fpath=(${(q)1} \$fpath); autoload -Uz compinit; compinit -u -D; PS1=; show() { print -r -- \"{\$BUFFER}\" }; zle -N show; bindkey '^T' show; print rea''dy"
zpty -r shell said '*ready*'
zpty -wn shell "$2"$'\t\x14'
zpty -r shell said '*{*}*'
print -r -- "$said"
'''


@pytest.mark.skipif(not shutil.which('zsh'), reason='zsh is not installed')
@pytest.mark.parametrize('words, answer', [*ASKED, (['predict', 'a_pic'], 'a_picture.png'), (['cluster', '--data', 'a_pic'], 'a_picture.png')])
def test_zsh_completes(scripts, tmp_path, words, answer):
    Path('a_picture.png').touch()
    shutil.copy(scripts/'zsh', tmp_path/'_sphere_mnist')
    line = ' '.join(['sphere_mnist', *words])
    done = subprocess.run(['zsh', '-f', '-c', TYPED, 'zsh', tmp_path, line], capture_output=True, text=True, timeout=60)
    assert '{' + ' '.join(['sphere_mnist', *words[:-1], answer]) + ' }' in done.stdout, done


def test_the_script_of_zsh_has_all_arguments(scripts):
    text = (scripts/'zsh').read_text()
    assert text.startswith('#compdef sphere_mnist')
    flags = {'--' + key.replace('_', '-') for key in cli.cluster_parser().get_defaults().keys()}
    assert not [flag for flag in flags if flag not in text]
    assert not [name for name in cli.COMMANDS if name not in text]


def test_patience_ends_a_stage_early():
    said = ['embed', '--loss', 'softmax', '--data', 'digits', '--epochs', '30', '--batch-size', '256', '--lr', '0', '--out']
    assert cli.main([*said, 'patient', '--patience', '2']) == 0 # at a rate of 0 only running statistics change
    rows = [json.loads(l) for l in Path('patient/metrics.jsonl').read_text().splitlines()]
    losses = [row['validation'] for row in rows]
    assert losses.index(min(losses)) + 3 == len(losses) < 30
    assert cli.read_config(Path('patient')).patience == 2


def test_tensorboard_gets_the_numbers_of_each_epoch(capsys):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    assert cli.main(['cluster', *TINY, '--epochs', '2', '--track', 'tensorboard', '--out', 'run']) == 0
    events = EventAccumulator('run/logs/seed-0/sphere_mnist').Reload()
    rows = [json.loads(l) for l in Path('run/metrics.jsonl').read_text().splitlines()]
    for name, read in {'loss': lambda r: r['loss'], 'terms/feature': lambda r: r['terms']['feature'], 'separation': lambda r: r['separation']}.items():
        assert [(e.step, pytest.approx(e.value, rel=1e-5)) for e in events.Scalars(name)] == [(r['step'], read(r)) for r in rows]
    assert 'track' not in Path('run/config.yaml').read_text()


def test_a_tracker_that_does_not_start_is_one_sentence(monkeypatch, capsys):
    from accelerate import Accelerator
    def fail(*args, **kw): raise RuntimeError('not logged in')
    pytest.importorskip('tensorboard')
    monkeypatch.setattr(Accelerator, 'init_trackers', fail)
    assert cli.main(['cluster', *TINY, '--epochs', '1', '--track', 'tensorboard', '--out', 'run']) == 2
    assert "'tensorboard' does not start: not logged in" in only_line(capsys)


def test_in_a_file_progress_is_plain_lines(monkeypatch, capsys):
    from sphere_mnist import training
    monkeypatch.setenv('TQDM_MININTERVAL', '0'); monkeypatch.delenv('TQDM_DISABLE', raising=False)
    system = cli.system_class('spherical')
    images = data.load_images('digits')
    stages = training.preset_stages(system, 'published', images, None, epochs=1)
    with training.progress_bar(stages, len(images), 0, True) as bar:
        bar.start_t -= 60; bar.last_print_t -= 60; bar.delay = 0 # a minute has passed
        bar.update(5)
    err = capsys.readouterr().err
    assert '5 of 17 steps' in err and '\r' not in err and '\x1b' not in err


def test_prototypes_with_a_forward_of_their_own():
    said = ['cluster', '--data', 'digits', '--preset', 'quick', '--epochs', '2', '--together', 'false', '--out', 'run']
    assert cli.main(said) == 0 and json.loads(Path('run/result.json').read_text())['clusters_used'] > 0


def test_a_stopped_embedding_is_measured_after_cluster_resumes_it(monkeypatch, capsys):
    said = ['embed', '--loss', 'softmax', '--data', 'digits', '--epochs', '2', '--batch-size', '256', '--out', 'run']
    with monkeypatch.context() as m:
        m.setattr(cli, 'all_scores', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(said) == 130
    assert 'go on with: sphere_mnist cluster --resume --out run' in capsys.readouterr().err
    assert cli.main(['cluster', '--resume', '--out', 'run']) == 0
    assert 'knn_acc' in json.loads(Path('run/result.json').read_text()) and Path('run/embeddings.npz').exists()
    assert cli.main(['embed', '--resume', '--out', 'run']) == 0 and 'finished: nothing to do' in capsys.readouterr().out
    (cli.main(['draws', 'run']), cli.main(['name', 'run']))
    assert capsys.readouterr().err.count("The clusters of 'margins' are not named by images") == 2


def test_runs_of_other_images_do_not_share_a_panel(capsys):
    for part, n in (('a', 10), ('b', 20)):
        labels = np.arange(n) % 2
        np.savez(f'{part}.npz', x=np.random.default_rng(0).normal(size=(n, 3)), y=labels)
        assert cli.main(['embed', '--data', f'{part}.npz', '--epochs', '1', '--batch-size', '4', '--out', f'{part}/run']) == 0
    np.savez('a/run/other.npz', **dict(np.load('a/run/embeddings.npz')) | dict(labels=1 - np.load('a/run/embeddings.npz')['labels']))
    assert cli.main(['panel', 'a/run', 'b/run', '--out', 'p.png']) == 2 and 'b/run embeds other images than the 10' in only_line(capsys)
    Path('a/run/other.npz').replace('a/run/embeddings.npz')
    assert cli.main(['panel', 'a/run', '--out', 'p.png']) == 2 and 'a/run embeds other images' in only_line(capsys)
    assert cli.main(['panel', 'a/run', '--out', 'nowhere/p.png']) == 2 and 'nowhere/p.png does not exist: make it first' in only_line(capsys)


def test_names_reach_the_card_and_the_page(capsys):
    assert cli.main(['cluster', *TINY, '--epochs', '2', '--draw', 'none', '--out', 'run']) == 0
    assert ', without names.' in Path('run/README.md').read_text()
    assert cli.main(['name', 'run', '--names', *'abcdefghij']) == 0
    assert ', b, c, d, e, f, g, h, i, j by exemplars.' in Path('run/README.md').read_text() and '>j<' in Path('run/report.html').read_text()


def test_a_folder_with_the_name_of_a_data_set_is_asked_for_by_its_path(capsys):
    Path('digits').mkdir()
    assert cli.main(['cluster', *TINY, '--epochs', '0', '--out', 'run']) == 0
    assert cli.main(['cluster', '--data', './digits', '--epochs', '0', '--out', 'own']) == 2 and 'holds no pictures' in only_line(capsys)


@pytest.mark.parametrize('line, fragment', [
    ('choose-k --data digits --seed -1', 'The seed -1 is out of range'), ('choose-k --data plain.npz --classes cat', 'has no classes to choose from'),
    ('choose-k --data digits --ledger nowhere/x.jsonl', 'The folder of the ledger nowhere/x.jsonl does not exist'),
    ('export nowhere/x.pt2', 'The folder of nowhere/x.pt2 does not exist'), ('draws run --drows 5', 'did you mean --draws? See sphere_mnist draws --help'),
    ('cluster --system margins --data digits --draw medoid', "The clusters of 'margins' are not named by images"),
    ('cluster --system gumbel --data digits --network fc --epochs 2', 'The network fc has no features for a contrast'),
    ('embed --data lone.npz', 'has one image of class 1 to score'), ('choose-k --data digits --most 1', '--most 1: give 2 or more'),
    ('cluster --data digits --preset published --weights.discovered 1', "The preset 'published' prepares nothing that the term 'discovered' could learn from")])
def test_other_commands_refuse_before_they_work(line, fragment, capsys):
    np.savez('plain.npz', x=np.zeros((30, 3)))
    np.savez('lone.npz', x_train=np.random.default_rng(0).normal(size=(20, 3)), y_train=np.arange(20) % 2, x_test=np.zeros((3, 3)), y_test=np.array([0, 0, 1]))
    assert cli.main(line.split()) == 2 and fragment in only_line(capsys)
