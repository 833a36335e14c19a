"""What ``catwalk data amazon-reviews`` costs on a long file beyond a bare loop over it, and how much memory it needs.

    python benchmarks/importers.py                      # 10 million reviews: some GB on disk and some minutes; Linux
    python benchmarks/importers.py --reviews 200000

The contract and the results are in ``benchmarks/README.md``.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record import Record, add_record_argument
from timing import Clock, describe_run

CATEGORY = "Clothing, Shoes & Jewelry"

FLOOR = """
import gzip
from {module} import loads
with gzip.open(sys.argv[1]) as file:
    for line in file:
        loads(line)
"""
"""A bare loop over the reviews."""

IMPORT = """
from catwalk.cli.main import main
main(sys.argv[1:])
"""

PEAK = """
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM:")))
"""
"""Prints the kilobytes of memory that the process had at its largest; what the system tells its parent is too much, if
the parent is larger."""


@dataclass(frozen=True)
class Cost:
    """What a child process needed.

    Attributes:
        processor: Seconds of processor time of all its threads.
        wall: Seconds that passed.
        peak: Bytes of memory at its largest.
    """

    processor: float
    wall: float
    peak: int


def make_sentences(random: np.random.Generator, count: int) -> list[str]:
    """Return texts of the length of reviews, from a vocabulary with few frequent words, as languages have."""
    letters = list("etaoinshrdlucmfwypvbgkjqxz")
    vocabulary = ["".join(random.choice(letters, random.integers(2, 10))) for _ in range(5000)]
    chosen = np.minimum(random.zipf(1.3, (count, 90)) - 1, len(vocabulary) - 1)
    return [" ".join(vocabulary[word] for word in row[: random.integers(20, 90)]) for row in chosen]


def write_reviews(path: Path, count: int, users: int, items: int) -> None:
    """Write reviews in the layout of 2014, gzipped; few users and items have many of them."""
    random = np.random.default_rng(0)
    texts = [json.dumps(text) for text in make_sentences(random, 3000)]
    with gzip.open(path, "wb", compresslevel=1) as file:
        for start in range(0, count, 50_000):
            size = min(50_000, count - start)
            by = (users * random.random(size) ** 2.5).astype(np.int64).tolist()
            of = (items * random.random(size) ** 4).astype(np.int64).tolist()
            when = (1_100_000_000 + 86_400 * random.integers(3000, size=size)).tolist()
            said = random.integers(len(texts), size=size).tolist()
            stars = random.integers(1, 6, size=size).tolist()
            lines = [
                f'{{"reviewerID": "A{user:013d}", "asin": "B{item:09d}", "reviewerName": "Somebody", '
                f'"helpful": [0, 0], "reviewText": {texts[text]}, "overall": {star}.0, "summary": "As it says", '
                f'"unixReviewTime": {moment}, "reviewTime": "07 1, 2014"}}\n'
                for user, item, moment, text, star in zip(by, of, when, said, stars, strict=True)
            ]
            file.write("".join(lines).encode())


def write_metadata(path: Path, items: int) -> None:
    """Write metadata as Python literals, in which every third text has an apostrophe."""
    random = np.random.default_rng(1)
    texts = make_sentences(random, 500)
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for item in range(items):
            related = [f"B{other:09d}" for other in random.integers(items, size=60).tolist()]
            record = {
                "asin": f"B{item:09d}",
                "description": texts[item % 500] + " it's so" * (item % 3 == 0),
                "title": texts[-item % 500][:60],
                "price": 19.99,
                "imUrl": f"http://images.example/{item}.jpg",
                "related": {"also_bought": related[:40], "also_viewed": related[40:]},
                "salesRank": {"Clothing": item},
                "categories": [[CATEGORY, "Women", "Clothing", f"Kind {item % 40}"]],
            }
            file.write(f"{record!r}\n")


def write_images(folder: Path, items: int) -> None:
    """Give every item an image of 16 × 16 pixels; many share a file on disk."""
    folder.mkdir()
    random = np.random.default_rng(2)
    shared = folder.parent / "shared"
    shared.mkdir()
    for item in range(items):
        original = shared / f"{item // 20_000}.jpg"  # a file can have no more than so many names
        if not original.exists():
            Image.fromarray(random.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(original)
        os.link(original, folder / f"B{item:09d}.jpg")


def run(code: str, arguments: Sequence[str]) -> Cost:
    """Run code in a process of its own and return what it cost."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", "import sys" + code + PEAK, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    printed = process.stdout.read().split()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"a measured process ended with {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, int(printed[-1]) * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=10_000_000, help="default: 10 million")
    parser.add_argument("--users", type=int, default=1_500_000, help="default: 1.5 million")
    parser.add_argument("--items", type=int, default=200_000, help="default: 200,000")
    parser.add_argument("--core", type=int, default=30, help="purchases of users and items that stay; default: 30")
    parser.add_argument("--folder", type=Path, help="where to write, with some GB of room; by default a temporary one")
    add_record_argument(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        reviews, metadata, images = folder / "reviews.json.gz", folder / "meta.json.gz", folder / "images"
        write_reviews(reviews, arguments.reviews, arguments.users, arguments.items)
        write_metadata(metadata, arguments.items)
        write_images(images, arguments.items)
        options = {"reviews": reviews, "metadata": metadata, "images": images, "category": CATEGORY}
        options["core"] = arguments.core
        command = [
            "data",
            "amazon-reviews",
            str(folder / "dest"),
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        costs = {
            "bare loop, json": run(FLOOR.format(module="json"), [str(reviews)]),
            "bare loop, orjson": run(FLOOR.format(module="orjson"), [str(reviews)]),
            "import": run(IMPORT, command),
        }
        counts = json.loads((folder / "dest" / "dataset.json").read_text())["counts"]
        sizes = [path.stat().st_size / 1e6 for path in (reviews, metadata)]
    clock, packages = Clock(torch.device("cpu"), processor_time=True), ("numpy", "pyarrow", "orjson")
    print(describe_run(clock, packages))
    print(
        f"{arguments.reviews:,} reviews ({sizes[0]:,.0f} MB gzipped), {arguments.items:,} items ({sizes[1]:,.0f} MB); "
        f"core {arguments.core} leaves {counts['users']:,} users, {counts['items']:,} items and "
        f"{counts['interactions']:,} purchases\n"
    )
    floor = costs["bare loop, json"].processor
    print(
        Record(arguments.json, clock, packages).table(
            "importers",
            (
                "",
                "processor time, s",
                "times the bare loop",
                "reviews a second of it",
                "wall clock, s",
                "peak memory, MB",
            ),
            [
                (
                    title,
                    f"{cost.processor:.1f}",
                    f"{cost.processor / floor:.2f}",
                    f"{arguments.reviews / cost.processor:,.0f}",
                    f"{cost.wall:.1f}",
                    f"{cost.peak / 1e6:,.0f}",
                )
                for title, cost in costs.items()
            ],
        )
    )


if __name__ == "__main__":
    main()
