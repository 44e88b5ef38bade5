"""Pictures sorted into folders and taken back: whatever is killed or out of disk, no picture is lost and none is overwritten."""
import contextlib, csv, errno, json, os, shutil, sys
from unittest import mock
import pytest
import yaml
from sphere_mnist import cli
from sphere_mnist.data import InputError
from sphere_mnist.sort import read_corrections, read_manifest, sort
from sphere_mnist.systems import RESULT

PICTURES = {'a/1.png': ('cat', .9, 0), 'b/1.png': ('dog', .9, 1), 'c.png': ('', .9, 2), 'd.png': ('cat', .3, 0), 'e.png': ('', 1., -1)}
CORRECTED = PICTURES | {'b/1.png': ('cat', .9, 0), 'c.png': ('owl', .9, 2)}
CHANGES = {os: ('symlink', 'link', 'unlink', 'rename', 'replace', 'mkdir', 'rmdir'), shutil: ('copy2',)}


def answers(top, rows=PICTURES):
    with (top/'run/clusters.csv').open('w') as f:
        csv.writer(f).writerows([['picture', 'label', 'confidence', 'cluster'], *([name, label, f'{p:.4f}', k] for name, (label, p, k) in rows.items())])


@pytest.fixture
def top(tmp_path): return made(tmp_path)


def made(top):
    "A finished run of five pictures, of which only the tables are needed."
    for folder in ('run', 'pile/a', 'pile/b'): (top/folder).mkdir(parents=True)
    for name in PICTURES: (top/'pile'/name).write_text(name)
    settings = dict(system='spherical', preset='fast', data=str(top/'pile'), split='test', seed=0)
    (top/'run/config.yaml').write_text(yaml.safe_dump(settings))
    result = dict.fromkeys(RESULT) | dict(seconds=1.)
    (top/'run/result.json').write_text(json.dumps(result))
    answers(top)
    return top


def sorted_into(top, **options): return sort(str(top/'run'), str(top/'sorted'), **dict(yes=True) | options)
def contents(top): return sorted(f.read_text() for f in top.rglob('*.png') if not f.is_symlink())
def places(top): return {str(f.relative_to(top/'sorted')): f.read_text() for f in (top/'sorted').rglob('*.png')}


class Killed(BaseException): pass


@contextlib.contextmanager
def dies(at, error=Killed):
    "From the given change of the disk on none happens any more: the process is gone, or the disk is full, which refuses only what adds to it."
    done = []
    def watched(call):
        def change(*args, **kw):
            done.append(call)
            if len(done) >= at: raise error if error is Killed else OSError(error, os.strerror(error))
            return call(*args, **kw)
        return change
    with contextlib.ExitStack() as stack:
        for module, names in CHANGES.items():
            names = names if error is Killed else {'symlink', 'link', 'mkdir', 'copy2'} & {*names}
            stack.enter_context(mock.patch.multiple(module, **{name: watched(getattr(module, name)) for name in names}))
        yield done


WANTED = {'cat/a-1.png': 'a/1.png', 'dog/b-1.png': 'b/1.png', 'cluster-2/c.png': 'c.png', '_unsure/d.png': 'd.png', '_strangers/e.png': 'e.png'}
AFTER = WANTED | {'cat/b-1.png': 'b/1.png', 'owl/c.png': 'c.png'}
for gone in ('dog/b-1.png', 'cluster-2/c.png'): AFTER.pop(gone)


@pytest.mark.parametrize('how', ['link', 'copy', 'move'])
def test_sort_sort_again_and_take_back(top, how, capsys):
    options = {how: True} if how != 'link' else {}
    assert len(sorted_into(top, **options)) == 5 and places(top) == WANTED
    assert contents(top) == sorted([*PICTURES]*(2 if how == 'copy' else 1))
    stamp = {f: f.lstat().st_ino for f in (top/'sorted').rglob('*.png')}
    sorted_into(top)
    assert {f: f.lstat().st_ino for f in (top/'sorted').rglob('*.png')} == stamp # nothing was done twice
    answers(top, CORRECTED)
    sorted_into(top)
    assert places(top) == AFTER and not (top/'sorted/dog').exists()
    assert {row['file'] for row in read_manifest(top/'sorted')} == {*AFTER}
    assert sorted_into(top, undo=True) == [] and not (top/'sorted').exists()
    assert contents(top/'pile') == sorted(PICTURES) and (top/'pile/a/1.png').read_text() == 'a/1.png'


@pytest.mark.parametrize('phase', ['sort', 'again', 'undo'])
@pytest.mark.parametrize('how', ['link', 'copy', 'move'])
@pytest.mark.parametrize('error', [Killed, errno.ENOSPC], ids=['kill', 'full'])
def test_nothing_is_lost(tmp_path, how, error, phase, monkeypatch, capsys):
    "Stopped at each change of the disk in turn, and then given once more."
    monkeypatch.setattr('psutil.pid_exists', lambda number: False) # whoever was killed is gone
    options = {how: True} if how != 'link' else {}
    for at in range(1, 200):
        top = made(tmp_path/f'{at}')
        if phase != 'sort': sorted_into(top, **options)
        if phase == 'again': answers(top, CORRECTED)
        def do(): return sorted_into(top, undo=phase == 'undo', **options)
        try:
            with dies(at, error): do()
            break
        except (Killed, OSError): pass
        assert {*contents(top)} == {*PICTURES}
        if how != 'move': assert contents(top/'pile') == sorted(PICTURES)
        if phase != 'undo' or (top/'sorted').exists(): do()
        if phase != 'undo':
            assert places(top) == (WANTED if phase == 'sort' else AFTER)
            assert not [f for f in (top/'sorted').rglob('.*')]
            sorted_into(top, undo=True)
        assert contents(top/'pile') == sorted(PICTURES) and not (top/'sorted').exists()
    assert at > (5 if error is Killed else 1 if phase != 'undo' or how == 'move' else 0)


def test_nothing_is_overwritten(top, capsys):
    sorted_into(top, copy=True)
    (top/'sorted/cat/a-1.png').write_text('turned by hand')
    (top/'sorted/owl').mkdir()
    (top/'sorted/owl/c.png').write_text('somebody else')
    answers(top, CORRECTED)
    sorted_into(top)
    found = places(top)
    assert found['owl/c.png'] == 'somebody else' and found['owl/c (2).png'] == 'c.png' and 'turned by hand' in found.values()
    left = sorted_into(top, undo=True)
    assert 'turned by hand' in places(top).values() and len(left) == 1 and 'somebody else' in places(top).values()
    assert contents(top/'pile') == sorted(PICTURES)


def test_a_move_that_cannot_go_back_stays(top, capsys):
    sorted_into(top, move=True)
    (top/'pile/c.png').write_text('new')
    assert [row['file'] for row in sorted_into(top, undo=True)] == ['cluster-2/c.png']
    assert (top/'sorted/cluster-2/c.png').read_text() == 'c.png' and (top/'pile/c.png').read_text() == 'new'
    (top/'pile/c.png').unlink()
    assert sorted_into(top, undo=True) == [] and contents(top/'pile') == sorted(PICTURES)


def test_without_links(top, monkeypatch, capsys):
    def refuse(*args, **kw): raise OSError(errno.EPERM, 'no links here')
    monkeypatch.setattr(os, 'symlink', refuse)
    assert {row['how'] for row in sorted_into(top)} == {'hard'} and places(top) == WANTED
    sorted_into(top, undo=True)
    monkeypatch.setattr(os, 'link', refuse)
    for options in ({}, dict(move=True)):
        sorted_into(top, **options)
        assert places(top) == WANTED
        sorted_into(top, undo=True)
        assert contents(top/'pile') == sorted(PICTURES)


def test_moving_asks(top, monkeypatch, capsys):
    with pytest.raises(InputError, match='add --yes'): sorted_into(top, move=True, yes=False)
    monkeypatch.setattr(sys.stdin, 'isatty', lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    for said, moved in (('', 0), ('no', 0), ('Yes ', 5)):
        monkeypatch.setattr('builtins.input', lambda question: said)
        assert len(sorted_into(top, move=True, yes=False)) == moved
    undo = [*csv.reader((top/'sorted/undo.csv').open())]
    assert undo[0] == ['from', 'to'] and ['cat/a-1.png', str(top/'pile/a/1.png')] in undo


REFUSED = dict(
    nowhere=(lambda top: sort(str(top/'run')), '--to FOLDER'),
    inside=(lambda top: sort(str(top/'run'), str(top/'pile/sorted')), 'another place'),
    full=(lambda top: sort(str(top/'run'), str(top/'run')), 'empty folder'),
    both=(lambda top: sorted_into(top, copy=True, move=True), 'one of them'),
    nothing_sorted=(lambda top: sorted_into(top, undo=True), 'nothing was sorted'),
    no_run=(lambda top: sort(str(top/'pile'), str(top/'sorted')), 'not a run folder'))

@pytest.mark.parametrize('case', REFUSED)
def test_refusals(top, case):
    call, words = REFUSED[case]
    with pytest.raises(InputError, match=words): call(top)
    assert not (top/'sorted').exists() and contents(top/'pile') == sorted(PICTURES)


@pytest.mark.parametrize('name', ['../private.png', '/etc/private.png', 'a/../../private.png', 'notes.md'])
def test_a_table_that_leads_elsewhere_is_refused(top, name):
    (top/'private.png').write_text('private')
    answers(top, {name: ('cat', .9, 0)})
    with pytest.raises(InputError, match='evaluate writes clusters.csv again'): sorted_into(top, move=True)
    assert (top/'private.png').exists()


def test_the_command(top, capsys):
    (top/'run/later.csv').write_text(f'picture,label,confidence,cluster\n{top}/late.png,cat,0.9000,0\n')
    (top/'late.png').write_text('late')
    (top/'run/map.csv').write_text('picture,x,y,code\n' + ''.join(f'{name},{2*k},{2*k + 1},0\n' for k, name in enumerate(PICTURES)))
    assert cli.main(['sort', str(top/'run'), '--to', str(top/'sorted')]) == 0
    out = capsys.readouterr().out
    assert '6 pictures in 5 folders' in out and '2  cat' in out and (top/'sorted/cat/late.png').read_text() == 'late'
    rows = {row['file']: row for row in read_manifest(top/'sorted')}
    assert (rows['cluster-2/c.png']['x'], rows['cluster-2/c.png']['y'], rows['cluster-2/c.png']['cluster']) == ('4', '5', '2')
    (top/'pile/c.png').unlink()
    assert cli.main(['sort', str(top/'run'), '--to', str(top/'sorted')]) == 0 and '1 pictures are not where they were' in capsys.readouterr().out


def test_parquet(top, capsys):
    pandas = pytest.importorskip('pandas'); pytest.importorskip('pyarrow')
    sorted_into(top)
    table = pandas.read_parquet(top/'sorted/manifest.parquet')
    assert len(table) == 5 and table.confidence.dtype == float and {*table.cluster} == {0, 1, 2, -1}


@pytest.mark.parametrize('name', ['=1+1', '@cat', "'=cat"])
def test_no_name_of_a_cluster_is_a_formula(top, name):
    before = contents(top)
    answers(top, PICTURES | {'a/1.png': (f"'{name}", .9, 0)}) # as the run writes it
    sorted_into(top, move=True)
    written = (top/'sorted/manifest.csv').read_text() + (top/'sorted/undo.csv').read_text()
    assert f",'{name}," in written and f"\n'{name}/" in written and f',{name},' not in written
    assert name in [row['name'] for row in read_manifest(top/'sorted')] and any(file.startswith(f'{name}/') for file in places(top))
    sorted_into(top, undo=True)
    assert contents(top/'pile') == before
    (top/'corrections.csv').write_text(f"picture,action,value\n'{name},label,'{name}\n'tis,label,'tis\n")
    assert read_corrections(top/'corrections.csv')[0] == [(name, 'label', name), ("'tis", 'label', "'tis")]


# A folder that a stranger has sorted

def by_a_stranger(top, picture, file, how='copy', undo=()):
    "A folder with the tables of a sort: one picture, and what undo.csv says."
    (top/'sorted').mkdir(exist_ok=True)
    with (top/'sorted/manifest.csv').open('w') as f:
        csv.writer(f, lineterminator='\n').writerows([['picture', 'cluster', 'name', 'confidence', 'x', 'y', 'file', 'how'], [picture, 0, 'cat', '0.9000', '', '', file, how]])
    if undo: (top/'sorted/undo.csv').write_text('from,to\n' + ''.join(f'{a},{b}\n' for a, b in undo))


@pytest.mark.parametrize('how', ['copy', 'hard', 'move'])
@pytest.mark.parametrize('undo', [True, False])
def test_a_folder_that_leads_elsewhere_loses_nothing(top, how, undo):
    (top/'private').mkdir(); (top/'private/x.png').write_text('x'); (top/'private/.trial.99999999').write_text('mine')
    by_a_stranger(top, top/'private/x.png', 'cat/x.png', how, [('cat/x.png', top/'y.png')] if how == 'move' else ())
    (top/'sorted/cat').symlink_to(top/'private')
    before = {f: f.read_text() for f in (top/'private').iterdir()}
    with pytest.raises(InputError, match='sorted/cat is a link'): sorted_into(top, **dict(undo=True) if undo else {how: True} if how != 'hard' else {})
    assert {f: f.read_text() for f in (top/'private').iterdir()} == before and not (top/'y.png').exists()


@pytest.mark.parametrize('how', ['copy', 'move', None])
def test_nothing_is_sorted_through_a_link(top, how):
    (top/'private').mkdir()
    by_a_stranger(top, top/'pile/a/1.png', 'other/1.png', how or 'link')
    (top/'sorted/cat').symlink_to(top/'private')
    with pytest.raises(InputError, match='sorted/cat is a link'): sorted_into(top, **{how: True} if how else {})
    assert not [*(top/'private').iterdir()] and contents(top/'pile') == sorted(PICTURES)


@pytest.mark.parametrize('name', ['.bash_profile', '.config/autostart/x.desktop', 'x.py', 'x.png.sh', 'bin/png'])
def test_what_is_taken_back_is_a_picture(top, name):
    (top/'sorted/cat').mkdir(parents=True)
    (top/'sorted/cat/x.png').write_text('echo sprung')
    by_a_stranger(top, top/name, 'cat/x.png', 'move', [('cat/x.png', top/name)])
    with pytest.raises(InputError, match='which is no picture: restore undo.csv'): sorted_into(top, undo=True)
    assert not (top/name).exists() and (top/'sorted/cat/x.png').exists()


@pytest.mark.parametrize('later', [0, 1, 3])
def test_who_moves_pictures_from_elsewhere_is_told(top, later, monkeypatch):
    (top/'elsewhere').mkdir()
    for n in range(later): (top/f'elsewhere/{n}.png').write_text(f'{n}')
    (top/'run/later.csv').write_text('picture,label,confidence,cluster\n' + ''.join(f'{top}/elsewhere/{n}.png,cat,0.9000,0\n' for n in range(later)))
    asked = []
    monkeypatch.setattr('sphere_mnist.sort.agreed', lambda question: asked.append(question))
    assert sorted_into(top, move=True, yes=False) == [] and len([*(top/'elsewhere').iterdir()]) == later
    assert asked == [f'Move {5 + later} pictures from {top}/pile' + (f' ({later} of them from elsewhere, the first {top}/elsewhere/0.png)' if later else '') + f' to {top}/sorted?']
