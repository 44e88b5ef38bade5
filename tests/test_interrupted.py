"""Runs that are killed, stopped or out of disk go on from their last whole checkpoint, to the same bits.

One process imports the package and forks the runs, before any thread has started: `python tests/test_interrupted.py FOLDER`.
"""
import contextlib, ctypes, functools, hashlib, io, itertools, json, os, resource, shutil, signal, subprocess, sys, time, traceback
from pathlib import Path
from unittest import mock
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from sphere_mnist import checkpoints, cli, clustering, systems, training
from sphere_mnist.data import InputError, exemplar_indices, load_images, to_float
from sphere_mnist.models import read_tensors
from sphere_mnist.published import preset_stages
from sphere_mnist.checkpoints import load_checkpoint, newest_checkpoint, train_run
from sphere_mnist.training import Stage, System

KILLS = 5 # of each system
QUIET = dict(device='cpu', precision='float32', progress=False)
RUNS = dict( # system -> preset, arguments
    spherical=('fast', dict(width=4, dim=8)), gmvae=('improved', dict(width=4, latent_dim=8, style_dim=4, hidden=32)),
    gumbel=('improved', dict(width=4, dim=8, hidden=32)), simclr=('mnist', dict(width=4, dim=16)),
    mixem=('mnist', dict(width=4, dim=16)), margins=('softmax', dict(width=4, dim=8)))


class Linear2(System):
    "A linear encoder to two dimensions and back, with noise; `pause` is called in each step."
    name = 'linear2'
    def __init__(self, pause=None):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder, self.pause = nn.Linear(784, 2), nn.Linear(2, 784), pause
    def terms(self, batch, progress):
        if self.pause: self.pause(batch.step)
        x = to_float(batch.images).flatten(1)
        z = self.encoder(x) + batch.share(torch.randn(batch.total, 2, generator=batch.generator()))
        return dict(reconstruction=(self.decoder(z) - x).square().mean())
    def embed(self, images): return self.encoder(images.flatten(1))
    def assign(self, images):
        p = self.embed(images)[:, :1].sigmoid()
        return torch.cat([p, 1 - p], 1)


@functools.cache
def digits(n=100): return load_images('mnist5k')[torch.arange(n)*40]


def linear(pause=None): return [Stage(Linear2(pause), dict(reconstruction=1), 3, 1e-3, batch_size=40)]


def stages(name):
    preset, options = RUNS[name]
    return preset_stages(systems.system_class(name), preset, digits(), digits()[exemplar_indices(digits().labels)], n_clusters=4, epochs=3,
                         batch_size=50, **options) if name != 'margins' else preset_stages(systems.system_class(name), preset, digits(), epochs=3, batch_size=50, **options)


def bits(folder):
    "What a finished run is, without its seconds."
    rows = [json.loads(line) for line in (folder/'metrics.jsonl').read_text().splitlines()]
    return hashlib.sha256((folder/'model.safetensors').read_bytes()).hexdigest(), [{k: v for k, v in r.items() if k != 'seconds'} for r in rows]


def left_over(folder):
    "What should not be in the folder of a finished run; a run killed as it removed its last checkpoint but one may have left that."
    return [str(f) for f in folder.rglob('.*')] + [f.name for f in [newest_checkpoint(folder)] if not f.name.endswith('-finished')]


# ---- what the forking process does

def forked(function):
    "Run a function in a child; the number of the process."
    process = os.fork()
    if process: return process
    try: status = function() or 0
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def ended(process):
    "The exit status, or minus the signal that killed it."
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@contextlib.contextmanager
def changes_of_the_disk(at=None):
    "List what changes the disk; at the given change, a number or a name, die, with half of the file on the disk where it was to be forced there."
    done, names = [], ('fsync', 'replace', 'mkdir', 'unlink', 'rmdir')
    def watched(name, call):
        def change(*args, **kw):
            file = os.readlink(f'/proc/self/fd/{args[0]}') if name == 'fsync' else str(args[0])
            done.append(f"{name} {os.path.basename(file).strip('.').removesuffix(f'.{os.getpid()}')}")
            if at in (len(done), done[-1]):
                if name == 'fsync': os.truncate(f'/proc/self/fd/{args[0]}', os.fstat(args[0]).st_size//2)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kw)
        return change
    with mock.patch.multiple(os, **{name: watched(name, getattr(os, name)) for name in names}): yield done


def attempt(name, folder, at=None, count=None):
    "Train, or go on; to be killed at a change of the disk, or to count them."
    with changes_of_the_disk(at) as done: train_run(stages(name), digits(), folder, resume=True, **QUIET)
    if count: count.write_text(str(len(done)))


def whole(folder):
    "Is what a killed run has left whole? A checkpoint that is not would raise."
    rows = (folder/'metrics.jsonl').read_text().splitlines() if (folder/'metrics.jsonl').exists() else []
    return all(map(json.loads, rows)) and (newest_checkpoint(folder) is None or load_checkpoint(folder, []) is not None)


def wait_until(there, seconds=120):
    "Wait until something is there, and not for ever."
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, f'not there after {seconds} seconds'
        time.sleep(.01)


def killed(name, folder, seed):
    "Kill the runs of one system at random moments, by the clock and at changes of the disk, and let each go on."
    random, began = np.random.default_rng(seed), time.perf_counter()
    assert ended(forked(lambda: attempt(name, folder/'unbroken', count=folder/'count'))) == 0
    seconds, changes, wanted = time.perf_counter() - began, int((folder/'count').read_text()), bits(folder/'unbroken')
    kills, ends, torn = [], [], []
    for run in itertools.count():
        out = folder/f'run {run}'
        for i in itertools.count():
            to_die = len(kills) < KILLS
            at = int(random.integers(1, changes + 1)) if to_die and i % 3 != 1 else None
            process = forked(lambda: attempt(name, out, at))
            if to_die and not at:
                time.sleep(random.uniform(0, .7*seconds))
                os.kill(process, signal.SIGKILL) # of a child that may have ended, and is still ours
            status = ended(process)
            assert status in (0, -signal.SIGKILL), status
            if status == 0: break
            kills.append(f'change {at} of {changes}' if at else 'clock')
            if not whole(out): torn.append(kills[-1])
        ends.append('same' if bits(out) == wanted and not left_over(out) else f'{out.name}: other bits, or files left over: {left_over(out)}')
        if len(kills) >= KILLS: return dict(kills=kills, ends=ends, torn=torn)


def command(*args, errors=None):
    "The command line in this process, without figures."
    with mock.patch.object(clustering, 'run_figures', lambda *a: []), open(errors or os.devnull, 'w') as f, contextlib.redirect_stderr(f):
        with contextlib.redirect_stdout(io.StringIO()): return cli.main(list(map(str, args)))


def lines(file): return [line for line in Path(file).read_text().splitlines() if line.startswith('sphere_mnist:')]


def signalled(name, folder, number, seed):
    "Send a signal to the command line at a random moment after its first checkpoint, and let it go on."
    np.savez(folder/'digits.npz', X=digits().pixels[:, 0].numpy(), y=digits().labels.numpy())
    preset, options = RUNS[name]
    flags = [f'--{k.replace("_", "-")}={v}' for k, v in options.items()]
    given = ['cluster', '--system', name, '--preset', preset, *flags, '--data', folder/'digits.npz', '--split', 'all', '--epochs', 5, '--batch-size', 50]
    assert ended(forked(lambda: command(*given, '--out', folder/'unbroken', errors=folder/'errors'))) == 0, lines(folder/'errors')
    out = folder/'stopped'
    process = forked(lambda: command(*given, '--out', out, errors=folder/'errors'))
    wait_until(lambda: (out/'checkpoints').is_dir() and newest_checkpoint(out) is not None)
    time.sleep(np.random.default_rng(seed).uniform(0, .2))
    os.kill(process, number)
    status, said = ended(process), lines(folder/'errors')
    resumed = ended(forked(lambda: command('cluster', '--resume', '--out', out)))
    return dict(status=status, said=said, resumed=resumed, same=bits(out) == bits(folder/'unbroken'), left=left_over(out))


def unreadable(folder):
    "The files of a run that do not read as what their names say; what starts with a dot has no name yet."
    def picture(file):
        with Image.open(file) as opened: opened.load()
    def page(file): assert file.read_text().rstrip().endswith('</html>')
    def card(file): assert yaml.safe_load(file.read_text().split('---')[1])
    def rows(file): assert len({line.count(',') for line in file.read_text().splitlines()}) == 1
    readers = {'.json': lambda f: json.loads(f.read_text()), '.jsonl': lambda f: [*map(json.loads, f.read_text().splitlines())], '.md': card, '.csv': rows,
               '.yaml': lambda f: dict(yaml.safe_load(f.read_text())), '.safetensors': read_tensors, '.png': picture, '.gif': picture, '.html': page}
    found = []
    for file in folder.rglob('[!.]*.*'):
        if not file.is_file() or '.writing' in file.parts or file.suffix == '.pt': continue
        try: readers[file.suffix](file)
        except Exception as e: found.append(f'{file.relative_to(folder)}: {e!r}')
    return found


def result(folder):
    "What the command line has made, without its seconds and the texts that say them."
    texts = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in (folder/'clusters.csv', *(folder/'figures').iterdir())}
    said = json.loads((folder/'result.json').read_text())
    return bits(folder), texts, {k: v for k, v in said.items() if k != 'seconds'}


def a_command(folder, out):
    "The words of a small run that writes everything."
    np.savez(folder/'digits.npz', x_train=digits().pixels[:, 0].numpy(), y_train=digits().labels.numpy(),
             x_test=digits().pixels[::3, 0].numpy(), y_test=digits().labels[::3].numpy())
    return ['cluster', '--data', str(folder/'digits.npz'), '--epochs', '3', '--width', '4', '--dim', '8', '--device', 'cpu',
            '--precision', 'float32', '--quiet', '--out', str(out)]


def the_whole_command(words, at=None, errors=os.devnull, changes=None):
    "The command line in this process, figures and page included; to be killed at a change of the disk, or to list them."
    with open(errors, 'w') as f, contextlib.redirect_stderr(f), changes_of_the_disk(at) as done: status = cli.main(words)
    if changes: changes.write_text('\n'.join(done))
    return status


def killed_command(folder, seed=0):
    "Kill the command line from its first file to its last, at a random change of the disk in each part, and let it go on."
    random, again = np.random.default_rng(seed), lambda out: ['cluster', '--quiet', '--resume', '--out', str(out)]
    assert ended(forked(lambda: the_whole_command(a_command(folder, folder/'unbroken'), changes=folder/'changes'))) == 0
    changes, out = (folder/'changes').read_text().splitlines(), folder/'run'
    began, trained, named = (changes.index(name) for name in ('unlink config.yaml', 'mkdir figures', 'unlink result.json'))
    early = int(random.integers(1, began + 1)) # before there is a config.yaml
    parts = np.array_split(changes[trained:named], 3)
    moments = [int(random.integers(began + 1, trained//2)), int(random.integers(1, trained//3)), *map(str, map(random.choice, parts)),
               'fsync report.html', 'fsync README.md']
    def kill(words, at):
        assert ended(forked(lambda: the_whole_command(words, at))) == -signal.SIGKILL, at
        assert not unreadable(out), (at, unreadable(out))
    kill(a_command(folder, out), early)
    nothing = ended(forked(lambda: the_whole_command(again(out), errors=folder/'errors')))
    for i, at in enumerate(moments): kill(again(out) if i else a_command(folder, out), at)
    assert ended(forked(lambda: the_whole_command(again(out)))) == 0
    return dict(kills=[early, *moments], nothing=nothing, said=lines(folder/'errors'), torn=unreadable(out), same=result(out) == result(folder/'unbroken'),
                left=left_over(out), lacking=sorted({f.name for f in (folder/'unbroken').iterdir()} - {f.name for f in out.iterdir()}))


def small_disk(folder, size, again=False):
    "Put a file system of so many bytes in the place of a folder, for this process alone; or change its size."
    libc = ctypes.CDLL(None, use_errno=True)
    def call(function, *args):
        if getattr(libc, function)(*args): raise OSError(ctypes.get_errno(), function)
    if not again:
        own_mounts, own_users, uid, gid = 0x20000, 0x10000000, os.getuid(), os.getgid()
        call('unshare', own_mounts | (own_users if uid else 0))
        if uid == 0: call('mount', b'none', b'/', None, 0x44000, None) # which nobody else sees
        else:
            for file, text in dict(setgroups='deny', uid_map=f'0 {uid} 1', gid_map=f'0 {gid} 1').items(): Path('/proc/self', file).write_text(text)
    call('mount', b'tmpfs', bytes(folder), b'tmpfs', 32*again, f'size={size}'.encode())


def full_disk(folder):
    "A disk with room for one checkpoint and a half; then with more room."
    given = ['cluster', '--data', 'digits', '--preset', 'published', '--epochs', 3]
    assert command(*given, '--out', folder/'unbroken') == 0
    size = sum(f.stat().st_size for f in newest_checkpoint(folder/'unbroken').iterdir())
    (folder/'disk').mkdir()
    try:
        small_disk(folder/'disk', int(4.5*size) + 40_000) # a checkpoint with its optimiser is three times the finished one
        kind, more = 'a small tmpfs', lambda: small_disk(folder/'disk', 20*size, again=True)
        limit = contextlib.nullcontext()
    except OSError: # not allowed here: files may not grow, from the second checkpoint on
        def limited(save, done=[]):
            def saved(*args):
                done.append(1)
                if len(done) == 2: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
                return save(*args)
            return saved
        kind, more = 'a limit on the size of files', lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        limit = mock.patch.object(checkpoints, 'save_checkpoint', limited(checkpoints.save_checkpoint))
    run = folder/'disk'/'run'
    with limit: status = command(*given, '--out', run, errors=folder/'errors')
    step = load_checkpoint(run, [])[0]['step']
    left = [str(f) for f in run.rglob('.*')]
    more()
    resumed = command('cluster', '--resume', '--out', run, errors=folder/'errors 2')
    same = resumed == 0 and bits(run) == bits(folder/'unbroken')
    (folder/'said.json').write_text(json.dumps(dict(kind=kind, status=status, said=lines(folder/'errors'), step=step, left=left,
                                                    resumed=resumed, same=same)))


def obey_permissions():
    "Let this process, if it is root's, write only where permissions say so: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."
    libc, header, sets = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32*2)(0x20080522, 0), (ctypes.c_uint32*6)()
    assert libc.capget(header, sets) == 0
    for which in (0, 1): sets[which] &= ~0b110 # of the effective and the permitted ones
    assert libc.capset(header, sets) == 0


def unwritable(folder):
    "A folder that cannot be made, and one that is locked after its first checkpoint."
    given = ['cluster', '--data', 'digits', '--preset', 'published', '--epochs', 3]
    assert command(*given, '--out', folder/'unbroken') == 0
    obey_permissions()
    (folder/'locked').mkdir(0o555)
    first = command(*given, '--out', folder/'locked'/'run', errors=folder/'errors')
    run, save = folder/'run', checkpoints.save_checkpoint
    def saved(*args):
        save(*args)
        for part in (run, run/'checkpoints'): part.chmod(0o555)
    with mock.patch.object(checkpoints, 'save_checkpoint', saved): status = command(*given, '--out', run, errors=folder/'errors 2')
    step = load_checkpoint(run, [])[0]['step']
    for part in (run, run/'checkpoints'): part.chmod(0o755)
    resumed = command('cluster', '--resume', '--out', run)
    (folder/'said.json').write_text(json.dumps(dict(
        first=first, refused=lines(folder/'errors'), empty=not list((folder/'locked').iterdir()), status=status,
        said=lines(folder/'errors 2'), step=step, resumed=resumed, same=bits(run) == bits(folder/'unbroken'))))


def in_a_child(function, folder):
    folder.mkdir()
    assert ended(forked(lambda: function(folder))) == 0
    return json.loads((folder/'said.json').read_text())


def at_once(folder):
    "A second run in the folder of a run that is going on, and after that one was killed."
    def second(file):
        try: train_run(linear(), digits(), folder/'run', resume=True, **QUIET)
        except InputError as e: file.write_text(str(e))
    def hang(step):
        if step == 5: (folder/'here').touch(); time.sleep(600)
    train_here = lambda: train_run(linear(), digits(), folder/'unbroken', **QUIET)
    assert ended(forked(lambda: train_here() and 0)) == 0
    first = forked(lambda: train_run(linear(hang), digits(), folder/'run', **QUIET) and 0)
    wait_until((folder/'here').exists)
    before = {str(f): f.stat().st_mtime_ns for f in (folder/'run').rglob('*')}
    assert ended(forked(lambda: second(folder/'refused'))) == 0
    untouched = before == {str(f): f.stat().st_mtime_ns for f in (folder/'run').rglob('*')}
    os.kill(first, signal.SIGKILL)
    ended(first)
    assert ended(forked(lambda: second(folder/'refused again'))) == 0
    return dict(refused=(folder/'refused').read_text(), untouched=untouched, again=(folder/'refused again').exists(),
                same=bits(folder/'run') == bits(folder/'unbroken'))


def forks_of_the_command(folder):
    "The command line alone."
    import matplotlib.backends.backend_agg, seaborn, sklearn.manifold, torch._dynamo, accelerate, sphere_mnist.report, sphere_mnist.share # noqa: F401
    digits()
    said = dict(threads=len(os.listdir('/proc/self/task'))) | killed_command(folder)
    (folder/'said.json').write_text(json.dumps(said))


def all_forks(folder):
    "Everything else, one after the other; what the tests look at goes to `said.json`."
    import torch._dynamo, accelerate, sklearn.cluster, sklearn.datasets, scipy.sparse.linalg, scipy.optimize, psutil, sphere_mnist.share # noqa: F401
    from sphere_mnist import gmvae, gumbel, margins, mixem, simclr, spherical # noqa: F401
    digits()
    said = dict(threads=len(os.listdir('/proc/self/task')))
    for i, name in enumerate(RUNS):
        for kind in ('killed', 'signalled'): (folder/kind/name).mkdir(parents=True)
        said[name] = killed(name, folder/'killed'/name, i)
    for i, name in enumerate(('spherical', 'gumbel', 'mixem', 'margins')):
        said[f'signal {name}'] = signalled(name, folder/'signalled'/name, signal.SIGTERM if i % 2 else signal.SIGINT, i)
    said['full disk'] = in_a_child(full_disk, folder/'full')
    said['unwritable'] = in_a_child(unwritable, folder/'unwritable')
    (folder/'at once').mkdir()
    said['at once'] = at_once(folder/'at once')
    (folder/'said.json').write_text(json.dumps(said))


# ---- what the tests look at

PATHS = dict(PYTHONPATH=str(Path(training.__file__).parent.parent), OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', TQDM_DISABLE='1')


def in_one_process(folder, *what):
    "This file in a process that forks the runs; what it said."
    done = subprocess.run([sys.executable, __file__, str(folder), *what], env={**os.environ, **PATHS}, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return json.loads((folder/'said.json').read_text())


@pytest.fixture(scope='module')
def said(tmp_path_factory): return in_one_process(tmp_path_factory.mktemp('interrupted'))


@pytest.fixture(scope='module')
def commanded(tmp_path_factory):
    folder = tmp_path_factory.mktemp('commanded')
    return folder, in_one_process(folder, 'command')


@pytest.mark.parametrize('name', RUNS)
def test_a_killed_run_ends_with_the_same_bits(said, name):
    assert {*said[name]['ends']} == {'same'} and not said[name]['torn'], said[name]


def test_the_runs_were_forked_from_one_thread(said): assert said['threads'] == 1 # else a child may wait for a lock that nobody holds


@pytest.mark.parametrize('name, status, word', [('spherical', 130, 'interrupted'), ('gumbel', 143, 'terminated'),
                                                ('mixem', 130, 'interrupted'), ('margins', 143, 'terminated')])
def test_a_signal_leaves_a_run_to_go_on_with(said, name, status, word):
    found = said[f'signal {name}']
    assert found['status'] == status and found['resumed'] == 0 and found['same'] and not found['left']
    line, = found['said']
    assert line.startswith(f'sphere_mnist: {word}; go on with: sphere_mnist cluster --resume --out ')


def test_a_full_disk_keeps_the_last_checkpoint(said):
    found = said['full disk']
    line, = found['said']
    assert found['status'] == 1 and 'go on with' in line, found
    assert ('No space left on device' if found['kind'] == 'a small tmpfs' else 'File too large') in line
    assert found['step'] > 0 and not found['left'] and found['resumed'] == 0 and found['same']


def test_an_unwritable_folder_is_one_sentence(said):
    found = said['unwritable']
    assert found['first'] == 1 and found['empty'] and len(found['refused']) == 1 and 'Permission denied' in found['refused'][0]
    assert found['status'] == 1 and len(found['said']) == 1 and 'Permission denied' in found['said'][0]
    assert found['step'] > 0 and found['resumed'] == 0 and found['same']


def test_a_second_run_in_the_same_folder_is_refused(said):
    found = said['at once']
    assert found['refused'].startswith('Another run is training in') and found['untouched']
    assert not found['again'] and found['same'] # the lock died with its process


def test_a_killed_command_ends_with_the_same_result(commanded):
    _, found = commanded # in which nothing was torn after any kill
    assert len(found['kills']) == 8 and 'fsync report.html' in found['kills'] and found['threads'] == 1
    assert found['same'] and not found['torn'], found


def test_what_has_no_settings_yet_is_started_again(commanded):
    _, found = commanded # it was killed as it wrote its config.yaml
    assert found['nothing'] == 2 and len(found['said']) == 1 and 'is not a run folder: it has no config.yaml' in found['said'][0]


def test_a_killed_command_leaves_no_hidden_file(commanded): assert not commanded[1]['left'], commanded[1]['left']


def test_a_command_killed_at_its_card_writes_it_when_it_goes_on(commanded): assert not commanded[1]['lacking']


def test_a_killed_process_of_the_command_line(commanded, tmp_path):
    "As it is called: the program, killed by the clock."
    folder, _ = commanded
    program, run = [sys.executable, '-c', 'import sys; from sphere_mnist.cli import main; sys.exit(main())'], tmp_path/'run'
    took = (folder/'unbroken/README.md').stat().st_mtime - (folder/'unbroken/config.yaml').stat().st_mtime
    quiet = dict(env={**os.environ, **PATHS}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen([*program, *a_command(tmp_path, run)], **quiet)
    wait_until(lambda: (run/'config.yaml').exists() or process.poll() is not None)
    time.sleep(np.random.default_rng(0).uniform(0, took))
    process.kill()
    assert process.wait() in (0, -signal.SIGKILL) and not unreadable(run)
    assert subprocess.run([*program, 'cluster', '--quiet', '--resume', '--out', run], **quiet, timeout=300).returncode == 0
    assert result(run) == result(folder/'unbroken') and not unreadable(run)


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    "A run interrupted in its third epoch, with a best epoch in its checkpoint."
    def stop(step):
        if step == 7: raise KeyboardInterrupt
    folder = tmp_path_factory.mktemp('stopped')/'run'
    with mock.patch.object(Linear2, 'validate', lambda *args: 1.), pytest.raises(KeyboardInterrupt):
        train_run(linear(stop), digits(), folder, **QUIET)
    return folder


def flipped(path): data = bytearray(path.read_bytes()); data[len(data)//2] ^= 1; path.write_bytes(data)
def torn(path): path.write_bytes(path.read_bytes()[:-7])
def emptied(path): path.write_bytes(b'')
def removed(path): path.unlink()
def added(path): path.with_name('optimiser_2.pt').write_bytes(b'x')


PARTS = [f'checkpoints/*/{name}' for name in ('systems.safetensors', 'optimiser.pt', 'best.safetensors', 'state.json', 'manifest.json')]


@pytest.mark.parametrize('harm, file', [*itertools.product([flipped, torn, emptied, removed], [*PARTS, 'metrics.jsonl']), (added, PARTS[0])],
                         ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_what_is_not_whole_is_not_read(stopped, file, harm, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path/'run'))
    path, = folder.glob(file)
    harm(path)
    before = {f: f.stat().st_mtime_ns for f in folder.rglob('*')}
    with pytest.raises(InputError, match='is damaged') as e: train_run(linear(), digits(), folder, resume=True, **QUIET)
    assert str(e.value).count('\n') == 0 and before == {f: f.stat().st_mtime_ns for f in folder.rglob('*')}


@pytest.mark.parametrize('harm', [flipped, torn, emptied])
def test_weights_know_their_checksum(harm, tmp_path):
    Linear2()._save_pretrained(tmp_path)
    read_tensors(tmp_path/'model.safetensors')
    harm(tmp_path/'model.safetensors')
    with pytest.raises(InputError, match='is damaged'): read_tensors(tmp_path/'model.safetensors')


class NoArrow:
    "pyarrow, which scikit-learn imports where it can, starts a thread."
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split('.')[0] == 'pyarrow': raise ImportError('pyarrow starts a thread')


if __name__ == '__main__':
    sys.meta_path.insert(0, NoArrow)
    (forks_of_the_command if sys.argv[2:] else all_forks)(Path(sys.argv[1]))
