"""`fast` to its end on N images, MNIST's 60,000 and warped copies of them: `python .ci/many_images.py N`.

No label is used but those of the 10,000 test images, which score it. A row is appended to nbs/results/many_images.jsonl."""
import sys, time
from pathlib import Path
from sphere_mnist import load_images, preset_stages, train
from sphere_mnist.agreement import Spherical
from sphere_mnist.benchmark import conditions, grown
from sphere_mnist.evaluation import evaluate
from sphere_mnist.systems import append_row

root = Path(__file__).resolve().parent.parent


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit(__doc__)
    n, seed = int(sys.argv[1]), 0
    many = grown(load_images('mnist'), n, seed)
    began, cpu = time.perf_counter(), time.process_time()
    system = train(preset_stages(Spherical, 'fast', many, None, 10, seed=seed), many, seed=seed)
    spent = dict(seconds=round(time.perf_counter() - began, 1), cpu=round(time.process_time() - cpu, 1))
    scores = {k: v for k, v in evaluate(system, load_images('mnist', 'test')).items() if k in ('n', 'acc', 'nmi', 'ari')}
    row = dict(system='spherical', preset='fast', data='mnist', split='test', images=n, seed=seed, **scores, **spent)
    append_row(root/'nbs'/'results'/'many_images.jsonl', row | conditions())
    print(row)
