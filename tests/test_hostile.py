"""A run folder or a file of settings that a stranger made: nothing outside the folder is read, written or deleted, and nothing hangs."""
import base64, json, os, shutil
from pathlib import Path
from unittest import mock
import numpy as np
import pytest
from PIL import Image
from sphere_mnist import cli, clustering, published, report, runs
from sphere_mnist.data import InputError
from sphere_mnist.estimator import SphericalClusterer
from sphere_mnist.share import load_system
from sphere_mnist.spherical import Spherical

pytestmark = pytest.mark.timeout(120)
TINY = ['--data', 'digits', '--preset', 'published', '--epochs', '3', '--batch-size', '720', '--device', 'cpu', '--precision', 'float32']


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    "A finished run with figures, and one that was stopped in its third epoch and has a ledger."
    top = tmp_path_factory.mktemp('template')
    assert cli.main(['cluster', *TINY, '--out', str(top/'run')]) == 0
    calls, loss = [], published.reconstruction_loss
    def stopped(*args):
        calls.append(1)
        if len(calls) == 5: raise KeyboardInterrupt
        return loss(*args)
    with mock.patch.object(published, 'reconstruction_loss', stopped), mock.patch.object(clustering, 'run_figures', lambda *args: []):
        assert cli.main(['cluster', *TINY, '--out', str(top/'open')]) == 130
    return top


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    "A copy of both, and a private folder beside them."
    shutil.copytree(template, tmp_path/'here')
    monkeypatch.chdir(tmp_path/'here')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    for name in ('private/photos/1.txt', 'private/00000099-0-1/state.json', 'private/notes.md'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f'what is in {name}')
    return tmp_path/'here'


@pytest.fixture(autouse=True)
def few_figures(monkeypatch):
    "Only the figure that takes no time, so that a run still writes its folder of figures."
    made = report.figures_of
    monkeypatch.setattr(report, 'figures_of', lambda *args: {k: v for k, v in made(*args).items() if k == 'curves'})


def listing(folder='private'):
    "Every path in a folder, with its size and time."
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in [Path(folder), *sorted(Path(folder).rglob('*'))]}


def refused(line, capsys, *fragments):
    "The command ends with one sentence that names these, and the private folder is as it was."
    before = listing()
    capsys.readouterr()
    assert cli.main(line.split() if isinstance(line, str) else line) == 2
    said, = [l for l in capsys.readouterr().err.splitlines() if l.startswith('sphere_mnist:')]
    for fragment in fragments: assert fragment in said, said
    assert len(said) < 700 and listing() == before
    return said


def move_away(name):
    "Put a link in the place of a file or a folder, which now lies in the private folder."
    shutil.move(name, moved := Path('private', Path(name).name).resolve())
    Path(name).symlink_to(moved)


def checkpoint(folder='open'): return max(Path(folder, 'checkpoints').iterdir())


# ---- what is deleted

def test_a_folder_of_checkpoints_elsewhere_loses_nothing(here, capsys):
    move_away('open/checkpoints')
    refused('cluster --resume --out open', capsys, 'open/checkpoints is a link')


def test_a_restart_deletes_nothing_elsewhere(here):
    move_away('open/checkpoints')
    before = listing()
    with pytest.raises(InputError, match='checkpoints is a link'): runs.forget(Path('open'), 1000)
    assert listing() == before


@pytest.mark.parametrize('name', ['backup-before-the-holidays', '00000002-0-1.bak', '2026'])
@pytest.mark.parametrize('restart', [False, True])
def test_what_a_person_put_beside_the_checkpoints_stays(name, restart, here):
    shutil.copytree(checkpoint(), Path('open/checkpoints', name))
    Path('open/checkpoints/notes.txt').write_text('before the holidays')
    before = listing(f'open/checkpoints/{name}')
    if restart: assert not runs.forget(Path('open'), 1000) and not Path('open/metrics.jsonl').exists()
    else: assert cli.main(['cluster', '--resume', '--out', 'open']) == 0
    assert listing(f'open/checkpoints/{name}') == before
    assert Path('open/checkpoints/notes.txt').read_text() == 'before the holidays'
    assert len([p for p in Path('open/checkpoints').iterdir() if p.is_dir()]) == 1 + (not restart)


@pytest.mark.parametrize('restart', [False, True])
def test_a_link_among_the_checkpoints_is_not_followed(restart, here):
    Path('open/checkpoints/00000001-0-1').symlink_to(Path('private/00000099-0-1').resolve())
    before = listing()
    if restart:
        with pytest.raises(InputError, match='00000001-0-1 is a link'): runs.forget(Path('open'), 1000)
    else: assert cli.main(['cluster', '--resume', '--out', 'open']) == 0
    assert listing() == before


def test_notes_in_a_folder_with_the_name_of_a_checkpoint_stay(here):
    (notes := Path('open/checkpoints/00000000-0-0')).mkdir()
    (notes/'notes.txt').write_text('mine')
    assert cli.main(['cluster', '--resume', '--out', 'open']) == 0
    assert (notes/'notes.txt').read_text() == 'mine'


def test_the_newest_checkpoint_elsewhere_is_not_read(here, capsys):
    Path('open/checkpoints/00000099-0-1').symlink_to(Path('private/00000099-0-1').resolve())
    refused('cluster --resume --out open', capsys, '00000099-0-1 is a link')


def test_a_checkpoint_is_not_written_elsewhere(here, capsys):
    Path('open/checkpoints/.writing').symlink_to(Path('private').resolve())
    refused('cluster --resume --out open', capsys, '.writing is a link')


# ---- what is written

@pytest.mark.parametrize('line', ['cluster --resume --out open', 'name run --names a b c d e f g h i j'])
def test_figures_are_not_written_elsewhere(line, here, capsys):
    folder = 'open' if 'open' in line else 'run'
    Path(folder, 'figures').rename('away') if Path(folder, 'figures').exists() else None
    Path(folder, 'figures').symlink_to(Path('private/photos').resolve())
    refused(line, capsys, 'figures is a link')


def test_curves_are_not_written_elsewhere(here, capsys):
    pytest.importorskip('tensorboard')
    Path('open/logs').symlink_to(Path('private').resolve())
    refused('cluster --resume --out open --track tensorboard', capsys, 'open/logs is a link')


@pytest.mark.parametrize('file', ['config.json', 'clusters.csv', 'report.html'])
def test_no_link_beside_a_file_is_written_through(file, here):
    Path('run', f'.{file}.{os.getpid()}').symlink_to(Path('private/notes.md').resolve())
    before = listing()
    if file == 'config.json': load_system('run')._save_pretrained(Path('run'))
    else: assert cli.main(['evaluate', 'run']) == 0
    assert listing() == before and not Path('run', file).is_symlink()


@pytest.mark.parametrize('file', ['result.json', 'README.md'])
def test_a_link_in_the_place_of_a_file_is_replaced(file, here):
    Path('open', file).symlink_to(Path('private', 'new.txt').resolve())
    before = listing()
    assert cli.main(['cluster', '--resume', '--out', 'open']) == 0
    assert listing() == before and Path('open', file).is_file() and not Path('open', file).is_symlink()


def ledger_of(folder, ledger):
    "Let the settings of a run name a ledger."
    text = Path(folder, 'config.yaml').read_text().replace('ledger: null', f'ledger: {Path(ledger).resolve()}')
    Path(folder, 'config.yaml').write_text(text)


@pytest.mark.parametrize('name', ['private/new.jsonl', 'private/notes.md', 'private/photos/deeper.jsonl'])
def test_the_ledger_of_a_folder_is_not_followed(name, here, capsys):
    ledger_of('open', name)
    said = refused('cluster --resume --out open', capsys, 'started with a ledger', '--ledger none')
    assert f'--ledger {Path(name).resolve()} once more' in said
    before = listing()
    assert cli.main(['cluster', '--resume', '--out', 'open', '--ledger', 'none']) == 0
    assert listing() == before


def test_a_run_of_ones_own_appends_when_its_ledger_is_named_again(here, capsys):
    ledger_of('open', 'rows.jsonl')
    assert cli.main(['cluster', '--resume', '--out', 'open', '--ledger', str(Path('rows.jsonl').resolve())]) == 0
    row, = map(json.loads, Path('rows.jsonl').read_text().splitlines())
    assert row['acc'] == json.loads(Path('open/result.json').read_text())['acc']
    assert cli.main(['cluster', '--resume', '--out', 'open']) == 0 # finished: nothing is appended, so nothing is asked
    assert len(Path('rows.jsonl').read_text().splitlines()) == 1


def test_whoever_stops_a_run_is_told_its_ledger(here, capsys):
    with mock.patch.object(published, 'reconstruction_loss', side_effect=KeyboardInterrupt):
        assert cli.main(['cluster', *TINY, '--out', 'new', '--ledger', 'rows.jsonl']) == 130
    assert f'go on with: sphere_mnist cluster --resume --out new --ledger {Path("rows.jsonl").resolve()}' in capsys.readouterr().err


@pytest.mark.parametrize('line', ['cluster --resume --out open', 'evaluate run', 'name run'])
def test_nothing_is_downloaded_to_where_a_folder_says(line, here, capsys):
    folder = 'open' if 'open' in line else 'run'
    text = Path(folder, 'config.yaml').read_text().replace('data: digits', 'data: cifar10')
    Path(folder, 'config.yaml').write_text(text.replace('data_dir: null', f'data_dir: {Path("private/photos").resolve()}'))
    with mock.patch('sphere_mnist.datasets.why_unreachable', side_effect=AssertionError('the network was asked')):
        refused(line, capsys, 'was not downloaded (not asked for)')


# ---- what is read

KINDS = dict(elsewhere=move_away, pipe=lambda name: (os.remove(name), os.mkfifo(name)), zeros=lambda name: (os.remove(name), Path(name).symlink_to('/dev/zero')),
             large=lambda name: os.truncate(name, 2**33))
READ = {'run/config.yaml': ('evaluate run', 'predict private/notes.md --run run'), 'run/config.json': ('evaluate run', 'export x.pt2 --run run'),
        'run/model.safetensors': ('evaluate run', 'draws run'), 'run/result.json': ('evaluate run', 'cluster --resume --out run'),
        'open/config.yaml': ('cluster --resume --out open',), 'open/metrics.jsonl': ('cluster --resume --out open',),
        'open/restarts.json': ('cluster --resume --out open',), 'run/metrics.jsonl': ('name run --names a b c d e f g h i j',)}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name, line', [(name, line) for name, lines in READ.items() for line in lines])
def test_a_file_of_a_run_is_a_file_in_it(name, line, kind, here, capsys):
    if name.endswith('restarts.json'): Path(name).write_text('[]')
    KINDS[kind](name)
    refused(line, capsys, Path(name).name, dict(elsewhere='is a link', zeros='is a link', pipe='not a regular file', large='bytes')[kind])


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('file', ['state.json', 'systems.safetensors', 'optimiser.pt', 'manifest.json'])
def test_a_file_of_a_checkpoint_is_a_file_in_it(file, kind, here, capsys):
    KINDS[kind](checkpoint()/file)
    refused('cluster --resume --out open', capsys, 'is damaged', file)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('file', ['curves.png', 'captions.json'])
def test_a_page_shows_what_is_in_its_folder(file, kind, here):
    secret = Path('private/secret.png')
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)).save(secret)
    shutil.copy(secret, Path('run/figures', file))
    KINDS[kind](Path('run/figures', file))
    assert cli.main(['evaluate', 'run']) == 0
    page = Path('run/report.html').read_text()
    assert base64.b64encode(secret.read_bytes()).decode()[:100] not in page
    if file == 'curves.png': assert 'figures/curves.png is a link, no file or too large, and was not read' in page


def test_a_page_shows_no_folder_of_figures_elsewhere(here):
    move_away('run/figures')
    assert cli.main(['evaluate', 'run']) == 0
    assert 'the folder figures is a link and was not followed' in Path('run/report.html').read_text()
    assert '<figure>' not in Path('run/report.html').read_text()


@pytest.mark.parametrize('kind', KINDS)
def test_embeddings_are_a_file_of_the_run(kind, here, capsys):
    np.savez('run/embeddings.npz', embeddings=np.zeros((3, 2)), labels=np.zeros(3))
    KINDS[kind]('run/embeddings.npz')
    refused('panel run --out p.png', capsys, 'embeddings.npz')


@pytest.mark.parametrize('load', [load_system, SphericalClusterer.from_pretrained, Spherical.from_pretrained])
@pytest.mark.parametrize('kind', ['pipe', 'zeros', 'large'])
@pytest.mark.parametrize('file', ['config.json', 'model.safetensors'])
def test_a_shared_model_is_read_from_regular_files(load, kind, file, here):
    KINDS[kind](Path('run', file))
    with pytest.raises(InputError, match='regular file|bytes'): load('run')


def test_a_shared_model_may_be_kept_as_the_hub_keeps_it(here):
    "In the cache of the Hub the files of a model are links."
    for file in ('config.json', 'model.safetensors'): move_away(Path('run', file))
    assert load_system('run').name == 'spherical'


def test_a_run_may_lie_behind_a_link(here):
    Path('door').symlink_to(Path('run').resolve())
    assert cli.main(['evaluate', 'door']) == 0
    Path('runs').symlink_to(Path('.').resolve())
    assert cli.main(['cluster', '--resume', '--out', 'runs/open']) == 0


# ---- YAML

def bomb(levels=8, width=10):
    "A list of lists of lists, each named once and repeated: some 500 characters for 10**levels numbers."
    lines = ['&a0 [1]'] + [f'&a{i} [{", ".join([f"*a{i - 1}"]*width)}]' for i in range(1, levels)]
    return f'[{", ".join(lines)}]'


FAULTS = dict(aliases=bomb(), quoted=json.dumps(bomb()), mapping='{a: &a {b: 1}, c: {d: *a}}', deep='['*50 + ']'*50,
              parts='1' + ':1'*200_000, fraction='1' + ':1'*300 + '.5', tag='!!binary AAAA', values=f'[{"1, "*20_000}]') # a number to the base of 60 takes minutes
LINES = ('evaluate run', 'predict private/notes.md --run run', 'cluster --resume --out open')


@pytest.mark.parametrize('fault', FAULTS)
@pytest.mark.parametrize('key', ['lr', 'kappa', 'weights'])
@pytest.mark.parametrize('line', LINES)
def test_the_settings_of_a_run_do_not_grow(line, key, fault, here, capsys):
    folder = 'open' if 'open' in line else 'run'
    lines = [l for l in Path(folder, 'config.yaml').read_text().splitlines() if not l.startswith(f'{key}:')]
    value = f'{{cluster: {FAULTS[fault]}}}' if key == 'weights' else FAULTS[fault]
    Path(folder, 'config.yaml').write_text('\n'.join([*lines, f'{key}: {value}']))
    refused(line, capsys, 'config.yaml is damaged')


@pytest.mark.parametrize('fault', [*FAULTS, 'long'])
def test_a_file_of_settings_does_not_grow(fault, here, capsys):
    Path('settings.yaml').write_text(f'data: digits\nlr: {FAULTS[fault]}\n' if fault in FAULTS else 'data: digits\n' + '#'*2**21)
    refused('cluster --config settings.yaml --out new', capsys, 'settings.yaml cannot be read as settings')
    assert not Path('new').exists()


@pytest.mark.parametrize('words', [['--lr', bomb()], [f'--lr={bomb()}'], ['--prior', bomb()], ['--weights', f'{{"cluster": {bomb()}}}'], ['--weights.cluster', bomb()]])
def test_an_argument_does_not_grow(words, here, capsys):
    refused(['cluster', *TINY, '--out', 'new', *words], capsys, 'cannot be read (its list has a name, &a0): write the numbers out')
    assert not Path('new').exists()


@pytest.mark.parametrize('words', [['--lr', FAULTS['parts']], [f'--lr={FAULTS["parts"]}'], ['--kappa', FAULTS['fraction']]])
def test_an_argument_has_no_number_of_many_parts(words, here, capsys):
    refused(['cluster', *TINY, '--out', 'new', *words], capsys, 'cannot be read (it has a number of 50 parts or more')
    assert not Path('new').exists()


def test_a_long_value_is_said_in_short(here, capsys):
    said = refused(['cluster', *TINY, '--out', 'new', '--seed', '[' + '[1], '*500 + ']'], capsys, '--seed')
    assert len(said) < 400


@pytest.mark.parametrize('value', [f'[{"1, "*9_000}1]', f'[{"a, "*9_000}b]', 'x'*900_000])
def test_a_long_setting_is_said_in_short(value, here, capsys):
    Path('settings.yaml').write_text(f'data: digits\npreset: published\nlr: {value}\n')
    capsys.readouterr()
    assert cli.main(['cluster', '--config', 'settings.yaml', '--out', 'new']) == 2
    said = capsys.readouterr().err
    assert len(said) < 3100 and 'give a' in said and not Path('new').exists()


@pytest.mark.parametrize('kind', ['pipe', 'zeros'])
def test_a_file_of_settings_is_a_regular_one(kind, here, capsys):
    Path('settings.yaml').write_text('data: digits')
    KINDS[kind]('settings.yaml')
    refused('cluster --config settings.yaml --out new', capsys, 'settings.yaml is not a regular file')
