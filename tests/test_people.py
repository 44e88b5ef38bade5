"""What people with real folders, shells and disks met: exemplars, environments, clocks, torn ledgers, closed streams."""
import csv, json, os, shutil, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from sphere_mnist import SphericalClusterer, cli, clustering, data, look_again, report, share, systems
from sphere_mnist.predict import read_answers
from sphere_mnist.published import default_preset, look_of
from sphere_mnist.sources import load_exemplars
from sphere_mnist.training import processes

root = Path(__file__).parent.parent
TINY = ['cluster', '--data', 'pics', '--preset', 'published', '--epochs', '0']


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    "Three kinds of bars, and no figures."
    monkeypatch.chdir(tmp_path)
    for room in (clustering, look_again): monkeypatch.setattr(room, 'run_figures', lambda *args, **kw: [])
    for k in range(3):
        for i in range(6):
            array = np.random.default_rng(i).integers(0, 60, (12, 12), dtype=np.uint8)
            array[:, 4*k:4*k + 3] += 150
            Path('pics').mkdir(exist_ok=True)
            Image.fromarray(array).save(f'pics/{"abc"[k]}{i}.png')


def rows(): return {row['picture']: row for row in csv.DictReader(Path('run/clusters.csv').open())}


@pytest.mark.parametrize('first', [[], ['cat=pics/b0.png', 'dog=pics/a0.png', 'emu=pics/c0.png']])
def test_several_exemplars_of_a_class(first):
    given = ['cat=pics/a1.png', 'cat=pics/a2.png', 'dog=pics/b3.png', 'emu=pics/c1.png', 'emu=pics/c4.png']
    assert cli.main([*TINY, '--clusters', '3', '--out', 'run', '--exemplars', *(first or given)]) == 0
    if first: assert cli.main(['name', 'run', '--exemplars', *given]) == 0
    assert {row['label'] for row in rows().values()} == {'cat', 'dog', 'emu'}
    for pair in given: assert rows()[pair[-6:]]['label'] == pair[:3] and 'remark' not in rows()[pair[-6:]] # none is astray
    before = Path('run/clusters.csv').read_text()
    assert cli.main(['evaluate', 'run']) == 0 and Path('run/clusters.csv').read_text() == before


@pytest.mark.parametrize('given, words', [
    (['cat=pics/a1.png', 'dog=pics/a9.png', 'emu=pics/b1.png'], 'are in it too'), # a copy
    (['cat=pics/a1.png', 'cat=pics/a3.png', 'cat=pics/b2.png', 'dog=pics/b1.png', 'dog=pics/b5.png'], 'An exemplar of cat is in cluster')])
def test_an_exemplar_against_its_cluster_is_said_and_keeps_its_label(given, words, capsys):
    shutil.copy('pics/a1.png', 'pics/a9.png')
    assert cli.main([*TINY, '--clusters', '3', '--out', 'run', '--exemplars', *given]) == 0
    assert words in capsys.readouterr().out
    for pair in given: assert rows()[pair[-6:]]['label'] == pair[:3]
    said = {name: row['remark'] for name, row in rows().items() if row['remark']}
    assert said and {*said} <= {pair[-6:] for pair in given} and any(words in line for line in said.values()), said
    for name, line in said.items(): # the four columns mean what they meant
        assert line.startswith(f'An exemplar of {rows()[name]["label"]} is in cluster {rows()[name]["cluster"]}, which ')
        called = {row['label'] for other, row in rows().items() if other not in {p[-6:] for p in given} and row['cluster'] == rows()[name]['cluster']}
        assert rows()[name]['label'] not in called


def test_an_exemplar_that_belongs_to_no_cluster_keeps_its_label_and_says_so():
    assert cli.main([*TINY, '--clusters', '3', '--out', 'run', '--outliers', '0.01']) == 0
    strange = [name for name, row in rows().items() if row['cluster'] == '-1']
    assert strange and 'remark' not in rows()[strange[0]]
    others = [name for name in rows() if name not in strange]
    given = dict(cat=strange[0], dog=others[0], emu=others[-1])
    assert cli.main(['name', 'run', '--exemplars', *(f'{label}=pics/{name}' for label, name in given.items())]) == 0
    found = rows()
    assert (found[strange[0]]['label'], found[strange[0]]['cluster']) == ('cat', '-1') and found[strange[0]]['remark'].startswith('An exemplar of cat belongs to no cluster: ')
    assert not any(found[name]['label'] or found[name]['remark'] for name in strange[1:])


def test_who_reads_the_table_reads_it_with_remarks(capsys):
    shutil.copy('pics/a1.png', 'pics/a9.png')
    given = ['cat=pics/a1.png', 'dog=pics/a9.png', 'emu=pics/b1.png']
    assert cli.main([*TINY, '--clusters', '3', '--out', 'run', '--exemplars', *given]) == 0
    table = Path('run/clusters.csv').read_bytes()
    assert table.startswith(b'picture,label,confidence,cluster,remark\n')
    assert [row[:2] for row in read_answers(Path('run')) if row[0] in ('a1.png', 'a9.png')] == [['a1.png', 'cat'], ['a9.png', 'dog']] and {*map(len, read_answers(Path('run')))} == {4}
    assert cli.main(['evaluate', 'run']) == 0 and Path('run/clusters.csv').read_bytes() == table
    shutil.copy('pics/b2.png', 'pics/b8.png')
    assert cli.main(['predict', 'pics', '--run', 'run']) == 0 and '19 of 20 pictures were named before' in capsys.readouterr().err
    assert Path('run/later.csv').read_text().startswith('picture,label,confidence,cluster\n')
    assert cli.main(['sort', 'run', '--to', 'sorted']) == 0 and len([*Path('sorted').glob('*/*.png')]) == 20
    Path('run/clusters.csv').write_bytes(table + b'x.png,cat,0.5,1\n')
    with pytest.raises(data.InputError, match='is no answer'): read_answers(Path('run'))


@pytest.mark.parametrize('given, words', [(['cat=pics/a1.png', 'cat=pics/a1.png'], 'is given twice'), (['cat='], 'give NAME=PICTURE'), (['=pics/a1.png'], 'give NAME=PICTURE')])
def test_exemplars_that_are_none(given, words, capsys):
    assert cli.main([*TINY, '--clusters', '3', '--out', 'run', '--exemplars', *given]) == 2
    assert words in capsys.readouterr().err and not Path('run').exists()


@pytest.mark.parametrize('said, words', [(dict(RANK='1'), 'RANK=1 is in the environment'), (dict(RANK='x'), 'RANK=x'), (dict(LOCAL_RANK='-1'), 'LOCAL_RANK=-1'), (dict(WORLD_SIZE='2'), 'or start with torchrun'),
                                         (dict(WORLD_SIZE='2', RANK='0', MASTER_ADDR='localhost'), 'no LOCAL_RANK or MASTER_PORT')])
def test_left_over_in_the_environment(said, words, monkeypatch, capsys):
    for name, value in said.items(): monkeypatch.setenv(name, value)
    assert cli.main([*TINY, '--clusters', '3', '--out', 'run']) == 2
    assert words in capsys.readouterr().err and not Path('run').exists()


@pytest.mark.parametrize('name, value', [('ACCELERATE_GRADIENT_ACCUMULATION_STEPS', '4'), ('ACCELERATE_MIXED_PRECISION', 'fp16'), ('ACCELERATE_USE_CPU', 'no')])
def test_nothing_of_accelerate_in_the_environment_counts(name, value, monkeypatch):
    import torch
    monkeypatch.setenv(name, value)
    made = processes(torch.device('cpu'))
    assert made.gradient_accumulation_steps == 1 and made.mixed_precision == 'no' and os.environ[name] == value


def test_the_clock_may_step_back(monkeypatch):
    import time
    before = clustering.seconds_alive()
    monkeypatch.setattr(time, 'time', lambda: 0.)
    assert 0 <= before <= clustering.seconds_alive() < before + 60


@pytest.mark.parametrize('text', ['{"a": 1}\n{"b": 2', '{"a": 1}\n{', '{"a": 1}\n{"b": [1, 2\n'])
def test_a_torn_row_of_a_ledger_stops_nobody(text):
    Path('l.jsonl').write_text(text)
    assert systems.read_rows(Path('l.jsonl')) == [dict(a=1)]
    systems.append_row(Path('l.jsonl'), dict(c=3))
    assert systems.read_rows(Path('l.jsonl')) == [dict(a=1), dict(c=3)]


@pytest.mark.parametrize('suffix', ['onnx', 'pt2'])
def test_a_full_disk_keeps_the_graph_that_was_there(suffix, monkeypatch, capsys):
    assert cli.main([*TINY, '--clusters', '3', '--out', 'run']) == 0
    Path(f'g.{suffix}').write_bytes(b'good')
    with monkeypatch.context() as patch:
        def full(self, data): self.touch(); raise OSError(28, 'No space left on device', str(self))
        patch.setattr(Path, 'write_bytes', full)
        assert cli.main(['export', f'g.{suffix}', '--run', 'run']) == 1
    assert Path(f'g.{suffix}').read_bytes() == b'good' and 'No space left' in capsys.readouterr().err
    assert not [f for f in Path().iterdir() if f.name.startswith('.')]


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '>&- 2>&-', '<&-'])
def test_closed_streams(closed):
    call = f'{sys.executable} -c "import sys; from sphere_mnist.cli import main; sys.exit(main())" info {closed}'
    done = subprocess.run(['bash', '-c', call], env=dict(os.environ, PYTHONPATH=str(root)), capture_output=True, text=True)
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done


def test_bits_of_deep_pictures():
    Path('deep').mkdir()
    for i in range(8): Image.fromarray(np.full((9, 9), 100*i, np.uint16)).save(f'deep/{i}.png')
    for bits in ('12', '16'): assert cli.main(['cluster', '--data', 'deep', '--bits', bits, '--preset', 'published', '--epochs', '0', '--clusters', '2', '--out', f'run{bits}']) == 0
    tops = [runs_pixels(f'run{bits}') for bits in ('12', '16')]
    assert tops == [700*255//4095, 700*255//65535]


def deep_pictures():
    "Of 12 bits, and one for later that uses 9 of them."
    Path('deep').mkdir()
    for i in range(8): Image.fromarray(np.full((9, 9), 500*i + 3, np.uint16)).save(f'deep/{i}.png')
    Image.fromarray(np.full((9, 9), 503, np.uint16)).save('later.png')


@pytest.mark.parametrize('bits', [[], ['--bits', '12'], ['--bits', '16']])
def test_a_run_reads_later_pictures_with_its_bits(bits, capsys):
    deep_pictures()
    assert cli.main(['cluster', '--data', 'deep', *bits, '--preset', 'published', '--epochs', '0', '--clusters', '2', '--out', 'run']) == 0
    assert systems.read_config(Path('run'))['bits'] == int((bits or ['12'])[-1])
    capsys.readouterr()
    assert cli.main(['predict', 'later.png', 'deep/1.png', '--run', 'run']) == 0
    later, same = [line.split(',')[2:] for line in capsys.readouterr().out.splitlines()[1:]]
    assert later == same


def test_exemplars_and_estimators_read_later_pictures_with_the_same_bits():
    deep_pictures()
    images, = [data.load_images('deep')]
    assert int(load_exemplars(dict(a='later.png'), images).pixels.max()) == int(images.pixels[1].max())
    est = SphericalClusterer(2, preset='published', epochs=0, random_state=0).fit('deep')
    est.save_pretrained('kept')
    for one in (est, SphericalClusterer.from_pretrained('kept')): assert np.array_equal(*one.predict_proba(['later.png', 'deep/1.png']))


def runs_pixels(folder):
    from sphere_mnist.runs import load_split
    return int(load_split(systems.read_config(Path(folder)))[0].pixels.max())


SENTENCES = dict( # what is called, what is said
    dates=(lambda: data.as_labels(np.array(['2020-01-01', '2021-01-01'], 'M8[D]')), 'labels such as'),
    huge=(lambda: data.as_labels([10**5000, 1]), 'beyond 2**63'),
    infinite=(lambda: data.as_labels([float('inf'), 1]), 'beyond 2**63'),
    typo=(lambda: share.load_system('runs/nowhere/typo'), 'There is no folder runs/nowhere/typo'),
    here=(lambda: share.load_system('./typo'), 'There is no folder ./typo'),
    beside=(lambda: SphericalClusterer.from_pretrained('pics/typo'), 'There is no folder pics/typo'),
    word=(lambda: data.load_images('nosuch'), "unknown data 'nosuch': known are"),
    bits=(lambda: data.load_images(saved_array(), bits=12), 'holds no files of pictures'))


def saved_array():
    np.save('a.npy', np.zeros((3, 4)))
    return 'a.npy'


@pytest.mark.parametrize('case', SENTENCES)
def test_one_sentence(case):
    call, words = SENTENCES[case]
    with pytest.raises(data.InputError, match=words.replace('*', r'\*')): call()


@pytest.mark.parametrize('line, words', [
    ('cluster --data digits --epochs 12345678901234567890', 'below 2**63'), ('cluster --data ~nobodyx/', 'does not exist'), ('evaluate run --data ~nobodyx/', 'not a run folder'),
    ('cluster --data digits --seed 99999999999999999999', 'out of range'), ('cluster --data digits --out null', 'leave --out out, or write ./null'),
    ('cluster --data digits --ledger=NULL', 'leave --ledger out'), ('predict pics/a0.png --run ~', 'leave --run out, or write ./~')])
def test_a_mistake_of_the_command_line(line, words, capsys):
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1


def test_classes_of_five_thousand_digits():
    labels, classes = data.as_labels(['1'*5000, '2', '1'*5000])
    assert labels.tolist() == [0, 1, 0] and len(classes) == 2


@pytest.mark.parametrize('shape, look', [((1, 9, 9), 'ink'), ((3, 9, 9), 'photographs'), ((5,), 'features')])
def test_the_default_preset_suits_the_data(shape, look):
    import torch
    from sphere_mnist.spherical import Spherical
    if look == 'features': images = data.Images(torch.rand(20, 5))
    else:
        pixels = torch.randint(0, 256, (20, *shape), dtype=torch.uint8)
        if look == 'ink': pixels[:, :, :, :6] = 0; pixels[:, :, :2] = 0; pixels[:, :, -1:] = 0; pixels[..., -1] = 0
        images = data.Images(pixels)
    assert look_of(images)[0] == look
    assert default_preset(Spherical, images)[0] == ('fashion' if look == 'photographs' else 'fast')


def a_folder(look):
    "Ten pictures of 12 x 12 pixels: ink on a ground, or a photograph in colour or in grey."
    Path(look).mkdir()
    for n in range(10):
        array = np.random.default_rng(n).integers(0, 256, (12, 12, 3) if look == 'colour' else (12, 12), dtype=np.uint8)
        if look == 'ink': array[:4] = array[8:] = array[:, :4] = array[:, 8:] = 0
        Image.fromarray(array).save(f'{look}/{n}.png')


@pytest.mark.parametrize('look, line', [('ink', 'preset fast: '), ('colour', 'preset fashion: the pictures have colour'), ('grey', 'preset fashion: only ')])
def test_one_line_says_which_preset_and_why(look, line, capsys):
    a_folder(look)
    said = ['cluster', '--data', look, '--epochs', '0', '--clusters', '2', '--backbone', 'none', '--out']
    assert cli.main([*said, 'run']) == 0
    assert [text.startswith(line) for text in capsys.readouterr().out.splitlines() if text.startswith('preset ')] == [True]
    preset = systems.read_config(Path('run'))['preset']
    assert line.startswith(f'preset {preset}:')
    assert cli.main([*said, 'other', '--preset', 'quick']) == 0 and 'preset quick:' not in capsys.readouterr().out # who has chosen knows why
    est = SphericalClusterer(2, epochs=0, random_state=0, verbose=True).fit(look)
    assert line in capsys.readouterr().out and est.system_.warp.startswith(dict(fast='handwriting', fashion='clothes')[preset])


def in_class_folders():
    "The pictures in a folder for each kind, and no test part."
    for picture in sorted(Path('pics').iterdir()):
        (place := Path('sorted', picture.name[0])).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, place)


@pytest.mark.parametrize('line, split, n', [('embed --loss softmax', 'validation', 6), ('embed --split all', 'all', 18), ('cluster --preset published', 'all', 18),
                                            ('cluster --preset published --train-proportion .5', 'validation', 9)])
def test_a_score_says_whether_its_images_were_trained_on(line, split, n, capsys):
    in_class_folders()
    assert cli.main([*line.split(), '--data', 'sorted', '--epochs', '1', '--batch-size', '9', '--out', 'run']) == 0
    said, result = capsys.readouterr(), json.loads(Path('run/result.json').read_text())
    assert (result['split'], result['n']) == (split, n) == (result['split'], len(rows()))
    assert ('6 of the 18 images are held out' in said.err) == (line == 'embed --loss softmax')
    for text in (said.out, Path('run/README.md').read_text(), Path('run/report.html').read_text()): assert ('images that were trained on' in text) == (split == 'all')


def test_probes_are_not_scored_on_what_they_learned(capsys):
    in_class_folders()
    assert cli.main([*TINY[:1], '--data', 'sorted', *TINY[3:], '--out', 'run']) == cli.main(['evaluate', 'run', '--probe-data', 'sorted']) == 0
    assert '6 of the 18 images are held out' in capsys.readouterr().err


@pytest.mark.parametrize('line, status, words', [('--version', 0, 'sphere_mnist 0'), ('check pics --out audit.csv', 0, '18  pictures'), ('clusterr', 2, 'did you mean cluster')])
def test_the_package_runs_as_the_command_does(line, status, words):
    done = subprocess.run([sys.executable, '-m', 'sphere_mnist', *line.split()], env=dict(os.environ, PYTHONPATH=str(root)), capture_output=True, text=True)
    assert done.returncode == status and words in done.stdout + done.stderr, done


@pytest.mark.parametrize('system', ['mixem', 'spherical'])
def test_no_figure_fails_without_labels(system, monkeypatch, capsys):
    monkeypatch.setattr(clustering, 'run_figures', report.run_figures)
    assert cli.main(['cluster', '--data', 'pics', '--system', system, '--clusters', '3', '--epochs', '0', '--out', 'run']) == 0
    assert 'no figure' not in capsys.readouterr().out


@pytest.mark.parametrize('name', ['=1+cmd.png', '@SUM(1).png', "'=quoted.png", '-1+1.png'])
def test_no_name_is_a_formula(name, capsys):
    os.rename('pics/a0.png', f'pics/{name}')
    assert cli.main(['cluster', '--data', 'pics', *TINY[3:], '--clusters', '3', '--out', 'run', '--exemplars', 'cat=pics/a1.png', 'dog=pics/b0.png', 'emu=pics/c0.png']) == 0
    assert f"'{name}" in rows() and name not in rows()
    assert name in [row[0] for row in read_answers(Path('run'))]
    capsys.readouterr()
    assert cli.main(['predict', './pics', '--run', 'run']) == 0 and 'were named before' in capsys.readouterr().err
    assert cli.main(['sort', 'run', '--to', 'sorted']) == 0 and len([*Path('sorted').glob(f'*/{name}')]) == 1


@pytest.mark.parametrize('name, shown', [('a\x1b[31mb', r'a\x1b[31mb'), ('c\nd', r'c\nd'), ('e\x07f', r'e\x07f')])
def test_no_name_steers_a_terminal(name, shown, capsys):
    given = [f'{name}=pics/a0.png', 'dog=pics/a1.png', 'emu=pics/b0.png']
    assert cli.main([*TINY, '--clusters', '3', '--out', 'run', '--exemplars', *given]) == 0
    said = capsys.readouterr()
    assert name not in said.out + said.err and name not in (card := Path('run/README.md').read_text()) and f'named dog, emu, {shown} by' in card.replace(f'{shown}, dog, emu', f'dog, emu, {shown}')
    assert cli.main(['predict', f'pics/{name}.png', '--run', 'run']) == 2
    assert '\x1b' not in (said := capsys.readouterr().err) and '\x07' not in said and len(said.splitlines()) == 1
