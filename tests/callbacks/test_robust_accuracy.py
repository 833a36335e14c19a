"""RobustAccuracy: the worst case of each image, whatever batches, processes and stops; and its warnings."""

import csv
import re

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from callbacks import RobustAccuracy
from catwalk.attacks import AutoAttack
from catwalk.attacks.signs_of_masking import gives_probabilities, has_no_gradient, is_random
from catwalk.errors import CatwalkError
from catwalk.files.append_only import read_lines
from catwalk.keyed_random import content_keys
from datamodules import ProductImages
from lightning_modules import ProductClassifier


def attack(epsilon=3.0, batch_size=16):
    return AutoAttack(epsilon, iterations=3, num_targets=2, queries=10, batch_size=batch_size)


@pytest.fixture
def test(shop, trained, make_trainer, tmp_path):
    """Return a function that tests the trained CNN and returns what was logged."""

    def test(callback=None, batch_size=32, data=None):
        callback = RobustAccuracy(tmp_path / "out", attack(), max_images=40) if callback is None else callback
        trainer: Trainer = make_trainer(callbacks=[callback])
        model = ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})
        data = ProductImages(shop, batch_size=batch_size) if data is None else data
        (values,) = trainer.test(model, data, ckpt_path=trained.checkpoint, weights_only=True, verbose=False)
        return values

    return test


def lines(folder):
    return list(read_lines(folder / "verdicts-0.jsonl"))


def test_is_what_the_ensemble_leaves_of_each_image(shop, trained, test, tmp_path):
    values = test()
    data = ProductImages(shop)
    data.setup("test")
    images, categories = data.on_after_batch_transfer(data._labelled(data.labelled.rows("test")[:40]), 0)
    result = attack()(trained.classifier.network, images, categories, keys=content_keys(images))
    left = [1 - float((result.misled_by == 0).float().mean())]
    for place, name in enumerate(("apgd_ce", "apgd_t", "fab_t", "square"), start=1):
        left.append(left[-1] - float((result.misled_by == place).float().mean()))
        assert values[f"test/robust_accuracy_{name}"] == pytest.approx(left[-1], abs=1e-6)
    assert values["test/robust_accuracy"] == pytest.approx(1 - float(result.success.float().mean()), abs=1e-6)
    assert 0 < values["test/robust_accuracy"] < left[0]
    with (tmp_path / "out" / "robust_accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["component"] for row in rows] == ["clean", "APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert [int(row["misled"]) for row in rows] == [int((result.misled_by == place).sum()) for place in range(5)]
    assert [float(row["accuracy"]) for row in rows] == pytest.approx(left, abs=1e-5)


def test_a_run_that_was_stopped_goes_on_with_what_is_left(test, tmp_path, monkeypatch):
    whole = test(RobustAccuracy(tmp_path / "whole", attack(), max_images=40))
    calls, judge = [], RobustAccuracy._judge

    def stopped(self, network, images, categories, keys):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(images))
        return judge(self, network, images, categories, keys)

    with monkeypatch.context() as patch:
        patch.setattr(RobustAccuracy, "_judge", stopped)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - Lightning makes of it what it likes
            test()
    known = lines(tmp_path / "out")
    assert len(known) == sum(calls) == 32
    path = tmp_path / "out" / "verdicts-0.jsonl"
    path.write_bytes(path.read_bytes()[:-5])  # the last line was being written
    judged = []

    def counting(self, network, images, categories, keys):
        judged.extend(keys.tolist())
        return judge(self, network, images, categories, keys)

    monkeypatch.setattr(RobustAccuracy, "_judge", counting)
    assert test(batch_size=7) == whole
    assert len(judged) == 9
    assert known[-1]["image"] in judged
    judged.clear()
    assert test() == whole
    assert not judged, "nothing is left to do"
    other = test(RobustAccuracy(tmp_path / "out", attack(epsilon=0), max_images=40))
    assert len(judged) == 40, "the verdicts are of another attack"
    assert other["test/robust_accuracy"] > whole["test/robust_accuracy"]
    assert test() == whole


def test_says_where_the_accuracy_may_be_wrong(test, tmp_path, monkeypatch):
    """Each sign is made to be there."""
    from callbacks.robust_accuracy import Verdict

    monkeypatch.setattr("callbacks.robust_accuracy.is_random", lambda *_: True)
    monkeypatch.setattr("callbacks.robust_accuracy.gives_probabilities", lambda *_: True)
    kinds = [Verdict(-1, 0, True), Verdict(4, 0, False), Verdict(0, 0, True), Verdict(1, 0, True)]
    monkeypatch.setattr(
        RobustAccuracy, "_judge", lambda self, network, images, *_: [kinds[n % 4] for n in range(len(images))]
    )
    with pytest.warns(UserWarning, match="RobustAccuracy: ") as caught:
        test()
    told = "\n".join(str(one.message) for one in caught)
    assert "gives other logits when it is asked the same again" in told
    assert "gives probabilities" in told
    assert re.search(r"the gradient of 20 images is exactly 0, of which 10 count as robust", told)
    assert re.search(r"Square, which sees logits alone, has misled the network on 10 images", told)


@pytest.mark.filterwarnings("error:RobustAccuracy")
def test_says_nothing_of_a_plain_network(test, tmp_path):
    test(RobustAccuracy(tmp_path / "out", AutoAttack(0, components=["apgd-ce"], iterations=1), max_images=16))


@pytest.mark.parametrize(
    ("network", "random", "probabilities", "blind"),
    [
        (nn.Linear(12, 4), False, False, False),
        (nn.Sequential(nn.Linear(12, 4), nn.Softmax(1)), False, True, False),
        (nn.Sequential(nn.Hardtanh(2, 3), nn.Linear(12, 4)), False, False, True),
    ],
)
def test_signs(network, random, probabilities, blind):
    network, images = nn.Sequential(nn.Flatten(), network), torch.rand(5, 3, 2, 2)
    assert (is_random(network, images), gives_probabilities(network, images)) == (random, probabilities)
    with torch.inference_mode():
        found = has_no_gradient(network, images, torch.arange(5) % 4)
    assert found.tolist() == [blind] * 5


def test_a_network_that_draws_is_random():
    class Noisy(nn.Module):
        def forward(self, images):
            return images.flatten(1) + torch.rand(len(images), 12)

    assert is_random(Noisy(), torch.rand(5, 3, 2, 2))
    assert not is_random(nn.Sequential(nn.Dropout(), nn.Flatten()), torch.rand(5, 3, 2, 2)), "in eval mode it is not"


def test_bad_settings(tmp_path):
    with pytest.raises(CatwalkError, match="max_images: must be at least 1, or null for all, got 0"):
        RobustAccuracy(tmp_path, max_images=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(CatwalkError, match=r"output: must be a folder, and .*file is a file"):
        RobustAccuracy(tmp_path / "file")


def test_is_not_for_recommenders(recommender, triplets, make_trainer, tmp_path):
    from lightning_modules import VBPR

    trainer = make_trainer(callbacks=[RobustAccuracy(tmp_path)])
    with pytest.raises(CatwalkError, match="measures product classifiers, not a VBPR"):
        trainer.test(VBPR(factors=4, visual_factors=4), triplets, ckpt_path=recommender, weights_only=True)
