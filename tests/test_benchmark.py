"""The benchmark: every method that is installed on some shipped digits, and rows from processes of their own."""
import copy, json, subprocess
from functools import partial
from pathlib import Path
import pytest
import torch
from sphere_mnist import benchmark, cli, systems
from sphere_mnist.data import InputError, load_images
from sphere_mnist.training import counted

PRESENT = [name for name, peer in benchmark.peers().items() if not benchmark.missing(peer)]


@pytest.fixture(scope='module')
def digits():
    "Some to train on, some to label."
    def some(split, n):
        images = load_images('mnist5k', split)
        return images[torch.randperm(len(images), generator=counted(0))[:n]]
    return some('train', 240), some('test', 100)


@pytest.fixture
def short(monkeypatch):
    "Half a round of ClustPy, one epoch for each stage of ours, no restarts."
    monkeypatch.setattr(benchmark, 'train_again', partial(benchmark.train_again, restarts=0))
    monkeypatch.setattr(benchmark, 'rounds_within', lambda fit, rows, seconds: .5)
    for name in systems.SYSTEMS:
        made = systems.system_class(name)
        presets = copy.deepcopy(made.presets)
        for preset in presets.values():
            for stage in preset['stages']: stage.update(epochs=1, steps=0, batch_size=64)
        monkeypatch.setattr(made, 'presets', presets)


@pytest.mark.parametrize('method', PRESENT)
def test_a_method_gives_a_row(digits, short, method, capsys):
    row = benchmark.measure(method, *digits, budget=5.)
    assert not any(capsys.readouterr()) # what a library says is not for the ledger
    json.dumps(row)
    assert (row['method'], row['n_train'], row['n'], row['data'], row['split']) == (method, 240, 100, 'mnist5k', 'test')
    assert .08 < row['acc'] <= 1 and 1 <= row['clusters_used'] <= 10
    assert row['collapsed'] == (row['clusters_used'] <= 5)
    assert row['seconds'] > 0 and row['peak_mib'] > 100 and min(row['gflops']) > 0
    assert {'hardware', 'threads', 'version', 'torch', 'commit'} <= row.keys()
    assert set(row['versions']) == {'numpy', 'scikit-learn', *benchmark.peers()[method].needs}
    assert (row['acc_exemplar'] is not None) == (method in ('poisson', 'label_spreading'))
    if method in benchmark.CLUSTPY: assert row['epochs'] == ((1,) if method == 'n2d' else (1, 2))
    if method in ('kmeans', 'umap_gmm', 'poisson'): assert row['acc'] > .4 # of those that 240 images are enough for


def test_ours_see_no_labels(digits, monkeypatch):
    def spy(stages, images, out, seed, progress):
        seen.append((images, stages(seed)[0].system))
        return seen[-1][1].eval(), []
    seen = []
    monkeypatch.setattr(benchmark, 'train_again', spy)
    benchmark.measure('spherical', *digits, seed=3)
    assert seen[0][0].labels is None and not len(seen[0][1].exemplars) and seen[0][1].n_clusters == 10


def test_a_row_from_its_own_process(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    held = torch.ones(600 << 20, dtype=torch.uint8) # 600 MiB here must not count there
    here = benchmark.peak_mib()
    assert cli.main(['bench', '--method', 'kmeans', '--data', 'digits', '--seed', '1', '--ledger', 'rows.jsonl']) == 0
    row, = (json.loads(line) for line in Path('rows.jsonl').read_text().splitlines())
    assert (row['method'], row['data'], row['seed'], row['n_train']) == ('kmeans', 'digits', 1, 1438)
    assert row['acc'] > .6 and not row['collapsed']
    assert 100 < row['peak_mib'] < here - 200 and len(held)
    assert capsys.readouterr().out.startswith(f'method kmeans, data digits, seed 1, acc {row["acc"]:.4g}, ')
    assert sorted(f.name for f in tmp_path.iterdir()) == ['rows.jsonl']


def test_growth():
    row = benchmark.growth(load_images('digits'), 2000)
    assert row['images'] == 2000 and row['steps'] == [16, 16] # of 125 images
    assert row['seconds_epoch'] == pytest.approx([16*s for s in row['seconds_step']], rel=.05, abs=.01)
    assert row['seconds_discovery'] > 0 and row['peak_mib'] > 100
    json.dumps(row)


@pytest.mark.parametrize('status, errors, said', [
    (-9, '', 'kmeans was ended by SIGKILL'),
    (1, 'Traceback\nsphere_mnist.data.InputError: no labels: give some', 'kmeans failed on digits: no labels: give some'),
    (1, 'Traceback\nValueError: Input contains NaN', 'kmeans failed on digits: ValueError: Input contains NaN'),
    (3, '', 'kmeans failed on digits: status 3')])
def test_a_process_that_fails_leaves_no_row(tmp_path, monkeypatch, capsys, status, errors, said):
    monkeypatch.setattr(subprocess, 'run', lambda *args, **kw: subprocess.CompletedProcess(args, status, '', errors))
    ledger = tmp_path/'rows.jsonl'
    assert cli.main(['bench', '--method', 'kmeans', '--data', 'digits', '--ledger', str(ledger)]) == 2
    out, err = capsys.readouterr()
    assert err.count('\n') == 1 and said in err and not ledger.exists()


def test_data_without_labels(tmp_path, monkeypatch):
    import numpy as np
    np.save(tmp_path/'points.npy', np.random.default_rng(0).normal(size=(50, 2)))
    job = dict(method='kmeans', data=str(tmp_path/'points.npy'), data_dir=None, seed=0, budget=5., growth=None)
    monkeypatch.setattr('sys.argv', ['work', json.dumps(job)])
    with pytest.raises(InputError, match='has no labels to score with'): benchmark.work()


@pytest.mark.parametrize('wrong, said', [
    (['--method', 'k-mean'], "did you mean 'kmeans'"), (['--method', 'margins'], 'unknown method'),
    (['--method', 'absent'], "'absent' is not installed: pip install no-such-package"),
    (['--seed', '-1'], 'out of range'), (['--budget', '0'], 'seconds above 0'), (['--budget', 'nan'], '--budget nan: give a number'),
    (['--budget', 'soon'], '--budget soon: give a number'),
    (['--growth', '10'], '1000 or more'), (['--method', 'kmeans', '--growth', '2000'], 'one of them'),
    (['--ledger', 'no/such/ledger'], 'make it first'), (['--methd', 'kmeans'], '--method')])
def test_misuse_is_one_sentence(monkeypatch, capsys, wrong, said):
    monkeypatch.setitem(benchmark.PEERS, 'absent', benchmark.Peer(None, '', ('no-such-package',)))
    monkeypatch.setitem(benchmark.PACKAGES, 'no-such-package', 'no_such_module')
    monkeypatch.setattr(benchmark, 'in_own_process', lambda job: pytest.fail('a process was started'))
    assert cli.main(['bench', *wrong]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count('\n') == 1 and said in err, err


def test_the_list(capsys):
    assert cli.main(['bench']) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [l.split()[0] for l in lines] == [*benchmark.peers()]
    assert {l.split()[0]: l.split()[1] == 'yes' for l in lines} == {name: name in PRESENT for name in benchmark.peers()}
