"""Pictures a second through the small backbone, beside timm's own loop: `python .ci/backbone_speed.py FOLDER [THREADS]`.

Both look at each picture and at its mirror image, with the same network, the same files and the same threads, by turns in one process.
The loop of timm is that of its documentation: a dataset, a loader with two workers, the network as it was made. A row for each round is appended
to nbs/results/backbone_speed.jsonl."""
import os, sys, time
from pathlib import Path
import torch
from timm.data import create_dataset, create_loader
from sphere_mnist.backbones import featured, load_backbone
from sphere_mnist.data import load_images
from sphere_mnist.systems import append_row, provenance

root = Path(__file__).resolve().parent.parent


def by_timm(folder, network, how, n):
    "Features by timm's dataset, loader and network: (n, D)."
    files = create_dataset('', root=folder)
    loader = create_loader(torch.utils.data.Subset(files, range(n)) if n < len(files) else files, (3, how.size, how.size), 32, use_prefetcher=False,
                           interpolation=how.interpolation, mean=how.mean, std=how.std, num_workers=2, crop_pct=how.size/how.side)
    with torch.inference_mode(): return torch.cat([torch.stack([network(x), network(x.flip(-1))], 1) for x, _ in loader])


if __name__ == '__main__':
    if len(sys.argv) not in (2, 3): sys.exit(__doc__)
    folder, threads = sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else os.cpu_count()
    torch.set_num_threads(threads)
    small, images, n = load_backbone('small'), load_images(folder), 1024
    images = images[torch.arange(n)] # both go by folder and name
    from sphere_mnist.backbones import small_network
    network = small_network('small')[0].eval()
    for turn in range(-1, 3): # the first warms up
        rates = {}
        for name, run in dict(ours=lambda: featured(images, small, device='cpu', keep=False), timm=lambda: by_timm(folder, network, small.how, n)).items():
            began = time.perf_counter()
            assert len(run()) == n
            rates[name] = n/(time.perf_counter() - began)
        print(f"{threads} threads: ours {rates['ours']:.1f} pictures a second, timm's loop {rates['timm']:.1f}, ratio {rates['ours']/rates['timm']:.2f}")
        if turn >= 0: append_row(root/'nbs'/'results'/'backbone_speed.jsonl', dict(pictures=n, size=small.how.size, backbone=small.name, threads=threads, **rates) | provenance())
