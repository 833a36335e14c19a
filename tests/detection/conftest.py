"""Attacks on the tiny shop."""

from pathlib import Path

import pytest

from catwalk.attacks import FGSM, PGD
from catwalk.poisoning.poison import poison


@pytest.fixture(scope="session")
def attacked(trained, tmp_path_factory) -> dict[str, Path]:
    """Return the folders of FGSM and PGD on the sandals of the tiny shop. Do not write into them."""
    folder = tmp_path_factory.mktemp("attacked")
    for name, attack in (("fgsm", FGSM(epsilon=32)), ("pgd", PGD(epsilon=32, iterations=5))):
        goal = {"source": "Sandal", "target": "Sneaker"}
        poison(trained.classifier, attack, trained.catalogue, trained.table, folder / name, **goal)
    return {name: folder / name for name in ("fgsm", "pgd")}
