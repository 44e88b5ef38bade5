"""A whole training step without values: what runs on the `meta` device makes no tensor on another one."""
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from sphere_mnist.data import exemplar_indices, load_images
from sphere_mnist.spherical import Spherical
from sphere_mnist.training import Batch, preset_stages

STAGES = [('published', 0), ('fast', 0), ('fast', 1)]


@pytest.fixture(scope='module')
def digits(): return load_images('digits')


@pytest.mark.parametrize('preset, number', STAGES)
@pytest.mark.parametrize('encoder', ['small', 'resnet18'])
def test_a_step_on_meta(digits, preset, number, encoder):
    options = dict(encoder=encoder) if encoder != 'small' else {}
    stage = preset_stages(Spherical, preset, digits, digits[exemplar_indices(digits.labels)], **options)[number]
    stage.apply_settings()
    system = stage.system
    if stage.prepare: system.found = torch.zeros(len(digits), dtype=torch.long)
    system.to('meta').train()
    n = 16
    batch = Batch(digits.pixels[:n].to('meta'), torch.arange(n, device='meta'), tuple(stage.weights), step=1)
    terms = system(batch, .5)
    assert {(t.device.type, t.dtype, t.shape) for t in terms.values()} == {('meta', torch.float32, torch.Size())}
    sum(terms.values()).backward()
    torch.optim.Adam(system.parameters()).step()
    trained = [p for p in system.parameters() if p.grad is not None]
    assert trained and all(p.grad.device.type == 'meta' for p in trained)


@pytest.mark.parametrize('method', ['embed', 'assign'])
def test_embed_and_assign_on_meta(digits, method):
    stage = preset_stages(Spherical, 'fast', digits, digits[exemplar_indices(digits.labels)])[0]
    system = stage.system.to('meta').eval()
    rows = getattr(system, method)(torch.empty(4, *digits.shape, device='meta'))
    assert rows.device.type == 'meta' and rows.shape[0] == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU here')
@pytest.mark.parametrize('preset', ['published', 'fast'])
def test_training_on_a_gpu(digits, preset):
    from sphere_mnist.training import train
    stages = preset_stages(Spherical, preset, digits, digits[exemplar_indices(digits.labels)], epochs=3)
    system = train(stages, digits, device='cuda', progress=False)
    assert next(system.parameters()).is_cuda


@pytest.mark.parametrize('preset, number', STAGES)
def test_a_forward_on_a_pretended_gpu(digits, preset, number):
    "Tensors that say they are on a GPU and have no values: a mixed device or a value asked for is an error."
    stage = preset_stages(Spherical, preset, digits, digits[exemplar_indices(digits.labels)])[number]
    stage.apply_settings()
    system, n = stage.system, 16
    if stage.prepare: system.found = torch.zeros(len(digits), dtype=torch.long)
    kept = {k: (v.shape, v.dtype) for k, v in system.state_dict().items()}
    with FakeTensorMode():
        pretended = {k: torch.empty(shape, dtype=dtype, device='cuda') for k, (shape, dtype) in kept.items()}
        pixels = torch.empty(n, *digits.shape, dtype=torch.uint8, device='cuda')
        batch = Batch(pixels, torch.zeros(n, dtype=torch.long, device='cuda'), tuple(stage.weights), step=1)
        terms = torch.func.functional_call(system, pretended, (batch, .5))
        assert {(t.device.type, t.shape) for t in terms.values()} == {('cuda', torch.Size())}
        for value in terms.values():
            with pytest.raises(DataDependentOutputException): value.item()
