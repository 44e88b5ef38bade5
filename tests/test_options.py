"What the published programs can do, on the command line."
import json
import pytest
import torch
from PIL import Image
from sphere_mnist import clustering, look_again
from sphere_mnist.cli import main
from sphere_mnist.runs import load_split
from sphere_mnist.systems import run_settings


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    for room in (clustering, look_again): monkeypatch.setattr(room, 'run_figures', lambda *args, **kw: [])
    return tmp_path


def run(*words, data='digits', command='cluster'):
    "A run in `run`: its result, and the rows of its epochs."
    assert main([command, '--data', data, '--out', 'run', *map(str, words)]) == 0
    with open('run/metrics.jsonl') as f: return json.load(open('run/result.json')), [json.loads(line) for line in f]


def test_an_optimizer_a_proportion_and_what_can_be_watched(here):
    result, rows = run('--preset', 'published', '--epochs', 2, '--optimizer', 'sgd', '--split', 'validation', '--train-proportion', .75, '--follow',
                       '--pictures', 1, '--ledger', 'rows.jsonl', '--track', 'tensorboard')
    row = json.loads((here/'rows.jsonl').read_text())
    assert (row['optimizer'], row['train_proportion'], row['n'], rows[0]['step']) == ('sgd', .75, 360, 17) # 1,078 of 1,438 images in batches of 67
    assert 0 < rows[-1]['validation_acc'] < 1 and rows[-1]['validation_acc'] != rows[-1]['acc']
    assert {f.stem for f in (here/'run/figures').glob('*.png')} == {'tsne', 'reconstructions'}
    Image.open(here/'run/figures/reconstructions.png').load()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(next((here/'run/logs').rglob('events*')).parent)).Reload()
    assert {'tsne', 'reconstructions'} <= {*events.Tags()['images']}


def test_another_optimizer_ends_elsewhere():
    ends = []
    for optimizer in ('adam', 'nadam'):
        assert main(f'cluster --data digits --preset published --epochs 1 --optimizer {optimizer} --out {optimizer}'.split()) == 0
        ends.append(json.loads(open(f'{optimizer}/metrics.jsonl').read())['loss'])
    assert ends[0] != ends[1]


def test_the_rule_of_the_paper_in_each_epoch_and_both_splits_to_train_on():
    result, rows = run('--system', 'gmvae', '--preset', 'published_200', '--clusters', 12, '--epochs', 2, '--hidden', 50, '--latent-dim', 8, '--style-dim', 4,
                       '--split', 'all', '--follow')
    assert result['split'] == 'all' and result['n'] == 359
    assert all(0 < row['acc_aae'] <= 1 and 0 < row['test_acc_aae'] <= 1 for row in rows)
    images, scored = load_split(run_settings(data='digits', split='all'))
    assert len(images) == 1797 and torch.equal(images.pixels[-359:], scored.pixels)


def test_the_settings_of_the_losses_with_labels():
    values = {}
    for words in ('', '--reduction sum', '--head-dropout .5'):
        loss = 'softmax' if 'head' in words else 'intra_triplet'
        assert main(f'embed --loss {loss} --data digits --epochs 1 --batch-size 100 --lr [1e-3,1e-5,plateau] --out x{len(values)} {words}'.split()) == 0
        values[words] = json.loads(open(f'x{len(values)}/metrics.jsonl').read())['terms']
    assert values['--reduction sum']['intra'] > 20*values['']['intra'] > 0 # a hundred images in a batch
    assert json.loads(open('x2/config.json').read())['head_dropout'] == .5


def test_a_run_is_clustered_and_probed_again(here, capsys):
    run('--system', 'mixem', '--preset', 'mnist', '--epochs', 2, '--clusters', 14, '--hidden', 16, '--width', 4, '--draw', 'none')
    capsys.readouterr()
    assert main('evaluate run --clusters 10 --protocol published --probe-data digits --ledger rows.jsonl'.split()) == 0
    rows = [json.loads(line) for line in (here/'rows.jsonl').read_text().splitlines()]
    assert [(r['features'], r['start']) for r in rows if not r['normalised']] == [(f, s) for f in ('backbone', 'mixed', 'component') for s in ('random', 'component')]
    assert all(r['kmeans_clusters'] == 10 and r['protocol'] == 'published' and 0 < r['acc'] < 1 for r in rows) and len(rows) == 13
    said = capsys.readouterr().out
    assert 'calinski' in said and max(map(len, said.splitlines())) < 110
    assert json.loads((here/'run/result.json').read_text())['probe_data'] == 'digits'


@pytest.mark.parametrize('line, fragment', [
    ('evaluate run --protocol publisht', "did you mean 'published'"), ('evaluate run --clusters 1', '--clusters 1: give 2 or more'),
    ('cluster --data digits --optimizer adma', "did you mean 'adam'"), ('cluster --data digits --train-proportion 1', '--train-proportion 1: give a share'),
    ('cluster --data digits --preset published --weights.cluster [1,0,plateau]', 'a plateau is for a learning rate alone'),
    ('embed --data digits --reduction total', "unknown reduction 'total'"), ('embed --data digits --head-dropout 1', 'head_dropout is 1')])
def test_mistakes_are_named(line, fragment, capsys):
    assert main(line.split()) == 2 and fragment in capsys.readouterr().err
