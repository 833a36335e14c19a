"""What the cache of decoded images costs when it is made, beyond decoding on all cores, and what it saves afterwards.

    python benchmarks/image_cache.py                     # photographs made up for it
    python benchmarks/image_cache.py --dataset DATASET   # those of a dataset folder

The contract and the results are in ``benchmarks/README.md``.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record import Record, add_record_argument
from timing import Clock, describe_run, take_turns

from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import StoredImages, store_images

Size = tuple[int, int] | None


def make_photographs(folder: Path, count: int, height: int, width: int) -> list[str]:
    """Write JPEG files that compress as photographs do: smooth shapes, edges and a little noise."""
    random = np.random.default_rng(0)
    names = []
    for number in range(count):
        coarse = Image.fromarray(random.integers(256, size=(12, 9, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
        levels = smooth + random.normal(0, 6, smooth.shape).astype(np.float32)
        names.append(f"{number}.jpg")
        Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(folder / names[-1], quality=90)
    return names


def decode_bare(path: Path, size: Size) -> np.ndarray:
    """Decode an image as a Dataset would, without a look at what may be odd about it."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    if size is not None:
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def bare_pass(folder: Path, names: Sequence[str], size: Size, clock: Clock) -> float:
    """Return the seconds in which all cores decode all images and forget them."""
    start = clock.now()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda name: decode_bare(folder / name, size), names, chunksize=16):
            pass
    return clock.now() - start


def first_pass(folder: Path, names: Sequence[str], size: Size, cache: Path, clock: Clock) -> float:
    """Return the seconds until the cache is made and every pixel has been read from it once."""
    shutil.rmtree(cache, ignore_errors=True)
    start = clock.now()
    read_all(store_images(folder, names, size, cache=cache))
    return clock.now() - start


def later_start(folder: Path, names: Sequence[str], size: Size, cache: Path, clock: Clock) -> float:
    """Return the seconds of the same in the next process, which finds the cache, but reads the files to know them."""
    start = clock.now()
    read_all(store_images(folder, names, size, cache=cache))
    return clock.now() - start


def later_pass(folder: Path, names: Sequence[str], size: Size, cache: Path, clock: Clock) -> float:
    """Return the seconds in which every pixel is read once more."""
    stored = store_images(folder, names, size, cache=cache)
    start = clock.now()
    read_all(stored)
    return clock.now() - start


def read_all(stored: StoredImages) -> None:
    """Copy every image out of the cache, as batches of it are."""
    for number in range(len(stored)):
        stored[number].copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="a dataset folder; without it, photographs are made up")
    parser.add_argument("--images", type=int, default=400, help="photographs to make up; default: 400")
    parser.add_argument("--height", type=int, default=800, help="their height; default: 800")
    parser.add_argument("--width", type=int, default=600, help="their width; default: 600")
    parser.add_argument(
        "--image-size", type=int, nargs=2, help="height and width to bring them to; their own by default"
    )
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    add_record_argument(parser)
    arguments = parser.parse_args()
    clock = Clock(torch.device("cpu"))
    size = None if arguments.image_size is None else tuple(arguments.image_size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.dataset is not None:
            names: Sequence[str] = Catalogue.read(arguments.dataset).images
            folder = arguments.dataset
        else:
            names = make_photographs(folder, arguments.images, arguments.height, arguments.width)
        cache = Path(temporary) / "cache"
        ours = {"first pass": first_pass, "later start": later_start, "later pass": later_pass}
        runs: dict[str, Callable[[], float]] = {"bare": partial(bare_pass, folder, names, size, clock)}
        runs |= {title: partial(run, folder, names, size, cache, clock) for title, run in ours.items()}
        best = {title: min(seconds) for title, seconds in take_turns(runs, arguments.rounds, "passes").items()}
        bytes_read = sum((folder / name).stat().st_size for name in names)
    packages = ("torch", "numpy", "pillow")
    print(describe_run(clock, packages))
    print(
        f"{len(names)} images of {bytes_read / len(names) / 1000:.0f} kB on average, "
        f"{'at their own sizes' if size is None else f'brought to {size[0]}×{size[1]}'}; best of {arguments.rounds}\n"
    )
    rows = [("decoding alone, all cores", best["bare"])] + [(f"cache, {title}", best[title]) for title in ours]
    print(
        Record(arguments.json, clock, packages).table(
            "cache",
            ("", "images/s", "times decoding alone"),
            [(title, f"{len(names) / seconds:,.0f}", f"{best['bare'] / seconds:.2f}") for title, seconds in rows],
        )
    )


if __name__ == "__main__":
    main()
