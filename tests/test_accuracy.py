"""One accuracy regression on real data: the command of the README, and how good it has to be."""
import csv, json, os, subprocess, sys
from pathlib import Path
import pytest
import torch
from sphere_mnist.agreement import calibration_error
from sphere_mnist.data import load_images

root = Path(__file__).parent.parent
RESULT = ('system preset data split n seed draw exemplars acc_exemplar acc majority_acc nmi ari clusters_used restarts seconds epochs '
          'threads version commit torch hardware').split()


def cluster(folder, *args):
    "Run the command and read its result."
    call = 'import sys; from sphere_mnist.cli import main; sys.exit(main())'
    env = dict(os.environ, PYTHONPATH=str(root), TQDM_DISABLE='1')
    done = subprocess.run([sys.executable, '-c', call, 'cluster', *args, '--draw', '0', '--seed', '0', '--out', 'run'],
                          cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads((folder/'run/result.json').read_text())


def complete(result, data, n):
    "Every key is there, with a value that makes sense."
    assert list(result) == RESULT
    assert (result['system'], result['preset'], result['data'], result['split'], result['n']) == ('spherical', 'fast', data, 'test', n)
    assert (result['seed'], result['draw'], len(result['exemplars']), result['clusters_used']) == (0, 0, 10, 10)
    assert all(0 <= result[k] <= 1 for k in ('acc_exemplar', 'acc', 'majority_acc', 'nmi', 'ari'))


def calibration(run, data):
    "The expected calibration error of what `clusters.csv` says."
    with (run/'clusters.csv').open() as f: rows = list(csv.DictReader(f))
    truth = load_images(data, 'test').labels.tolist()
    error = calibration_error(torch.tensor([float(r['confidence']) for r in rows]), torch.tensor([r['label'] == str(t) for r, t in zip(rows, truth, strict=True)]))
    print(f'expected calibration error on {data}: {error:.4f}')
    return error


def test_the_draw_is_not_among_the_rows():
    rows = [json.loads(line) for line in (root/'nbs/results/spherical.jsonl').read_text().splitlines()]
    assert not [r for r in rows if r['preset'] == 'fast' and r['data'] in ('mnist', 'mnist5k') and 0 in (r['seed'], r['draw'])]


def test_the_shipped_digits(tmp_path):
    result = cluster(tmp_path, '--data', 'mnist5k')
    complete(result, 'mnist5k', 1000)
    assert result['acc_exemplar'] >= .95, result
    assert calibration(tmp_path/'run', 'mnist5k') <= .02
    files = {str(f.relative_to(tmp_path/'run')) for f in (tmp_path/'run').rglob('*')}
    assert {'config.yaml', 'metrics.jsonl', 'result.json', 'model.safetensors', 'config.json', 'figures/confusion.png'} <= files


@pytest.mark.skipif(not Path(os.environ.get('SPHERE_MNIST_DATA') or '/nowhere', 'MNIST/raw').is_dir(),
                    reason='$SPHERE_MNIST_DATA holds no MNIST')
def test_mnist(tmp_path):
    result = cluster(tmp_path, '--data', 'mnist')
    complete(result, 'mnist', 10_000)
    assert result['acc_exemplar'] >= .97, result
    assert calibration(tmp_path/'run', 'mnist') <= .015
