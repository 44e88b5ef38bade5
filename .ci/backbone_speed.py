"""Pictures a second through the small backbone, beside timm's own loop: `python .ci/backbone_speed.py FOLDER [THREADS]`.

Both look at each picture and at its mirror image, with the same network, the same files and the same threads, by turns in one process.
The loop of timm is a dataset, a loader with two workers, and the network as it was made, in 32 bits; ours takes 16 where the processor has them. A row for each round is appended
to nbs/results/backbone_speed.jsonl."""
import os, sys, tempfile, time
from pathlib import Path
import torch
from timm.data import create_dataset, create_loader
from sphere_mnist.backbones import featured, load_backbone, small_network
from sphere_mnist.data import load_images
from sphere_mnist.models import choose_precision
from sphere_mnist.systems import append_row, provenance

root = Path(__file__).resolve().parent.parent


def by_timm(folder, network, how):
    "Features by timm's dataset, loader and network: (N, 2, D)."
    loader = create_loader(create_dataset('', root=folder), (3, how.size, how.size), 32, use_prefetcher=False, interpolation=how.interpolation,
                           mean=how.mean, std=how.std, num_workers=2, crop_pct=how.size/how.side)
    with torch.inference_mode(): return torch.cat([torch.stack([network(x), network(x.flip(-1))], 1) for x, _ in loader])


if __name__ == '__main__':
    if len(sys.argv) not in (2, 3): sys.exit(__doc__)
    folder, threads = sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else os.cpu_count()
    torch.set_num_threads(threads)
    os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp() # nothing is in this cache
    small, network, n = load_backbone('small'), small_network('small')[0].eval(), 1024
    some = Path(tempfile.mkdtemp())
    for i, file in enumerate(sorted(Path(folder).rglob('*.jpg'))[:n]):
        (some/file.parent.name).mkdir(exist_ok=True)
        (some/file.parent.name/f'{i}.jpg').symlink_to(file.resolve())
    images = load_images(str(some))
    for turn in range(-1, 3): # the first warms up
        rates = {}
        for name, run in dict(ours=lambda: featured(images, small, device='cpu', keep=False), timm=lambda: by_timm(some, network, small.how)).items():
            began = time.perf_counter()
            assert len(run()) == n
            rates[name] = n/(time.perf_counter() - began)
        print(f"{threads} threads: ours {rates['ours']:.1f} pictures a second, timm's loop {rates['timm']:.1f}, ratio {rates['ours']/rates['timm']:.2f}")
        if turn >= 0: append_row(root/'nbs'/'results'/'backbone_speed.jsonl', dict(pictures=n, size=small.how.size, backbone=small.name, precision=str(choose_precision('auto', torch.device('cpu'))).removeprefix('torch.'), threads=threads, **rates) | provenance())
