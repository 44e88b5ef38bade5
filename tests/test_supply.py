"""What is shipped, what it needs, and that nothing asks the network."""
import ast, configparser, re, shutil, socket, subprocess, sys, warnings, zipfile
from importlib.metadata import distribution
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
settings = configparser.ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
REQUIRED = {re.split(r'[<>=!]', r)[0].lower(): r for r in settings['DEFAULT']['requirements'].split()}
NAMES = dict(sklearn='scikit-learn', umap='umap-learn', PIL='pillow', yaml='pyyaml') # import -> distribution, where they differ
OPTIONAL = {re.split(r'[<>=!]', r)[0].lower() for key, value in settings['DEFAULT'].items() if key.endswith('_requirements')
            for r in value.split()} | {'ipython'} # imported inside functions, with a sentence where they are missing


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    "The files of the wheel, by name."
    place = tmp_path_factory.mktemp('wheel')
    for name in ('setup.py', 'settings.ini', 'README.md', 'LICENSE'): shutil.copy(root/name, place)
    shutil.copytree(root/'sphere_mnist', place/'sphere_mnist', ignore=shutil.ignore_patterns('__pycache__'))
    (place/'tests').mkdir()
    (place/'tests/__init__.py').touch() # a package beside it, which the wheel must not take along
    subprocess.run([sys.executable, 'setup.py', '-q', 'bdist_wheel'], cwd=place, check=True, capture_output=True)
    built, = (place/'dist').glob('*.whl')
    with zipfile.ZipFile(built) as archive: return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    here = {p.relative_to(root).as_posix() for p in (root/'sphere_mnist').rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    inside = {name for name in wheel if name.startswith('sphere_mnist/')}
    assert inside == here
    rest = {name.split('/', 1)[1] for name in wheel.keys() - inside}
    assert all(re.match(r'sphere_mnist-[\w.]+\.dist-info/', name) for name in wheel.keys() - inside)
    assert {'METADATA', 'WHEEL', 'RECORD', 'entry_points.txt', 'top_level.txt', 'licenses/LICENSE'} == rest
    assert {Path(name).suffix for name in inside} <= {'.py', '.npz', '.json', '.safetensors', '.md', '.html', '.js', '.css', '.png', '.txt'}


def test_the_wheel_holds_data_weights_and_licence(wheel):
    modules = {f'sphere_mnist/{re.search(r"default_exp (.+)", text)[1]}.py'.strip() for f in (root/'nbs').glob('[0-9]*.ipynb')
               if (text := ''.join(re.findall(r'default_exp [\w.]+', f.read_text(encoding='utf-8'))[:1]))}
    assert modules <= wheel.keys() and len(modules) >= 20
    assert {'sphere_mnist/shipped/mnist5k.npz', 'sphere_mnist/weights/mnist/model.safetensors', 'sphere_mnist/weights/mnist/config.json'} <= wheel.keys()
    licence = next(v for k, v in wheel.items() if k.endswith('licenses/LICENSE'))
    assert licence == (root/'LICENSE').read_bytes() and b'Apache License' in licence
    metadata = next(v for k, v in wheel.items() if k.endswith('METADATA')).decode()
    assert 'License: Apache-2.0' in metadata or 'License-Expression: Apache-2.0' in metadata
    assert f"Requires-Python: >={settings['DEFAULT']['min_python']}" in metadata
    assert sum(map(len, wheel.values())) < 8e6


def imports(path):
    "Top-level names that a module imports anywhere."
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): yield from (a.name.split('.')[0] for a in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level: yield node.module.split('.')[0]


def test_what_is_imported_is_required():
    used = {name for path in (root/'sphere_mnist').glob('*.py') for name in imports(path)} - set(sys.stdlib_module_names) - {'sphere_mnist'}
    used = {NAMES.get(name, name).lower() for name in used}
    assert used - OPTIONAL <= REQUIRED.keys(), 'imported and not required'
    assert REQUIRED.keys() <= used | {'torch'}, 'required and not imported'


def test_the_bounds_hold_here():
    from packaging.requirements import Requirement
    for requirement in map(Requirement, REQUIRED.values()):
        assert distribution(requirement.name).version in requirement.specifier


def test_pip_check():
    done = subprocess.run([sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True)
    assert 'No broken requirements found' in done.stdout if done.returncode == 0 else done.returncode == 1 and done.stdout, done.stderr
    ours = [line for line in done.stdout.splitlines() if any(line.lower().startswith(f'{name} ') for name in {*REQUIRED, 'sphere-mnist', 'sphere_mnist'})]
    assert not ours


def test_nobody_asks_the_network(pytestconfig):
    "The guard of conftest.py: loopback alone is open."
    for ask in (lambda: socket.create_connection(('192.0.2.1', 80), timeout=1), lambda: socket.getaddrinfo('example.org', 80),
                lambda: socket.socket().connect(('192.0.2.1', 80))):
        with pytest.raises(RuntimeError, match='asks the network'): ask()
    assert pytestconfig.asked == ['192.0.2.1', 'example.org', '192.0.2.1']
    pytestconfig.asked.clear()
    with socket.create_server(('127.0.0.1', 0)) as server: socket.create_connection(server.getsockname()).close()


IMPORTS = '''
import importlib, pkgutil, socket, warnings
def refuse(*args, **kw): raise SystemExit(f'an import asks the network: {args}')
socket.socket.connect = socket.getaddrinfo = refuse
warnings.filterwarnings('error', module='sphere_mnist')
import sphere_mnist
for module in pkgutil.iter_modules(sphere_mnist.__path__): importlib.import_module(f'sphere_mnist.{module.name}')
print(sphere_mnist.__version__)
'''


def test_importing_asks_nobody_and_warns_of_nothing():
    done = subprocess.run([sys.executable, '-W', 'default', '-c', IMPORTS], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'sphere_mnist' not in done.stderr


SOURCES = '''
import sys
import sphere_mnist
assert not {'torch', 'sphere_mnist.data'} & sys.modules.keys(), 'the package loads before anything of it is asked for'
from sphere_mnist.data import InputError, load_images
assert not {'sphere_mnist.datasets', 'sphere_mnist.sources', 'sphere_mnist.files'} & sys.modules.keys(), 'data imports sources'
print(load_images(sys.argv[1]).name, load_images(sys.argv[2]).name, load_images('spiral').name)
try: load_images('cifar11')
except InputError as e: print(str(e).partition('Known are ')[2])
'''


def test_who_imports_data_alone_has_every_source(tmp_path):
    import numpy as np
    from PIL import Image
    from sphere_mnist.datasets import NAMES
    (tmp_path/'pictures').mkdir()
    Image.new('L', (8, 8)).save(tmp_path/'pictures'/'a.png')
    np.save(tmp_path/'array.npy', np.eye(3))
    done = subprocess.run([sys.executable, '-c', SOURCES, tmp_path/'pictures', tmp_path/'array.npy'], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['folder array.npy spiral', ', '.join(NAMES) + ', or the path of a folder or a file']
    assert NAMES == ('mnist', 'fashion', 'mnist5k', 'digits', 'svhn', 'svhn_extra', 'cifar10', 'cifar100', 'cifar100-20', 'stl10', 'stl10_unlabelled', 'spiral')


@pytest.mark.parametrize('module, kind, fails', [('sphere_mnist', DeprecationWarning, True), ('sphere_mnist.data', RuntimeWarning, True),
                                                 ('sphere_mnist.margins', UserWarning, True), ('torch', DeprecationWarning, False)])
def test_a_warning_from_our_code_fails(module, kind, fails):
    def warn(): warnings.warn_explicit('told for a test', kind, 'file.py', 1, module)
    if fails:
        with pytest.raises(kind, match='told for a test'): warn()
    else:
        with pytest.warns(kind): warn()
