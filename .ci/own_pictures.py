"""Time each step of the README's section on one's own pictures: `python .ci/own_pictures.py FOLDER`, with a sub-folder for each class.

3,000 of the pictures are copied flat into one folder, so that no command sees a class; what a person would say is read from where they
came from. A row for each step is appended to nbs/results/own_pictures.jsonl. The cache of features is an empty one."""
import csv, os, random, subprocess, sys, tempfile, time
from collections import Counter, defaultdict
from pathlib import Path
from sphere_mnist.systems import append_row, provenance

root = Path(__file__).resolve().parent.parent
PICTURES, LATER, SAID = 3000, 100, 30 # at first, later, corrected one by one


def timed(step, *words, **known):
    "Run a command as a person would, and keep its seconds."
    began = time.perf_counter()
    subprocess.run([sys.executable, '-m', 'sphere_mnist', *words], check=True)
    append_row(root/'nbs/results/own_pictures.jsonl', dict(step=step, seconds=round(time.perf_counter() - began, 1), **known) | provenance())


def scores(table, truth):
    "How many pictures there are, and how many of them go by their right name."
    named = {Path(row['picture']).name: row['label'] for row in csv.DictReader(table.open())}
    return dict(pictures=len(named), right=round(sum(truth[name] == label for name, label in named.items())/len(named), 4))


def corrections(table, truth, file):
    "A name for each cluster, by the most of a dozen of its surest pictures, those of one name in one, and some of the least sure pictures one by one."
    clusters, rows = defaultdict(list), [*csv.DictReader(table.open())]
    for row in sorted(rows, key=lambda row: -float(row['confidence'])): clusters[row['cluster']].append(truth[Path(row['picture']).name])
    first, said = {}, []
    for k, classes in sorted(clusters.items()):
        name = Counter(classes[:12]).most_common(1)[0][0]
        if name in first: said.append((f'cluster:{k}', 'merge', f'cluster:{first[name]}'))
        else: said.append((f'cluster:{k}', 'name', name))
        first.setdefault(name, k)
    least = sorted(rows, key=lambda row: float(row['confidence']))[:SAID]
    said += [(row['picture'], 'label', truth[Path(row['picture']).name]) for row in least]
    with file.open('w', newline='') as f: csv.writer(f).writerows([('picture', 'action', 'value'), *said])


def walk(source, place):
    files = [file for file in sorted(Path(source).glob('*/*')) if file.is_file()]
    random.Random(0).shuffle(files)
    truth, (folder, run) = {}, (place/'my_pictures', place/'mine')
    folder.mkdir()
    def copy(files):
        for file in files:
            truth[name := f'{len(truth):05}{file.suffix}'] = file.parent.name
            (folder/name).write_bytes(file.read_bytes())
    copy(files[:PICTURES])
    timed('check', 'check', str(folder), pictures=PICTURES)
    timed('cluster', 'cluster', '--data', str(folder), '--clusters', '10', '--seed', '0', '--out', str(run), pictures=PICTURES)
    corrections(run/'clusters.csv', truth, said := place/'corrections.csv')
    timed('correct', 'correct', str(run), str(said), '--train', corrections=SAID)
    print(found := scores(run/'clusters.csv', truth))
    timed('sort', 'sort', str(run), '--to', str(place/'sorted'), **found)
    copy(files[PICTURES:PICTURES + LATER])
    timed('predict', 'predict', str(folder), '--run', str(run), pictures=LATER)


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as place:
        os.environ['XDG_CACHE_HOME'] = place
        walk(sys.argv[1], Path(place))
