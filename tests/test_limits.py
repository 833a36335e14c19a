"""Seeds and sizes beyond what fits are told in a line, wherever they are given."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from catwalk import limits
from catwalk.attacks import FGSM, PGD
from catwalk.errors import CatwalkError, TooLargeError
from catwalk.importers.simulated_purchases import random_stream
from catwalk.importers.synthetic import synthetic
from catwalk.metrics import HitRate, NormalizedDCG
from catwalk.shop.splits import LeaveRandomOut
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import AMR, APR, BPRMF, VBPR, Popularity, Random

SEEDED: dict[str, Callable[[Any], object]] = {
    "InteractionTriplets": lambda seed: InteractionTriplets(Path("shop"), seed=seed),
    "ProductImages": lambda seed: ProductImages(Path("shop"), seed=seed),
    "Random": lambda seed: Random(seed),
    "LeaveRandomOut": lambda seed: LeaveRandomOut(seed),
    "PGD": lambda seed: PGD(seed=seed),
    "importers": lambda seed: random_stream(seed, "purchases"),
}


@pytest.mark.parametrize("make", SEEDED.values(), ids=SEEDED)
class TestSeeds:
    @pytest.mark.parametrize(
        ("seed", "message"),
        [
            (-1, "seed must be at least 0, got -1"),
            (2**32, "seed must be at most 4294967295 (2^32 - 1), got 4294967296"),
            (2**63, "seed must be at most 4294967295"),
            (2**64 + 1, "seed must be at most 4294967295"),
            (0.5, "seed must be a whole number, got 0.5"),
            (True, "seed must be a whole number, got True"),
        ],
    )
    def test_others_are_refused(self, make, seed, message):
        with pytest.raises(CatwalkError, match=re.escape(message)):
            make(seed)

    @pytest.mark.parametrize("seed", [0, 2**32 - 1, np.int64(7)])
    def test_those_that_every_generator_takes(self, make, seed):
        make(seed)


@pytest.mark.parametrize("make", [InteractionTriplets, ProductImages, lambda _, **settings: FGSM(**settings)])
@pytest.mark.parametrize("size", [0, -(2**70)])
def test_batches_of_nothing(make, size):
    with pytest.raises(CatwalkError, match=r"batch_size"):
        make(Path("shop"), batch_size=size)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (InteractionTriplets, {"batch_size": 2**63}, "batch_size must be at most 9223372036854775807"),
        (ProductImages, {"batch_size": 10**30}, "batch_size must be at most 9223372036854775807"),
        (ProductImages, {"image_size": (10**30, 8)}, "image_size must be at most"),
        (ProductImages, {"image_size": (-4, 8)}, "image_size must be at least 1, got -4"),
        (ProductImages, {"image_size": (8, 8, 3)}, "image_size must be a height and a width, got (8, 8, 3)"),
        (ProductImages, {"image_size": 8}, "image_size must be a height and a width, got 8"),
        (ProductImages, {"image_size": (8.5, 8)}, "image_size must be a whole number, got 8.5"),
    ],
)
def test_sizes_of_batches_and_images(make, settings, message):
    with pytest.raises(CatwalkError, match=re.escape(message)):
        make(Path("shop"), **settings)


def test_one_batch_may_be_larger_than_the_data(shop, make_trainer):
    """The largest number there is counts as all."""
    steps = []
    for size in (2**63 - 1, 10**6):
        trainer, model = make_trainer(max_epochs=1), BPRMF(factors=2)
        trainer.fit(model, InteractionTriplets(shop, batch_size=size))
        steps.append(trainer.global_step)
    assert steps == [1, 1]


def test_images_that_fit_in_no_memory_are_refused_before_any_is_decoded(shop, tmp_path):
    data = ProductImages(shop, image_size=(200_000, 200_000), cache=tmp_path / "cache")
    with pytest.raises(TooLargeError, match=r"images of image_size 200000, 200000 would take .* GiB"):
        data.prepare_data()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("top_k", [10**7, 2**63, 10**30])
@pytest.mark.parametrize(
    "make", [HitRate, NormalizedDCG, lambda k: BPRMF(top_k=[5, k]), lambda k: Popularity(top_k=[k])]
)
def test_lists_of_absurd_length(make, top_k):
    with pytest.raises(TooLargeError, match=rf"top_k {top_k} would take .* GiB .*: give a smaller top_k"):
        make(top_k)


@pytest.mark.parametrize("top_k", [[0], [20, -1], [], 20])
def test_lists_of_no_length(top_k):
    with pytest.raises(CatwalkError, match=r"top_k must (name list lengths of at least 1|be a list of lengths)"):
        VBPR(top_k=top_k)


@pytest.mark.parametrize("kind", [BPRMF, VBPR, AMR, APR])
@pytest.mark.parametrize("factors", [10**12, 2**63, 10**30])
def test_factors_that_fit_in_no_memory(kind, factors):
    with pytest.raises(TooLargeError, match=rf"factors {factors} of 200 users and 90 items would take .* GiB"):
        kind(factors=factors).build(200, 90, 6)


def test_visual_factors_that_fit_in_no_memory():
    with pytest.raises(TooLargeError, match=r"visual_factors 1000000000000 of 200 users and 6 features"):
        VBPR(visual_factors=10**12).build(200, 90, 6)
    VBPR(visual_factors=10**12, shared_user_factors=True).build(200, 90, 6)  # they count for nothing


@pytest.mark.parametrize("value", [torch.inf, torch.nan, -1.0])
@pytest.mark.parametrize("name", ["regularization", "item_regularization", "epsilon", "adversarial_weight"])
def test_numbers_that_are_none(name, value):
    with pytest.raises(CatwalkError, match=f"{name} must be (at least 0|a finite number), got {value}"):
        APR(**{name: value})


@pytest.mark.parametrize("argument", ["items", "users", "train_images", "test_images"])
@pytest.mark.parametrize("value", [10**12, 10**30])
def test_shops_that_fit_in_no_memory(tmp_path, argument, value):
    with pytest.raises(TooLargeError, match=rf"{argument} {value} would take .* GiB"):
        synthetic(tmp_path / "shop", **{argument: value})
    assert not (tmp_path / "shop").exists()


def test_memory_is_what_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "free_memory", lambda: 2**30)
    limits.check_memory(2**30, "it", "take less")
    with pytest.raises(TooLargeError, match=r"it would take 1.5 GiB, and this machine has 1 GiB of memory left: take"):
        limits.check_memory(3 * 2**29, "it", "take less")
    monkeypatch.undo()
    assert 2**20 < limits.free_memory() < 2**50
