"""Pictures, folders, files, arrays and labels as people have them: each is read with the right value, or refused in one sentence."""
import gzip, io, os, re, subprocess, sys, threading, time, warnings, zipfile
from pathlib import Path
from unittest import mock
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from sphere_mnist import sources
from sphere_mnist.cli import main
from sphere_mnist.data import InputError, as_labels, class_order, load_images, visible
from sphere_mnist.estimator import SphericalClusterer, read_images, read_labels
from sphere_mnist.files import unpack
from sphere_mnist.sources import fit_to, load_pictures, read_picture

pd = pytest.importorskip('pandas')
root = Path(__file__).parent.parent
RAMP = np.repeat(np.arange(8, dtype=np.uint8)[None]*30, 8, 0)
DRAW = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)


def save(path, picture=RAMP, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(picture)).save(path, **options)
    return path


def folder(place, **counts):
    for name, n in counts.items():
        for k in range(n): save(place/name.replace('__', '/')/f'{k}.png', DRAW[k])
    return place


def png(picture=RAMP):
    Image.fromarray(picture).save(data := io.BytesIO(), 'png')
    return data.getvalue()


def told(call, *args, **options):
    "What a call gives, and what it warns of."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        return call(*args, **options), [str(w.message) for w in said]


def named(images): return [images.classes[k] if k >= 0 else None for k in images.labels.tolist()]


# Slow loading of photographs

@pytest.mark.parametrize('name, side, options', [('a.png', (480, 640), {}), ('a.jpg', (180, 170), {}), ('a.webp', (300, 200), dict(lossless=True)), ('a.tif', (300, 200), {})])
def test_where_no_draft_applies_the_pixels_are_those_of_the_whole(name, side, options, tmp_path):
    rng = np.random.default_rng(1)
    paths = [save(tmp_path/f'{n}{name}', rng.integers(0, 256, (*side, 3), dtype=np.uint8), **options) for n in range(3)]
    wanted = torch.cat([fit_to(read_picture(p)[None], (96, 96)) for p in paths])
    assert torch.equal(load_pictures(paths, (96, 96)), wanted)


@pytest.mark.parametrize('turn', [1, 3, 6, 8])
def test_a_draft_is_the_same_picture(turn, tmp_path):
    smooth = np.add.outer(np.linspace(0, 200, 900), np.linspace(0, 55, 1200)).astype(np.uint8)
    exif = Image.Exif(); exif[274] = turn
    path = save(tmp_path/'a.jpg', np.stack([smooth, smooth//2, 255 - smooth], -1), exif=exif)
    full, draft = (fit_to(read_picture(path, size=size)[None], (64, 48))[0].float() for size in (None, (64, 48)))
    inner = read_picture(path, size=(64, 48)).shape
    assert inner[1:] == ((36, 48) if turn < 5 else (64, 48)) and (full - draft)[:, 16:48, 4:44].abs().max() < 4


def test_each_picture_is_decoded_once_and_by_several_threads(tmp_path):
    paths, seen, threads = [save(tmp_path/f'{n}.png', DRAW[n % 6]) for n in range(40)], [], set()
    read = sources.read_picture
    def counting(path, *args, **options):
        seen.append(path); threads.add(threading.get_ident()); time.sleep(.005)
        return read(path, *args, **options)
    with mock.patch.object(sources, 'read_picture', counting), mock.patch.object(os, 'cpu_count', lambda: 4): pixels = load_pictures(paths)
    assert sorted(seen) == sorted(paths) and len(threads) > 1
    assert torch.equal(pixels[:, 0], torch.from_numpy(DRAW[np.arange(40) % 6]))


def test_the_first_that_cannot_be_read_is_named_and_filters_come_back(tmp_path):
    paths = [save(tmp_path/f'{n:02}.png') for n in range(20)]
    for n in 7, 3, 11: paths[n].write_bytes(paths[n].read_bytes()[:40])
    before = list(warnings.filters)
    with pytest.raises(InputError, match='03.png cannot be read'): load_pictures(paths)
    assert warnings.filters == before and not sources._quiet.inside


class Terminal(io.StringIO):
    def isatty(self): return True


@pytest.mark.parametrize('stream, seconds, shown', [(io.StringIO, 0, ''), (Terminal, 0, ''), (Terminal, 1.3, 'reading'), (io.StringIO, 1.3, '')])
def test_a_bar_is_for_those_who_wait(stream, seconds, shown, monkeypatch):
    monkeypatch.setenv('TQDM_DISABLE', '')
    with mock.patch('sys.stderr', stream()) as err:
        list(sources.for_each(lambda n: time.sleep(seconds/3), range(6)))
        assert (shown in err.getvalue()) if shown else not err.getvalue().strip()


# Pictures

@pytest.mark.parametrize('suffix', ['.jfif', '.jpe', '.avif', '.jp2', '.ppm', '.pgm', '.dib', '.JPG', '.tif', '.apng'])
def test_pictures_of_many_names_are_found_in_a_folder(suffix, tmp_path):
    save(tmp_path/f'a{suffix}', RAMP if suffix == '.pgm' else np.stack([RAMP]*3, -1))
    images, said = told(load_images, tmp_path)
    assert np.abs(images.pixels.float().mean((0, 1)).numpy() - RAMP).max() < 12 and not said


@pytest.mark.parametrize('rest, words', [(['a.HEIC', 'b.heic'], '2 .heic: convert them to PNG or JPEG, as a telephone'), (['x.psd', 'y.svg', 'z.psd'], '2 .psd and 1 .svg: convert'),
                                         (['cat/x.CR2'], '1 .cr2')])
def test_what_is_not_read_is_counted_and_named(rest, words, tmp_path):
    folder(tmp_path, cat=2)
    for name in rest:
        (tmp_path/'cat'/Path(name).name).write_bytes(b'x')
    (tmp_path/'cat'/'notes.txt').write_text('words')
    images, said = told(load_images, tmp_path)
    assert len(images) == 2 and len(said) == 1 and words in said[0] and 'txt' not in said[0]
    for path in (tmp_path/'cat').glob('*.png'): path.unlink()
    with pytest.raises(InputError, match='holds no pictures but'): load_images(tmp_path)


@pytest.mark.parametrize('tops, bits, scaled', [([4095, 1023], 12, [255, 63]), ([1023, 512], 10, [255, 127]), ([16383, 100], 14, [255, 1]), ([65535, 4095], None, [255, 15]), ([255, 100], None, [255, 100])])
def test_deep_pictures_are_scaled_by_what_the_set_uses(tops, bits, scaled, tmp_path):
    for n, top in enumerate(tops): save(tmp_path/f'{n}.{"png" if n else "tif"}', np.array([[0, top]]*8, np.uint16))
    images, said = told(load_images, tmp_path, image_size=(8, 2))
    assert images.pixels[:, 0, 0, 1].tolist() == scaled
    assert [f'use {bits} of them' in s for s in said] == ([True] if bits else [])
    images, said = told(load_images, tmp_path, image_size=(8, 2), bits=16)
    assert images.pixels[:, 0, 0, 1].tolist() == [top*255//65535 for top in tops] and not said


def test_train_and_test_share_their_depth(tmp_path):
    for part, top in dict(train=1023, test=4095).items(): save(tmp_path/part/'0.png', np.full((8, 8), top, np.uint16))
    for split, value in dict(train=63, test=255).items(): assert told(load_images, tmp_path, split)[0].pixels.unique().tolist() == [value]


@pytest.mark.parametrize('bits', [7, 17, 12.5, 'deep'])
def test_bits_that_are_none(bits, tmp_path):
    with pytest.raises(InputError, match='bits is'): load_images(save(tmp_path/'a.png'), bits=bits)


@pytest.mark.parametrize('ink, ground', [((255, 255, 255), 0), ((240, 240, 180), 0), ((0, 0, 0), 255), ((200, 30, 30), 255)])
@pytest.mark.parametrize('suffix', ['png', 'webp', 'tif'])
def test_ink_is_seen_on_its_ground(ink, ground, suffix, tmp_path):
    picture = np.zeros((12, 12, 4), np.uint8)
    picture[..., :3], picture[3:9, 3:9, 3] = ink, 255
    pixels = read_picture(save(tmp_path/f'a.{suffix}', picture, **dict(lossless=True) if suffix == 'webp' else {}))
    assert pixels[:, 0, 0].tolist() == [ground]*3 and pixels[:, 5, 5].tolist() == [*ink]


def jpeg_header(height, width, progressive=False):
    "A JPEG of a few pixels whose header claims many."
    Image.fromarray(RAMP).save(data := io.BytesIO(), 'jpeg', progressive=progressive)
    content = bytearray(data.getvalue())
    at = content.index(b'\xff\xc2' if progressive else b'\xff\xc0')
    content[at + 5:at + 9] = height.to_bytes(2, 'big') + width.to_bytes(2, 'big')
    return bytes(content)


@pytest.mark.parametrize('size', [(9000, 12000), (12240, 16320)])
def test_a_telephone_s_picture_is_read(size, tmp_path):
    path = tmp_path/'phone.jpg'
    with Image.new('L', size[::-1], 200) as picture: picture.save(path, quality=10)
    images = load_images(path, image_size=32)
    assert images.shape == (1, 32, 32) and (images.pixels.float() - 200).abs().max() < 4


@pytest.mark.parametrize('size, progressive', [((65000, 65000), False), ((20000, 20000), False), ((9000, 12000), True)])
def test_bombs_stay_refused(size, progressive, tmp_path):
    (tmp_path/'bomb.jpg').write_bytes(jpeg_header(*size, progressive))
    with pytest.raises(InputError, match='bomb.jpg cannot be read.*decompression bomb'): load_images(tmp_path/'bomb.jpg', image_size=32)


# Folders

@pytest.mark.parametrize('train, test', [('training', 'validation'), ('train', 'val'), ('Train', 'valid'), ('training', 'testing')])
def test_parts_have_several_names(train, test, tmp_path):
    folder(tmp_path, **{f'{train}__ant': 2, f'{train}__cat': 1, f'{test}__cat': 1})
    fit, scored = load_images(tmp_path), load_images(tmp_path, 'test')
    assert (fit.classes, named(fit), named(scored), fit.split, scored.split) == (('ant', 'cat'), ['ant', 'ant', 'cat'], ['cat'], 'train', 'test')


def test_a_validation_part_beside_a_test_part(tmp_path):
    folder(tmp_path, train__a=3, val__a=2, test__a=1)
    assert [(len(i), i.split) for i in (load_images(tmp_path, s) for s in ('train', 'fit', 'validation', 'test'))] == [(3, 'train'), (3, 'fit'), (2, 'validation'), (1, 'test')]


def test_without_one_the_training_part_is_divided(tmp_path):
    folder(tmp_path, train__a=6, val__a=2)
    assert [len(load_images(tmp_path, s)) for s in ('train', 'fit', 'validation', 'test')] == [6, 5, 1, 2]


@pytest.mark.parametrize('litter', ['__MACOSX', '@eaDir', '.thumbnails', '#recycle', '$RECYCLE.BIN', 'System Volume Information', 'cat/@eaDir'])
def test_what_computers_leave_is_passed_over(litter, tmp_path):
    folder(tmp_path, cat=1, dog=1)
    save(tmp_path/litter/'thumb.jpg'), save(tmp_path/litter/'cat'/'thumb.jpg')
    images, said = told(load_images, tmp_path)
    assert (images.classes, len(images), said) == (('cat', 'dog'), 2, [])


@pytest.mark.parametrize('name', ['unlabeled', 'unlabelled', 'Unlabeled'])
def test_unlabelled_is_no_class(name, tmp_path):
    assert named(load_images(folder(tmp_path/'a', ant=1, cat=1, **{name: 2}))) == ['ant', 'cat', None, None]
    parts = folder(tmp_path/'b', train__ant=1, train__cat=1, test__cat=1, **{name: 2})
    assert [named(load_images(parts, s)) for s in ('train', 'test')] == [['ant', 'cat', None, None], ['cat']]
    assert load_images(folder(tmp_path/'c', **{name: 2})).labels is None


@pytest.mark.parametrize('inner', ['images', 'data/images', 'Pictures', 'zoo'])
def test_a_folder_in_a_folder_is_looked_into(inner, tmp_path):
    place = folder(tmp_path/'zoo'/inner, ant=1, cat=1)
    assert load_images(tmp_path/'zoo').classes == ('ant', 'cat')
    folder(tmp_path/'flat'/inner.replace('zoo', 'images'), **{'': 2})
    assert load_images(tmp_path/'flat').labels is None and place


def test_one_class_is_one_class(tmp_path): assert load_images(folder(tmp_path, cat=2)).classes == ('cat',)


def test_classes_may_be_called_as_parts_are(tmp_path):
    assert load_images(folder(tmp_path/'a', train=1, test=1, plane=2)).classes == ('plane', 'test', 'train')
    assert load_images(folder(tmp_path/'b', train=1, car=1)).classes == ('car', 'train')
    assert load_images(folder(tmp_path/'c', validation=1, test=1, proof=2)).classes == ('proof', 'test', 'validation')


@pytest.mark.parametrize('counts, words', [(dict(train__ant=1, test__ant=1, plane=1), 'move plane/ elsewhere'), (dict(train__ant=1), 'train/ alone'),
    (dict(train__ant=1, training__ant=1, test__ant=1), 'two folders for train'), (dict(val__ant=1, test__ant=1), 'no part to train on')])
def test_what_only_its_owner_knows_is_asked(counts, words, tmp_path):
    with pytest.raises(InputError, match=words): load_images(folder(tmp_path, **counts))


@pytest.mark.parametrize('names', [('1', '01', '001'), ('2', '02', '10'), ('0', '00')])
def test_numbers_as_names_are_in_one_order(names, tmp_path):
    code = f"from sphere_mnist.data import class_order; print(class_order({names!r}))"
    said = {subprocess.run([sys.executable, '-c', code], cwd=root, env=os.environ | {'PYTHONHASHSEED': seed}, capture_output=True, text=True).stdout for seed in '03'}
    assert said == {f'{class_order(names)}\n'} and [int(n) for n in class_order(names)] == sorted(map(int, names))


# Files

def idx(array): return bytes([0, 0, 8, array.ndim]) + b''.join(n.to_bytes(4, 'big') for n in array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize('images, labels, y, classes', [
    ('train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz', [0, 1, 2, 1, 0, 3], ('0', '1', '2', '3')),
    ('my-images.idx', 'my-labels.idx.gz', [0, 1, 2, 1, 0, 3], ('0', '1', '2', '3')),
    ('KMNIST/raw/t10k-images-idx3-ubyte', 'KMNIST/raw/t10k-labels-idx1-ubyte', [0, 1, 2, 1, 0, 9], ('o', 'ki', 'su', 'tsu', 'na', 'ha', 'ma', 'ya', 're', 'wo')),
    ('digits', None, None, ())])
def test_idx_of_any_name(images, labels, y, classes, tmp_path):
    def write(name, array):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).write_bytes((gzip.compress if name.endswith('.gz') else bytes)(idx(array)))
    write(images, DRAW)
    if labels: write(labels, np.array(y))
    found = load_images(tmp_path/images)
    assert torch.equal(found.pixels[:, 0], torch.from_numpy(DRAW)) and found.classes == classes
    assert found.labels is None if y is None else found.labels.tolist() == y


@pytest.mark.parametrize('shape', [(0, 28, 28), (6, 0, 28), (6, 28, 0), (0,)])
@pytest.mark.parametrize('name', ['my-images.idx', 'train-images-idx3-ubyte.gz'])
def test_an_idx_file_of_nothing_says_its_shape(shape, name, tmp_path):
    (tmp_path/name).write_bytes((gzip.compress if name.endswith('.gz') else bytes)(idx(np.zeros(shape))))
    with pytest.raises(InputError) as caught: load_images(tmp_path/name)
    assert f'{name} holds nothing, its header states the shape {shape}: delete it' in str(caught.value) and 'belong' not in str(caught.value)


@pytest.mark.parametrize('empty', ['my-labels.idx', 'my-images.idx'])
def test_an_idx_file_of_nothing_beside_a_good_one(empty, tmp_path):
    for name, array in {'my-images.idx': DRAW, 'my-labels.idx': np.zeros(6)}.items(): (tmp_path/name).write_bytes(idx(array[:0] if name == empty else array))
    with pytest.raises(InputError, match=f'{empty} holds nothing, its header states the shape'): load_images(tmp_path/'my-images.idx')


@pytest.mark.parametrize('kind, y, names', [('letters', [1, 2, 26, 3, 3, 1], 'ABZCCA'), ('balanced', [0, 10, 36, 46, 9, 1], '0Aat91'), ('byclass', [61, 0, 10, 36, 1, 2], 'z0Aa12')])
def test_emnist_is_upright_and_named(kind, y, names, tmp_path):
    (tmp_path/f'emnist-{kind}-train-images-idx3-ubyte').write_bytes(idx(DRAW)), (tmp_path/f'emnist-{kind}-train-labels-idx1-ubyte').write_bytes(idx(np.array(y)))
    found = load_images(tmp_path/f'emnist-{kind}-train-images-idx3-ubyte')
    assert torch.equal(found.pixels[:, 0].mT, torch.from_numpy(DRAW)) and named(found) == [*names]
    (tmp_path/f'emnist-{kind}-test.csv').write_text('\n'.join(','.join(map(str, [k, *row.ravel()])) for k, row in zip(y, DRAW)))
    found = load_images(tmp_path/f'emnist-{kind}-test.csv')
    assert torch.equal(found.pixels[:, 0].mT, torch.from_numpy(DRAW)) and named(found) == [*names]


TABLES = dict(kaggle=('label,' + ','.join(f'pixel{k}' for k in range(64)), ','), sizes=('label,' + ','.join(f'{i}x{j}' for i in range(8) for j in range(8)), ','), bare=(None, ','),
              semicolons=('label;' + ';'.join(f'pixel{k}' for k in range(64)), ';'))


@pytest.mark.parametrize('kind', TABLES)
@pytest.mark.parametrize('packed', [False, True])
def test_tables_of_pictures(kind, packed, tmp_path):
    head, mark = TABLES[kind]
    flat = DRAW.copy(); flat[0, 0, 0] = 0
    text = '\n'.join(([head] if head else []) + [mark.join(map(str, [k % 3, *row.ravel()])) for k, row in enumerate(flat)]) + '\n'
    path = tmp_path/('train.csv.gz' if packed else 'train.csv')
    path.write_bytes((gzip.compress if packed else bytes)(text.encode()))
    found = load_images(path)
    assert torch.equal(found.pixels[:, 0], torch.from_numpy(flat)) and named(found) == ['0', '1', '2']*2


@pytest.mark.parametrize('text, classes, labels', [('a,b,label\n1,2,cat\n3,4,\n5,6,ant\n', ('ant', 'cat'), [1, -1, 0]), ('class\ta\tb\n1\t1\t2\n3\t3\t4\n', ('1', '3'), [0, 1]), ('x1,x2\n.5,1\n2,3\n', (), None)])
def test_tables_of_features(text, classes, labels, tmp_path):
    (tmp_path/'a.csv').write_text(text)
    found = load_images(tmp_path/'a.csv')
    assert found.is_features and found.classes == classes and (found.labels if labels is None else found.labels.tolist()) == labels


NAMES = {'images and labels': dict(images=DRAW, labels=np.arange(6) % 2), 'train_images': dict(train_images=DRAW, train_labels=np.arange(6) % 2, test_images=DRAW[:2], test_labels=np.array([1, 0])),
         'medical': dict(train_images=DRAW, train_labels=np.arange(6)[:, None] % 2, val_images=DRAW[:2], val_labels=np.array([[1], [0]])), 'without names': dict(arr_0=DRAW, arr_1=np.arange(6) % 2),
         'X_train': dict(X_train=DRAW, Y_train=np.arange(6) % 2, X_test=DRAW[:2], Y_test=np.array([1, 0]))}


@pytest.mark.parametrize('kind', NAMES)
@pytest.mark.parametrize('suffix', ['npz', 'mat'])
def test_arrays_by_many_names(kind, suffix, tmp_path):
    from scipy.io import savemat
    path, arrays = tmp_path/f'a.{suffix}', NAMES[kind]
    (np.savez(path, **arrays) if suffix == 'npz' else savemat(path, arrays))
    train, test = load_images(path), load_images(path, 'test')
    assert torch.equal(train.pixels[:, 0], torch.from_numpy(DRAW)) and train.labels.tolist() == [0, 1]*3
    assert test.labels.tolist() == ([1, 0] if len(arrays) == 4 else [0, 1]*3)


def test_kmnist_in_two_files(tmp_path):
    np.savez(tmp_path/'kmnist-train-imgs.npz', DRAW), np.savez(tmp_path/'kmnist-train-labels.npz', np.arange(6))
    assert load_images(tmp_path/'kmnist-train-imgs.npz').labels.tolist() == [*range(6)]


def test_matlab_counts_from_one_and_stacks_along_the_last_axis(tmp_path):
    from scipy.io import savemat
    colour = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)
    savemat(tmp_path/'a.mat', dict(X=colour.transpose(1, 2, 3, 0), y=np.array([[10, 1, 2, 1, 10, 2]]).T))
    found = load_images(tmp_path/'a.mat')
    assert torch.equal(found.pixels, torch.from_numpy(colour).movedim(-1, 1)) and named(found) == ['10', '1', '2', '1', '10', '2']


@pytest.mark.parametrize('column', ['label', 'class', None])
def test_parquet_as_the_hub_has_it(column, tmp_path):
    table = pd.DataFrame({'image': [dict(bytes=png(x), path=None) for x in DRAW]} | ({column: [0, 1]*3} if column else {}))
    (tmp_path/'a.parquet').write_bytes(b'PAR1')
    with mock.patch.object(pd, 'read_parquet', lambda path: table): found = load_images(tmp_path/'a.parquet')
    assert torch.equal(found.pixels[:, 0], torch.from_numpy(DRAW)) and (found.labels is None if column is None else found.labels.tolist() == [0, 1]*3)
    with mock.patch.object(pd, 'read_parquet', side_effect=ImportError('pyarrow')), pytest.raises(InputError, match='needs pandas and pyarrow'): load_images(tmp_path/'a.parquet')


def archive(path, members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, content in members.items(): z.writestr(name, content)
    return path


@pytest.mark.parametrize('above', ['', 'pets/', 'pets/images/'])
def test_an_archive_of_pictures(above, tmp_path):
    path = archive(tmp_path/'pets.zip', {f'{above}{k}/{n}.png': png(DRAW[n]) for k in ('cat', 'ant') for n in range(2)} | {f'__MACOSX/{above}cat/._0.png': b'x', f'{above}cat/9.heic': b'x', f'{above}README.txt': b'x'})
    found, said = told(load_images, path)
    assert (found.classes, named(found), found.name) == (('ant', 'cat'), ['ant', 'ant', 'cat', 'cat'], 'pets.zip')
    assert len(said) == 1 and '1 .heic' in said[0] and 'pets.zip' in said[0] and 'sphere_mnist-' not in said[0] + found.origin


@pytest.mark.parametrize('name', ['../a.png', '/etc/a.png', 'x/../../a.png', '..\\a.png', 'C:\\a.png'])
def test_nothing_is_unpacked_outside(name, tmp_path):
    (tmp_path/'in').mkdir()
    with pytest.raises(InputError, match='leads outside'): unpack(archive(tmp_path/'a.zip', {name: png()}), tmp_path/'in')
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['a.zip', 'in']


def test_an_archive_has_a_limit(tmp_path):
    path = archive(tmp_path/'a.zip', {'a.png': bytes(10**7)})
    (tmp_path/'in').mkdir()
    with mock.patch('shutil.disk_usage', lambda p: mock.Mock(free=10**7)), pytest.raises(InputError, match='unpack to 0.0 GB'): unpack(path, tmp_path/'in')
    assert not [*(tmp_path/'in').iterdir()]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match='cannot be read as an archive'): load_images(path)
    with pytest.raises(InputError, match='a.zip/a.png cannot be read as a picture'): load_images(archive(tmp_path/'a.zip', {'a.png': b'x'}))


@pytest.mark.parametrize('name', ['photo.heic', 'page.pdf', 'data.h5', 'README'])
def test_what_is_not_read_names_what_is(name, tmp_path):
    (tmp_path/name).write_bytes(b'words')
    with pytest.raises(InputError, match='what can be read are pictures, folders of them, .zip'): load_images(tmp_path/name)


@pytest.mark.parametrize('name, content', [('a.csv', b'label,a\n1,x\n'), ('b.csv', b''), ('c.csv.gz', b'no'), ('d.mat', b'no'), ('e.zip', b'no'), ('f.csv', b'\xff\xfe\0'), ('g.csv', b'label,a\n')])
def test_damaged_files_are_one_sentence(name, content, tmp_path):
    (tmp_path/name).write_bytes(content)
    with pytest.raises(InputError, match=f'{name} cannot be read'): load_images(tmp_path/name)


# Arrays

@pytest.mark.parametrize('kind', [np.uint8, np.float32])
@pytest.mark.parametrize('order', [np.s_[::-1], np.s_[:, ::-1], np.s_[::-2, :, ::-1]])
def test_a_reversed_map_is_read(kind, order, tmp_path):
    np.save(tmp_path/'a.npy', DRAW if kind is np.uint8 else DRAW/np.float32(255))
    mapped = np.load(tmp_path/'a.npy', mmap_mode='r')
    assert torch.equal(load_images(mapped[order]).pixels[:, 0], torch.from_numpy(DRAW[order].copy()))
    rows = mapped.reshape(6, 64)[::-1, :63]
    assert torch.equal(load_images(rows).pixels, torch.from_numpy(np.array(rows, np.float32)))


def paths_of(place): return [str(save(place/f'{n}.png', DRAW[n])) for n in range(3)]


@pytest.mark.parametrize('make', [list, tuple, np.array, lambda p: np.array(p, object), pd.Series, lambda p: [*map(Path, p)], lambda p: p[:2]])
def test_paths_are_pictures(make, tmp_path):
    paths = make(paths_of(tmp_path))
    wanted = torch.from_numpy(DRAW[:len(paths)])
    assert torch.equal(load_images(paths).pixels[:, 0], wanted) and torch.equal(read_images(paths).pixels[:, 0], wanted)


def test_paths_with_labels(tmp_path):
    found = load_images((paths_of(tmp_path), ['b', None, 'a']))
    assert named(found) == ['b', None, 'a']
    with pytest.raises(InputError, match='2 labels for 3 pictures'): load_images((paths_of(tmp_path), [0, 1]))
    with pytest.raises(InputError, match='nowhere.png cannot be read'): load_images(['nowhere.png'])


def data_sets(place):
    from torchvision.datasets import ImageFolder, MNIST
    for n, k in enumerate([0, 1, 0]): save(place/'folder'/str(k)/f'{n}.png', DRAW[n])
    tensors = TensorDataset(torch.from_numpy(DRAW[:3, None]), torch.tensor([0, 1, 0]))
    digits = MNIST.__new__(MNIST)
    digits.data, digits.targets = tensors.tensors[0][:, 0], tensors.tensors[1]
    order = [0, 2, 1]
    return dict(TensorDataset=(tensors, range(3)), DataLoader=(DataLoader(tensors, 2, shuffle=True), range(3)), Subset=(Subset(tensors, order), order), ImageFolder=(ImageFolder(place/'folder'), order), MNIST=(digits, range(3)))


@pytest.mark.parametrize('kind', ['TensorDataset', 'DataLoader', 'Subset', 'ImageFolder', 'MNIST'])
def test_data_sets_of_pytorch(kind, tmp_path):
    dataset, order = data_sets(tmp_path)[kind]
    found = load_images(dataset)
    assert torch.equal(found.pixels[:, 0], torch.from_numpy(DRAW[[*order]])) and found.labels.tolist() == [[0, 1, 0][n] for n in order]
    assert torch.equal(read_images(dataset).pixels, found.pixels)


class Generated(Dataset):
    def __getitem__(self, n): return torch.from_numpy(DRAW[n:n + 1])/255, n % 2
    def __len__(self): return 6


@pytest.mark.parametrize('made', [Generated, lambda: DataLoader(Generated(), 2), lambda: ConcatDataset([Generated()])])
def test_other_data_sets_have_a_line_of_code(made):
    dataset = made()
    for read in load_images, read_images:
        with pytest.raises(InputError, match='give (load_images.*), where') as caught: read(dataset)
    line = str(caught.value).partition('give ')[2].partition(', where')[0]
    if not isinstance(dataset, DataLoader): assert torch.equal(eval(line, dict(globals(), dataset=dataset)).pixels[:, 0], torch.from_numpy(DRAW))


@pytest.mark.parametrize('X', [[DRAW[0], DRAW[1, :5]], [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], [torch.zeros(8, 8).byte(), torch.zeros(3, 3).byte()]])
def test_pictures_of_different_sizes_have_a_line_of_code(X):
    for read in load_images, read_images:
        with pytest.raises(InputError, match='differ in shape') as caught: read(X)
    line = str(caught.value).partition('or ')[2]
    assert eval(line, dict(globals(), X=X)).shape[1:] == (64, 64)


@pytest.mark.parametrize('shape, remedy', [((5, 9, 8, 4), 'X[..., :3]'), ((5, 4, 9, 8), 'X[:, :3]'), ((5, 9, 8, 3), None), ((5, 1, 9, 8), None)])
def test_four_channels_are_told(shape, remedy):
    found, said = told(load_images, np.zeros(shape, np.uint8))
    assert [remedy in s for s in said] == ([True] if remedy else []) and len(found) == 5


@pytest.mark.parametrize('X, told_of', [(DRAW.reshape(6, 64), True), (DRAW.reshape(6, 64).astype(np.int64), True), (DRAW.reshape(6, 64)*1., True), (DRAW.reshape(6, 64)/255, False),
                                        (DRAW.reshape(6, 64)[:, :63], False), (DRAW.reshape(6, 64)//16, False)])
def test_pictures_laid_flat_are_told(X, told_of):
    X = X.copy(); X[0, 0] = 0
    found, said = told(load_images, X)
    assert found.is_features and [s for s in said if 'X.reshape(-1, 8, 8)' in s] == said and len(said) == told_of
    _, said = told(SphericalClusterer(n_clusters=2, epochs=1, batch_size=6, random_state=0, device='cpu').fit, X)
    assert [s for s in said if 'image_shape=(8, 8)' in s] == said and len(said) == told_of
    _, said = told(SphericalClusterer(n_clusters=2, epochs=1, batch_size=6, random_state=0, device='cpu', image_shape=(1, 8, X.shape[1]//8)).fit, X.astype(np.uint8)) if X.shape[1] == 64 and told_of else (0, [])
    assert not said


# Labels

NONES = {'-1': -1, 'None': None, 'nan': np.nan, 'NA': pd.NA, 'empty': '', 'bytes': b'', 'float32 nan': np.float32('nan'), 'NaT': pd.NaT, 'text': '-1'}


@pytest.mark.parametrize('none', NONES)
@pytest.mark.parametrize('make', [list, lambda y: np.array(y, object), lambda y: pd.Series(y, dtype=object)])
def test_no_label_is_no_label_everywhere(none, make):
    y = make(['cat', NONES[none], 'ant', 'cat'])
    labels, classes = as_labels(y)
    assert (labels.tolist(), classes) == ([1, -1, 0, 1], ('ant', 'cat'))
    assert load_images((DRAW[:4], y)).labels.tolist() == [1, -1, 0, 1]
    labels, classes = read_labels(y, 4)
    assert (labels.tolist(), classes.tolist()) == ([1, -1, 0, 1], ['ant', 'cat'])
    y = make([2, NONES[none], 0, 2])
    assert as_labels(y)[0].tolist() == [2, -1, 0, 2] and read_labels(y, 4)[0].tolist() == [1, -1, 0, 1]
    assert as_labels(make([NONES[none]]*3))[0].tolist() == [-1]*3 and not len(read_labels(make([NONES[none]]*3), 3)[1])


@pytest.mark.parametrize('y', [np.array(['cat', -1, 'ant']), np.array(['cat', np.nan, 'ant']), np.array([b'cat', b'', b'ant']), pd.array(['cat', None, 'ant'], dtype='string'), pd.Series(['cat', None, 'ant'], dtype='category')])
def test_what_numpy_and_pandas_make_of_them(y):
    assert as_labels(y)[0].tolist() == [1, -1, 0] and read_labels(y, 3)[0].tolist() == [1, -1, 0]


@pytest.mark.parametrize('y', [pd.array([1, None, 0], dtype='Int64'), np.array([1, np.nan, 0]), torch.tensor([1, -1, 0]), torch.tensor([[1.], [-1], [0]]), [True, None, False]])
def test_numbers(y): assert as_labels(y)[0].tolist() == [1, -1, 0] and read_labels(y, 3)[0].tolist() == [1, -1, 0]


def test_a_class_may_be_called_none():
    assert as_labels(['None', 'mild', 'None'])[1] == ('None', 'mild')


@pytest.mark.parametrize('none', [-1, None, np.nan])
def test_a_grid_search_with_few_labels(none):
    from sklearn.model_selection import GridSearchCV
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(20, 4)), rng.normal(5, size=(20, 4))])[rng.permutation(40)]
    y = np.array([int(x.mean() > 2.5) if n < 8 else none for n, x in enumerate(X)], object if none is None else None)
    search = GridSearchCV(SphericalClusterer(n_clusters=2, epochs=2, batch_size=10, random_state=0, device='cpu'), dict(dim=[2, 4]), cv=4, refit=False).fit(X, y)
    assert np.isfinite(search.cv_results_['mean_test_score']).all()


@pytest.mark.parametrize('column', ['label', None])
def test_a_real_parquet_file(column, tmp_path):
    pytest.importorskip('pyarrow')
    table = pd.DataFrame({'image': [dict(bytes=png(x), path=None) for x in DRAW]} | ({column: [0, 1]*3} if column else {}))
    table.to_parquet(tmp_path/'a.parquet')
    found = load_images(tmp_path/'a.parquet')
    assert torch.equal(found.pixels[:, 0], torch.from_numpy(DRAW)) and (found.labels is None if column is None else found.labels.tolist() == [0, 1]*3)


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems make no such names')
@pytest.mark.parametrize('odd', [b'a/\xff3.png', b'b\xfe/3.png', b'a/deep\xe9/3.png'])
def test_names_in_another_encoding_are_told_first(odd, tmp_path, capsys):
    for name in (b'a/1.png', b'a/2.png', odd):
        path = os.fsencode(tmp_path) + b'/' + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.new('L', (8, 8), 9).save(os.fsdecode(path))
    shown = visible(os.fsdecode(odd))
    with pytest.raises(InputError, match=re.escape(f'{shown} has a name that is not text in UTF-8: rename it')): load_images(tmp_path)
    for words in (['cluster', '--data', str(tmp_path), '--out', str(tmp_path/'run')], ['check', str(tmp_path), '--out', str(tmp_path/'audit.csv')]):
        assert main(words) == 2 and shown in capsys.readouterr().err
    assert not (tmp_path/'run').exists() and not (tmp_path/'audit.csv').exists()
