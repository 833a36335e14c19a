"""Fashion-MNIST as a shop: real product photographs of Zalando, with simulated purchases.

The 60,000 training photographs teach a CNN the ten categories, the 10,000 test photographs tell how well it knows
them, and a sample of the test photographs is on sale. Nobody's purchases of these articles are known, so they are
drawn from the choice model of :mod:`catwalk.importers.simulated_purchases`.

References:
    H. Xiao, K. Rasul, R. Vollgraf (2017): Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms. arXiv:1708.07747.
"""

import gzip
import hashlib
import os
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.importers.dataset_writer import DatasetWriter, check_destination, numbered
from catwalk.importers.simulated_purchases import ChoiceModel, random_stream, simulate_purchases
from catwalk.importers.summary import print_summary
from catwalk.limits import check_memory

CATEGORIES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The names of the labels 0..9."""

POPULARITY_ORDER = (
    "Sneaker",
    "T-shirt/top",
    "Dress",
    "Shirt",
    "Trouser",
    "Pullover",
    "Bag",
    "Coat",
    "Ankle boot",
    "Sandal",
)
"""The categories from the most to the least popular, as the simulated purchases have it."""

SIDE = 28
TEST_PHOTOGRAPHS = 10_000
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

CONTENTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""The four files, and the SHA-256 of their contents as published, uncompressed."""


def fashion_mnist(dest: Path, source: Path | None = None, items: int = 1500, users: int = 6000, seed: int = 0) -> None:
    """Write Fashion-MNIST as a dataset folder: real product photographs, simulated purchases.

    Without SOURCE the photographs come from Debian's package dataset-fashion-mnist where it is installed, and are
    downloaded otherwise.

    Args:
        dest: The dataset folder to write; it must not exist, or be empty.
        source: Folder with the four IDX files of Fashion-MNIST, gzipped or not, or with torchvision's FashionMNIST/raw.
        items: How many of the 10,000 test photographs are on sale, from 10 to 10000.
        users: How many users buy, at least 1.
        seed: Seed of the sample on sale and of the simulated purchases.

    Raises:
        CatwalkError: If an argument is out of range, DEST is not empty, or the photographs cannot be had.
    """
    check_destination(dest)
    _check_items(items, TEST_PHOTOGRAPHS)
    if users < 1:
        raise CatwalkError(f"users must be at least 1, got {users}")
    check_memory(8 * len(CATEGORIES) * users, f"users {users}", "give fewer")  # their tastes
    sampling = random_stream(seed, "items on sale")
    console = Console()
    files = find_files(source)
    photographs = {split: read_photographs(files, stem) for split, stem in (("train", "train"), ("test", "t10k"))}
    images, labels = photographs["test"]
    _check_items(items, len(images))
    on_sale = np.sort(sampling.choice(len(images), size=items, replace=False))

    model = ChoiceModel()
    order = [CATEGORIES.index(name) for name in POPULARITY_ORDER]
    purchases = simulate_purchases(images[on_sale], labels[on_sale], order, users, seed, model)
    names = np.array(CATEGORIES)
    item_ids = [f"t10k-{index:05d}" for index in on_sale]
    user_ids = numbered("u", users)
    paths = {
        split: [f"images/{split}/{index:05d}.png" for index in range(len(its_images))]
        for split, (its_images, _) in photographs.items()
    }
    with DatasetWriter(dest) as writer:
        for split, (its_images, _) in photographs.items():
            writer.write_images(paths[split], its_images, f"Writing {split} photographs")
        writer.write_items(item_ids, [paths["test"][index] for index in on_sale], names[labels[on_sale]].tolist())
        writer.write_interactions(
            [user_ids[user] for user in purchases.users],
            [item_ids[item] for item in purchases.items],
            purchases.timestamps.tolist(),
        )
        writer.write_labelled_images(
            [path for split in photographs for path in paths[split]],
            [name for _, its_labels in photographs.values() for name in names[its_labels].tolist()],
            [split for split in photographs for _ in paths[split]],
        )
        writer.describe(
            name="Fashion-MNIST",
            source="H. Xiao, K. Rasul, R. Vollgraf (2017): Fashion-MNIST, arXiv:1708.07747; "
            "https://github.com/zalandoresearch/fashion-mnist",
            licence="MIT, Copyright 2017 Zalando SE",
            categories=CATEGORIES,
            made_by={
                "importer": "fashion-mnist",
                "items": items,
                "users": users,
                "seed": seed,
                "source_sha256": {name: hashlib.sha256(_read(path)).hexdigest() for name, path in files.items()},
            },
            simulated_purchases={
                "model": "multinomial logit; see catwalk/importers/simulated_purchases.py",
                "parameters": asdict(model),
                "popularity_order": list(POPULARITY_ORDER),
            },
            left_out={
                "test photographs that are not on sale": len(images) - items,
                "purchases beyond the last item on sale": purchases.num_unmet,
            },
        )
    print_summary(writer, console)
    altered = [name for name, digest in writer.info["made_by"]["source_sha256"].items() if digest != CONTENTS[name]]
    if altered:
        console.print(
            f"• not the published Fashion-MNIST: {', '.join(altered)} differ in content", markup=False, style="yellow"
        )


def find_files(source: Path | None) -> dict[str, Path]:
    """Return the paths of the four IDX files by their published names.

    Args:
        source: The folder to take them from; None for Debian's package, or else torchvision's download.

    Raises:
        CatwalkError: If ``source`` lacks a file, or nothing is installed and the download fails.
    """
    if source is not None:
        return _files_in(source)
    if DEBIAN_FOLDER.is_dir():
        return _files_in(DEBIAN_FOLDER)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "catwalk"
    try:
        # Imported where it is needed: it takes seconds, and few runs download anything.
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(cache), download=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise CatwalkError(
            f"Fashion-MNIST could not be downloaded to {cache} ({reason}). Either give --source FOLDER with the files "
            f"{', '.join(f'{name}.gz' for name in CONTENTS)}, or install Debian's package dataset-fashion-mnist "
            "(apt install dataset-fashion-mnist), or run this once where there is internet"
        ) from error
    return _files_in(cache)


def read_photographs(files: dict[str, Path], stem: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the images and labels of one half of Fashion-MNIST.

    Args:
        files: Paths by the published names.
        stem: ``train`` or ``t10k``.

    Returns:
        Images, uint8 ``(N, 28, 28)``, and labels, int64 ``(N,)`` in 0..9.

    Raises:
        CatwalkError: If a file is damaged or the two do not belong together.
    """
    images_path, labels_path = files[f"{stem}-images-idx3-ubyte"], files[f"{stem}-labels-idx1-ubyte"]
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise CatwalkError(
            f"{images_path} holds images of {images.shape[2]}×{images.shape[1]} pixels; "
            f"those of Fashion-MNIST are {SIDE}×{SIDE}"
        )
    if len(images) != len(labels):
        raise CatwalkError(f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels")
    if labels.size and labels.max() >= len(CATEGORIES):
        raise CatwalkError(f"{labels_path}: labels must lie in 0..{len(CATEGORIES) - 1}, got {labels.max()}")
    return images, labels.astype(np.int64)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, the format of MNIST, gzipped or not.

    Args:
        path: The file.
        dimensions: The number of dimensions that it must have.

    Raises:
        CatwalkError: If it is not such a file, or shorter or longer than its header says.
    """
    data = _read(path)
    magic = bytes([0, 0, 8, dimensions])  # 8: unsigned bytes
    if data[:4] != magic:
        raise CatwalkError(
            f"{path} is not an IDX file of unsigned bytes in {dimensions} dimension{'s' * (dimensions > 1)}: "
            f"it must begin with {magic.hex()}, got {data[:4].hex() or 'an empty file'}"
        )
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise CatwalkError(f"{path} is truncated within its header: get it anew")
    shape = tuple(int.from_bytes(data[place : place + 4], "big") for place in range(4, start, 4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        what = "is truncated" if len(data) < expected else "is too long"
        raise CatwalkError(f"{path} {what}: its header announces {expected} bytes, it has {len(data)}; get it anew")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _read(path: Path) -> bytes:
    """Return a file's contents, uncompressed."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise CatwalkError(f"{path} cannot be read, get it anew: {error}") from error


def _files_in(folder: Path) -> dict[str, Path]:
    """Return the four files in a folder or in torchvision's folder within it."""
    if not folder.is_dir():
        raise CatwalkError(f"source: there is no folder {folder}")
    found: dict[str, Path] = {}
    for name in CONTENTS:
        for place in (folder, folder / "FashionMNIST" / "raw"):
            for path in (place / name, place / f"{name}.gz"):
                if name not in found and path.is_file():
                    found[name] = path
    missing = [name for name in CONTENTS if name not in found]
    if missing:
        raise CatwalkError(
            f"source: {folder} lacks {', '.join(missing)} (with or without .gz, there or in FashionMNIST/raw)"
        )
    return found


def _check_items(items: int, available: int) -> None:
    if not len(CATEGORIES) <= items <= available:
        raise CatwalkError(
            f"items must lie in {len(CATEGORIES)}..{available}, the number of test photographs, got {items}"
        )
