"""Memory: flat over steps and fits, and data that are larger than it."""
import ctypes, gc, json, os, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from sphere_mnist import cli, clustering, estimator, predict
from sphere_mnist.data import load_images
from sphere_mnist.estimator import SphericalClusterer
from sphere_mnist.published import preset_stages
from sphere_mnist.spherical import Spherical
from sphere_mnist.training import train

QUICK = dict(n_clusters=3, epochs=1, batch_size=12, random_state=0, device='cpu', precision='float32')
ALLOWED = 8 # MB by which memory may grow where it is called flat
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)


def megabytes(what='RssAnon', process='self'):
    "Of this process: memory in use that is no file."
    gc.collect()
    return next(int(line.split()[1]) for line in Path(f'/proc/{process}/status').read_text().splitlines() if line.startswith(what))/1024


class Watched(Spherical):
    "Notes the memory at some steps."
    def terms(self, batch, progress):
        if batch.step % 500 == 499: self.seen.append(megabytes())
        return super().terms(batch, progress)


def test_memory_is_flat_over_2000_steps():
    digits = load_images('digits')[range(800)]
    stages = preset_stages(Watched, 'published', digits, n_clusters=4, epochs=20, batch_size=8, dim=4, encoder='small', width=2)
    stages[0].system.seen = seen = []
    train(stages, digits, device='cpu', precision='float32')
    assert len(seen) == 4 and max(seen) - seen[0] < ALLOWED, seen


def test_memory_is_flat_over_20_fits():
    seen = []
    for _ in range(25):
        SphericalClusterer(**QUICK, dim=4, width=2).fit(PIXELS)
        seen.append(megabytes())
    assert max(seen[5:]) - seen[4] < ALLOWED, seen


LIMIT = '''
import ctypes, gc, json, resource, sys
from dataclasses import replace
import numpy as np, torch
from sphere_mnist.data import load_images
from sphere_mnist.spherical import Spherical
from sphere_mnist.published import preset_stages
from sphere_mnist.training import Stage, System, train

QUIET = dict(device='cpu', precision='float32')

def limit(megabytes, size):
    "Let this process have so much more memory, in which `size` bytes find no place."
    gc.collect(), ctypes.CDLL(None).malloc_trim(0) # what lies idle at the end of the heap would be room beyond the limit
    data = next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmData'))*1024
    most = data + megabytes*2**20
    resource.setrlimit(resource.RLIMIT_DATA, (most, -1))
    try: np.zeros(size, np.uint8)
    except MemoryError: return most
    sys.exit('the limit does not hold')
'''
LARGE = LIMIT + '''
class Corner(System):
    "Learns the mean of a corner: as little as a system can do with each image."
    name = 'corner'
    def __init__(self):
        super().__init__()
        self.mean, self.seen = torch.nn.Parameter(torch.zeros(4)), 0
    def terms(self, batch, progress):
        self.seen += len(batch)
        return dict(corner=(batch.images[:, 0, :2, :2].flatten(1).float()/255 - self.mean).square().mean())

class Counting(Spherical):
    "Counts its images."
    seen = 0
    def terms(self, batch, progress):
        self.seen += len(batch)
        return super().terms(batch, progress)

def one_epoch(images):
    stage, = preset_stages(Counting, 'published', images, n_clusters=3, epochs=1, encoder='small', width=2)
    return train([stage], images, **QUIET)

one_epoch(load_images(load_images('mnist5k').pixels[:1500])) # imports what it needs
images = load_images(sys.argv[1])
some = replace(images, pixels=images.pixels[-int(sys.argv[2]):]) # a part of the file
limit(64, some.pixels.numel())
spherical = one_epoch(some)
most = limit(200, images.pixels.numel())
system = Corner()
train([Stage(system, dict(corner=1), 1, batch_size=20_000)], images, **QUIET)
print(json.dumps(dict(limit=most, seen=system.seen, size=images.pixels.numel(), mean=system.mean.tolist(), spherical=spherical.seen,
                      finite=all(bool(p.isfinite().all()) for p in spherical.parameters()))))
'''


def in_little_memory(program, *args):
    "What a program says that limits its own memory."
    said = subprocess.run([sys.executable, '-c', program, *map(str, args)], capture_output=True, text=True,
                          env=os.environ | dict(OMP_NUM_THREADS='1', MALLOC_ARENA_MAX='2'))
    assert said.returncode == 0, said.stderr[-2000:]
    return said.stdout


def test_an_array_larger_than_memory_is_trained_on(tmp_path):
    shape, n = (2_200_000, 28, 28), 100_000
    array = np.lib.format.open_memmap(tmp_path/'large.npy', 'w+', np.uint8, shape) # sparse: it takes no place on the disk
    array[-1] = 255
    del array
    found = json.loads(in_little_memory(LARGE, tmp_path/'large.npy', n).splitlines()[-1])
    assert found['seen'] == shape[0] and found['size'] > found['limit']
    assert found['spherical'] == n and found['finite'] # the real system, with as many images as its limit cannot hold


@pytest.mark.parametrize('kind, shape', [(np.uint8, (5, 9, 8)), (np.uint8, (5, 3, 9, 8)), (np.uint8, (5, 9, 8, 3)), (np.float32, (5, 4))])
def test_a_file_is_mapped_and_reads_as_an_array(tmp_path, kind, shape):
    array = (np.random.default_rng(0).random(shape)*255).astype(kind)
    np.save(tmp_path/'a.npy', array)
    mapped = load_images(tmp_path/'a.npy').pixels
    assert torch.equal(mapped, load_images(array).pixels)
    array *= 0
    np.lib.format.open_memmap(tmp_path/'a.npy', 'r+')[:] = 0
    assert not mapped.any() # it was the file that was read


@pytest.fixture
def many(tmp_path):
    "2,500 pictures."
    folder = tmp_path/'many'
    folder.mkdir()
    for k in range(2):
        Image.fromarray(PIXELS[k]).save(folder/f'{k}.png')
        for i in range(2, 1250): os.link(folder/f'{k}.png', folder/f'{i}-{k}.png')
    return folder


def test_a_folder_is_predicted_in_parts(many, monkeypatch, tmp_path, capsys):
    sizes = []
    for module in (predict, estimator):
        def counted(system, images, assign=module.assign_all):
            sizes.append(len(images))
            return assign(system, images)
        monkeypatch.setattr(module, 'assign_all', counted)
    est = SphericalClusterer(**QUICK, dim=4, width=2).fit(PIXELS)
    sizes.clear()
    assert est.predict(many).shape == (2498,) and sizes == [1000, 1000, 498]
    np.testing.assert_allclose(est.predict_proba(many)[:2], est.predict_proba(sorted(many.iterdir())[:2]), atol=1e-5)
    assert est.transform(many).shape == (2498, 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clustering, 'run_figures', lambda *args, **kw: [])
    np.savez('x.npz', x=PIXELS)
    assert cli.main('cluster --data x.npz --clusters 3 --preset published --epochs 0 --out run'.split()) == 0
    sizes.clear()
    capsys.readouterr()
    assert cli.main(['predict', 'many', '--run', 'run', '--again']) == 0 and sizes == [1000, 1000, 498]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'picture,label,confidence,cluster' and len(lines) == 2499


def peak(call):
    "Megabytes of this process at the highest while it was called, above those before."
    gc.collect(), ctypes.CDLL(None).malloc_trim(0) # or it would find room in what lies idle
    before = megabytes('VmRSS')
    Path('/proc/self/clear_refs').write_text('5') # the highest is now
    call()
    return megabytes('VmHWM') - before


def test_the_memory_of_a_prediction_does_not_grow_with_the_folder(tmp_path, monkeypatch, capsys):
    size, few, many = 96, tmp_path/'few', tmp_path/'many'
    for folder, n in ((few, 2000), (many, 12_000)):
        folder.mkdir()
        for k in range(2):
            Image.fromarray(np.full((size, size), 200*k, np.uint8)).save(folder/f'{k}.png')
            for i in range(k + 2, n, 2): os.link(folder/f'{k}.png', folder/f'{i}.png')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clustering, 'run_figures', lambda *args, **kw: [])
    np.savez('x.npz', x=np.random.default_rng(0).integers(0, 256, (12, size, size), dtype=np.uint8))
    assert cli.main('cluster --data x.npz --clusters 3 --epochs 0 --dim 4 --width 2 --device cpu --out run'.split()) == 0
    def predict(folder): assert cli.main(['predict', str(folder), '--run', 'run', '--again']) == 0
    predict(few)
    of_few, of_many, others = peak(lambda: predict(few)), peak(lambda: predict(many)), 10_000*size**2/2**20
    assert len(capsys.readouterr().out.splitlines()) > 16_000
    assert peak(lambda: np.ones(2**26, np.uint8)) > 60 # so the test can fail
    assert of_many - of_few < .7*others, (of_few, of_many) # than the other pictures take as bytes, let alone as floats


@pytest.mark.skipif(not os.environ.get('SPHERE_MNIST_SLOW'), reason='takes a quarter of an hour: SPHERE_MNIST_SLOW=1 runs it')
def test_600_000_images(tmp_path):
    array = np.lib.format.open_memmap(tmp_path/'large.npy', 'w+', np.uint8, (600_000, 28, 28))
    digits = load_images('mnist5k').pixels[:, 0].numpy()
    for start in range(0, len(array), len(digits)): array[start:start + len(digits)] = digits[:len(array) - start]
    before = megabytes()
    SphericalClusterer(10, epochs=3, random_state=0).fit(tmp_path/'large.npy')
    assert megabytes('VmHWM') - before < 4096
