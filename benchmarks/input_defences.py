"""What input operations leave of an attack, and what an attack that knows them makes of it.

    python benchmarks/input_defences.py DATASET CLASSIFIER --source Sandal --target Sneaker

Images of the source category are attacked by PGD towards the target and rounded to 8 bits, as a shop receives them:
once on the bare network (plain), and once on the network behind the operation (adaptive), through its gradient and,
where it is random, averaged over draws. Both are judged by the network behind the operation, and the plain one by the
bare network, too. The contract and the results are in ``benchmarks/README.md``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from record import Record, add_record_argument
from torch import Tensor

from catwalk.attacks import PGD
from catwalk.keyed_random import permutation
from catwalk.networks.classifier import Classifier, load_classifier
from catwalk.networks.defended import averaged, defended
from catwalk.networks.network import Network
from catwalk.networks.prediction import predict
from catwalk.processing import (
    JPEG,
    BitDepth,
    Denoiser,
    GaussianNoise,
    GaussianSmoothing,
    Median,
    Operation,
    RandomResizePad,
    Resize,
    Thumbnail,
    TotalVariation,
    WebP,
)
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode_item
from catwalk.shop.images import to_float


def operations(denoiser: Path | None) -> dict[str, list[Operation]]:
    """Return what is measured, by name."""
    measured: dict[str, list[Operation]] = {
        "none": [],
        "JPEG 75": [JPEG(75)],
        "JPEG 75, identity's gradient": [JPEG(75, gradient="identity")],
        "WebP 80": [WebP(80)],
        "resize to half": [Resize(scale=0.5)],
        "thumbnail of 20 pixels, JPEG 75": [Thumbnail(20), JPEG(75)],
        "bit depth 3": [BitDepth(3)],
        "bit depth 5": [BitDepth(5)],
        "median 3×3": [Median(3)],
        "total variation 0.1": [TotalVariation(0.1)],
        "Gaussian smoothing 0.7": [GaussianSmoothing(0.7)],
        "Gaussian noise 16": [GaussianNoise(16)],
        "random resize and pad 0.8": [RandomResizePad(0.8)],
    }
    if denoiser is not None:
        measured["denoiser"] = [Denoiser(str(denoiser))]
    return measured


def levels_of(dataset: Path, classifier: Classifier, source: str, count: int) -> Tensor:
    """Return the first images of the dataset's items of a category in which the bare network sees it, uint8."""
    catalogue = Catalogue.read(dataset)
    items = np.flatnonzero(catalogue.categories == catalogue.category(source, "source"))
    images = [decode_item(catalogue, int(item), classifier.image_size) for item in items]
    seen = predict(classifier.network, images).categories == classifier.category_names.index(source)
    return torch.from_numpy(np.stack([image for image, right in zip(images, seen, strict=True) if right][:count]))


def accuracy(network: Network, dataset: Path, classifier: Classifier, count: int) -> float:
    """Return the share of some of the dataset's items in which a network sees the category of their label."""
    catalogue = Catalogue.read(dataset)
    names = [classifier.category_names.index(name) for name in catalogue.category_names]
    items = permutation(0, len(catalogue))[:count].tolist()
    levels = torch.from_numpy(np.stack([decode_item(catalogue, item, classifier.image_size) for item in items]))
    labels = torch.tensor([names[catalogue.categories[item]] for item in items])
    return float((predict(network, levels).categories == labels).float().mean())


def crafted(attack: PGD, network: Network, levels: Tensor, target: int) -> Tensor:
    """Return the adversarial images of a network as 8-bit files hold them, uint8."""
    images = to_float(levels)
    targets = torch.full((len(images),), target)
    result = attack(network, images, targets, keys=torch.arange(len(images)))
    return attack.threat_model.of(network).quantise(result.images, images)


def success(network: Network, levels: Tensor, target: int) -> float:
    """Return the share of images in which a network sees the target."""
    return float((predict(network, levels).categories == target).float().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a dataset folder")
    parser.add_argument("classifier", type=Path, help="checkpoint of a trained network")
    parser.add_argument("--source", default="Sandal", help="category whose images are attacked")
    parser.add_argument("--target", default="Sneaker", help="category that the network shall see")
    parser.add_argument("--images", type=int, default=100, help="how many images; default: 100")
    parser.add_argument("--epsilon", type=float, default=8, help="budget in grey levels; default: 8")
    parser.add_argument("--iterations", type=int, default=10, help="steps of PGD; default: 10")
    parser.add_argument("--draws", type=int, default=10, help="draws of random operations in a step; default: 10")
    parser.add_argument("--labelled", type=int, default=500, help="items for the accuracy; default: 500")
    parser.add_argument("--only", nargs="*", help="names of the operations to measure; default: all")
    parser.add_argument("--denoiser", type=Path, help="checkpoint of a denoiser for the network")
    add_record_argument(parser)
    options = parser.parse_args(arguments)
    classifier = load_classifier(options.classifier)
    target = classifier.category_names.index(options.target)
    levels = levels_of(options.dataset, classifier, options.source, options.images)
    attack = PGD(options.epsilon, iterations=options.iterations)
    bare = classifier.network
    plain = crafted(attack, bare, levels, target)
    record = Record(options.json, None, ("torch", "pillow"))
    header = ("operation", "accuracy %", "SR % clean", "SR % plain, bare network", "SR % plain", "SR % adaptive")
    rows: list[tuple[str, ...]] = []
    print(f"{len(levels)} images of {options.source}, {attack.name}, {options.iterations} steps\n")
    for name, each in operations(options.denoiser).items():
        if options.only and name not in options.only:
            continue
        network = defended(classifier, each).network
        adaptive = crafted(attack, averaged(network, options.draws), levels, target) if each else plain
        measured = [
            accuracy(network, options.dataset, classifier, options.labelled),
            success(network, levels, target),
            success(bare, plain, target),
            success(network, plain, target),
            success(network, adaptive, target),
        ]
        rows.append((name, *(f"{100 * share:.1f}" for share in measured)))
        print("  ".join(rows[-1]), flush=True)
        table = record.table("input_defences", header, rows)
    print(f"\n{table}")


if __name__ == "__main__":
    main()
