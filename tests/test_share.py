"""Sharing as others meet it: every system exported and compared, nothing unpickled, nothing sent but to the Hub asked for."""
import json, logging, pickle
from importlib.util import find_spec
from pathlib import Path
import huggingface_hub
import numpy as np
import pytest
import torch
from sphere_mnist import share
from sphere_mnist.data import InputError, load_images
from sphere_mnist.estimator import CLUSTERERS, SphericalClusterer
from sphere_mnist.evaluation import assign_all, embed_all
from sphere_mnist.gmvae import GMVAE
from sphere_mnist.gumbel import GumbelGMVAE
from sphere_mnist.margins import Margins
from sphere_mnist.mixem import MixEm
from sphere_mnist.predict import predict_digits, shipped_model
from sphere_mnist.published import preset_stages
from sphere_mnist.simclr import SimCLR
from sphere_mnist.spherical import Spherical
from sphere_mnist.checkpoints import train_run

SYSTEMS = (Spherical, GMVAE, GumbelGMVAE, SimCLR, MixEm, Margins)
ONNX = pytest.mark.skipif(not (find_spec('onnxscript') and find_spec('onnxruntime')),
                          reason="needs onnxscript and onnxruntime: pip install 'sphere_mnist[export]'")
for name in ('torch.export', 'torch.onnx', 'onnxscript', 'onnx_ir'): logging.getLogger(name).setLevel(logging.ERROR)


def pictures(n=24): return load_images((np.random.default_rng(0).integers(0, 256, (n, 12, 12), dtype=np.uint8), np.arange(n) % 3))
def features(n=24): return load_images((np.random.default_rng(0).normal(size=(n, 6)), np.arange(n) % 3))


def trained(system, images):
    stages = preset_stages(system, None, images, None, 3, epochs=2, batch_size=12)
    return train_run(stages, images, device='cpu', precision='float32', progress=False)


@pytest.fixture(scope='module', params=[(s, d) for s in SYSTEMS for d in (pictures, features)], ids=lambda p: f'{p[0].name}-{p[1].__name__}')
def pair(request):
    system, data = request.param
    return trained(system, data()), data()


def compare(answers, system, images):
    np.testing.assert_allclose(np.asarray(answers[0]), assign_all(system, images), atol=1e-4)
    np.testing.assert_allclose(np.asarray(answers[1]), embed_all(system, images), atol=1e-4, rtol=1e-3)


@ONNX
def test_onnx_answers_as_the_module_does(pair, tmp_path):
    import onnxruntime
    system, images = pair
    session = onnxruntime.InferenceSession(share.export(system, tmp_path/'x.onnx').read_bytes())
    for n in (1, 2, 9): compare(session.run(None, dict(images=images.pixels[:n].numpy())), system, images[range(n)])


def test_torch_export_answers_as_the_module_does(pair, tmp_path):
    system, images = pair
    graph = torch.export.load(share.export(system, tmp_path/'x.pt2')).module()
    for n in (1, 2, 9):
        with torch.no_grad(): compare(graph(images.pixels[:n]), system, images[range(n)])


def test_saved_and_loaded_by_its_name(pair, tmp_path):
    system, images = pair
    system.save_pretrained(tmp_path)
    loaded = share.load_system(tmp_path)
    assert type(loaded) is type(system) and torch.equal(assign_all(loaded, images), assign_all(system, images))
    assert sorted(f.name for f in tmp_path.iterdir()) == ['README.md', 'config.json', 'model.safetensors']


@pytest.mark.parametrize('prior', ['uniform', 'estimated', [.7, .3]])
def test_what_is_known_of_the_sizes_survives(prior, tmp_path):
    system, images = Spherical((1, 28, 28), n_clusters=2, prior=prior, width=2).eval(), load_images('mnist5k', 'test')[range(0, 1000, 50)]
    system.start(images, None, torch.Generator().manual_seed(0))
    system.save_pretrained(tmp_path)
    loaded = share.load_system(tmp_path)
    if isinstance(prior, str): assert loaded.shares == system.shares == (None if prior == 'uniform' else prior)
    else: assert loaded.shares.tolist() == system.shares.tolist() == [.3, .7] and loaded.shares.device.type == 'cpu'
    loaded.found = system.found = torch.tensor([0, 0, 1])
    assert loaded.wanted() is None if prior == 'uniform' else torch.equal(loaded.wanted(), system.wanted())
    assert torch.equal(assign_all(loaded, images), assign_all(system, images))


class Trap:
    "A pickle that leaves a file where it is loaded."
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


def test_a_pickle_in_place_of_the_weights_is_not_loaded(tmp_path):
    system, sprung = trained(Spherical, features()), tmp_path/'sprung'
    for i, write in enumerate((lambda f: f.write_bytes(pickle.dumps(Trap(sprung))), lambda f: torch.save(Trap(sprung), f))):
        folder = tmp_path/str(i)
        system.save_pretrained(folder)
        write(folder/'model.safetensors')
        with pytest.raises(InputError, match='damaged'): share.load_system(folder)
    assert not sprung.exists()


def test_a_pickle_in_a_checkpoint_is_not_trusted(tmp_path):
    images, sprung = features(), tmp_path/'sprung'
    stages = lambda: preset_stages(Spherical, 'published', images, None, 3, epochs=2)
    train_run(stages(), images, tmp_path/'run', device='cpu', precision='float32', progress=False)
    checkpoint, = (tmp_path/'run/checkpoints').iterdir()
    state = json.loads((checkpoint/'state.json').read_text()) | dict(finished=False, stage=0, epoch=1)
    (checkpoint/'state.json').write_text(json.dumps(state))
    torch.save(Trap(sprung), checkpoint/'optimiser.pt')
    (checkpoint/'manifest.json').write_text('{}') # whoever can write the folder can write its checksums
    with pytest.raises((InputError, pickle.UnpicklingError)):
        train_run(stages(), images, tmp_path/'run', resume=True, device='cpu', precision='float32', progress=False)
    assert not sprung.exists()


class Hub:
    "Stands in for the Hub: keeps what is uploaded."
    def __init__(self, *args, **kwargs): pass
    def create_repo(self, repo_id, **kwargs): return huggingface_hub.RepoUrl(f'https://huggingface.co/{repo_id}')
    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        Hub.files = {f.name: f.read_bytes() for f in Path(folder_path).iterdir()}
        return repo_id


def test_pushed_and_loaded_again(monkeypatch, tmp_path):
    import huggingface_hub.hub_mixin
    monkeypatch.setattr(huggingface_hub, 'HfApi', Hub)
    monkeypatch.setattr(huggingface_hub.hub_mixin, 'HfApi', Hub)
    rows = features().pixels.numpy()
    est = SphericalClusterer(3, epochs=2, batch_size=12, random_state=0, device='cpu').fit(rows)
    assert est.push_to_hub('somebody/rows', results=[dict(data='rows', seed=0, acc=.5), dict(data='rows', seed=1, acc=.25)]) == 'somebody/rows'
    assert sorted(Hub.files) == ['README.md', 'config.json', 'estimator.json', 'model.safetensors']
    def snapshot(repo_id, **kwargs):
        for name, data in Hub.files.items(): (tmp_path/name).write_bytes(data)
        return str(tmp_path)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)
    assert np.array_equal(SphericalClusterer.from_pretrained('somebody/rows').predict(rows), est.predict(rows))
    est.system_.push_to_hub('somebody/system')
    assert sorted(Hub.files) == ['README.md', 'config.json', 'model.safetensors']


def test_a_card_says_mean_and_worst():
    rows = [dict(data='mnist', split='test', seed=s, draw=s, acc_exemplar=a) for s, a in enumerate((.98, .5, .9))]
    card = share.model_card(trained(Spherical, pictures()), rows)
    assert 'mean 0.7933, worst 0.5000 of 3' in card.text and 'mnist (test images), 3 runs' in card.text
    assert {r.metric_value for r in card.data.eval_results} >= {.5}


def test_the_shipped_model():
    model = shipped_model()
    folder = Path(share.__file__).parent/'weights'/'mnist'
    assert sum(f.stat().st_size for f in folder.iterdir()) < 1e6
    assert {f.suffix for f in folder.iterdir()} == {'.md', '.json', '.safetensors'}
    assert sorted(model.names().tolist()) == list(range(10))
    digits = load_images('mnist5k', 'test')[range(0, 1000, 25)]
    answers = [p['label'] for p in predict_digits([*digits.pixels])]
    assert np.mean([a == str(k) for a, k in zip(answers, digits.labels.tolist())]) >= .9 # seen in training, without labels


@pytest.mark.parametrize('cls', CLUSTERERS)
def test_an_estimator_takes_a_system_folder(cls, tmp_path):
    system = trained(cls.system_class, pictures())
    system.save_pretrained(tmp_path)
    est = cls.from_pretrained(tmp_path)
    assert np.array_equal(est.predict_proba(pictures()), assign_all(system, pictures()).numpy())
