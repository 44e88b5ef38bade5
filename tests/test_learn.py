"""Corrections are learned by every preset of every system whose clusters have names."""
import pytest
import torch
from sphere_mnist.corrections import Correction, correct
from sphere_mnist.data import load_images
from sphere_mnist.evaluation import assign_all
from sphere_mnist.published import NamedSystem, preset_stages
from sphere_mnist.relearn import learn
from sphere_mnist.systems import SYSTEMS, system_class
from sphere_mnist.training import train

CASES = {} # one preset for each system, network and set of terms in the last stage, from which corrections are learned
for name in SYSTEMS:
    system = system_class(name)
    if not issubclass(system, NamedSystem): continue
    for preset, made in system.presets.items():
        if preset not in ('svhn', 'cifar10-small'): CASES.setdefault((name, made.get('system', {}).get('network'), *made['stages'][-1]['weights']), (name, preset))


@pytest.mark.parametrize('name, preset', CASES.values())
def test_every_preset_learns_what_is_said(name, preset):
    system, digits = system_class(name), load_images('mnist5k')[torch.arange(120)]
    shape = system.presets[preset].get('shape', (20,) if preset == 'frozen' else digits.shape)
    if shape != digits.shape: # projections of the digits are rows, or photographs
        rows = digits.pixels.flatten(1)/255 @ torch.randn(784, torch.Size(shape).numel(), generator=torch.Generator().manual_seed(0))
        rows = rows if len(shape) == 1 else (rows*20 + 128).clamp(0, 255).byte().reshape(-1, *shape)
        digits = load_images((rows.numpy(), digits.labels.numpy()))
    exemplars = digits[torch.tensor([int((digits.labels == c).nonzero()[0]) for c in range(10)])]
    stages = len(system.presets[preset]['stages'])
    trained = train(preset_stages(system, preset, digits, exemplars, epochs=stages), digits, device='cpu')
    said = [Correction('label', digits.pixels[k], digits.classes[digits.labels[k]]) for k in range(20)]
    taught = learn(correct(trained, said, digits), digits, preset, steps=2, device='cpu')
    p = assign_all(taught, digits)
    assert p.isfinite().all() and len({*p.argmax(1).tolist()}) > 1
    assert (taught.names()[p[:20].argmax(1)] == digits.labels[:20]).all() # what was said holds
