"""What a training batch of ``ProductImages`` costs beyond indexing an array that is in memory, and augmenting it.

    python benchmarks/product_images.py

The contract and the results are in ``benchmarks/README.md``.
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from record import Record, add_record_argument
from timing import Clock, add_clock_arguments, describe_run, make_clock, seconds_per_call, take_turns
from torch import Tensor

from catwalk.importers.synthetic import synthetic
from catwalk.shop.decoding import UInt8Array
from datamodules import ProductImages

Batch = tuple[Tensor, Tensor]


def bare_batches(levels: UInt8Array, categories: Tensor, batch_size: int, augment: bool) -> Iterator[Batch]:
    """Yield the batches of one epoch, float32 images and their categories."""
    order = np.random.default_rng(0).permutation(len(levels))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        images = torch.from_numpy(levels[rows])
        if augment:
            images = shift_and_flip(images)
        yield images.to(torch.float32).div_(255), categories[torch.from_numpy(rows)]


def shift_and_flip(images: Tensor) -> Tensor:
    """Move images by up to two pixels, repeating the border, and mirror half of them, by one gather per direction."""
    count, _, height, width = images.shape
    shifts = torch.randint(-2, 3, (2, count, 1))
    rows = (torch.arange(height) + shifts[0]).clamp_(0, height - 1)
    columns = (torch.arange(width) + shifts[1]).clamp_(0, width - 1)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    moved = images.gather(2, rows[:, None, :, None].expand(images.shape))
    return moved.gather(3, columns[:, None, None, :].expand(images.shape))


def our_batches(data: ProductImages) -> Iterator[Batch]:
    """Yield the batches of one epoch, as the Trainer would hand them to the module."""
    for batch in data.train_dataloader():
        yield data.on_after_batch_transfer(batch, 0)


def seconds_per_batch(epoch: Callable[[], Iterator[Batch]], batches: int, clock: Clock) -> float:
    """Return the seconds of a batch, over as many epochs as it takes."""
    stream = chain.from_iterable(made() for made in repeat(epoch))
    return seconds_per_call(lambda: next(stream), batches, 2, clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=28, help="default: 28")
    parser.add_argument("--batch-size", type=int, default=128, help="default: 128")
    parser.add_argument("--batches", type=int, default=50, help="batches of a measured block; default: 50")
    parser.add_argument("--rounds", type=int, default=15, help="blocks per contestant; default: 15")
    add_clock_arguments(parser)
    add_record_argument(parser)
    arguments = parser.parse_args()
    clock = make_clock(parser, arguments, torch.device("cpu"))
    torch.manual_seed(0)

    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop"
        with contextlib.redirect_stdout(io.StringIO()):
            synthetic(shop, items=60, users=50, image_size=arguments.image_size, train_images=512, test_images=1)
        plain, augmented = (
            ProductImages(shop, batch_size=arguments.batch_size, flip=augment, shift=2 * augment)
            for augment in (False, True)
        )
        for data in (plain, augmented):
            data.prepare_data()
            data.setup("fit")
        rows = plain.labelled.rows("train")
        assert plain._labelled_levels is not None
        levels = plain._labelled_levels[rows]
        bare = partial(bare_batches, levels, torch.from_numpy(plain.labelled.categories[rows]), arguments.batch_size)
        epochs: dict[str, Callable[[], Iterator[Batch]]] = {}
        for title, augment, data in (("no augmentation", False, plain), ("shift and flip", True, augmented)):
            epochs[f"bare, {title}"] = partial(bare, augment)
            epochs[title] = partial(our_batches, data)
        runs = {name: partial(seconds_per_batch, epoch, arguments.batches, clock) for name, epoch in epochs.items()}
        best = {name: min(seconds) for name, seconds in take_turns(runs, arguments.rounds, "batches").items()}
    packages = ("torch", "numpy", "pytorch-lightning")
    print(describe_run(clock, packages))
    print(
        f"{arguments.image_size} px, batch {arguments.batch_size}, {len(rows)} images, best of {arguments.rounds} "
        f"blocks of {arguments.batches} batches\n"
    )
    print(
        Record(arguments.json, clock, packages).table(
            "batches",
            ("ProductImages", "floor, ms a batch", "ours, ms a batch", "ours / floor"),
            [
                (title, f"{1000 * floor:.2f}", f"{1000 * ours:.2f}", f"{ours / floor:.2f}")
                for title in ("no augmentation", "shift and flip")
                for floor, ours in [(best[f"bare, {title}"], best[title])]
            ],
        )
    )


if __name__ == "__main__":
    main()
