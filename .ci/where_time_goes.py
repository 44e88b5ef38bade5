"""Where the wall time of one run goes, from the start of the process to its report: `python .ci/where_time_goes.py --data mnist5k`.

Takes the flags of `sphere_mnist cluster`. The functions below are wrapped by a stopwatch, which gives each part its own seconds without
those of the parts inside it. A row is appended to nbs/results/time.jsonl, with the seconds that the encoder's multiplications alone
would take at the speed of a matrix product in the same process."""
import sys, tempfile, time
from collections import Counter
from pathlib import Path
from sphere_mnist import cli, clustering, frozen, published, training
from sphere_mnist.benchmark import gigaflops
from sphere_mnist.checkpoints import Checkpoints
from sphere_mnist.evaluation import Scores
from sphere_mnist.models import count_macs
from sphere_mnist.spherical import Spherical
from sphere_mnist.systems import append_row, provenance
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
import torch

seconds, running, macs = Counter(), [], 0


def mark():
    "Give the time since the last mark to what is running."
    now = time.perf_counter()
    seconds[running[-1][0] if running else 'the rest'] += now - mark.last
    mark.last = now


def watch(owner, name, part):
    "Time a function or a method as a part."
    function = getattr(owner, name)
    def timed(*args, **kwargs):
        mark()
        running.append((part, name))
        try: return function(*args, **kwargs)
        finally:
            mark()
            running.pop()
    setattr(owner, name, timed)


def count_encoder(encode):
    "Count what the encoder multiplies while it learns: one way forward, and twice as much back."
    def counted(system, images):
        global macs
        if system.training: macs += 3*len(images)*count_encoder.of_one.setdefault(system.shape, count_macs(system.encoder, system.shape))
        return encode(system, images)
    return counted


count_encoder.of_one = {}
WATCHED = [(clustering, 'images_to_use', 'load the images'), (Spherical, 'discover', 'cut the graph'), (published, 'warp_images', 'warp'),
           (Spherical, 'terms', 'networks and losses, forward'), (Accelerator, 'backward', 'backward'), (AcceleratedOptimizer, 'step', 'optimiser'),
           (Scores, 'after_epoch', 'scores of an epoch'), (Checkpoints, 'save', 'checkpoints'),
           (frozen.Spherical, 'finish', 'names and temperature'), (clustering, 'all_scores', 'scores'), (clustering, 'run_figures', 'figures'),
           (clustering, 'write_map', 'map'), (clustering, 'write_report', 'report'), (training.Loop, 'run_step', 'the rest of a step')]

if __name__ == '__main__':
    mark.last, seconds['start and imports'] = time.perf_counter(), clustering.seconds_alive()
    for watched in WATCHED: watch(*watched)
    published.SphereNetworks.encode = count_encoder(published.SphereNetworks.encode)
    with tempfile.TemporaryDirectory() as top: status = cli.main(['cluster', *sys.argv[1:], '--out', f'{top}/run'])
    mark()
    if status: sys.exit(status)
    speed = gigaflops()
    row = dict(flags=sys.argv[1:], seconds={part: round(s, 2) for part, s in seconds.most_common()}, all=round(sum(seconds.values()), 2),
               arithmetic=round(2*macs/speed/1e9, 2), gflops=round(speed, 1), threads=torch.get_num_threads())
    for part, s in seconds.most_common(): print(f'{part:30}{s:7.1f} s {s/row["all"]:5.0%}')
    print(f'{"all":30}{row["all"]:7.1f} s; multiplications of the encoder alone, at {speed:.0f} GFLOP/s: {row["arithmetic"]:.1f} s')
    append_row(Path(__file__).resolve().parent.parent/'nbs/results/time.jsonl', row | provenance())
