"""A system that another package brings: found by its entry point, in processes that know nothing of it, and never by what a file or a flag says."""
import json, os, subprocess, sys
from pathlib import Path
import pytest
from sphere_mnist import cli, systems
from sphere_mnist.data import InputError
from sphere_mnist.spherical import Spherical
from sphere_mnist.training import System

root = Path(__file__).parent.parent
MODULE = '''
from sphere_mnist.augment import WARPS, Warp
from sphere_mnist.models import ENCODERS, MLPEncoder
from sphere_mnist.spherical import Spherical

class Flat(MLPEncoder):
    def __init__(self, shape, dim): super().__init__(shape, dim, (16,))

ENCODERS['flat'], WARPS['lean'] = Flat, Warp(shear_x=(0, 20))

class Sixth(Spherical):
    "The spherical method with one more term."
    name = 'sixth'
    uncentred = Spherical.uncentred | {'size'}
    def losses(self, views, batch): return super().losses(views, batch) | dict(size=lambda: views.e.square().mean())

Sixth.presets = dict(only=dict(system=dict(encoder='flat', warp='lean'), stages=[
    dict(weights=dict(contrast=1, size=.1), epochs=1, batch_size=128), dict(weights=dict(prototype=1), epochs=1, batch_size=128, prepare='discover')]))
'''


def install(folder, **points):
    "What pip leaves of a package."
    info = folder/'sixth-1.dist-info'
    info.mkdir(parents=True)
    (info/'METADATA').write_text('Metadata-Version: 2.1\nName: sixth\nVersion: 1\n')
    (info/'entry_points.txt').write_text('[sphere_mnist.systems]\n' + ''.join(f'{name} = {place}\n' for name, place in points.items()))


def run(folder, *lines):
    "Commands, one after the other in one process that starts with the package installed."
    code = ('import json, sys\nfrom sphere_mnist import cli, clustering\nclustering.run_figures = lambda *a: []\n'
            'print([cli.main(line.split()) for line in json.loads(sys.argv[1])])')
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder), str(root)]))
    done = subprocess.run([sys.executable, '-c', code, json.dumps(lines)], env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done


def test_the_command_line_knows_an_installed_system(tmp_path):
    install(tmp_path, sixth='six_module:Sixth')
    (tmp_path/'six_module.py').write_text(MODULE)
    status, done = run(tmp_path, 'cluster --system sixth --data digits --weights.size .2 --out run', 'evaluate run', 'cluster --resume --out run',
                       'bench', 'cluster --data digits --encoder flat --warp lean --preset quick --epochs 1 --out ours')
    assert status == [0]*5, done.stderr
    assert any(line.split()[:2] == ['sixth', 'yes'] for line in done.stdout.splitlines()) # of `bench`
    assert json.loads((tmp_path/'run/result.json').read_text())['system'] == 'sixth'
    assert all('size' in json.loads(line)['terms'] for line in (tmp_path/'run/metrics.jsonl').read_text().splitlines()[:1])


def test_a_broken_package_is_one_sentence(tmp_path):
    install(tmp_path, sixth='no_such_module:Sixth', spherical='no_such_module:Spherical') # ours keeps its name
    status, done = run(tmp_path, 'cluster --system sixth --data digits --out run', 'info', 'bench', 'cluster --data digits --epochs 0 --out run')
    assert status == [2, 0, 0, 0]
    assert done.stderr.count('sphere_mnist: ') == 1 and "The system 'sixth' cannot be loaded from no_such_module.Sixth" in done.stderr and 'uninstall' in done.stderr


@pytest.mark.parametrize('name', ['six_module:Sixth', 'six_module.Sixth', 'os:system', 'sphere_mnist.spherical:Spherical'])
def test_no_flag_and_no_file_names_a_module(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path('six_module.py').write_text('open("sprung", "w")\n')
    Path('settings.yaml').write_text(f'system: "{name}"\n')
    for words in (['--system', name], ['--config', 'settings.yaml']):
        assert cli.main(['cluster', '--data', 'digits', *words, '--out', 'run']) == 2
        assert 'unknown system' in capsys.readouterr().err and not Path('sprung').exists() and not Path('run').exists()


@pytest.mark.parametrize('name', ['spherical', 'system'])
def test_a_name_is_not_given_twice(name, monkeypatch):
    monkeypatch.setattr(systems, 'SYSTEMS', dict(systems.SYSTEMS))
    other = type('Other', (System,), dict(name=name))
    with pytest.raises(InputError, match=f"There is a system '{name}' already: give Other another name"): systems.register(other)
    assert systems.system_class('spherical') is Spherical
    assert systems.register(Spherical) is Spherical # which is itself
