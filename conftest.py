"""Notebooks as pytest items: each notebook that `nbdev_test` would run is one test.

- `pytest`            the cells as they are, with a count
- `pytest --package`  the same cells with every exported cell replaced by an import from the installed package, so
                      that a function leaning on an unexported cell fails here and not at a user's
- `pytest --save`     write the outputs of notebooks that passed back into them (then run `nbdev_clean`)
- `--flags slow`      run cells marked `#| slow` too

A test fails where our own code warns, and where anything asks the network beyond this machine.
"""
import os, re, socket, sys
from pathlib import Path
import pytest

os.environ.setdefault('TQDM_DISABLE', '1')
os.environ.setdefault('OMP_NUM_THREADS', '1') # the same bits each time, and as fast on a busy machine
root = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption('--package', action='store_true', help='test the exported package instead of the exported cells')
    parser.addoption('--save', action='store_true', help='write outputs back into notebooks that pass')
    parser.addoption('--flags', default='', help='nbdev test flags to run, such as "slow"')


def pytest_configure(config):
    # but for what users are told by a warning: a margin that no embedding can satisfy, and MNIST that cannot be had
    for line in ('error:::sphere_mnist', 'default:The (margin|scale) :UserWarning', 'default:.* using the 5,000 shipped digits:UserWarning'):
        config.addinivalue_line('filterwarnings', line)
    config.asked = asked = [] # addresses elsewhere
    def at_home(host): return host in (None, '', b'localhost', 'localhost', '::1', '0.0.0.0', socket.gethostname()) or str(host).startswith('127.')
    def guarded(function, host_of):
        def call(*args, **kwargs):
            if at_home(host := host_of(args)): return function(*args, **kwargs)
            asked.append(host)
            raise RuntimeError(f'a test asks the network for {host}')
        return call
    def of_address(args): return args[1][0] if isinstance(args[1], tuple) else None # not of a Unix socket
    config.unguarded = socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex
    socket.getaddrinfo = guarded(socket.getaddrinfo, lambda args: args[0] if args else None)
    socket.socket.connect = guarded(socket.socket.connect, of_address)
    socket.socket.connect_ex = guarded(socket.socket.connect_ex, of_address)


def pytest_unconfigure(config):
    socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex = config.unguarded


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item): # what asks may catch the error itself
    item.config.asked.clear()
    threads = threads_now()
    result = yield
    if item.config.asked: raise NetworkAsked(f'{item.name} asked the network for {", ".join(map(str, item.config.asked))}')
    if threads and threads != threads_now(): raise LeftBehind(f'{item.name} began with {threads} threads and leaves {threads_now()}')
    return result


def threads_now():
    "How many threads PyTorch uses; bits of a run depend on it."
    return sys.modules['torch'].get_num_threads() if hasattr(sys.modules.get('torch'), 'get_num_threads') else None


def callables():
    "What the modules of the package hold now."
    modules = {name: module for name, module in [*sys.modules.items()] if name.startswith('sphere_mnist.')}
    return {(name, key): value for name, module in modules.items() for key, value in vars(module).items() if callable(value)}


class NetworkAsked(Exception):
    "A test asked for more than this machine."


class LeftBehind(Exception):
    "A test changed what the next one stands on."


def pytest_collect_file(file_path, parent):
    if file_path.suffix == '.ipynb' and file_path.parent == root/'nbs' and not file_path.name.startswith(('_', '.')):
        return NotebookFile.from_parent(parent, path=file_path)


class NotebookFile(pytest.File):
    def collect(self):
        yield NotebookItem.from_parent(self, name=self.path.stem)


class NotebookItem(pytest.Item):
    def runtest(self):
        from execnb.nbio import read_nb, write_nb
        from execnb.shell import CaptureShell
        from nbdev.config import get_config
        from nbdev.test import test_nb
        notebook = read_nb(self.path)
        option = self.config.option
        skip = get_config().tst_flags.split()
        if not (option.package or option.save):
            passed, _ = test_nb(self.path, skip_flags=skip, force_flags=option.flags.split(), basepath=root)
            if not passed: raise NotebookError(f'{self.name}: the traceback is in the captured stderr')
            return
        flags = set(skip) - set(option.flags.split())
        if option.package: as_package(notebook)
        os.environ['IN_TEST'] = '1'
        if str(root) not in sys.path: sys.path.insert(0, str(root))
        shell, where, before = CaptureShell(self.path), os.getcwd(), callables()
        os.chdir(self.path.parent)
        try: shell.run_all(notebook, exc_stop=True, preproc=lambda cell: skipped(cell, flags))
        except Exception: raise NotebookError(shell.prettytb(fname=self.path)) from None
        finally: os.chdir(where)
        now = callables()
        replaced = [f'{module}.{name}' for (module, name), value in before.items() if now.get((module, name)) is not value]
        if replaced: raise LeftBehind(f'{self.name} leaves {", ".join(replaced)} replaced: put back what was there')
        if option.save:
            for cell in notebook.cells: # what shows itself leaves an empty result besides
                if cell.get('outputs'): cell.outputs = [o for o in cell.outputs if o.get('data') != {}]
            write_nb(notebook, self.path)

    def repr_failure(self, excinfo, style=None):
        return str(excinfo.value) if isinstance(excinfo.value, NotebookError) else super().repr_failure(excinfo, style)

    def reportinfo(self): return self.path, 0, f'notebook {self.name}'


class NotebookError(Exception):
    "A cell of a notebook failed."


def directives(source):
    "The `#|` directives of a cell, name to rest of the line."
    found = re.findall(r'^\s*#\|\s*([\w-]+):?\s*(.*?)\s*$', source, re.M)
    return dict(found)


def skipped(cell, flags):
    "Whether `nbdev_test` would skip this cell."
    if cell.cell_type != 'code': return True
    found = directives(cell.source)
    return 'nbdev_export(' in cell.source or found.get('eval', '').lower() == 'false' or bool(flags & found.keys())


def as_package(notebook):
    "Replace the first exported cell by an import of everything the module exports, and empty the others."
    code = [c for c in notebook.cells if c.cell_type == 'code']
    module = next((d['default_exp'] for c in code if 'default_exp' in (d := directives(c.source))), None)
    if module is None: return
    exported = [c for c in code if directives(c.source).keys() & {'export', 'exports', 'exporti'}]
    name = f'sphere_mnist.{module}'
    for cell in exported: cell.source = ''
    if exported:
        exported[0].source = (f'import importlib\n_module = importlib.import_module({name!r})\n'
                              'globals().update({k: v for k, v in vars(_module).items() if not k.startswith("__")})')
