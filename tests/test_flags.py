"Each documented value of each flag, from the command line to the folder of a run."
import json, re, shlex
import numpy as np
import pytest
import torch
from sphere_mnist import clustering
from sphere_mnist.augment import WARPS
from sphere_mnist.cli import main
from sphere_mnist.data import load_images
from sphere_mnist.margins import LOSSES
from sphere_mnist.systems import SYSTEMS, system_settings
from sphere_mnist.training import OPTIMIZERS, SHAPES
from sphere_mnist.views import PHOTOS

SHARES = '[.1,.1,.1,.1,.1,.1,.1,.1,.1,.1]'
RUNS = dict( # system -> flags of runs on forty small images; a ResNet is not trained, which takes long
    spherical=['--encoder small --together false --prior uniform', '--encoder resnet18 --epochs 0 --prior estimated --backbone none',
               f'--encoder mlp --decoder true --pixel-graph false --prior {SHARES}', '--anchored true --partners true --preset three'],
    gmvae=['--network small --likelihood bernoulli --variant violation --cluster-prior aggregate', '--network conv --visualise 1', '--network conv32 --likelihood auto',
           '--network fc --preset published --hidden 20 --likelihood gaussian --variant information --cluster-prior sample --visualise 0 --log-var-limit 5',
           '--network fc --preset published --hidden 20 --log-var-limit 0 --samples 2'],
    gumbel=['--network small --estimator gumbel --likelihood auto', '--network fc --preset published --estimator straight_through --likelihood bernoulli --exact-kl false',
            "--estimator marginal --likelihood gaussian --temperature '[1,.5,exponential]' --min-temperature .6"],
    simclr=['--encoder small --hidden 0', '--encoder resnet_small --width 4', '--encoder resnet18 --epochs 0', '--encoder resnet50 --epochs 0', '--encoder mlp',
            '--encoder none'],
    mixem=['--encoder small --hidden 0 --backbone none', '--encoder resnet_small --width 4 --dummies true', '--encoder resnet18 --epochs 0 --preset cifar10',
           '--encoder resnet50 --epochs 0 --preset cifar10', '--encoder mlp', '--encoder none', '--init-from backbone --dummies false'],
    margins=['--encoder small --unit true --mining all --preset triplet', '--encoder resnet18 --epochs 0', '--encoder mlp --reduction mean --preset intra_triplet --mining semi-hard',
             '--encoder published --reduction sum --preset intra_triplet --mining batch-hard --per-class 0', '--head-dropout .5 --held-out 0', '--unit false --scale 10 --preset cosface'])
SHARED = [ # of all systems
    '--split test --draw published --precision auto --device auto', '--split validation --draw 3 --precision float32 --device cpu', '--split all --draw none --precision bfloat16',
    '--draw medoid', '--outliers 4 --tail 2', '--images 38 --draw none', *(f'--optimizer {name}' for name in OPTIMIZERS),
    *(f"--lr '[1e-3,1e-4,{shape}]' --weights.contrast '[1,.5,linear]'" for shape in SHAPES)]
OTHERWISE = {'none': 'features', 'conv': 'digits28', 'conv32': 'digits32'} # encoder or network -> the data that it is for
LONG = 'dinov2', 'clip', 'timm:NAME', 'torchvision:NAME', 'hf-hub:OWNER/NAME' # backbones, which tests/test_backbones.py tries


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    "Forty images of ten classes, in three sizes, and as features."
    folder, digits = tmp_path_factory.mktemp('data'), load_images('mnist5k')
    some = torch.cat([(digits.labels == c).nonzero()[:4, 0] for c in range(10)])
    pixels, labels = digits.pixels[some, 0].numpy(), digits.labels[some].numpy()
    forms = dict(digits8=pixels[:, 2:26:3, 2:26:3], digits28=pixels, digits32=np.pad(pixels, ((0, 0), (2, 2), (2, 2))),
                 features=pixels[:, 2:26:3, 2:26:3].reshape(40, 64)/np.float32(255))
    for name, x in forms.items(): np.savez(folder/f'{name}.npz', x_train=x, y_train=labels, x_test=x, y_test=labels)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setattr(clustering, 'run_figures', lambda *args, **kw: [])


def tried(words):
    "Flag -> value, of a line."
    words = shlex.split(words)
    return dict(zip((word[2:].replace('-', '_') for word in words[::2]), words[1::2], strict=True))


def run(data, system, words, out='run'):
    "The settings that the model of a run was saved with."
    flags = tried(words)
    form = OTHERWISE.get(flags.get('encoder', flags.get('network')), 'digits8')
    given = shlex.split(words) + ['--epochs', '1']*('epochs' not in flags)
    preset = dict(simclr='mnist', mixem='mnist').get(system)
    if preset and 'preset' not in flags: given += ['--preset', preset]
    if system == 'margins': given += ['--draw', 'none']
    assert main(['cluster', '--data', str(data/f'{form}.npz'), '--quiet', '--system', system, '--out', out, *given]) == 0
    return json.loads(open(f'{out}/config.json').read())


def as_saved(text):
    "A value as JSON has it."
    try: return json.loads(text)
    except ValueError: return text


@pytest.mark.parametrize('system, words', [(system, words) for system, lines in RUNS.items() for words in lines])
def test_values_of_a_system(data, system, words):
    if 'init-from' in words: run(data, 'simclr', '--width 16', 'backbone')
    saved = run(data, system, words)
    own = {flag: value for flag, value in tried(words).items() if flag in system_settings(system) and flag not in ('init_from', 'backbone', 'temperature', 'prior')}
    assert own and {flag: saved[flag] for flag in own} == {flag: as_saved(value.replace('.', '0.', 1) if value[0] == '.' else value) for flag, value in own.items()}


@pytest.mark.parametrize('words', SHARED)
def test_values_of_all_systems(data, words):
    run(data, 'spherical', words + (' --preset quick' if 'lr' not in words else ''))
    settings = open('run/config.yaml').read()
    for flag, value in tried(words).items():
        if flag in ('split', 'precision', 'device', 'optimizer'): assert f'{flag}: {value}\n' in settings


@pytest.mark.parametrize('n, name', [*enumerate({**WARPS, **PHOTOS})])
def test_warps_and_augmentations(data, n, name):
    if name in WARPS:
        system = ('spherical', 'gumbel', 'margins')[n % 3]
        assert run(data, system, f'--warp {name}')['warp'] == name
    system = ('simclr', 'mixem')[n % 2]
    assert run(data, system, f'--augment {name} --width 4', 'views')['augment'] == name


def words_of(system, flag):
    "The values of a flag that are tried here."
    if flag == 'warp': return {*WARPS}
    if flag == 'augment': return {*WARPS, *PHOTOS}
    return {tried(line)[flag] for line in RUNS[system] if flag in tried(line)}


@pytest.mark.parametrize('system', SYSTEMS)
def test_no_value_is_left_out(data, system, capsys):
    "What a refusal calls known, both sides of a switch, and every 0 that means something."
    for flag, (kinds, default, comment) in system_settings(system).items():
        if kinds == [bool] or kinds == (bool,): assert str(not default).lower() in words_of(system, flag), flag
        if re.search(r'(^|[;,] )0: ', comment): assert '0' in words_of(system, flag) or default == 0, flag
        if str not in kinds or flag in ('init_from', 'backbone', 'prior'): continue
        words = f'--{flag.replace("_", "-")} nonsense' + ' --preset mnist'*(system in ('simclr', 'mixem'))
        assert main(['cluster', '--data', str(data/'digits8.npz'), '--system', system, '--epochs', '1', '--out', 'refused', *words.split()]) == 2
        said = re.search(r'nown are (.*?)\.?$', capsys.readouterr().err.strip())
        known = set(said[1].split(', '))
        assert known and known <= words_of(system, flag), (flag, known - words_of(system, flag))


def test_every_loss_is_tried(data):
    for loss in LOSSES: assert main(['embed', '--data', str(data/'digits8.npz'), '--quiet', '--loss', loss, '--epochs', '1', '--out', loss]) == 0
