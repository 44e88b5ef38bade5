"""Two processes train what one would: one `torchrun` for all systems, over gloo on CPUs, over nccl where there are two GPUs.

`python tests/test_processes.py cost` prints what the second process brings or costs on this machine.
"""
import copy, json, os, subprocess, sys, tempfile, time, warnings
from pathlib import Path
from unittest import mock
import pytest
import torch
import torch.distributed as dist
from torch import nn
from sphere_mnist import checkpoints, cli, clustering, evaluation, runs, training
from sphere_mnist.data import Images, InputError, exemplar_indices, load_images, to_float
from sphere_mnist.gmvae import GMVAE
from sphere_mnist.gumbel import GumbelGMVAE
from sphere_mnist.margins import TERMS, Margins
from sphere_mnist.mixem import MixEm
from sphere_mnist.simclr import SimCLR
from sphere_mnist.spherical import Spherical
from sphere_mnist.models import read_tensors, tensors
from sphere_mnist.published import preset_stages
from sphere_mnist.checkpoints import train_again, train_run
from sphere_mnist.training import Batch, Stage, System, counted

DEVICE = 'auto' if torch.cuda.device_count() > 1 else 'cpu'
CLASSES = tuple('0123456789')
SPHERICAL = 'feature reconstruction cluster contrast prototype balance sharpness consistency discovered'.split()
MIXED = 'reconstruction conditional style cluster violation contrast sharpness consistency discovered'.split()
GUMBEL = 'reconstruction gaussian categorical contrast balance sharpness consistency discovered'.split()
MIXEM = 'contrast balance pimax sharpness pull push discovered decay'.split()
POINTS = dict(network='small', latent_dim=4, style_dim=3, hidden=16, warp='handwriting', likelihood='gaussian')

# name -> class, arguments, terms, and the terms that half a batch gets wrong; all without batch statistics
CASES = dict(
    spherical=(Spherical, dict(encoder='mlp', dim=5, decoder=True), SPHERICAL, {'contrast', 'balance'}),
    three_forwards=(Spherical, dict(encoder='mlp', dim=5, together=False, decoder=True), [*SPHERICAL[:3], 'contrast', 'balance'], {'contrast', 'balance'}),
    gmvae=(GMVAE, dict(POINTS, cluster_prior='aggregate', samples=2), MIXED, {'cluster', 'contrast'}),
    information=(GMVAE, dict(POINTS, variant='information', free_bits=0.), ['reconstruction', 'conditional', 'style', 'cluster'], set()),
    floored=(GMVAE, dict(POINTS, variant='information', free_bits=.208), ['cluster'], {'cluster'}), # .197 and .242 in the halves, .218 in all
    gumbel=(GumbelGMVAE, dict(dim=6, hidden=16, likelihood='gaussian'), GUMBEL, {'contrast', 'balance'}),
    soft_draws=(GumbelGMVAE, dict(dim=6, hidden=16, estimator='gumbel', likelihood='gaussian', exact_kl=False), GUMBEL, {'contrast', 'balance'}),
    simclr=(SimCLR, dict(encoder='mlp', dim=16, hidden=8, projection=4, augment='handwriting'), ['contrast', 'decay'], {'contrast'}),
    mixem=(MixEm, dict(encoder='mlp', dim=16, hidden=8, projection=4, augment='handwriting', n_clusters=4), MIXEM,
           {'contrast', 'balance', 'pull', 'push'}),
    dummies=(MixEm, dict(encoder='mlp', dim=16, hidden=8, projection=4, augment='handwriting', n_clusters=4, dummies=True), ['pull', 'push'],
             {'pull', 'push'}),
    margins=(Margins, dict(encoder='mlp', dim=4, losses=TERMS, margin=1., held_out=0.), TERMS,
             {'triplet', 'intra', 'contrastive', 'supcon'}),
    hardest=(Margins, dict(encoder='mlp', dim=4, losses=TERMS, margin=1., held_out=0., mining='batch-hard'), ['triplet'], {'triplet'}))
# Of a mean with a floor, half a batch gets right what is above the floor in both halves.

# What a whole run is: class, preset, arguments; again without batch statistics
RUNS = dict(
    spherical=(Spherical, 'published', dict(encoder='mlp', dim=8)), # without a cut: of so few digits, the order of sums may number the clusters otherwise
    gmvae=(GMVAE, 'improved', dict(latent_dim=8, style_dim=4, hidden=32)),
    gumbel=(GumbelGMVAE, 'improved', dict(dim=8, hidden=32)),
    simclr=(SimCLR, 'mnist', dict(encoder='mlp', dim=32)),
    mixem=(MixEm, 'mnist', dict(encoder='mlp', dim=32)),
    margins=(Margins, 'triplet_softmax', dict(encoder='mlp', dim=8)))


def digits(n=151, first=0):
    images = load_images('mnist5k')
    return images[first + torch.arange(n)*len(images)//n]


def points(n=151, first=0):
    "Blurred digits as rows of features, for systems that have a layer norm for these alone."
    images = digits(n, first)
    rows = torch.nn.functional.avg_pool2d(to_float(images.pixels), 4).flatten(1)
    return Images(rows, images.labels, images.classes, 'points', 'digits averaged over 4 x 4 pixels')


def stages(name, images):
    cls, preset, options = RUNS[name]
    exemplars = images[exemplar_indices(images.labels)]
    return preset_stages(cls, preset, images, exemplars, epochs=3, batch_size=51, **options)


def data(name): return points() if name in ('gmvae', 'gumbel') else digits()


class Linear2(System):
    "A linear encoder to two dimensions and back, with noise."
    name = 'linear2'
    def __init__(self, stop=None, seed=1):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.norm, self.decoder = nn.Linear(784, 2), nn.LayerNorm(2), nn.Linear(2, 784)
        self.stop, self.seed, self.seen = stop, seed, []
    def terms(self, batch, progress):
        if batch.step == self.stop: raise KeyboardInterrupt
        self.seen.append((batch.step, batch.positions.tolist()))
        x = to_float(batch.images).flatten(1)
        z = self.norm(self.encoder(x)) + batch.share(torch.randn(batch.total, 2, generator=batch.generator()))
        return dict(reconstruction=(self.decoder(z) - x).square().mean())
    def embed(self, images): return self.encoder(images.flatten(1))
    def assign(self, images): # all in one cluster for seed 0, else by brightness
        bright = (images.flatten(1).mean(1, keepdim=True) > -.74).float() if self.seed else torch.zeros(len(images), 1, device=images.device)
        return torch.cat([bright, 1 - bright], 1)


class Normed(Linear2):
    "The same with a batch norm."
    name = 'normed'
    def __init__(self): super().__init__(); self.norm = nn.BatchNorm1d(2)


def linear(cls=Linear2, epochs=4, batch_size=32, **options): return [Stage(cls(**options), dict(reconstruction=1), epochs, 1e-3, batch_size)]


# ---- what each of the two processes does

def gradients(system, batch, term, weight=1.):
    "Of one term, with respect to each parameter that it reaches."
    for p in system.parameters(): p.grad = None
    value = system(batch, .5)[term]
    if value.requires_grad: (weight*value).backward()
    named = getattr(system, 'module', system).named_parameters()
    return value.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


def difference(a, b):
    "Largest difference of two sets of gradients, relative to the largest gradient."
    if a.keys() != b.keys(): return float('inf')
    return max(((a[k] - b[k]).abs().max() for k in a), default=torch.zeros(())).item()/max([1e-8, *(b[k].abs().max().item() for k in b)])


def one_case(name, accelerator, rank):
    "Each term's gradient over two processes, with and without gathering, against one process with the whole batch."
    cls, options, terms, _ = CASES[name]
    images, others = (made(40, first) for made in [points if cls in (GMVAE, GumbelGMVAE) else digits] for first in (0, 1))
    torch.manual_seed(0)
    system = cls(images.shape, classes=CLASSES, **{'n_clusters': 10, **options})
    system.start(images, others[exemplar_indices(others.labels)], counted(0)) # an image at its centre has no gradient to compare
    if hasattr(system, 'found'): system.found = torch.arange(40) % system.n_clusters
    if name == 'mixem': system.gate[-1].weight.data *= 50 # or all images choose one component
    system.to(accelerator.device).train()
    alone, images = copy.deepcopy(system), images.to(accelerator.device)
    model = accelerator.prepare_model(system)
    order = torch.randperm(40, generator=counted(1))[:19].to(accelerator.device) # ten and nine images
    parts = order.tensor_split(2)
    mine = parts[rank]
    found = {}
    for term in terms:
        whole = Batch(images.pixels[order], order, (term,), 0, 3)
        share = Batch(images.pixels[mine], mine, (term,), 0, 3, len(order), rank*len(parts[0]))
        _, wanted = gradients(alone, whole, term)
        _, got = gradients(model, share, term, 2*len(mine)/len(order))
        with mock.patch.object(Batch, 'gather', lambda self, rows: rows):
            _, local = gradients(model, share, term, 2*len(mine)/len(order))
        found[term] = difference(got, wanted), difference(local, wanted)
    for own, other in zip(system.buffers(), alone.buffers()): # the shares of the clusters, which one more step has moved
        assert not own.is_floating_point() or torch.allclose(own, other, atol=.1)
    accelerator.free_memory()
    return found


def forbidden(*args, **kw): raise AssertionError('a process that is not the first writes')


def both_processes(folder):
    "Everything that takes two processes; what the tests look at goes to `folder`."
    warnings.filterwarnings('error', module='sphere_mnist') # as in every test
    accelerator = training.processes(training.choose_device(DEVICE))
    rank, quiet = accelerator.process_index, dict(device=DEVICE, precision='float32', progress=False)
    images = digits()
    if rank: runs.write_whole = checkpoints.write_whole = checkpoints.save_checkpoint = System._save_pretrained = forbidden
    said = {f'gradients {name}': one_case(name, accelerator, rank) for name in CASES}
    for name in RUNS: train_run(stages(name, data(name)), data(name), folder/name, **quiet)
    # data, batch norm, an interrupted run, a run that one process began, a batch too small, a run that collapses
    system = train_run(linear(), images, folder/'linear2', **quiet)
    said['seen'] = system.seen
    said['running_var'] = train_run(linear(Normed, 2), images, **quiet).norm.running_var.tolist()
    try: train_run(linear(stop=12), images, folder/'two then one', **quiet)
    except KeyboardInterrupt: pass
    train_run(linear(), images, folder/'one then two', resume=True, **quiet)
    try: train_run(linear(batch_size=3), images, **quiet)
    except InputError as e: said['too small'] = str(e)
    again, said['collapsed'] = train_again(lambda seed: linear(epochs=1, seed=seed), images, folder/'collapsed', **quiet)
    said['seed'] = again.seed
    with mock.patch.object(clustering, 'run_figures', lambda *args: []):
        said['status'] = cli.main(['cluster', '--data', 'digits', '--preset', 'published', '--encoder', 'mlp', '--epochs', '1',
                                   '--out', f'{folder}/cli', '--device', DEVICE])
    (folder/f'{rank}.json').write_text(json.dumps(said))
    dist.destroy_process_group()


# ---- what one process starts and looks at

def torchrun(n, *args, **env):
    "This file in `n` processes."
    call = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(n), __file__, *map(str, args)]
    paths = dict(PYTHONPATH=str(Path(training.__file__).parent.parent), OMP_NUM_THREADS='1', TQDM_DISABLE='1')
    done = subprocess.run(call, env={**os.environ, **paths, **env}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


QUIET = dict(device='cpu', precision='float32', progress=False)


@pytest.fixture(scope='module')
def together(tmp_path_factory):
    "The folder with the runs of two processes, and what each of them said."
    folder = tmp_path_factory.mktemp('processes')
    with pytest.raises(KeyboardInterrupt): train_run(linear(stop=12), digits(), folder/'one then two', **QUIET)
    torchrun(2, folder)
    return folder, [json.loads((folder/f'{rank}.json').read_text()) for rank in (0, 1)]


@pytest.fixture(scope='module')
def alone(): return train_run(linear(), digits(), **QUIET)


def rows(folder): return [json.loads(line) for line in (folder/'metrics.jsonl').read_text().splitlines()]


def close(saved, system, tolerance=1e-3):
    "The same weights, but for rounding that went through steps of Adam; the centres of k-means may then come in another order."
    own = tensors(system)
    flat = [torch.cat([v[k].flatten().float() for k in own if own[k].is_floating_point() and k != 'centers']) for v in (saved, own)]
    assert (flat[0] - flat[1]).norm() < tolerance*flat[1].norm()
    for k in own: assert own[k].is_floating_point() or torch.equal(saved[k], own[k]), k


@pytest.mark.parametrize('name', CASES)
def test_gradients_are_those_of_one_process(together, name):
    _, said = together
    _, _, terms, whole = CASES[name]
    for found in (s[f'gradients {name}'] for s in said):
        assert set(found) == set(terms)
        assert max(got for got, _ in found.values()) < 1e-5, found
        assert {term for term, (_, local) in found.items() if local > 1e-3} == whole, found # so the test can fail


@pytest.mark.parametrize('name', RUNS)
def test_a_whole_run_is_that_of_one_process(together, name, tmp_path):
    folder, _ = together
    system = train_run(stages(name, data(name)), data(name), tmp_path/'run', **QUIET)
    own, others = rows(tmp_path/'run'), rows(folder/name)
    assert [(r['stage'], r['epoch'], r['step']) for r in own] == [(r['stage'], r['epoch'], r['step']) for r in others]
    for a, b in zip(own, others):
        smooth = a['terms'].keys() - {'pull', 'push'} # which look at the largest of the gate's outputs
        # Sums in another order choose other triplets now and then; gradients are compared exactly above.
        assert {k: b['terms'][k] for k in smooth} == pytest.approx({k: a['terms'][k] for k in smooth}, rel=.03, abs=1e-3)
    close(read_tensors(folder/name/'model.safetensors'), system, .03)


def test_each_image_goes_to_one_process(together):
    _, said = together
    steps = [dict(map(tuple, s['seen'])) for s in said]
    assert steps[0].keys() == steps[1].keys() == set(range(20))
    for epoch in range(4):
        order = training.batches(151, 32, counted(0, 0, epoch))
        for i, batch in enumerate(order): assert steps[0][5*epoch + i] + steps[1][5*epoch + i] == batch.tolist()
        assert sorted(torch.cat(order).tolist()) == list(range(151))


def test_one_process_writes(together):
    folder, _ = together # the other would have failed
    assert len(rows(folder/'linear2')) == 4 and not list(folder.rglob('.*'))
    assert sorted(f.name for f in (folder/'linear2').iterdir()) == ['checkpoints', 'config.json', 'metrics.jsonl', 'model.safetensors']


@pytest.mark.parametrize('first', ['two then one', 'one then two'])
def test_a_run_goes_on_with_another_number_of_processes(together, alone, first):
    folder, _ = together
    if first == 'two then one':
        assert [r['epoch'] for r in rows(folder/first)] == [1, 2]
        train_run(linear(), digits(), folder/first, resume=True, **QUIET)
    assert [r['epoch'] for r in rows(folder/first)] == [1, 2, 3, 4]
    close(read_tensors(folder/first/'model.safetensors'), alone)


def test_running_statistics_are_the_same_everywhere(together):
    _, said = together
    assert said[0]['running_var'] == said[1]['running_var'] != [1., 1.]


def test_a_batch_too_small_is_refused(together):
    _, said = together
    assert {s['too small'] for s in said} == {'A batch of 2 images is too small for 2 processes: give --batch-size 8 or more.'}


def test_processes_agree_to_start_again(together):
    _, said = together
    assert [s['seed'] for s in said] == [1000, 1000] and said[0]['collapsed'] == said[1]['collapsed']
    assert [c['seed'] for c in said[0]['collapsed']] == [0]


def test_the_command_line_with_two_processes(together):
    folder, said = together
    assert [s['status'] for s in said] == [0, 0]
    result = json.loads((folder/'cli'/'result.json').read_text())
    assert result['epochs'] == 1 and result['n'] > 0


# ---- what it costs

def one_run(folder):
    "Two epochs of contrast; of each process, the seconds and the processor's seconds of the second."
    stage, times, epoch_scores = preset_stages(Spherical, 'fast', load_images('mnist5k'), epochs=8)[0], [], evaluation.epoch_scores
    stage.epochs = 2
    def timed(*args):
        times.append((time.perf_counter(), time.process_time()))
        return epoch_scores(*args)
    with mock.patch.object(evaluation, 'epoch_scores', timed): train_run([stage], load_images('mnist5k'), device=DEVICE, precision='float32', progress=False)
    (folder/os.environ['RANK']).write_text(json.dumps([b - a for a, b in zip(*times)]))


def cost():
    "Print what an epoch of contrast on 4,000 digits takes with one process and with two."
    for n, threads in ((1, 1), (1, 2), (2, 1)):
        with tempfile.TemporaryDirectory() as folder:
            torchrun(n, folder, 'cost', OMP_NUM_THREADS=str(threads))
            seconds, processor = zip(*(json.loads(f.read_text()) for f in Path(folder).iterdir()))
        print(f'{n} process(es) of {threads} thread(s): {max(seconds):.1f} s, {sum(processor):.1f} s of processors', flush=True)


if __name__ == '__main__':
    if sys.argv[1:] == ['cost']: cost()
    elif sys.argv[2:] == ['cost']: one_run(Path(sys.argv[1]))
    else: both_processes(Path(sys.argv[1]))
