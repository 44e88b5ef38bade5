"""Input that cannot be used: each case ends in the right exception with one sentence, and leaves the folder as it was."""
import gzip, io, json, os, pickle, re, shutil, warnings
from pathlib import Path
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError
from sphere_mnist import cli, clustering, commands, datasets, look_again, sources
from sphere_mnist.data import Images, InputError, exemplar_indices, load_images
from sphere_mnist.estimator import CLUSTERERS, MetricEmbedder, SphericalClusterer, read_labels
from sphere_mnist.predict import predict_digits
from sphere_mnist.share import load_system
from sphere_mnist.sources import load_exemplars

QUICK = dict(n_clusters=3, epochs=1, batch_size=12, random_state=0, device='cpu', precision='float32')
RNG = np.random.default_rng(0)
ROWS, PIXELS, Y = RNG.normal(size=(24, 4)), RNG.integers(0, 256, (24, 8, 8), dtype=np.uint8), np.arange(24) % 3
FEW = settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


class Trap:
    "A pickle that leaves a file where it is loaded."
    def __reduce__(self): return Path.touch, (Path('sprung'),)


def png(array, **options):
    Image.fromarray(array).save(data := io.BytesIO(), 'png', **options)
    return data.getvalue()


def npy_header(shape, descr='|u1'):
    "The start of a .npy file that claims a shape."
    head = repr(dict(descr=descr, fortran_order=False, shape=shape)).encode()
    head += b' '*(63 - (len(head) + 10) % 64) + b'\n'
    return b'\x93NUMPY\x01\x00' + len(head).to_bytes(2, 'little') + head


POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(sprung) (w) file closefile\nshowpage\n'


RAMP = np.repeat(np.arange(8, dtype=np.uint8)[None]*30, 8, 0)


def as_format(kind, mode='L'):
    "A picture in one of Pillow's formats."
    Image.fromarray(RAMP).convert(mode).save(data := io.BytesIO(), kind)
    return data.getvalue()


def picture_bomb(width, height):
    "A PNG of 100 bytes whose header claims millions of pixels."
    import struct, zlib
    def chunk(kind, body): return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(bytes(64))) + chunk(b'IEND', b''))


@pytest.fixture(scope='session')
def template(tmp_path_factory):
    "A folder with everything that a case needs, and a finished run."
    here, before = tmp_path_factory.mktemp('template'), os.getcwd()
    os.chdir(here)
    patch = pytest.MonkeyPatch()
    for room in (clustering, look_again): patch.setattr(room, 'run_figures', lambda *args, **kw: [])
    try:
        for n in range(3):
            for k in 'ab':
                Path('good', k).mkdir(parents=True, exist_ok=True)
                Path('good', k, f'{n}.png').write_bytes(png(PIXELS[n]))
        picture = png(PIXELS[0])
        files = {
            'empty.png': b'', 'truncated.png': picture[:60], 'text.png': b'not a picture', 'array.png': npy_header((1, 1)) + b'\0',
            'bomb.png': picture_bomb(20_000, 20_000), 'bigger.png': picture_bomb(2**31 - 1, 2**31 - 1), 'lies.png': picture_bomb(64, 64),
            'empty.npy': b'', 'picture.npy': picture, 'pickle.npy': pickle.dumps(Trap()), 'cut.npy': npy_header((10, 8, 8)) + bytes(100),
            'huge.npy': npy_header((10**15, 8, 8)), 'negative.npy': npy_header((-1, 8, 8)) + bytes(64), 'code.npy': npy_header((1, 8, 8), '__import__("os")'),
            'empty.npz': b'', 'text.npz': b'not a zip', 'plain.zip.npz': b'PK\x05\x06' + bytes(18), 'README': b'text',
            'cat.png': POSTSCRIPT, 'page.jpg': as_format('pdf'), 'chart.bmp': as_format('im'), 'drawing.gif': as_format('eps'), 'wide.tif': as_format('sgi'),
            'exif.png': picture, 'one.npy': npy_header((8, 8)) + bytes(64)}
        for name, content in files.items(): Path(name).write_bytes(content)
        with open('object.npy', 'wb') as f: np.save(f, np.array([Trap(), Trap()], object), allow_pickle=True)
        np.savez('object.npz', x=np.array([Trap()]*4, object), allow_pickle=True)
        np.savez('whole.npz', x=PIXELS, y=Y)
        whole = Path('whole.npz').read_bytes()
        Path('cut.npz').write_bytes(whole[:len(whole)//2])
        Path('flipped.npz').write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
        for name, arrays in dict(nothing={}, names=dict(a=PIXELS), labels=dict(x=PIXELS, y=Y[:5]), onehot=dict(x=PIXELS, y=np.eye(3)[Y]),
                                 words=dict(x=np.array(['a', 'b'])), classes=dict(x=PIXELS, y=Y, classes=np.array(['a'])),
                                 class_0d=dict(x=PIXELS, y=Y, classes=np.array(3)), half=dict(x_train=PIXELS, y_train=Y),
                                 nan=dict(x=np.where(ROWS > 1.5, np.nan, ROWS)), gap=dict(x=PIXELS, y=Y*2), wide=dict(x_train=PIXELS, x_test=np.pad(PIXELS, [(0, 0), (0, 0), (0, 1)])),
                                 grey=dict(x_train=PIXELS, x_test=np.stack([PIXELS]*3, -1)), columns=dict(x_train=ROWS, x_test=ROWS[:, 1:]), dates=dict(x=PIXELS, y=Y.astype('M8[D]'))).items():
            np.savez(f'{name}.npz', **arrays)
        np.savez('range.npz', x=PIXELS/100, y=Y)
        np.savez('lacks.npz', x=PIXELS, y=np.array([0, 1, 3, 4]*6))
        np.savez('few.npz', x=PIXELS[:6], y=Y[:6] % 2)
        np.savez('plain.npz', x=PIXELS)
        for folder in ('empty', 'taken', 'texts', 'no_pictures', 'labels_twice', 'labels_without_head', 'empty_class/a', 'empty_class/b', 'only_train/train', 'one_sorted/train/a', 'one_sorted/test',
                       'links', 'dead_link', 'loop', 'broken', 'postscript'): Path(folder).mkdir(parents=True)
        for place in ('labels_twice', 'labels_without_head', 'empty_class/a', 'only_train/train', 'one_sorted/train/a', 'one_sorted/test', 'broken', 'postscript'):
            Path(place, '1.png').write_bytes(picture)
        Path('labels_twice/labels.csv').write_text('picture,label\n1.png,a\n1.png,b\n')
        Path('labels_without_head/labels.csv').write_text('1.png,a\n')
        Path('broken/2.png').write_bytes(picture[:60])
        Path('texts/a.png').write_text('no picture')
        Path('taken/notes.txt').touch()
        Path('postscript/2.png').write_bytes(POSTSCRIPT)
        Path('links/1.png').symlink_to('/etc/passwd')
        Path('dead_link/1.png').symlink_to('../nowhere.png')
        Path('loop/1.png').symlink_to('1.png')
        os.mkfifo('pipe.npy'), os.mkfifo('pipe.png')
        raw = Path('idx/MNIST/raw')
        raw.mkdir(parents=True)
        for name in datasets.RAW_FILES: (raw/name).write_bytes(b'\0\0\x08\x03' + (2**31 - 1).to_bytes(4, 'big')*3)
        other = Path('bomb/MNIST/raw')
        other.mkdir(parents=True)
        for name in datasets.RAW_FILES: (other/f'{name}.gz').write_bytes(gzip.compress(b'\0\0\x08\x03' + bytes(2**22)))
        Path('text').mkdir()
        # A run, an estimator and an unfinished run
        assert cli.main('cluster --data whole.npz --preset published --epochs 2 --batch-size 12 --out run'.split()) == 0
        SphericalClusterer(**QUICK, dim=4).fit(ROWS, Y).save_pretrained('estimator')
        shutil.copytree('run', 'open')
        Path('open/result.json').unlink()
    finally: # before the first test, and not after the last of the session: others draw their figures
        patch.undo()
        os.chdir(before)
    return here


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    "A copy of the template, in which the test runs."
    shutil.copytree(template, tmp_path/'here', symlinks=True, ignore=lambda folder, names: [n for n in names if n.startswith('pipe.')])
    monkeypatch.chdir(tmp_path/'here')
    os.mkfifo('pipe.npy'), os.mkfifo('pipe.png')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setenv('SPHERE_MNIST_DATA', str(tmp_path/'nowhere'))
    for room in (clustering, look_again): monkeypatch.setattr(room, 'run_figures', lambda *args, **kw: [])
    return tmp_path/'here'


def listing():
    "Every path here, with its size and times; a folder's time tells of files that came and went."
    return {p: (s.st_size, s.st_mtime_ns) for p in [Path(), *sorted(Path().rglob('*'))] if (s := p.lstat())}


REMEDY = re.compile(r'(?:[:;,.] |\b(?:or|and|so|then) )(?:add|ask|bring|call|check|choose|convert|copy|delete|fill|give|go|install|keep|leave|load|lower|make'
                    r'|name|number|put|remove|rename|replace|rescale|reshape|resize|restore|resume|save|scale|see|sort|start|train|try|use|wait)\b|did you mean|known are|: it has --|: pip install', re.I)
VALUE = re.compile(r"""\d|["'/]\w|\w\.\w|--\w|\barguments?:? \w|\b(?:nan|inf|None|True)\b|\[\]|shape \(""", re.I) # a number, a word quoted, a path, an argument
NO_VALUE = ('no pictures', 'no exemplars', 'exemplars need labels', 'y and pictures both', 'array has no labels', # nothing was given, or two things
            'such a tensor', 'an array of object', 'the images differ in shape', 'labels differ in length', 'These weights belong to another') # too much
OF_SKLEARN = ('Found array with', 'X has', "dtype='numeric'", 'Complex data', 'Sparse data', 'Input X contains') # its own sentences


def sentence(text, fragment):
    "One sentence that says what is wrong, with its value, and what to do."
    assert fragment in text, text
    assert '\n' not in text and 20 < len(text) < 700, text
    text = text.removeprefix('sphere_mnist: ')
    if text.startswith(OF_SKLEARN): return
    assert REMEDY.search(text), text
    assert text.startswith(NO_VALUE) or VALUE.search(text) or any(os.path.lexists(word.strip('(),:;.')) for word in text.split()), text


def refused(call, fragment, kind=InputError):
    "The call ends in an exception of that kind, and nothing has changed."
    before = listing()
    with pytest.raises(Exception) as caught: call()
    assert type(caught.value) is kind, repr(caught.value)
    sentence(str(caught.value), fragment)
    assert listing() == before and not Path('sprung').exists()


f8, zeros = np.float64, np.zeros
LOADING = dict( # name -> what is loaded, a fragment of the sentence
    nothing=(lambda: load_images(None), 'no data given'),
    a_number=(lambda: load_images(5), 'shape ()'),
    bytes=(lambda: load_images(b'abc'), 'is not images'),
    a_dict=(lambda: load_images(dict(x=PIXELS)), 'is not images'),
    a_set=(lambda: load_images({1, 2}), 'is not images'),
    a_function=(lambda: load_images(len), 'is not images'),
    an_empty_list=(lambda: load_images([]), 'shape (0,)'),
    an_empty_array=(lambda: load_images(zeros((0, 8, 8))), 'shape (0, 8, 8)'),
    no_width=(lambda: load_images(zeros((3, 8, 0))), 'shape (3, 8, 0)'),
    one_dimension=(lambda: load_images(zeros(8)), 'shape (8,)'),
    five_dimensions=(lambda: load_images(zeros((1, 1, 1, 8, 8))), 'shape (1, 1, 1, 8, 8)'),
    ragged=(lambda: load_images([[1, 2], [3]]), 'differ in shape'),
    ragged_arrays=(lambda: load_images([zeros((8, 8)), zeros((9, 8))]), 'differ in shape'),
    complex=(lambda: load_images(zeros((3, 8, 8), complex)), 'complex128 is not images'),
    strings=(lambda: load_images(np.array([['a', 'b']])), 'is not images'),
    objects=(lambda: load_images(np.array([[None, 1]])), 'object is not images'),
    dates=(lambda: load_images(zeros((3, 8, 8), 'M8[s]')), 'datetime64[s] is not images'),
    sparse=(lambda: load_images(scipy.sparse.eye(5)), 'is not images'),
    sparse_tensor=(lambda: load_images(torch.eye(5).to_sparse()), 'is not images'),
    a_tensor_without_values=(lambda: load_images(torch.zeros(3, 8, 8, device='meta')), 'is not images'),
    complex_tensor=(lambda: load_images(torch.zeros(3, 8, 8, dtype=torch.complex64)), 'is not images'),
    nan=(lambda: load_images(np.where(PIXELS > 250, np.nan, PIXELS/255)), 'NaN or infinity, first in row'),
    nan_tensor=(lambda: load_images(torch.full((3, 4), torch.nan)), 'first in row 0'),
    infinity=(lambda: load_images(np.array([[0, 1], [np.inf, 0]])), 'first in row 1'),
    minus_infinity=(lambda: load_images(np.array([[0, 1], [-np.inf, 0]])), 'first in row 1'),
    overflow=(lambda: load_images(np.full((2, 3), 1e300)), 'overflow float32'),
    above_one=(lambda: load_images(PIXELS*1.), 'scale floats to [0, 1]'),
    below_zero=(lambda: load_images(PIXELS/255 - .5), 'scale floats to [0, 1]'),
    sixteen_bits=(lambda: load_images(PIXELS.astype('u2')*257), 'integers in 0 to 255'),
    negative_integers=(lambda: load_images(PIXELS.astype(int) - 5), 'integers in 0 to 255'),
    huge_integers=(lambda: load_images(np.full((2, 8, 8), 2**63, np.uint64)), 'integers in 0 to 255'),
    an_image_and_an_image=(lambda: load_images((PIXELS, PIXELS)), 'labels of shape'),
    labels_too_few=(lambda: load_images((PIXELS, Y[:5])), '5 labels for 24 images'),
    labels_infinite=(lambda: load_images((PIXELS, [np.inf]*24)), 'are not classes'),
    labels_mixed=(lambda: load_images((PIXELS, ['a', 1]*12)), 'mixes names and numbers'),
    labels_of_bytes_that_are_no_text=(lambda: load_images((PIXELS, [b'\xff']*24)), 'not text in UTF-8'),
    labels_fractions=(lambda: load_images((PIXELS, Y + .5)), 'are not classes'),
    labels_negative=(lambda: load_images((PIXELS, Y - 2)), 'number the classes from 0'),
    labels_huge=(lambda: load_images((PIXELS, Y + 10**9)), 'number the classes from 0'),
    labels_beyond_64_bits=(lambda: load_images((PIXELS, [10**30]*24)), 'labels'),
    labels_one_beyond_64_bits=(lambda: load_images((PIXELS, [0]*23 + [10**30])), 'labels'),
    labels_beyond_64_bits_as_float=(lambda: load_images((PIXELS, np.full(24, 1e30))), 'labels beyond 2**63 are not classes'),
    labels_complex=(lambda: load_images((PIXELS, Y*1j)), 'are not classes'),
    labels_dates=(lambda: load_images((PIXELS, Y.astype('M8[s]'))), 'are not classes'),
    labels_ragged=(lambda: load_images((PIXELS, [[1], [1, 2]]*12)), 'labels'),
    labels_ragged_objects=(lambda: load_images((PIXELS, np.array([[1], [1, 2]]*12, object))), 'labels'),
    labels_onehot=(lambda: load_images((PIXELS, np.eye(3)[Y])), 'labels of shape'),
    labels_empty=(lambda: load_images((PIXELS, [])), 'labels of shape'),
    images_of_floats=(lambda: Images(torch.zeros(3, 1, 8, 8)), 'use load_images'),
    images_without_rows=(lambda: Images(torch.zeros(0, 4)), 'holds no images'),
    images_of_int_labels=(lambda: Images(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int32)), 'one int64 label'),
    images_beyond_classes=(lambda: Images(torch.zeros(2, 4), torch.tensor([0, 5]), ('a', 'b')), 'labels run from 0 to 5'),
    unknown_split=(lambda: load_images('digits', 'tset'), "unknown split 'tset'"),
    a_split_of_lists=(lambda: load_images('digits', ['train']), 'unknown split'),
    too_few_to_divide=(lambda: load_images(PIXELS[:2], 'validation'), 'too few'),
    unknown_name=(lambda: load_images('minst'), "did you mean 'mnist'"),
    empty_name=(lambda: load_images(' '), 'is empty'),
    long_name=(lambda: load_images('x'*5000), 'unknown data'),
    name_with_zero=(lambda: load_images('a\0b'), 'unknown data'),
    no_such_file=(lambda: load_images('nowhere.npz'), 'does not exist'),
    no_such_path=(lambda: load_images(Path('nowhere')), 'does not exist'),
    data_dir_is_a_file=(lambda: load_images('mnist', data_dir='README', download=False), 'is not a folder'),
    lying_idx=(lambda: load_images('mnist', data_dir='idx', download=False), 'is damaged'),
    idx_bomb=(lambda: load_images('mnist', data_dir='bomb', download=False), 'is damaged'),
    size_zero=(lambda: load_images(PIXELS, image_size=0), 'image_size 0'),
    size_negative=(lambda: load_images(PIXELS, image_size=-8), 'image_size -8'),
    size_fraction=(lambda: load_images(PIXELS, image_size=8.5), 'image_size 8.5'),
    size_word=(lambda: load_images(PIXELS, image_size='big'), "image_size 'big'"),
    size_true=(lambda: load_images(PIXELS, image_size=True), 'image_size True'),
    size_of_three=(lambda: load_images(PIXELS, image_size=(8, 8, 8)), 'image_size (8, 8, 8)'),
    size_absurd=(lambda: load_images(PIXELS, image_size=10**6), '1 to 1024'),
    size_of_features=(lambda: load_images(ROWS, image_size=8), 'leave it out'),
    **{f'npy_{name}': (lambda name=name: load_images(f'{name}.npy'), 'cannot be read as a NumPy file') for name in
       ('empty', 'picture', 'pickle', 'cut', 'huge', 'negative', 'code', 'object')},
    npy_two_dimensions=(lambda: load_images('one.npy', image_size=8), 'image_size 8 for features'),
    npy_pipe=(lambda: load_images('pipe.npy'), 'pipe.npy'),
    **{f'npz_{name}': (lambda name=name: load_images(f'{name}.npz'), 'cannot be read as a NumPy file') for name in
       ('empty', 'text', 'object', 'cut')},
    npz_without_arrays=(lambda: load_images('plain.zip.npz'), 'holds nothing'),
    npz_nothing=(lambda: load_images('nothing.npz'), 'holds nothing'),
    npz_names=(lambda: load_images('names.npz'), 'name its arrays x and y'),
    npz_half=(lambda: load_images('half.npz'), 'name its arrays x and y'),
    npz_labels=(lambda: load_images('labels.npz'), '5 labels for 24 images'),
    npz_onehot=(lambda: load_images('onehot.npz'), '72 labels for 24 images'),
    npz_words=(lambda: load_images('words.npz'), 'is not images'),
    npz_nan=(lambda: load_images('nan.npz'), 'NaN or infinity'),
    npz_dates=(lambda: load_images('dates.npz'), 'are not classes'),
    npz_classes=(lambda: load_images('classes.npz'), 'labels run from 0 to 2'),
    npz_class_without_list=(lambda: load_images('class_0d.npz'), 'labels run from 0 to 2'),
    no_picture=(lambda: load_images('README'), 'cannot be read as a picture'),
    **{f'picture_{name}': (lambda name=name: load_images(f'{name}.png'), 'cannot be read as a picture') for name in
       ('empty', 'truncated', 'text', 'array', 'bomb', 'bigger', 'lies', 'pipe')},
    **{f'another_format_{Path(name).stem}': (lambda name=name: load_images(name), f'{name} cannot be read as a picture (it is none of PNG, JPEG')
       for name in ('cat.png', 'page.jpg', 'chart.bmp', 'drawing.gif', 'wide.tif')},
    another_format_as_exemplar=(lambda: load_exemplars(dict(a='cat.png'), load_images(PIXELS)), 'cat.png cannot be read as a picture (it is none of'),
    another_format_as_digit=(lambda: predict_digits(['cat.png']), 'cat.png cannot be read as a picture (it is none of'),
    no_pictures=(lambda: load_images('no_pictures'), 'holds no pictures'),
    labels_twice=(lambda: load_images('labels_twice'), 'calls 1.png both a and b'),
    labels_without_head=(lambda: load_images('labels_without_head'), 'picture,label'),
    empty_class=(lambda: load_images('empty_class'), 'add some or remove it'),
    only_train=(lambda: load_images('only_train'), 'add the other'),
    one_sorted=(lambda: load_images('one_sorted'), 'sort both, or neither'),
    a_link_to_no_picture=(lambda: load_images('links'), 'cannot be read as a picture'),
    a_dead_link=(lambda: load_images('dead_link'), 'leads nowhere'),
    a_loop_of_links=(lambda: load_images('loop'), 'leads nowhere'),
    exemplars_without_labels=(lambda: exemplar_indices(None), 'need labels'),
    exemplars_of_nothing=(lambda: exemplar_indices(torch.tensor([], dtype=torch.long)), 'no image is labelled'),
    exemplars_unlabelled=(lambda: exemplar_indices(torch.tensor([-1, -1])), 'no image is labelled at all'),
    exemplars_with_a_gap=(lambda: exemplar_indices(torch.tensor([0, 2])), 'no image is labelled 1'),
    exemplars_missing_class=(lambda: exemplar_indices(torch.tensor([0, 1]), n_classes=4), 'no image is labelled 2, 3'),
    draw_negative=(lambda: exemplar_indices(torch.tensor(Y), -1), 'draw -1'),
    draw_word=(lambda: exemplar_indices(torch.tensor(Y), 'first'), "draw 'first'"),
    draw_fraction=(lambda: exemplar_indices(torch.tensor(Y), 1.5), 'draw 1.5'),
    draw_true=(lambda: exemplar_indices(torch.tensor(Y), True), 'draw True'),
    draw_duplicate=(lambda: exemplar_indices(torch.tensor(Y), [0, 0, 1, 2]), 'exemplar 0 is given twice'),
    draw_two_of_a_class=(lambda: exemplar_indices(torch.tensor(Y), [0, 3, 1]), 'class 2 has no exemplar'),
    draw_missing=(lambda: exemplar_indices(torch.tensor(Y), [0, 1]), 'class 2 has no exemplar'),
    draw_outside=(lambda: exemplar_indices(torch.tensor(Y), [0, 1, 99]), 'exemplar 99 is outside'),
    draw_empty=(lambda: exemplar_indices(torch.tensor(Y), []), 'draw []'),
    pictures_none=(lambda: load_exemplars({}, load_images(PIXELS)), 'no exemplars'),
    pictures_list=(lambda: load_exemplars(['good/a/0.png'], load_images(PIXELS)), 'no exemplars'),
    pictures_same_name=(lambda: load_exemplars({1: 'good/a/0.png', '1': 'good/a/1.png'}, load_images(PIXELS)), "named '1'"),
    pictures_of_features=(lambda: load_exemplars(dict(a='good/a/0.png'), load_images(ROWS)), 'give positions'),
    pictures_folder=(lambda: load_exemplars(dict(a='good'), load_images(PIXELS)), 'good cannot be read'),
    pictures_no_path=(lambda: load_exemplars(dict(a=3.5), load_images(PIXELS)), '3.5 cannot be read'),
    digit_of_one_pixel=(lambda: predict_digits([torch.zeros(1, 1, 1, dtype=torch.uint8)]), '1 x 1 pixels'),
    digit_10_000_wide=(lambda: predict_digits([torch.zeros(1, 1, 10_000, dtype=torch.uint8)]), '10000 x 1 pixels'),
    digit_on_nothing=(lambda: predict_digits([torch.full((3, 50, 50), 200, dtype=torch.uint8)]), 'more contrast'),
    digit_without_pictures=(lambda: predict_digits([]), 'no pictures'))


@pytest.mark.parametrize('case', LOADING)
def test_loading(case, here): refused(*LOADING[case])


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    "A program of Ghostscript's name that leaves a file where it is started."
    from PIL import EpsImagePlugin
    (tmp_path/'bin').mkdir()
    program = tmp_path/'bin'/'gs'
    program.write_text('#!/bin/sh\ntouch sprung\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path/'bin'), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, 'gs_binary', None) # what Pillow remembers of its search


@pytest.mark.parametrize('load', [lambda: load_images('cat.png'), lambda: predict_digits(['drawing.gif'])])
def test_a_picture_starts_no_program(load, here, ghostscript): refused(load, 'it is none of PNG, JPEG, BMP, GIF, WEBP, TIFF')


def test_the_program_would_start(here, ghostscript):
    with Image.open('cat.png') as picture, pytest.raises(Exception): picture.load()
    assert Path('sprung').exists() # so the test above can fail


@pytest.mark.parametrize('kind, suffix', [(kind, suffix) for kind, suffixes in sources.FORMATS.items() for suffix in suffixes] + [('MPO', '.jpg'), ('PNG', '.gif')])
def test_every_promised_format_is_read(kind, suffix, tmp_path):
    picture = tmp_path/f'a{suffix}'
    picture.write_bytes(as_format(kind, 'RGB'))
    pixels = load_images(picture).pixels.float().mean((0, 1)) # the format counts, not the name
    assert pixels.shape == (8, 8) and np.abs(pixels.numpy() - RAMP).max() < 12


def fit(X=ROWS, y=None, exemplars=None, cls=SphericalClusterer, **changed): return lambda: cls(**QUICK | changed).fit(X, y, exemplars)


def fitted(): return SphericalClusterer.from_pretrained('estimator')


ESTIMATING = dict(
    no_X=(fit(None), 'Expected 2D array'),
    a_number=(fit(5), 'Expected 2D array'),
    one_row=(fit(ROWS[:1]), 'minimum of 2 is required'),
    no_columns=(fit(ROWS[:, :0]), '0 feature(s)'),
    no_rows=(fit(ROWS[:0]), '0 sample(s)'),
    one_dimension=(fit(ROWS[0]), 'Expected 2D array'),
    nan=(fit(np.where(ROWS > 1, np.nan, ROWS)), 'contains NaN'),
    infinity=(fit(np.where(ROWS > 1, np.inf, ROWS)), 'contains infinity'),
    complex=(fit(ROWS*1j), 'Complex data not supported'),
    words=(fit(np.array([['a', 'b'], ['c', 'd']])), 'a'),
    overflow=(fit(ROWS*1e300), 'overflow float32'),
    nan_images=(fit(np.full((4, 8, 8), np.nan)), 'NaN or infinity'),
    images_out_of_range=(fit(PIXELS*1.), 'scale floats'),
    one_image=(fit(PIXELS[:1]), 'training set of 1'),
    tiny_images=(fit(PIXELS[:, :1, :1]), '1 x 1 pixels'),
    wide_images=(fit(zeros((4, 8, 200))), '8 x 200 pixels'),
    nowhere=(fit('nowhere.npz'), 'does not exist'),
    pictures_nowhere=(fit(['nowhere.png']), 'nowhere.png cannot be read'),
    y_short=(fit(y=[1, 2]), 'y has shape (2,)'),
    y_infinite=(fit(y=[np.inf]*24), 'are not classes'),
    y_beyond_64_bits=(fit(y=[0]*23 + [10**30]), 'labels beyond 2**63'),
    y_fractions=(fit(y=Y + .5), "such as '0.5' are not classes"),
    y_complex=(fit(y=Y + 1j), "such as '1j' are not classes"),
    y_mixed=(fit(y=np.array(['a', 1]*12, object)), 'mixes names and numbers'),
    y_onehot=(fit(y=np.eye(3)[Y]), 'y has shape (24, 3)'),
    y_and_pictures=(fit(PIXELS, Y, dict(a='good/a/0.png')), 'give one of them'),
    exemplars_without_y=(fit(exemplars=[0, 1, 2]), 'need the labels'),
    exemplars_outside=(fit(y=Y, exemplars=[0, 1, 99]), '99 is outside'),
    exemplars_twice=(fit(y=Y, exemplars=[0, 0, 1, 2]), 'exemplar 0 is given twice'),
    exemplars_missing=(fit(y=Y, exemplars=[0, 1]), 'has no exemplar'),
    exemplars_word=(fit(y=Y, exemplars='best'), "draw 'best'"),
    exemplars_of_features=(fit(exemplars=dict(a='good/a/0.png')), 'give positions'),
    exemplars_none_per_class=(fit(y=Y, exemplars_per_class=0), 'exemplars_per_class is 0'),
    exemplars_half_per_class=(fit(y=Y, exemplars_per_class=.5), 'exemplars_per_class is 0.5'),
    clusters_zero=(fit(n_clusters=0), '0 clusters'),
    clusters_one=(fit(n_clusters=1), '1 clusters'),
    clusters_negative=(fit(n_clusters=-3), '-3 clusters'),
    clusters_fraction=(fit(n_clusters=2.5), 'n_clusters is 2.5'),
    clusters_word=(fit(n_clusters='ten'), "n_clusters is 'ten'"),
    clusters_nan=(fit(n_clusters=np.nan), 'n_clusters is nan'),
    clusters_many=(fit(n_clusters=10**9), '1000000000 clusters for 24 images'),
    epochs_negative=(fit(epochs=-1), 'epochs is -1'),
    epochs_fraction=(fit(epochs=1.5), 'epochs is 1.5'),
    epochs_word=(fit(epochs='few'), "epochs is 'few'"),
    batch_of_one=(fit(batch_size=1), 'batch_size is 1'),
    batch_fraction=(fit(batch_size=2.5), 'batch_size is 2.5'),
    batch_nothing=(fit(batch_size=0), 'batch_size is 0'),
    lr_negative=(fit(lr=-1), 'learning rate'),
    lr_nan=(fit(lr=np.nan), 'not a schedule'),
    lr_infinite=(fit(lr=np.inf), 'not a schedule'),
    lr_word=(fit(lr='fast'), 'not a schedule'),
    lr_shape=(fit(lr=[1, 0, 'sine']), 'not a schedule'),
    weights_unknown=(fit(weights=dict(clutser=1)), "did you mean 'cluster'"),
    weights_nan=(fit(weights=dict(cluster=np.nan)), 'not a schedule'),
    weights_negative=(fit(weights=dict(cluster=-1)), 'The weight of'),
    weights_word=(fit(weights='cluster'), 'unknown loss term'),
    preset_unknown=(fit(preset='fats'), "did you mean 'fast'"),
    preset_number=(fit(preset=3), 'unknown preset'),
    device_unknown=(fit(device='warp9'), "'warp9' is not available"),
    device_number=(fit(device=99), 'is not available'),
    precision_unknown=(fit(precision='float8'), "unknown precision 'float8'"),
    seed_word=(fit(random_state='x'), 'random_state'),
    seed_negative=(fit(random_state=-1), 'random_state is -1'),
    shape_wrong=(fit(image_shape=(3, 3)), 'image_shape (3, 3)'),
    shape_number=(fit(image_shape=4), 'image_shape (4,)'),
    shape_negative=(fit(image_shape=(-2, -2)), 'image_shape (-2, -2)'),
    shape_word=(fit(image_shape='2x2'), 'image_shape'),
    dim_zero=(fit(dim=0), 'dim is 0'),
    dim_negative=(fit(dim=-4), 'dim is -4'),
    dim_fraction=(fit(dim=4.5), 'dim is 4.5'),
    dim_word=(fit(dim='four'), "dim is 'four'"),
    kappa_nan=(fit(kappa=np.nan), 'kappa is nan'),
    kappa_negative=(fit(kappa=-1.), 'kappa is -1'),
    warp_unknown=(fit(warp='digit'), "did you mean 'digits'"),
    encoder_unknown=(fit(encoder='smal'), "did you mean 'small'"),
    encoder_of_pictures=(fit(encoder='resnet18'), 'no network for inputs of shape (4,)'),
    gmvae_width=(fit(cls=CLUSTERERS[1], hidden=-1), 'hidden is -1'),
    gmvae_no_layer=(fit(cls=CLUSTERERS[1], hidden=0), 'hidden is 0: give 1 or more'),
    gmvae_likelihood=(fit(cls=CLUSTERERS[1], likelihood='bernoulli'), 'Bernoulli'),
    gumbel_temperature=(fit(cls=CLUSTERERS[2], temperature=-1.), 'temperature'),
    gumbel_no_temperature=(fit(cls=CLUSTERERS[2], temperature=0.), 'temperature is 0.0: give a number above 0'),
    gumbel_schedule=(fit(cls=CLUSTERERS[2], temperature=[1, 0, 'exponential']), 'above 0'),
    mixem_no_temperature=(fit(cls=CLUSTERERS[3], temperature=0), 'temperature is 0: give a number above 0'),
    mixem_half_a_layer=(fit(cls=CLUSTERERS[3], hidden=.5), 'hidden is 0.5: give a whole number'),
    mixem_batch=(fit(cls=CLUSTERERS[3], batch_size=2), 'A batch of 2'),
    mixem_nowhere=(fit(cls=CLUSTERERS[3], init_from='nowhere'), 'does not exist'),
    margins_without_labels=(lambda: MetricEmbedder(epochs=1).fit(ROWS, [-1]*24), 'labels'),
    margins_of_one_class=(lambda: MetricEmbedder(epochs=1).fit(ROWS, [1]*24), '1 clusters'),
    margins_singles=(lambda: MetricEmbedder(epochs=1).fit(ROWS, np.arange(24)), 'give per_class 1 or less'),
    margins_margin=(lambda: MetricEmbedder(epochs=1, preset='triplet', margin=-1.).fit(ROWS, Y), 'margin'),
    margins_held_out=(lambda: MetricEmbedder(epochs=1, held_out=1.).fit(ROWS, Y), 'held_out'),
    predict_columns=(lambda: fitted().predict(ROWS[:, :3]), '3 features'),
    predict_images=(lambda: fitted().predict(PIXELS), 'fit saw'),
    predict_nan=(lambda: fitted().predict(ROWS*np.nan), 'contains NaN'),
    predict_nothing=(lambda: fitted().predict(ROWS[:0]), '0 sample(s)'),
    score_short=(lambda: fitted().score(ROWS, [1]), 'y has shape (1,)'),
    load_nothing=(lambda: SphericalClusterer.from_pretrained('no_pictures'), 'no model that can be read'),
    load_another=(lambda: CLUSTERERS[1].from_pretrained('estimator'), 'load it with its own class'),
    load_a_picture_folder=(lambda: load_system('good'), 'holds no system'))


@pytest.mark.parametrize('case', ESTIMATING)
def test_estimating(case, here): refused(*ESTIMATING[case])


TYPES = dict( # what Python, or scikit-learn, has a TypeError or an error of its own for
    parameter=(lambda: SphericalClusterer(n_jobs=2), 'n_jobs', TypeError),
    sparse=(fit(scipy.sparse.eye(24)), 'dense data is required', TypeError),
    unfitted=(lambda: SphericalClusterer().predict(ROWS), 'not fitted yet', NotFittedError))


@pytest.mark.parametrize('case', TYPES)
def test_types(case, here): refused(*TYPES[case])


NEW = ['--out', 'new']
COMMANDS = {
    'cluster --data': 'expected one argument',
    'cluster --data .': 'leads nowhere',
    'cluster --data /dev/null': 'cannot be read as a picture',
    'cluster --data pipe.npy': 'pipe.npy',
    'cluster --data bomb.png': 'cannot be read as a picture',
    'cluster --data broken --strict': 'cannot be read',
    'cluster --data dead_link': 'leads nowhere',
    'cluster --data huge.npy': 'huge.npy cannot be read',
    'cluster --data pickle.npy': 'pickle.npy cannot be read',
    'cluster --data object.npz': 'object.npz cannot be read',
    'cluster --data gap.npz': 'no image is labelled 1',
    'cluster --data wide.npz --clusters 2': 'to train on and (1, 8, 9) to score: give both the same shape',
    'cluster --data grey.npz --clusters 2': 'to train on and (3, 8, 8) to score: give both the same shape',
    'cluster --data columns.npz --clusters 2': 'to score: give both the same shape',
    'cluster --data empty.png': 'empty.png cannot be read',
    'cluster --data cat.png': 'cat.png cannot be read as a picture (it is none of PNG',
    'cluster --data postscript --strict': 'cannot be read, the first is 2.png (it is none of PNG',
    'cluster --data whole.npz --exemplars a=page.jpg': 'page.jpg cannot be read as a picture (it is none of PNG',
    'predict chart.bmp': 'chart.bmp cannot be read as a picture (it is none of PNG',
    'cluster --data whole.npz --data-dir README --data mnist': 'is not a folder',
    'cluster --data whole.npz --seed 1e30': 'seed',
    'cluster --data whole.npz --seed 99999999999999999999': 'out of range',
    'cluster --data whole.npz --epochs 1.5': '--epochs 1.5',
    'cluster --data whole.npz --epochs nan': '--epochs nan',
    'cluster --data whole.npz --clusters 1000000': '1000000 clusters for 24 images',
    'cluster --data whole.npz --clusters -1': 'give 2 or more',
    'cluster --data whole.npz --batch-size 0': '--batch-size 0',
    'cluster --data whole.npz --dim -1': '--dim -1',
    'cluster --data whole.npz --dim 1.5': '--dim 1.5',
    'cluster --data whole.npz --width 0': '--width 0',
    'cluster --data whole.npz --kappa .inf': '--kappa inf',
    'cluster --data whole.npz --lr .nan': '--lr nan: give 0 or more',
    'cluster --data whole.npz --lr [1,2]': 'not a schedule',
    'cluster --data whole.npz --lr .inf': '--lr inf: give 0 or more',
    'cluster --data whole.npz --patience -1': '--patience -1: give 0 or more',
    'cluster --data whole.npz --weights 3': '--weights 3',
    'cluster --data whole.npz --weights.none 1': 'unknown loss term',
    'cluster --data whole.npz --device cuda:99': 'is not available',
    'cluster --data whole.npz --ledger good': 'good',
    'cluster --data whole.npz --exemplars a=': 'give NAME=PICTURE',
    'cluster --data whole.npz --exemplars a=good/a/0.png a=good/a/0.png': 'is given twice',
    'cluster --data whole.npz --exemplars 0 0 1': 'exemplar 0 is given twice',
    'cluster --data whole.npz --exemplars 0 1 -5': 'outside the data',
    'cluster --data whole.npz --draw 1.5': "no draw '1.5'",
    'cluster --data whole.npz --system simclr --temperature 0': 'emperature',
    'cluster --data whole.npz --system margins --split all --held-out 2': 'held_out',
    'cluster --data whole.npz --system mixem --init-from run': 'backbone',
    'cluster --data nan.npz --clusters 2': 'NaN',
    'cluster --config good': 'good',
    'cluster --config whole.npz': 'UTF-8',
    'cluster --config objects.yaml': 'config',
    'cluster --config names.yaml': 'config',
    'cluster --config list.yaml': 'config',
    'cluster --config deep.yaml': 'config',
    'cluster --resume --out run/model.safetensors': 'not a run folder',
    'cluster --data whole.npz --out run': 'exists already',
    'embed --data whole.npz --loss triplt': "did you mean 'triplet'",
    'embed --data names.npz --loss triplet': 'name its arrays',
    'embed --data one.npy --loss triplet': 'one.npy (all) has no labels',
    'evaluate': 'run',
    'evaluate run more': 'more',
    'evaluate run --data-dir': 'data-dir',
    'evaluate good': 'not a run folder',
    'evaluate open': 'is not finished',
    'predict': 'pictures',
    'predict bomb.png --run run': 'bomb.png cannot be read',
    'predict pipe.png --run run': 'pipe.png',
    'predict no_pictures --run run': 'holds no pictures',
    'predict README --run run': 'README cannot be read',
    'predict good/a/0.png --run estimator': 'not a run folder',
    'export model.bin --run run': "unknown kind of export '.bin'",
    'export model.pt2 --run nowhere': 'not a run folder',
    'panel run': 'out',
    'draws run --per-class 0': '0 exemplars of each class: give 1 or more',
    'panel nowhere --out p.png': 'not a run folder',
    'cluster --data mnits': 'did you mean',
    'cluster --data digits --system sferical': "did you mean 'spherical'",
    'cluster --data digits --preset fats': "did you mean 'fast'",
    'cluster --data digits --encoder smal': 'small',
    'cluster --data digits --warp digit': 'digits',
    'cluster --data digits --weights.clutser 1': "did you mean 'cluster'",
    'cluster --data digits --weights.cluster .nan': 'not a schedule',
    'cluster --data digits --weights.cluster much': 'give a number',
    'cluster --data digits --epochs few': '--epochs few',
    'cluster --data digits --epochs -1': 'give 0 or more',
    'cluster --data digits --seed -1': 'out of range',
    'cluster --data digits --device warp9': "'warp9' is not available",
    'cluster --data digits --precision float8': 'float8',
    'cluster --data digits --split tset': "did you mean 'test'",
    'cluster --data digits --draw some': "no draw 'some'",
    'cluster --data digits --draw -3': 'draw -3',
    'cluster --data digits --draw 1 --exemplars 1 2': 'both choose',
    'cluster --data digits --exemplars 0 1 2': 'has no exemplar',
    'cluster --data digits --exemplars 0 1 2 3 4 5 6 7 8 99999': '99999 is outside the data',
    'cluster --data digits --exemplars 0 one': 'NAME=PICTURE',
    'cluster --data digits --exemplars a=nowhere.png b=README': 'nowhere.png',
    'cluster --data digits --batch-size 1': '--batch-size 1',
    'cluster --data digits --lr -1': '--lr -1.0: give 0 or more',
    'cluster --data digits --lr [.1,-1,linear]': 'give 0 or more',
    'cluster --data digits --lr fast': '--lr fast',
    'cluster --data digits --weights.cluster -1': "The weight of 'cluster' is -1",
    'cluster --data digits --dim 0': '--dim 0: give 1 or more',
    'cluster --data digits --kappa .nan': '--kappa nan',
    'cluster --data digits --together maybe': 'give true or false',
    'cluster --data digits --estimator gumbel': "'spherical' has no --estimator: it has --dim",
    'cluster --data digits --system gmvae --temperature 1': "'gmvae' has no --temperature: it has --latent-dim",
    'cluster --data digits --system gmvae --network fcc': "did you mean 'fc'",
    'cluster --data digits --system gmvae --network conv': 'is for images of 28 x 28',
    'cluster --data digits --system gumbel --temperature [1,0,exponential]': 'above 0',
    'cluster --data digits --system gumbel --estimater gumbel': 'did you mean --estimator',
    'cluster --data digits --clusters 1': 'give 2 or more',
    'cluster --data digits --images 1': '--images 1: give 2 or more',
    'cluster --data digits --images 1439': '1,438 to train on; give 2 to 1438',
    'cluster --data digits --images half': '--images half: give a whole number',
    'cluster --data few.npz --clusters 7': '7 clusters for 6 images',
    'cluster --data plain.npz': 'give 2 or more',
    'cluster --data plain.npz --draw 0 --clusters 3': 'no labels',
    'cluster --data lacks.npz': 'no image is labelled 2',
    'cluster --data range.npz': 'scale floats',
    'cluster --data ./nowhere': 'does not exist',
    'cluster --data empty': 'empty',
    'cluster --data texts': 'cannot be read as a picture',
    'cluster --data mnist --data-dir idx': 'delete it and load again',
    'cluster --data digits --out taken': 'exists already',
    'cluster --data digits --out taken --resume': 'not a run folder',
    'cluster --data digits --out nowhere --resume': 'not a run folder',
    'cluster --resume': 'give it as --out',
    'cluster --data digits --ledger nowhere/l.jsonl': 'make it first',
    'cluster --data digits --track tensorbord': "did you mean 'tensorboard'",
    'cluster --data digits --track aim': "'aim' is not installed: pip install aim",
    'completion fish': 'fish',
    'cluster --config build.yaml': 'os.system',
    'cluster --config unknown.yaml': 'datta',
    'cluster --config kind.yaml': '--seed',
    'cluster --config nowhere.yaml': 'nowhere.yaml',
    'cluster --epoch 3': 'did you mean --epochs',
    'clutser': 'cluster',
    '': 'command',
    'evaluate README': 'not a run folder',
    'predict x.png': 'x.png cannot be read as a picture',
    'info more': 'more',
    'cluster --help-me': 'help',
}


def said(capsys):
    "The one line on stderr."
    lines = [l for l in capsys.readouterr().err.replace('\r', '\n').splitlines() if l.strip() and not re.search(r'step(/s)?\]', l)]
    assert len(lines) == 1 and lines[0].startswith('sphere_mnist: '), lines
    return lines[0]


def stopped(words, fragment, capsys, status=2):
    "The command ends with a status and one line, and nothing has changed."
    capsys.readouterr()
    before = listing()
    assert cli.main(words) == status
    sentence(said(capsys), fragment)
    assert listing() == before and not Path('sprung').exists()


CONFIGS = {'objects.yaml': 'data: !!python/object/apply:pathlib.Path.touch [sprung]\n', 'names.yaml': 'data: !!python/name:os.system\n',
           'build.yaml': 'data: !!python/object/apply:os.system ["touch sprung"]\n', 'unknown.yaml': 'datta: digits\n',
           'kind.yaml': 'seed: {class_path: torch.nn.Linear}\n', 'list.yaml': '- data\n- digits\n', 'deep.yaml': 'data: ' + '['*3000}


@pytest.mark.parametrize('line', COMMANDS)
def test_command(line, here, capsys):
    for name, text in CONFIGS.items(): Path(name).write_text(text)
    words = line.split()
    if {*words[:1]} & {'cluster', 'embed'} and '--out' not in words and '--resume' not in words: words += NEW
    stopped(words, COMMANDS[line], capsys)


def test_a_name_that_is_no_unicode(here, capsys):
    os.rename('whole.npz', b'\xff.npz')
    stopped(['cluster', '--data', os.fsdecode(b'\xff.npz'), *NEW], 'UTF-8', capsys)


def change(path, edit):
    "Edit a JSON file."
    value = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(edit(value) if callable(edit) else edit))


def reweigh(path, **edits):
    "Edit tensors."
    values = load_file(path)
    save_file({k: edits[k](v) if k in edits else v for k, v in values.items()} | {k: e(None) for k, e in edits.items() if k not in values}, path)


def sealed(folder='open', **files):
    "Write files into the checkpoint of a run, and their sums into its manifest, as a forger would."
    import hashlib
    checkpoint, = Path(folder, 'checkpoints').iterdir()
    for name, content in files.items():
        path = next(p for p in checkpoint.iterdir() if p.name.startswith(name)) if name != 'optimiser' else checkpoint/'optimiser.pt'
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in checkpoint.iterdir() if p.name != 'manifest.json'}
    (checkpoint/'manifest.json').write_text(json.dumps(sums))


def state(**edits): return lambda b: json.dumps(json.loads(b) | edits).encode()
def elsewhere(data): Path('run/config.yaml').write_text(re.sub(r'(?m)^data: .*', f'data: {data}', Path('run/config.yaml').read_text()))
def manifest(text): next(Path('open').glob('checkpoints/*/manifest.json')).write_text(text)
def trapped(): torch.save(Trap(), buffer := io.BytesIO()); return buffer.getvalue()


DEEP = '['*100_000
RUNS = dict( # what is done to a run, the command, what is said
    weights_pickle=(lambda: Path('run/model.safetensors').write_bytes(pickle.dumps(Trap())), 'evaluate run', 'is damaged'),
    weights_torch=(lambda: Path('run/model.safetensors').write_bytes(trapped()), 'evaluate run', 'is damaged'),
    weights_empty=(lambda: Path('run/model.safetensors').write_bytes(b''), 'evaluate run', 'is damaged'),
    weights_long_header=(lambda: Path('run/model.safetensors').write_bytes((2**62).to_bytes(8, 'little') + b'{}'), 'evaluate run', 'is damaged'),
    weights_lying_shape=(lambda: Path('run/model.safetensors').write_bytes(
        Path('run/model.safetensors').read_bytes().replace(b'"shape":[3,', b'"shape":[9,')), 'evaluate run', 'is damaged'),
    weights_lacking=(lambda: reweigh('run/model.safetensors', more=lambda v: torch.zeros(3)), 'evaluate run', 'first difference: more'),
    weights_nan=(lambda: reweigh('run/model.safetensors', prototypes=lambda v: v, **{'encoder.1.weight': lambda v: v*torch.nan}), 'evaluate run', 'are not finite'),
    weights_groups=(lambda: reweigh('run/model.safetensors', groups=lambda v: v + 7), 'evaluate run', 'none of 3 clusters'),
    weights_few_groups=(lambda: reweigh('run/model.safetensors', groups=lambda v: torch.cat([v, v])), 'evaluate run', 'groups'),
    weights_labels=(lambda: reweigh('run/model.safetensors', labels=lambda v: v + 90), 'evaluate run', 'give each a label below'),
    config_pickle=(lambda: Path('run/config.json').write_bytes(pickle.dumps(Trap())), 'evaluate run', 'config.json is damaged'),
    config_deep=(lambda: Path('run/config.json').write_text(DEEP), 'evaluate run', 'config.json is damaged'),
    config_shape=(lambda: change('run/config.json', lambda c: c | dict(shape=[1, 9, 9])), 'evaluate run', 'other settings'),
    config_huge_shape=(lambda: change('run/config.json', lambda c: c | dict(shape=[10**9])), 'evaluate run', 'weights are damaged'),
    config_huge_dim=(lambda: change('run/config.json', lambda c: c | dict(dim=10**9)), 'evaluate run', 'other settings'),
    config_no_shape=(lambda: change('run/config.json', lambda c: c | dict(shape=[])), 'evaluate run', 'no network for inputs of shape'),
    config_words=(lambda: change('run/config.json', lambda c: c | dict(kappa='much')), 'evaluate run', 'kappa'),
    config_classes=(lambda: change('run/config.json', lambda c: c | dict(classes=5)), 'evaluate run', 'config.json is damaged'),
    config_few_classes=(lambda: change('run/config.json', lambda c: c | dict(classes=['a'])), 'evaluate run', 'give each a label below 1'),
    config_system=(lambda: change('run/config.json', lambda c: c | dict(system=['x'])), 'evaluate run', "holds a"),
    settings_objects=(lambda: Path('run/config.yaml').write_text(CONFIGS['objects.yaml']), 'evaluate run', 'config.yaml is damaged'),
    settings_deep=(lambda: Path('run/config.yaml').write_text(CONFIGS['deep.yaml']), 'evaluate run', 'config.yaml is damaged'),
    settings_list=(lambda: Path('run/config.yaml').write_text('- 1'), 'evaluate run', 'config.yaml is damaged'),
    settings_system=(lambda: Path('run/config.yaml').write_text(Path('run/config.yaml').read_text().replace('spherical', 'gmvae')), 'evaluate run', 'its config.yaml says'),
    settings_data=(lambda: elsewhere('gone.npz'), 'evaluate run', 'does not exist'),
    settings_other_data=(lambda: elsewhere('names.npz'), 'evaluate run', 'name its arrays'),
    result_words=(lambda: change('run/result.json', lambda r: r | dict(acc='good')), 'cluster --resume --out run', 'result.json is damaged'),
    result_list=(lambda: Path('run/result.json').write_text('[]'), 'evaluate run', 'result.json is damaged'),
    result_pickle=(lambda: Path('run/result.json').write_bytes(pickle.dumps(Trap())), 'evaluate run', 'result.json is damaged'),
    result_deep=(lambda: Path('run/result.json').write_text(DEEP), 'evaluate run', 'result.json is damaged'),
    metrics_pickle=(lambda: Path('open/metrics.jsonl').write_bytes(pickle.dumps(Trap())), 'cluster --resume --out open', 'metrics.jsonl is damaged'),
    metrics_list=(lambda: Path('open/metrics.jsonl').write_text('[1]\n'), 'cluster --resume --out open', 'metrics.jsonl is damaged'),
    checkpoint_torn=(lambda: next(Path('open').glob('checkpoints/*/systems.safetensors')).write_bytes(b'x'), 'cluster --resume --out open', 'is damaged'),
    checkpoint_manifest_pickle=(lambda: manifest(pickle.dumps(Trap(), 0).decode('latin1')), 'cluster --resume --out open', 'is damaged'),
    checkpoint_manifest_empty=(lambda: manifest('{}'), 'cluster --resume --out open', 'is damaged'),
    checkpoint_manifest_list=(lambda: manifest('[1]'), 'cluster --resume --out open', 'is damaged'),
    checkpoint_manifest_elsewhere=(lambda: manifest('{"/dev/zero": "x"}'), 'cluster --resume --out open', 'is damaged'),
    checkpoint_systems_pickle=(lambda: sealed(systems=pickle.dumps(Trap())), 'cluster --resume --out open', 'is damaged'),
    checkpoint_optimiser_pickle=(lambda: sealed(state=state(finished=False, stage=0, epoch=1), optimiser=trapped()), 'cluster --resume --out open', 'is damaged'),
    checkpoint_optimiser_bytes=(lambda: sealed(state=state(finished=False, stage=0, epoch=1), optimiser=b'PK\x03\x04' + bytes(90)), 'cluster --resume --out open', 'is damaged'),
    checkpoint_optimiser_other=(lambda: sealed(state=state(finished=False, stage=0, epoch=1), optimiser=other_optimiser()), 'cluster --resume --out open', 'is damaged'),
    checkpoint_state_empty=(lambda: sealed(state=b'{}'), 'cluster --resume --out open', 'is damaged'),
    checkpoint_state_list=(lambda: sealed(state=b'[]'), 'cluster --resume --out open', 'is damaged'),
    checkpoint_state_words=(lambda: sealed(state=state(finished=False, stage='x')), 'cluster --resume --out open', 'is damaged'),
    checkpoint_state_stage=(lambda: sealed(state=state(finished=False, stage=-5)), 'cluster --resume --out open', 'is damaged'),
    checkpoint_state_deep=(lambda: sealed(state=DEEP.encode()), 'cluster --resume --out open', 'is damaged'),
    checkpoint_other_seed=(lambda: sealed(state=state(seed=9)), 'cluster --resume --out open', 'made with seed 9'),
    checkpoint_other_system=(lambda: sealed(state=state(systems=['gmvae'])), 'cluster --resume --out open', 'made with systems'),
    restarts_words=(lambda: Path('open/restarts.json').write_text('no JSON'), 'cluster --resume --out open', 'restarts.json is damaged'),
    restarts_state=(lambda: (Path('open/restarts.json').write_text('[{"seed": 0}]'), sealed(state=b'[]')), 'cluster --resume --out open', 'is damaged (state.json)'),
    restarts_torn=(lambda: (Path('open/restarts.json').write_text('[{"seed": 0}]'), next(Path('open').glob('checkpoints/*/state.json')).write_text('{')), 'cluster --resume --out open', 'is damaged (state.json)'),
    restarts_dict=(lambda: Path('open/restarts.json').write_text('{"a": 1}'), 'cluster --resume --out open', 'restarts.json is damaged'),
    init_from_pickle=(lambda: Path('run/model.safetensors').write_bytes(pickle.dumps(Trap())), 'cluster --data whole.npz --system mixem --init-from run --out new', 'is damaged'))


def other_optimiser():
    "The state of an optimiser of another network."
    torch.save(torch.optim.Adam([torch.zeros(3, requires_grad=True)]).state_dict(), buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize('case', RUNS)
def test_a_run_that_lies(case, here, capsys):
    spoil, line, fragment = RUNS[case]
    spoil()
    stopped(line.split(), fragment, capsys)


ESTIMATORS = dict( # what is done to a saved estimator
    pickle=(lambda: Path('estimator/estimator.json').write_bytes(pickle.dumps(Trap())), 'no model that can be read'),
    list=(lambda: change('estimator/estimator.json', []), 'no model that can be read'),
    deep=(lambda: Path('estimator/estimator.json').write_text(DEEP), 'no model that can be read'),
    another=(lambda: change('estimator/estimator.json', lambda s: s | dict(estimator='GMVAEClusterer')), 'load it with its own class'),
    parameter=(lambda: change('estimator/estimator.json', lambda s: s | dict(params=dict(n_jobs=2))), 'no model that can be read'),
    parameters=(lambda: change('estimator/estimator.json', lambda s: s | dict(params=[1])), 'no model that can be read'),
    classes=(lambda: change('estimator/estimator.json', lambda s: s | dict(classes=[0])), 'no model that can be read'),
    scaler=(lambda: change('estimator/estimator.json', lambda s: s | dict(scaler=dict(mean=[0], scale=[1]))), 'no model that can be read'),
    scaler_words=(lambda: change('estimator/estimator.json', lambda s: s | dict(scaler='x')), 'no model that can be read'),
    features=(lambda: change('estimator/estimator.json', lambda s: s | dict(n_features=9)), 'no model that can be read'),
    weights=(lambda: Path('estimator/model.safetensors').write_bytes(trapped()), 'is damaged'),
    config=(lambda: Path('estimator/config.json').write_bytes(pickle.dumps(Trap())), 'no model that can be read'),
    shape=(lambda: change('estimator/config.json', lambda c: c | dict(shape=[10**10])), 'other settings'))


@pytest.mark.parametrize('case', ESTIMATORS)
def test_an_estimator_that_lies(case, here):
    spoil, fragment = ESTIMATORS[case]
    spoil()
    refused(lambda: SphericalClusterer.from_pretrained('estimator'), fragment)


# What is odd, and works

ODD = {
    'a constant image': lambda: np.full((12, 8, 8), 7, np.uint8),
    'two rows': lambda: ROWS[:2].repeat(2, 0),
    'equal rows': lambda: np.ones((12, 4)),
    'one column': lambda: ROWS[:, :1],
    'large features': lambda: ROWS*1e30,
    'booleans': lambda: PIXELS > 128,
    'a table of pixels': lambda: PIXELS.reshape(24, -1),
    'bfloat16': lambda: torch.from_numpy(ROWS).bfloat16(),
    'a tensor with a gradient': lambda: torch.from_numpy(ROWS).requires_grad_(),
    'Fortran order': lambda: np.asfortranarray(PIXELS),
    'another byte order': lambda: ROWS.astype('>f8'),
    'channels last': lambda: np.stack([PIXELS]*3, -1),
    'nested lists': lambda: ROWS.tolist()}


@pytest.mark.parametrize('name', ODD)
@pytest.mark.parametrize('preset', ['published', 'fast'])
def test_odd_input_that_works(name, preset):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        est = SphericalClusterer(**QUICK | dict(n_clusters=2), preset=preset).fit(ODD[name]())
    assert np.isfinite(est.predict_proba(ODD[name]())).all()


def test_pictures_of_any_size(here):
    for size in ((1, 1), (10_000, 1), (1, 10_000), (10_000, 30)):
        Image.new('RGB', size, (9, 200, 30)).save('odd.png')
        pixels = load_images('odd.png').pixels
        assert max(pixels.shape[2:]) <= 96 and pixels[0, :, pixels.shape[2]//2, pixels.shape[3]//2].tolist() == [9, 200, 30]


UNICODE = ('ä ö', 'Ж', '数字', '😀', 'e\u0301', '-x', "it's", 'a,b', '名=前', '%s{0}')


def test_unicode_names(here, capsys):
    for name in UNICODE:
        Path('所有', name).mkdir(parents=True)
        for n in range(3): Path('所有', name, f'{name} {n}.png').write_bytes(png(PIXELS[n]))
    assert load_images('所有').classes == tuple(sorted(UNICODE))
    assert cli.main(['cluster', '--data', '所有', '--preset', 'published', '--epochs', '1', '--out', 'läuft']) == 0
    assert cli.main(['evaluate', 'läuft']) == cli.main(['cluster', '--resume', '--out', 'läuft']) == 0
    pictures = [f'所有/{name}/{name} 0.png' for name in UNICODE]
    exemplars = [f'{name}={p}' for name, p in zip(UNICODE, pictures) if '=' not in name]
    assert cli.main(['cluster', '--data', '所有', '--preset', 'published', '--epochs', '0', '--out', 'named', '--exemplars', *exemplars]) == 0
    capsys.readouterr()
    assert cli.main(['predict', *pictures, '--run', 'läuft']) == 0
    said = capsys.readouterr().out
    assert all(p in said for p in pictures if ',' not in p)


def test_a_link_to_a_picture_elsewhere_is_that_picture(here):
    Path('linked').mkdir()
    for n in range(2): Path(f'linked/{n}.png').symlink_to(Path(f'good/a/{n}.png').resolve())
    assert torch.equal(load_images('linked').pixels[:, 0], torch.from_numpy(PIXELS[:2]))


def test_a_link_to_a_class_folder_elsewhere_is_that_folder(here):
    Path('linked').mkdir()
    for k in 'ab': Path('linked', k).symlink_to(Path('good', k).resolve())
    Path('good/a/more').symlink_to(Path('broken').resolve()) # links to folders further below are not followed
    Path('good/a/round').symlink_to(Path('good').resolve())
    images = load_images('linked')
    assert images.classes == ('a', 'b') and images.labels.tolist() == [0]*3 + [1]*3
    assert torch.equal(images.pixels, load_images('good').pixels)


@pytest.mark.parametrize('shape', [(10**8, 8, 8), (10**9, 8, 8), (10**12, 8, 8), (10**18, 8, 8)])
def test_a_small_archive_that_declares_a_huge_array(shape, here):
    "Refused before its 6 gigabytes, or more, are touched."
    import resource, time, zipfile
    with zipfile.ZipFile('huge.npz', 'w', zipfile.ZIP_DEFLATED) as archive: archive.writestr('x.npy', npy_header(shape) + bytes(2**22))
    assert os.path.getsize('huge.npz') < 10_000
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(lambda: load_images('huge.npz'), 'huge.npz cannot be read as a NumPy file')
    assert time.process_time() - began < 10 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18 # KB


# Whatever it is, it loads or is refused in one sentence

def loads_or_refuses(call):
    try: return call()
    except InputError as e: sentence(str(e), '')


@FEW
@given(st.data())
def test_any_array(source):
    dtype = source.draw(st.sampled_from([np.dtype(d) for d in ('?', 'i1', 'u1', 'i8', 'u8', 'f2', 'f4', 'f8', 'c8', 'U3', 'S3', 'M8[s]')]))
    array = source.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)))
    images = loads_or_refuses(lambda: load_images(array))
    if images is not None: assert images.pixels.isfinite().all() and len(images) == len(array)


@FEW
@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=2)), max_size=6))
def test_any_labels(labels):
    images = loads_or_refuses(lambda: load_images((np.zeros((len(labels) or 1, 3)), labels)))
    if images is not None: assert len(images.labels) == len(labels)
    column = np.empty(len(labels), object)
    column[:] = labels
    loads_or_refuses(lambda: read_labels(column, len(labels)))


@FEW
@given(st.sampled_from(['x.png', 'x.jpg', 'x.gif', 'x.tif', 'x.npy', 'x.npz', 'x']), st.binary(max_size=80),
       st.sampled_from([b'', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff\xe0', b'GIF89a', b'II*\0', b'\x93NUMPY\x01\x00', b'PK\x03\x04']))
def test_any_bytes(tmp_path_factory, name, content, start):
    path = tmp_path_factory.mktemp('any')/name
    path.write_bytes(start + content)
    loads_or_refuses(lambda: load_images(path))


@FEW
@given(st.sampled_from(['good/a/0.png', 'whole.npz', 'cut.npy']), st.floats(0, 1), st.integers(0, 255), st.booleans())
def test_any_damage_to_a_file(template, tmp_path_factory, name, where, byte, cut):
    content = bytearray((template/name).read_bytes())
    at = int(where*(len(content) - 1))
    if cut: del content[at:]
    else: content[at] = byte
    path = tmp_path_factory.mktemp('any')/Path(name).name
    path.write_bytes(content)
    loads_or_refuses(lambda: load_images(path))


@FEW
@given(st.sampled_from(['config.json', 'model.safetensors', 'estimator.json']), st.floats(0, 1), st.integers(0, 255), st.booleans())
def test_any_damage_to_a_model(template, tmp_path_factory, name, where, byte, cut):
    folder = tmp_path_factory.mktemp('any')
    for file in (template/'estimator').iterdir(): (folder/file.name).write_bytes(file.read_bytes())
    content = bytearray((folder/name).read_bytes())
    at = int(where*(len(content) - 1))
    if cut: del content[at:]
    else: content[at] = byte
    (folder/name).write_bytes(content)
    loads_or_refuses(lambda: SphericalClusterer.from_pretrained(folder).predict(ROWS))


FLAGS = [a for a in commands.parser_of('embed').get_defaults().keys() if a not in ('config', 'resume', 'weights')]


@FEW
@given(st.sampled_from(FLAGS), st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']), max_size=12))
def test_any_argument(template, capsys_of_hypothesis, flag, value):
    before = sorted(template.rglob('*'))
    status, out = capsys_of_hypothesis(['cluster', '--data', 'nowhere.npz', '--out', str(template/'new'), f'--{flag.replace("_", "-")}', value])
    assert status == 2 and len(out.strip().splitlines()) == 1, out
    assert sorted(template.rglob('*')) == before


@pytest.fixture(scope='module')
def capsys_of_hypothesis():
    from contextlib import redirect_stderr
    def run(words):
        with redirect_stderr(io.StringIO()) as said: status = cli.main(words)
        return status, said.getvalue()
    return run
