"""Training on a GPU, as far as it can be tested without one: no tensor on the wrong device, nothing that waits, precision by flag.

On the `meta` device a whole epoch runs without values; a pretended GPU checks devices in the forward pass. Both fail where
a value is asked for. Where there is a GPU, every system trains on it.
"""
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from sphere_mnist import cli, clustering, systems, training
from sphere_mnist.augment import WARPS
from sphere_mnist.data import exemplar_indices, load_images, to_float
from sphere_mnist.margins import TERMS
from sphere_mnist.published import preset_stages
from sphere_mnist.training import Batch, Loop, System, processes, train

# system, preset, stage, arguments
STAGES = {f'{name}-{preset}-{number}' + ''.join(f'-{v}' for v in options.values() if isinstance(v, str)): (name, preset, number, options)
          for name, preset, number, options in [
    ('spherical', 'published', 0, {}), ('spherical', 'fast', 0, {}), ('spherical', 'fast', 1, {}),
    ('spherical', 'fast', 1, dict(encoder='resnet18')),
    ('gmvae', 'published', 0, {}), ('gmvae', 'improved', 0, {}), ('gmvae', 'improved', 1, {}),
    ('gmvae', 'published', 0, dict(variant='information', samples=2)),
    ('gumbel', 'published', 0, {}), ('gumbel', 'improved', 0, {}), ('gumbel', 'improved', 1, {}),
    ('gumbel', 'published', 0, dict(estimator='straight_through', exact_kl=True)),
    ('simclr', 'mnist', 0, {}), ('simclr', 'cifar10-small', 0, {}), ('mixem', 'mnist', 1, {}), ('mixem', 'stl10', 0, {}),
    ('margins', 'softmax', 0, dict(losses=TERMS, margin=1.)), ('margins', 'softmax', 0, dict(encoder='published')),
    ('margins', 'triplet', 0, dict(mining='batch-hard')), ('margins', 'triplet', 0, dict(mining='all'))]}


@pytest.fixture(scope='module')
def digits(): return load_images('digits')[torch.arange(200)]


def pictures(digits, case): # in colour where the preset is for photographs
    return digits if 'cifar' not in case and 'stl' not in case else replace(digits, pixels=digits.pixels.repeat(1, 3, 1, 1))


def made(digits, case):
    "The stage with its settings, as it is once it was prepared."
    name, preset, number, options = STAGES[case]
    digits = pictures(digits, case)
    stage = preset_stages(systems.system_class(name), preset, digits, digits[exemplar_indices(digits.labels)], **options)[number]
    stage.apply_settings()
    if 'losses' in options: stage.weights = dict.fromkeys(TERMS, 1.)
    if stage.prepare: stage.system.found = torch.zeros(len(digits), dtype=torch.long)
    return stage


class NoWaiting(TorchDispatchMode):
    "Fails where a tensor is copied from a device to the CPU, or to a GPU by a copy that waits."
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default:
            before, after = args[0].device.type, out.device.type
            assert before == after or after != 'cpu', 'copied to the CPU'
            assert before == after or after != 'cuda' or (kwargs or {}).get('non_blocking'), 'copied to a GPU by a copy that waits'
        return out


class Looked(Exception): pass


@pytest.mark.parametrize('case', STAGES)
def test_an_epoch_on_meta_waits_for_nothing(digits, case):
    "Forward, backward and optimiser of each step; losses are looked at when the epoch ends, or after fifty steps."
    stage, looks = made(digits, case), []
    stage.system.batches = lambda *args: torch.arange(64).tensor_split(2)
    alone = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True, backward=lambda loss: loss.backward())
    with mock.patch.object(training, 'processes', lambda place: alone):
        loop = Loop([stage], pictures(digits, case), device='meta', precision='float32')
    loop.model, loop.step = stage.system, 1
    loop.optimiser = optimiser = torch.optim.Adam(stage.system.parameters(), 1e-3, betas=stage.betas)
    def look(history, names, step):
        looks.append(history)
        raise Looked
    with mock.patch.object(training, 'check_finite', look), pytest.raises(Looked), NoWaiting(): loop.run_epoch()
    (history,) = looks
    assert len(history) == 2 and {(t.device.type, t.dtype, t.shape) for t in history} == {('meta', torch.float32, (len(stage.weights),))}
    trained = [p for p in stage.system.parameters() if p.grad is not None]
    assert trained and all(p.grad.device.type == 'meta' and p in optimiser.state for p in trained)


@pytest.mark.parametrize('method', ['embed', 'assign'])
@pytest.mark.parametrize('case', ['spherical-fast-0', 'gmvae-published-0', 'gumbel-improved-0', 'simclr-mnist-0', 'mixem-mnist-1', 'margins-softmax-0-published'])
def test_embed_and_assign_on_meta(digits, case, method):
    system = made(digits, case).system
    if hasattr(system, 'group'): system.centers = torch.zeros(10, system.dim)
    rows = getattr(system.to('meta').eval(), method)(torch.empty(4, *digits.shape, device='meta'))
    assert rows.device.type == 'meta' and rows.shape[0] == 4


@pytest.mark.parametrize('case', STAGES)
def test_a_forward_on_a_pretended_gpu(digits, case):
    "Tensors that say they are on a GPU and have no values: a mixed device or a value asked for is an error."
    stage, shape, n = made(digits, case), pictures(digits, case).shape, 16
    learned = dict(stage.system.named_parameters())
    kept = {k: (v.shape, v.dtype, k in learned) for k, v in stage.system.state_dict().items()}
    with FakeTensorMode(allow_non_fake_inputs=True), NoWaiting(): # constants of a module are real
        pretended = {k: torch.empty(shape, dtype=dtype, device='cuda', requires_grad=grad) for k, (shape, dtype, grad) in kept.items()}
        pixels = torch.empty(n, *shape, dtype=torch.uint8, device='cuda')
        batch = Batch(pixels, torch.zeros(n, dtype=torch.long, device='cuda'), tuple(stage.weights), step=1)
        terms = torch.func.functional_call(stage.system, pretended, (batch, .5))
        assert {(t.device.type, t.shape) for t in terms.values()} == {('cuda', torch.Size())}
        for value in terms.values():
            with pytest.raises(DataDependentOutputException): value.item()


@pytest.mark.parametrize('case', ['spherical-fast-1', 'gmvae-improved-1', 'gumbel-improved-1', 'simclr-mnist-0', 'mixem-mnist-1',
                                  'margins-triplet-0-batch-hard'])
def test_networks_in_bfloat16_terms_and_weights_in_float32(digits, case):
    stage, terms = made(digits, case), {}
    batch = Batch(digits.pixels[:32], torch.arange(32), tuple(stage.weights), step=1)
    for precision in (torch.float32, torch.bfloat16):
        stage.system.precision = precision
        terms[precision] = stage.system.train()(batch, .5)
    half, single = terms[torch.bfloat16], terms[torch.float32]
    sum(half.values()).backward()
    assert all(t.dtype == torch.float32 and t.isfinite() for t in half.values())
    assert any(half[k] != single[k] for k in half) # or the flag would do nothing
    assert all(torch.allclose(half[k], single[k], rtol=.1, atol=.1) for k in half)
    for p in stage.system.parameters(): assert p.dtype == torch.float32 and (p.grad is None or p.grad.isfinite().all())


def test_precision_is_a_flag(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(clustering, 'run_figures', lambda *args: [])
    monkeypatch.setattr(System, 'forward', lambda self, *args: (seen.append(self.precision), self.terms(*args))[1])
    for flag in ('bfloat16', 'float32'):
        assert cli.main(['cluster', '--data', 'digits', '--preset', 'published', '--epochs', '1', '--precision', flag, '--out', str(tmp_path/flag)]) == 0
    assert [*dict.fromkeys(seen)] == [torch.bfloat16, torch.float32]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU here')
@pytest.mark.parametrize('precision', ['float32', 'auto'])
@pytest.mark.parametrize('name, preset', [('spherical', 'published'), ('spherical', 'fast'), ('gmvae', 'improved'), ('gumbel', 'improved'),
                                          ('simclr', 'mnist'), ('mixem', 'mnist'), ('margins', 'triplet_softmax')])
def test_training_on_a_gpu(digits, name, preset, precision):
    "Trained there, with nothing that waits in a step but what `check_finite` looks at."
    stages = preset_stages(systems.system_class(name), preset, digits, digits[exemplar_indices(digits.labels)], epochs=3)
    system = train(stages, digits, device='cuda', precision=precision)
    assert next(system.parameters()).is_cuda
    batch = Batch(digits.pixels[:64].cuda(), torch.arange(64).cuda(), tuple(stages[0].weights), step=1)
    torch.cuda.set_sync_debug_mode('error')
    try: sum(system.train()(batch, .5).values()).backward()
    finally: torch.cuda.set_sync_debug_mode('default')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU here')
@pytest.mark.parametrize('name', [name for name in WARPS if name != 'none'])
def test_a_gpu_sees_the_same_warps(digits, name):
    images, draws = to_float(digits.pixels), [torch.Generator().manual_seed(7) for _ in range(2)]
    torch.testing.assert_close(WARPS[name](images.cuda(), draws[0]).cpu(), WARPS[name](images, draws[1]), atol=1e-3, rtol=0)


def test_the_processor_after_a_gpu(monkeypatch):
    "accelerate remembers the device of the process's first run, and refuses another."
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator(cpu=False)
        PartialState._shared_state['device'] = torch.device('cuda') # as where there is one
        with pytest.raises(ValueError, match='already been initialized'): Accelerator(cpu=True)
        assert processes(torch.device('cpu')).device.type == 'cpu'
    finally: AcceleratorState._reset_state(reset_partial_state=True)
