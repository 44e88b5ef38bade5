"""The command line as its user meets it: signals to real processes, mistakes, and what they leave behind."""
import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from sphere_mnist import cli, clustering, commands, data, datasets, look_again, report, runs, systems
from sphere_mnist.training import NonFiniteLoss

root = Path(__file__).parent.parent
TINY = ['--data', 'digits', '--preset', 'published']


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    "Each test in a folder of its own, without the seconds that figures take."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    for room in (clustering, look_again): monkeypatch.setattr(room, 'run_figures', lambda *args, **kw: [])
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


def same_bytes(a, b): return Path(a).read_bytes() == Path(b).read_bytes() # a comparison that pytest does not print byte by byte


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
    assert same_bytes('my run/model.safetensors', 'unbroken/model.safetensors')
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
    assert same_bytes('run/model.safetensors', 'unbroken/model.safetensors')


def test_a_signal_before_the_folder_leaves_nothing(monkeypatch, capsys):
    def killed(*args, **kw): os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)
    monkeypatch.setattr(runs, 'load_images', killed)
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
    assert tuple(result) == systems.RESULT


@pytest.mark.parametrize('line, status', [('--version', 0), ('--help', 0), ('cluster --help', 0), ('cluster --help gmvae', 0), ('predict -h', 0), ('clusterr', 2), ('', 2), ('cluster --epoch 3', 2),
                                          ('cluster --epochs few', 2), ('cluster --system gmvea', 2), ('cluster --preset fats', 2), ('embed --loss cosfase', 2), ('cluster --data mnits', 2)])
def test_help_and_typing_errors_wait_for_nothing(line, status):
    code = ('import sys, time; from sphere_mnist.cli import main; status = main(); seconds = time.process_time(); '
            'print([m for m in ("torch", "numpy", "jsonargparse", "matplotlib") if m in sys.modules], status, seconds)')
    done = subprocess.run([sys.executable, '-c', code, *line.split()], env=dict(os.environ, PYTHONPATH=str(root)), capture_output=True, text=True)
    loaded, found, seconds = re.fullmatch(r'(.*) (\d+) ([\d.]+)', done.stdout.splitlines()[-1]).groups()
    assert (loaded, int(found), len(done.stderr.splitlines())) == ('[]', status, int(status > 0)) and float(seconds) < .6 # .1 to .2 on an idle machine


def test_help_of_a_system_explains_its_flags_alone(capsys):
    assert cli.main(['cluster', '--help', 'gmvae']) == 0
    shown = capsys.readouterr().out
    assert '--style-dim' in shown and 'published_conv' in shown and '--kappa' not in shown and '--seed' not in shown
    assert cli.main(['cluster', '--help']) == 0
    shown = capsys.readouterr().out
    assert shown.index('--data ') < shown.index('--exemplars ') < shown.index('--batch-size ') < shown.index('--style-dim') and len(shown.splitlines()) < 125
    assert not [a.flag for a in cli.arguments_for('cluster') if a.flag not in shown]


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_the_parser_knows_what_help_says(name):
    flags = {a.name for a in cli.arguments_for(name)} - {'config'}
    assert {key for action in cli.parser_of(name)._actions if (key := action.dest) not in ('help', 'config', 'print_config')} == flags


def test_print_config_comes_back(capsys):
    said = ['--data', 'digits', '--draw', '3', '--epochs', '0', '--weights.cluster', '0.5', '--preset', 'published']
    assert cli.main(['cluster', *said, '--print_config']) == 0
    Path('settings.yaml').write_text(capsys.readouterr().out)
    assert cli.main(['cluster', '--config', 'settings.yaml', '--out', 'run']) == 0
    config = systems.read_config(Path('run'))
    assert (config['draw'], config['weights'], config['epochs']) == (3, {'cluster': .5}, 0)


def test_the_config_of_a_run_repeats_it(finished):
    assert cli.main(['cluster', '--config', str(finished/'config.yaml'), '--out', 'again']) == 0
    for file in ('model.safetensors', 'config.yaml'): assert same_bytes(Path('again', file), finished/file)


def test_without_a_network_the_shipped_digits_are_used(monkeypatch, capsys):
    def offline(*args): raise ConnectionError('no network')
    monkeypatch.setattr(datasets, 'download_raw', offline)
    monkeypatch.delenv('SPHERE_MNIST_DATA', raising=False)
    datasets.failed_downloads.clear()
    assert cli.main(['cluster', '--epochs', '0', '--out', 'run']) == 0
    told = without_bar(capsys.readouterr().err)
    assert len(told) == 1 and told[0].startswith('sphere_mnist: MNIST is not in') and 'mnist5k' in told[0]
    assert json.loads(Path('run/result.json').read_text())['data'] == 'mnist5k'
    assert systems.read_config(Path('run'))['data'] == 'mnist5k'
    datasets.failed_downloads.clear()


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


def test_a_part_of_the_training_images(tmp_path, capsys):
    for seed in (0, 1):
        args = ['--epochs', '0', '--images', '300', '--seed', str(seed), '--ledger', str(tmp_path/'l.jsonl'), '--out', f'run-{seed}']
        assert cli.main(['cluster', *TINY, *args]) == 0
        assert 'on 300 images of digits' in capsys.readouterr().out
        assert systems.read_config(Path(f'run-{seed}'))['images'] == 300
    rows = [json.loads(line) for line in Path('l.jsonl').read_text().splitlines()]
    assert [row['images'] for row in rows] == [300, 300]
    assert rows[0]['exemplars'] == rows[1]['exemplars'] # the same images, whatever the seed
    assert len(systems.runs_beside(rows, rows[0])) == 1
    assert systems.runs_beside([{k: v for k, v in rows[1].items() if k != 'images'}], rows[0]) == []
    assert cli.main(['cluster', '--resume', '--out', 'run-0', '--images', '200']) == 2


@pytest.mark.parametrize('system', ['mixem', 'simclr'])
def test_a_head_of_one_linear_layer(system):
    "Documented as 0: one linear layer."
    said = ['--system', system, '--data', 'digits', '--epochs', '1', '--batch-size', '500', '--width', '2', '--hidden', '0', '--out', 'run']
    assert cli.main(['cluster', *said]) == 0
    assert systems.read_config(Path('run'))['hidden'] == 0 and runs.load_run(Path('run'))[2].n_clusters == 10


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
    _, _, system = runs.load_run(finished)
    assert report.run_figures(system, data.load_images('digits', 'test'), tmp_path, 60) == []
    assert {f.name for f in (tmp_path/'figures').iterdir()} == {
        'captions.json', *(f'{name}.png' for name in ('curves', 'centers', 'tsne', 'clusters', 'reconstructions', 'confusion'))}


def without_bar(text):
    "The lines of a text that are not a progress bar."
    return [l for l in text.replace('\r', '\n').splitlines() if l.strip() and not re.search(r'step(/s)?\]', l)]


def only_line(capsys):
    "The one line on stderr."
    lines = without_bar(capsys.readouterr().err)
    assert len(lines) == 1 and lines[0].startswith('sphere_mnist: '), lines
    return lines[0]


@pytest.mark.parametrize('out', ['file/run', '/proc/nowhere/run'])
def test_a_folder_that_cannot_be_made(out, capsys):
    Path('file').write_text('x')
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
    ('config.yaml', lambda b: b + b'sead: 1\n', "has a setting 'sead'"), ('config.yaml', None, 'no config.yaml'),
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
    assert same_bytes('run/model.safetensors', 'unbroken/model.safetensors')


def test_a_loss_that_diverges(monkeypatch, capsys):
    from sphere_mnist import published
    monkeypatch.setattr(published, 'reconstruction_loss', lambda decoded, images: decoded.sum()*float('inf'))
    assert cli.main(['cluster', *TINY, '--epochs', '1', '--out', 'run']) == 1
    assert "'reconstruction' is not finite at step 0" in only_line(capsys)
    assert not Path('run/result.json').exists() and not Path('run/model.safetensors').exists()


def test_a_ledger_row_knows_its_overrides_and_no_paths(tmp_path):
    args = ['--epochs', '0', '--warp', 'none', '--weights.cluster', '0', '--ledger', str(tmp_path/'l.jsonl'), '--out', str(tmp_path/'run')]
    assert cli.main(['cluster', *TINY, *args]) == 0
    row = json.loads(Path('l.jsonl').read_text())
    assert set(row) == {*systems.RESULT, 'warp', 'weights'}
    assert row['weights'] == {'cluster': 0} and str(tmp_path) not in json.dumps(row)


def test_a_card_knows_the_runs_of_other_seeds_in_the_ledger(tmp_path, capsys):
    for seed, epochs in ((0, 0), (1, 0), (2, 1)):
        assert cli.main(['cluster', *TINY, '--epochs', str(epochs), '--seed', str(seed), '--ledger', 'l.jsonl', '--out', f'run{seed}']) == 0
    assert [' of 2' in Path(f'run{seed}/README.md').read_text() for seed in range(3)] == [False, True, False]
    for seed in range(3): assert cli.main(['evaluate', f'run{seed}']) == 0
    assert [' of 2' in Path(f'run{seed}/README.md').read_text() for seed in range(3)] == [True, True, False]
    Path('run2/result.json').unlink()
    assert cli.main(['cluster', '--resume', '--out', 'run2']) == 2 # the folder may be a stranger's
    assert cli.main(['cluster', '--resume', '--out', 'run2', '--ledger', 'l.jsonl']) == 0
    assert [json.loads(row)['seed'] for row in Path('l.jsonl').read_text().splitlines()] == [0, 1, 2, 2]
    with open('l.jsonl', 'a') as f: f.write('torn\n')
    capsys.readouterr()
    assert cli.main(['cluster', *TINY, '--ledger', 'l.jsonl', '--out', 'refused']) == 2
    assert 'line 5 of l.jsonl is no row' in only_line(capsys) and not Path('refused').exists()


def test_a_system_is_told_its_settings(capsys):
    said = ['--system', 'gumbel', '--data', 'digits', '--preset', 'published', '--epochs', '1', '--batch-size', '64', '--lr', '[2e-3,0,linear]',
            '--hidden', '32', '--estimator', 'straight_through', '--temperature', '[1,.5,exponential]', '--exact-kl', 'true']
    assert cli.main(['cluster', *said, '--out', 'run', '--ledger', 'l.jsonl']) == 0
    row, config = json.loads(Path('l.jsonl').read_text()), systems.read_config(Path('run'))
    told = dict(batch_size=64, lr=[.002, 0, 'linear'], hidden=32, estimator='straight_through', temperature=[1, .5, 'exponential'], exact_kl=True)
    for key, value in told.items(): assert row[key] == config[key] == value
    assert set(row) == {*systems.RESULT, *told}
    assert not {'encoder', 'latent_dim', 'warp'} & set(Path('run/config.yaml').read_text().replace(':', '').split())
    _, _, system = runs.load_run(Path('run'))
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
    assert same_bytes('again/model.safetensors', 'run/model.safetensors')


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
    assert same_bytes('run/model.safetensors', 'unbroken/model.safetensors')
    result = json.loads(Path('run/result.json').read_text())
    assert ('acc_aae' in result) == (system == 'gmvae')
    Image.new('L', (20, 20), 128).save('x.png')
    assert cli.main(['evaluate', 'run']) == cli.main(['predict', 'x.png', '--run', 'run']) == 0
    assert json.loads(Path('run/result.json').read_text()) == result


def test_figures_of_a_mixture(tmp_path, monkeypatch):
    said = ['--system', 'gmvae', '--preset', 'spiral', '--data', 'spiral', '--epochs', '2', '--visualise', '1']
    assert cli.main(['cluster', *said, '--out', str(tmp_path/'run')]) == 0
    _, result, system = runs.load_run(tmp_path/'run')
    assert (result['data'], result['epochs'], system.n_clusters) == ('spiral', 2, 8)
    monkeypatch.undo()
    warned = report.run_figures(system, data.load_images('spiral', 'test'), tmp_path/'run', 60)
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
    monkeypatch.setattr(clustering, 'step_seconds', lambda *args: 1.)
    monkeypatch.setattr(clustering, 'train_again', lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(['cluster', *TINY, '--encoder', 'resnet18', '--out', 'run']) == 130
    assert 'about 85 minutes for 5,100 steps on this machine' in capsys.readouterr().out


def test_what_help_promises_can_be_said(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    assert cli.main(['--help']) == 0
    shown = capsys.readouterr().out
    assert all(f'  {status} ' in shown for status in cli.EXITS) and max(map(len, shown.splitlines())) <= 80
    for name, lines in ((name, command.examples) for name, command in cli.COMMANDS.items()):
        assert cli.main([name, '--help']) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= 80 and '\x1b' not in shown
        for line in lines:
            assert line in shown
            assert commands.parser().parse_args(re.search('sphere_mnist ([^>)]*)', line)[1].split()).command == name


@pytest.mark.parametrize('result', [
    dict(acc_exemplar=.9531, acc=1., nmi=None, ari=-.01, clusters_used=100, seconds=1234567.8),
    {f'measure_number_{i}': i/7 for i in range(9)}])
def test_tables_fit_80_columns(result):
    text = clustering.table(result) if 'acc' in result else clustering.in_columns(result)
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
    (NonFiniteLoss('NaN.'), 1, 'NaN.')])
def test_exit_statuses(raised, status, said, monkeypatch, capsys):
    def fail(): raise raised
    monkeypatch.setitem(cli.COMMANDS, 'info', cli.COMMANDS['info']._replace(does=fail, arguments=list))
    assert cli.main(['info']) == status in cli.EXITS
    assert said in only_line(capsys)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, 'info', cli.COMMANDS['info']._replace(does=lambda: (_ for _ in ()).throw(RuntimeError('a bug')), arguments=list))
    with pytest.raises(RuntimeError, match='a bug'): cli.main(['info'])


def test_a_pipe_that_closes_is_no_traceback():
    process = start('info')
    process.stdout.close()
    assert process.wait(60) == 1 and process.stderr.read() == ''


def test_info_says_where_the_data_are(monkeypatch, capsys, tmp_path):
    raw = tmp_path/'data'/'MNIST'/'raw'
    raw.mkdir(parents=True)
    (tmp_path/'data/SVHN').mkdir()
    for f in datasets.RAW_FILES: (raw/f).touch()
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
    for shell in commands.SHELLS: (folder/shell).write_text(commands.completion_script(shell))
    return folder


ASKED = [(['clu'], 'cluster'), (['cluster', '--sys'], '--system'), (['cluster', '--system', 'gu'], 'gumbel'), (['cluster', '--track', 'tensor'], 'tensorboard'),
         (['cluster', '--data', 'fash'], 'fashion'), (['embed', '--loss', 'cosf'], 'cosface'), (['completion', 'ba'], 'bash'),
         (['cluster', '--system', 'gumbel', '--preset', 'fo'], 'fork'), (['cluster', '--preset', 'qu'], 'quick'), (['embed', '--preset', 'arcf'], 'arcface')]


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
    flags = {'--' + key.replace('_', '-') for key in cli.parser_of('cluster').get_defaults().keys()}
    assert not [flag for flag in flags if flag not in text]
    assert not [name for name in cli.COMMANDS if name not in text]


def test_patience_ends_a_stage_early():
    said = ['embed', '--loss', 'softmax', '--data', 'digits', '--epochs', '30', '--batch-size', '256', '--lr', '0', '--out']
    assert cli.main([*said, 'patient', '--patience', '2']) == 0 # at a rate of 0 only running statistics change
    rows = [json.loads(l) for l in Path('patient/metrics.jsonl').read_text().splitlines()]
    losses = [row['validation'] for row in rows]
    assert losses.index(min(losses)) + 3 == len(losses) < 30
    assert systems.read_config(Path('patient'))['patience'] == 2


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
    from sphere_mnist import published, training
    monkeypatch.setenv('TQDM_MININTERVAL', '0'); monkeypatch.delenv('TQDM_DISABLE', raising=False)
    system = systems.system_class('spherical')
    images = data.load_images('digits')
    stages = published.preset_stages(system, 'published', images, None, epochs=1)
    loop, progress = training.Loop(stages, images, device='cpu'), training.Progress()
    progress.before_run(loop)
    with loop.contexts:
        progress.before_stage(loop)
        progress.bar.start_t -= 60; progress.bar.last_print_t -= 60; progress.bar.delay = 0 # a minute has passed
        progress.bar.update(5)
    err = capsys.readouterr().err
    assert '5 of 17 steps' in err and '\r' not in err and '\x1b' not in err


def test_prototypes_with_a_forward_of_their_own():
    said = ['cluster', '--data', 'digits', '--preset', 'quick', '--epochs', '2', '--together', 'false', '--out', 'run']
    assert cli.main(said) == 0 and json.loads(Path('run/result.json').read_text())['clusters_used'] > 0


def test_a_stopped_embedding_is_measured_after_cluster_resumes_it(monkeypatch, capsys):
    said = ['embed', '--loss', 'softmax', '--data', 'digits', '--epochs', '2', '--batch-size', '256', '--out', 'run']
    with monkeypatch.context() as m:
        m.setattr(clustering, 'all_scores', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
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
        assert cli.main(['embed', '--data', f'{part}.npz', '--epochs', '1', '--batch-size', '4', '--split', 'all', '--out', f'{part}/run']) == 0
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
