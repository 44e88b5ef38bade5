"""What sizes, shapes and turned cameras do to the clusters of photographs: `python .ci/mixed_sizes.py FOLDER`, with a sub-folder for each class.

The first 64 pictures of each class are clustered as they are, and again as a person's folder has them: a third enlarged to any size, a
third cut to another shape, and a third turned on its side with the EXIF word that turns it back. A row for each run is appended to
nbs/results/mixed_sizes.jsonl."""
import json, random, subprocess, sys, tempfile
from pathlib import Path
from PIL import Image
from sphere_mnist.systems import append_row

root = Path(__file__).resolve().parent.parent
TURNED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270} # EXIF orientation -> what it undoes


def changed(picture, how, rng):
    "A picture at another size, of another shape, or turned, and its EXIF data."
    exif = Image.Exif()
    if how == 0:
        side = rng.randint(48, 256)
        return picture.resize((side, side*picture.height//picture.width), Image.Resampling.BICUBIC), exif
    if how == 1:
        width, height = picture.size
        left, top = rng.randint(0, width//6), rng.randint(0, height//6)
        return picture.crop((left, top, width - rng.randint(0, width//6), height - rng.randint(0, height//6))), exif
    exif[274] = rng.choice([*TURNED])
    return picture.transpose(TURNED[exif[274]]), exif


def copies(source, folder, mixed, n=64):
    "The first pictures of each class, as they are or mixed."
    rng = random.Random(0)
    for kind in sorted(p for p in source.iterdir() if p.is_dir()):
        (folder/kind.name).mkdir(parents=True)
        for i, file in enumerate(sorted(kind.iterdir())[:n]):
            with Image.open(file) as picture:
                new, exif = changed(picture.convert('RGB'), i % 3, rng) if mixed else (picture.convert('RGB'), Image.Exif())
            new.save(folder/kind.name/f'{file.stem}.jpg', quality=95, exif=exif)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as top:
        for name in ('as they are', 'mixed'):
            copies(Path(sys.argv[1]), Path(top)/name, name == 'mixed')
            for seed in range(3):
                row = Path(top)/f'{name} {seed}.jsonl'
                subprocess.run([sys.executable, '-m', 'sphere_mnist', 'cluster', '--data', str(Path(top)/name), '--backbone', 'small', '--clusters', '10',
                                '--draw', 'none', '--seed', str(seed), '--out', str(row.with_suffix('')), '--ledger', str(row), '--quiet'], check=True)
                append_row(root/'nbs/results/mixed_sizes.jsonl', dict(pictures=name) | json.loads(row.read_text()))
