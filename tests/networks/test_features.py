"""Features and predictions: their values, and the files that hold them."""

import copy
import dataclasses
import json
import os
import pickle
import subprocess
import sys
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from catwalk.errors import CatwalkError
from catwalk.networks.building import build_network
from catwalk.networks.features import FeatureTable
from catwalk.networks.prediction import Predictions, predict
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.shop.catalogue import Catalogue


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build_network("catwalk.networks.compact_cnn", {"width": 8}, 5)
    for _ in range(30):  # running statistics that are not the initial ones
        network.train()(torch.rand(64, 3, 16, 16) * torch.rand(64, 1, 1, 1))
    return network.eval()


@pytest.fixture(scope="module")
def levels():
    random = torch.Generator().manual_seed(0)
    images = torch.rand(37, 3, 16, 16, generator=random) * torch.rand(37, 1, 1, 1, generator=random)
    return (images * 255).to(torch.uint8)


class TestPredict:
    def test_the_rows_are_those_of_the_network(self, network, levels):
        predictions = predict(network, levels)
        images = torch.from_numpy(levels.numpy().astype(np.float32) / np.float32(255))
        with torch.no_grad():
            features, logits = network.features(images).numpy(), network(images).numpy().astype(np.float64)
        assert predictions.features.dtype == predictions.probabilities.dtype == torch.float32
        assert predictions.categories.dtype == torch.int64
        np.testing.assert_allclose(predictions.features.numpy(), features, rtol=1e-5, atol=1e-6)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(predictions.probabilities.numpy(), shares.max(axis=1), rtol=1e-4)
        assert predictions.categories.tolist() == logits.argmax(axis=1).tolist()
        assert len(set(predictions.categories.tolist())) > 1

    @pytest.mark.parametrize("batch_size", [1, 5, 16, 36, 1000])
    def test_the_batch_size_does_not_show(self, network, levels, batch_size):
        whole, parts = predict(network, levels), predict(network, levels, batch_size)
        assert all(torch.equal(first, second) for first, second in zip(whole, parts, strict=True))

    def test_of_equal_categories_the_first_is_taken_and_of_nearly_equal_ones_the_best(self, levels):
        network = build_network("catwalk.networks.compact_cnn", {"width": 2}, 3).eval()
        with torch.no_grad():
            network.head.weight.zero_()
            network.head.bias.copy_(torch.tensor([1.0, 2.0, 2.0]))
        assert predict(network, levels).categories.tolist() == [1] * 37
        with torch.no_grad():
            # The probabilities of both round to the same float32.
            network.head.bias.copy_(torch.tensor([0.0, 1e-8, 2e-8]))
        assert predict(network, levels).categories.tolist() == [2] * 37

    def test_no_images(self, network):
        for none in (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), []):
            with pytest.raises(ValueError, match="at least one image"):
                predict(network, none)

    def test_gradients_are_not_kept(self, network, levels):
        assert not predict(network, levels).features.requires_grad


@pytest.fixture(scope="module")
def images_of_several_sizes():
    """20 of one size, 16 and 15 of others, and single ones, mixed."""
    random = np.random.default_rng(0)
    sizes = [(16, 16)] * 20 + [(11, 17)] * 16 + [(17, 11)] * 15 + [(8, 30), (40, 9), (33, 34)]
    order = random.permutation(len(sizes))
    return [random.integers(256, size=(3, *sizes[place]), dtype=np.uint8) for place in order]


def equal(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


class TestImagesOfSeveralSizes:
    def test_each_row_is_that_of_its_image_alone(self, network, images_of_several_sizes):
        predictions = predict(network, images_of_several_sizes)
        for row, image in enumerate(images_of_several_sizes):
            with torch.no_grad():
                alone = torch.from_numpy(image[None].astype(np.float32) / np.float32(255))
                features, shares = network.features(alone), network(alone).softmax(dim=1)
            torch.testing.assert_close(predictions.features[row], features[0], rtol=1e-5, atol=1e-5)
            assert predictions.probabilities[row].item() == pytest.approx(shares.max().item(), rel=1e-5)
            assert predictions.categories[row] == shares.argmax()

    @pytest.mark.parametrize("batch_size", [1, 5, 16, 33])
    def test_the_batch_size_does_not_show(self, network, images_of_several_sizes, batch_size):
        whole = predict(network, images_of_several_sizes)
        assert equal(whole, predict(network, images_of_several_sizes, batch_size))

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_order_does_not_show(self, network, images_of_several_sizes, seed):
        whole = predict(network, images_of_several_sizes)
        order = np.random.default_rng(seed).permutation(len(images_of_several_sizes))
        shuffled = predict(network, [images_of_several_sizes[place] for place in order], batch_size=16)
        assert equal([column[torch.from_numpy(order)] for column in whole], shuffled)

    def test_many_of_a_size_share_passes_and_few_run_alone(self, network, images_of_several_sizes, monkeypatch):
        shapes, forward = [], network.features
        monkeypatch.setattr(network, "features", lambda images: shapes.append(tuple(images.shape)) or forward(images))
        predict(network, images_of_several_sizes)
        alone = [(1, 3, 17, 11)] * 15 + [(1, 3, 8, 30), (1, 3, 40, 9), (1, 3, 33, 34)]
        assert sorted(shapes) == sorted([(32, 3, 16, 16), (16, 3, 11, 17), *alone])

    def test_of_one_size_they_are_those_of_a_tensor(self, network, levels):
        for count in (37, 3):
            assert equal(predict(network, levels[:count]), predict(network, list(levels[:count].numpy())))

    @pytest.mark.parametrize(
        ("backbone", "arguments"),
        [
            ("torchvision.models.vgg11", {}),
            (
                "torchvision.models.VisionTransformer",
                {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 1, "hidden_dim": 4, "mlp_dim": 4},
            ),
        ],
    )
    def test_a_size_that_the_network_does_not_take(self, backbone, arguments):
        network = build_network(backbone, arguments, 3).eval()
        images = [np.zeros((3, *size), np.uint8) for size in [(32, 32), (20, 8)]]
        with pytest.raises(CatwalkError, match=r"^the network fails on images of 8×20: \S.*, give an image_size$"):
            predict(network, images)


@pytest.fixture(scope="module")
def catalogue(shop):
    return Catalogue.read(shop)


@pytest.fixture
def table(catalogue):
    random = np.random.default_rng(0)
    bits = random.integers(0x3000_0000, 0x4200_0000, size=(90, 7), dtype=np.uint32)  # any float32 of some size
    features = torch.from_numpy(bits.view(np.float32).copy())
    features[3, 2], features[4, 4] = -1e-42, -float(features.max()) * 2
    probabilities = torch.from_numpy(random.random(90, dtype=np.float32))
    categories = torch.from_numpy(random.integers(6, size=90))
    return FeatureTable.from_predictions(
        Predictions(features, categories, probabilities), catalogue.category_names, catalogue.fingerprint, "network"
    )


def assert_same(first, second):
    assert first.features.numpy().tobytes() == second.features.numpy().tobytes()
    assert first.categories.tolist() == second.categories.tolist()
    assert first.probabilities.dtype == second.probabilities.dtype == np.float32
    assert first.probabilities.tobytes() == second.probabilities.tobytes()
    for field in ("category_names", "scale", "catalogue", "network"):
        assert getattr(first, field) == getattr(second, field)


def spoilt(value):
    """Return features of four items of which one is no number."""
    features = torch.ones(4, 3)
    features[3, 1] = value
    return features


def spoilt_row(value):
    """Return a change of the features that makes one of them no number, beyond the first block."""

    def change(features):
        changed = features.clone()
        changed[40, 1] = value
        return changed

    return change


class TestFiles:
    def test_what_is_written_is_read_to_the_last_bit(self, table, catalogue, tmp_path):
        table.write(tmp_path / "new" / "folder", catalogue)
        assert_same(FeatureTable.read(str(tmp_path / "new" / "folder"), catalogue), table)
        assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
            "features.safetensors",
            "predictions.csv",
        ]
        lines = (tmp_path / "new" / "folder" / "predictions.csv").read_text().splitlines()
        name = catalogue.category_names[table.categories[0]]
        assert lines[0] == "item_id,category,probability"
        assert lines[1].startswith(f"{catalogue.item_ids[0]},{name},0.")
        assert len(lines) == 91

    def test_the_scale_is_the_largest_absolute_value(self, table):
        assert table.scale == float(np.abs(table.features.numpy()).max()) == -float(table.features[4, 4])

    def test_equal_tables_give_equal_bytes(self, table, catalogue, tmp_path):
        for name in "abcdef":
            table.write(tmp_path / name, catalogue)
        for file in ("features.safetensors", "predictions.csv"):
            assert len({(tmp_path / name / file).read_bytes() for name in "abcdef"}) == 1

    def test_writing_again_replaces(self, table, catalogue, tmp_path):
        table.write(tmp_path, catalogue)
        other = table.poisoned(np.array([0]), torch.zeros(1, 7))
        other.write(tmp_path, catalogue)
        assert_same(FeatureTable.read(tmp_path, catalogue), other)

    def test_a_folder_that_is_written_half_is_not_complete(self, table, catalogue, tmp_path, monkeypatch):
        table.write(tmp_path, catalogue)
        monkeypatch.setattr("safetensors.torch.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            table.poisoned(np.array([0]), torch.zeros(1, 7)).write(tmp_path, catalogue)
        assert torch.equal(FeatureTable.read(tmp_path, catalogue).features, table.features)
        monkeypatch.undo()
        replace = Path.replace

        def killed(path, target):
            if target.name == "features.safetensors":
                raise KeyboardInterrupt
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            table.poisoned(np.array([0]), torch.zeros(1, 7)).write(tmp_path, catalogue)
        with pytest.raises(CatwalkError, match=r"features\.safetensors is missing"):
            FeatureTable.read(tmp_path, catalogue)
        assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]

    def test_names_of_any_kind(self, table, catalogue, tmp_path):
        names = ('Größe "L", x', "a\nb", "c", "d", "e", "f")
        ids = ("007", 'a,"b"', "zeile\n2", *catalogue.item_ids[3:])
        odd = dataclasses.replace(catalogue, item_ids=ids)
        table = dataclasses.replace(table, category_names=names, catalogue=odd.fingerprint)
        table.write(tmp_path, odd)
        assert_same(FeatureTable.read(tmp_path, odd), table)


class TestRefusals:
    def test_none(self, catalogue, tmp_path):
        with pytest.raises(
            CatwalkError, match=r"there are no features in .*: features\.safetensors is missing; `catwalk"
        ):
            FeatureTable.read(tmp_path / "absent", catalogue)

    def test_another_catalogue(self, table, catalogue, tmp_path):
        table.write(tmp_path, catalogue)
        other = dataclasses.replace(catalogue, item_ids=("x", *catalogue.item_ids[1:]))
        with pytest.raises(CatwalkError, match=r"was made of another catalogue than .*extract the features again"):
            FeatureTable.read(tmp_path, other)

    @pytest.mark.parametrize("length", [0, 4, 100, -1])
    def test_truncated(self, table, catalogue, tmp_path, length):
        table.write(tmp_path, catalogue)
        path = tmp_path / "features.safetensors"
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(CatwalkError, match=r"features\.safetensors cannot be read"):
            FeatureTable.read(tmp_path, catalogue)

    @pytest.mark.parametrize(
        "stamp",
        [None, "{", "[]", json.dumps({"category_names": 3, "scale": 1, "catalogue": "", "network": ""})],
    )
    def test_a_file_of_another_program(self, table, catalogue, tmp_path, stamp):
        metadata = None if stamp is None else {"catwalk": stamp}
        save_file({"features": table.features}, tmp_path / "features.safetensors", metadata)
        with pytest.raises(CatwalkError, match=r"features\.safetensors cannot be read"):
            FeatureTable.read(tmp_path, catalogue)

    def test_other_tensors(self, table, catalogue, tmp_path):
        table.write(tmp_path, catalogue)
        path = tmp_path / "features.safetensors"
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file({"weights": table.features}, path, metadata)
        with pytest.raises(CatwalkError, match=r"features\.safetensors cannot be read"):
            FeatureTable.read(tmp_path, catalogue)
        save_file({"features": table.features[:50]}, path, metadata)
        with pytest.raises(CatwalkError, match="holds 50 rows of features for the 90 items"):
            FeatureTable.read(tmp_path, catalogue)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda lines: lines[:-5], "does not list the items"),
            (lambda lines: [lines[0], *lines[:0:-1]], "does not list the items"),
            (
                lambda lines: [lines[0], lines[1].replace(",", ",Not", 1), *lines[2:]],
                "is damaged, extract the features",
            ),
            (lambda lines: [lines[0], lines[1] + "x", *lines[2:]], "is damaged, extract the features again"),
            (lambda lines: [*lines[:-1], lines[-1].rpartition(",")[0] + ",nan"], "is damaged, .*not in"),
            (lambda lines: [*lines[:-1], lines[-1].rpartition(",")[0] + ",1.5"], "is damaged, .*not in"),
            (lambda lines: ["item_id,category,share", *lines[1:]], "lacks the column 'probability'"),
        ],
    )
    def test_damaged_predictions(self, table, catalogue, tmp_path, change, message):
        table.write(tmp_path, catalogue)
        path = tmp_path / "predictions.csv"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
        with pytest.raises(CatwalkError, match=rf"predictions\.csv {message}"):
            FeatureTable.read(tmp_path, catalogue)

    @pytest.mark.parametrize("damage", ["zeros", "a bit", "another scale", "categories"])
    def test_changed_after_it_was_written(self, table, catalogue, tmp_path, damage):
        table.write(tmp_path, catalogue)
        FeatureTable.read(tmp_path, catalogue)  # it was sound, and this process has seen so
        path = tmp_path / ("predictions.csv" if damage == "categories" else "features.safetensors")
        content = bytearray(path.read_bytes())
        if damage == "zeros":
            content[-800:-400] = bytes(400)
        elif damage == "a bit":
            content[-1] ^= 1
        elif damage == "another scale":
            scale = str(table.scale)
            other = ("1" if scale[0] != "1" else "2") + scale[1:]
            content = content.replace(scale.encode(), other.encode())
        else:
            first, second = table.category_names[:2]
            text = content.decode().replace(first, "?").replace(second, first).replace("?", second)
            content = text.encode()
        assert path.read_bytes() != content
        path.write_bytes(content)
        with pytest.raises(CatwalkError, match=rf"{path.name} is damaged, extract the features again: it was changed"):
            FeatureTable.read(tmp_path, catalogue)

    def test_files_of_earlier_versions_have_no_digests(self, table, catalogue, tmp_path):
        table.write(tmp_path, catalogue)
        path = tmp_path / "features.safetensors"
        with safe_open(path, "pt") as file:
            stamp = json.loads(file.metadata()["catwalk"])
        del stamp["sha256"]
        save_file({"features": table.features}, path, {"catwalk": json.dumps(stamp)})
        assert torch.equal(FeatureTable.read(tmp_path, catalogue).features, table.features)

    def test_predictions_that_lack(self, table, catalogue, tmp_path):
        table.write(tmp_path, catalogue)
        (tmp_path / "predictions.csv").unlink()
        with pytest.raises(CatwalkError, match=r"predictions\.csv does not exist"):
            FeatureTable.read(tmp_path, catalogue)

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            (torch.zeros(2, 3), "the largest absolute value .* must be a finite number above .*, and is 0.0"),
            (torch.full((2, 3), 1e-42), "the largest absolute value .*, and is 1"),
            *((spoilt(value), f"feature 1 of item number 3 is {value}, and must be") for value in (nan, inf, -inf)),
            (torch.ones(2), "they must be a matrix .*, and are 2 numbers"),
            (torch.ones(2, 3, 1), "they must be a matrix .*, and are 2×3×1"),
            (torch.ones(2, 0), "they must be a matrix .*, and are 2×0"),
            (torch.ones(2, 3, dtype=torch.int64), "they are int64 and not floating-point numbers"),
            (torch.ones(2, 3, dtype=torch.bool), "they are bool and not floating-point numbers"),
            (torch.ones(2, 3, dtype=torch.complex64), "they are complex64 and not floating-point numbers"),
        ],
    )
    def test_unusable_features(self, features, message):
        predictions = Predictions(features, torch.zeros(len(features), dtype=torch.int64), torch.ones(len(features)))
        with pytest.raises(CatwalkError, match=f"the network's features are unusable: {message}"):
            FeatureTable.from_predictions(predictions, ("a",), "", "")

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("in_memory", [True, False])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            *(
                (spoilt_row(value), f"feature 1 of item number 40 is {value}, and must be")
                for value in (nan, inf, -inf)
            ),
            (lambda features: features[:, 0].contiguous(), "they must be a matrix .*, and are 90 numbers"),
            (lambda features: features[:, :0].contiguous(), "they must be a matrix .*, and are 90×0"),
            (lambda features: features[:, :, None].contiguous(), "they must be a matrix .*, and are 90×7×1"),
            (lambda features: features.clamp(-9, 9).int(), "they are int32 and not floating-point numbers"),
            (lambda features: features.to(torch.complex64), "they are complex64 and not floating-point numbers"),
            (lambda features: features.double() * 1e200, "feature . of item number 0 is .*e.*, and must be a finite"),
        ],
    )
    def test_unusable_features_in_a_file(
        self, table, catalogue, tmp_path, monkeypatch, change, message, in_memory, dtype
    ):
        monkeypatch.setattr("catwalk.networks.features.BLOCK_BYTES", 32 * 4 * 7)  # blocks of 32 rows
        table.write(tmp_path, catalogue)
        with safe_open(tmp_path / "features.safetensors", "pt") as file:
            metadata = file.metadata()
        try:
            save_file({"features": change(table.features)}, tmp_path / "features.safetensors", metadata)
        except KeyError:
            pytest.skip("this release of safetensors writes no complex numbers")
        with pytest.raises(CatwalkError, match=rf"features\.safetensors holds unusable features: {message}"):
            FeatureTable.read(tmp_path, catalogue, dtype, in_memory)

    def test_a_single_number(self, table, catalogue, tmp_path):
        table.write(tmp_path, catalogue)
        with safe_open(tmp_path / "features.safetensors", "pt") as file:
            metadata = file.metadata()
        save_file({"features": torch.tensor(1.0)}, tmp_path / "features.safetensors", metadata)
        with pytest.raises(CatwalkError, match="holds a single number"):
            FeatureTable.read(tmp_path, catalogue)

    @pytest.mark.parametrize("scale", ["0", "-1.0", "NaN", "Infinity", "1e-42", '"nan"'])
    def test_a_scale_by_which_nothing_can_be_divided(self, table, catalogue, tmp_path, scale):
        table.write(tmp_path, catalogue)
        with safe_open(tmp_path / "features.safetensors", "pt") as file:
            stamp = file.metadata()["catwalk"].replace(f'"scale": {table.scale}', f'"scale": {scale}')
        save_file({"features": table.features}, tmp_path / "features.safetensors", {"catwalk": stamp})
        with pytest.raises(CatwalkError, match="cannot be read: the largest absolute value of the features, which"):
            FeatureTable.read(tmp_path, catalogue)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_no_attack_brings_features_in_that_are_no_numbers(table, value):
    with pytest.raises(CatwalkError, match=f"changed images are unusable: feature 2 of item number 1 is {value}"):
        table.poisoned(np.array([5, 80]), torch.tensor([[0.0] * 7, [0.0, 0.0, value, 0.0, 0.0, 0.0, 0.0]]))


def test_poisoning_touches_only_its_rows(table):
    before = table.features.clone()
    new = torch.full((3, 7), 1e9)
    poisoned = table.poisoned(np.array([5, 80, 0]), new)
    assert torch.equal(table.features, before)
    changed = (poisoned.features != before).any(dim=1)
    assert torch.nonzero(changed).flatten().tolist() == [0, 5, 80]
    assert torch.equal(poisoned.features[[5, 80, 0]], new)
    assert_same(dataclasses.replace(poisoned, features=table.features), table)  # its scale, too


STORAGES, DTYPES = ("device", "host", "disk"), ("float32", "float16", "bfloat16")


@pytest.fixture
def ordinary(table):
    """A table of features of ordinary size, which float16 holds, some of them only as subnormal numbers."""
    features = torch.randn(90, 7, generator=torch.Generator().manual_seed(1)) * 1000
    features[5] *= 1e-9
    features[7, 0], features[8, 0] = 65504, -65504
    return dataclasses.replace(table, features=features)


def by_numpy(features, dtype):
    """What is left of float32 numbers that were stored as a type."""
    if dtype == "bfloat16":  # the upper half of a float32, rounded to the nearest, to even if there are two
        bits = features.numpy().view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        return bits.astype(np.uint32).view(np.float32)
    return features.numpy().astype(dtype).astype(np.float32)


class TestTypes:
    @pytest.mark.parametrize("in_memory", [True, False])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_features_are_rounded_and_nothing_else(self, ordinary, catalogue, tmp_path, monkeypatch, dtype, in_memory):
        monkeypatch.setattr("catwalk.networks.features.BLOCK_BYTES", 32 * 4 * 7)  # blocks of 32 rows
        ordinary.write(tmp_path, catalogue)
        read = FeatureTable.read(tmp_path, catalogue, dtype, in_memory)
        assert read.features.dtype == getattr(torch, dtype)
        assert np.array_equal(read.features.float().numpy(), by_numpy(ordinary.features, dtype))
        assert_same(dataclasses.replace(read, features=ordinary.features), ordinary)  # its scale, too

    @pytest.mark.parametrize("in_memory", [True, False])
    @pytest.mark.parametrize("value", [65505.0, -1e9])
    def test_what_float16_does_not_hold_is_refused(self, ordinary, catalogue, tmp_path, in_memory, value):
        ordinary.features[80, 3] = value
        ordinary.write(tmp_path, catalogue)
        message = rf"feature_dtype is float16, .* up to 65504, .*features\.safetensors has a feature of {abs(value):g}"
        with pytest.raises(CatwalkError, match=message.replace("+", r"\+")):
            FeatureTable.read(tmp_path, catalogue, "float16", in_memory)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["features.safetensors", "predictions.csv"]
        assert FeatureTable.read(tmp_path, catalogue, "bfloat16", in_memory).features[80, 3] != 0

    def test_the_file_of_another_type_is_written_once(self, ordinary, catalogue, tmp_path):
        ordinary.write(tmp_path, catalogue)
        FeatureTable.read(tmp_path, catalogue, "float16")
        path = tmp_path / "features.float16.safetensors"
        before = path.stat()
        FeatureTable.read(tmp_path, catalogue, "float16")
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        FeatureTable.read(tmp_path, catalogue, "bfloat16")
        assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".sha256") == [
            "features.bfloat16.safetensors",
            "features.float16.safetensors",
            "features.safetensors",
            "predictions.csv",
        ]

    @pytest.mark.parametrize("keep_time", [True, False])
    def test_the_file_of_another_type_follows_its_source(self, ordinary, catalogue, tmp_path, keep_time):
        ordinary.write(tmp_path, catalogue)
        first = FeatureTable.read(tmp_path, catalogue, "float16")
        status = (tmp_path / "features.safetensors").stat()
        changed = ordinary.poisoned(np.array([4]), torch.ones(1, 7))
        keep = (tmp_path / "features.safetensors").open("rb")  # so that the new file cannot have its number
        changed.write(tmp_path, catalogue)
        if keep_time:
            os.utime(tmp_path / "features.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))
        second = FeatureTable.read(tmp_path, catalogue, "float16")
        keep.close()
        assert torch.equal(second.features, changed.features.half())
        assert torch.equal(first.features, ordinary.features.half())  # which was read before

    @pytest.mark.parametrize("damage", ["cut", "zeros"])
    def test_a_damaged_file_of_another_type_is_written_again(self, ordinary, catalogue, tmp_path, damage):
        ordinary.write(tmp_path, catalogue)
        FeatureTable.read(tmp_path, catalogue, "float16")
        path = tmp_path / "features.float16.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:100] if damage == "cut" else content[:-300] + bytes(300))
        assert torch.equal(FeatureTable.read(tmp_path, catalogue, "float16").features, ordinary.features.half())

    def test_a_file_that_cannot_be_written(self, ordinary, catalogue, tmp_path):
        ordinary.write(tmp_path, catalogue)
        (tmp_path / "features.float16.safetensors").mkdir()
        with pytest.raises(CatwalkError, match=r"that cannot be written .*: make the folder writable, or use float32"):
            FeatureTable.read(tmp_path, catalogue, "float16")
        assert len(list(tmp_path.iterdir())) == 3


MEMORY = """
import sys
from pathlib import Path
import torch
from catwalk.networks import features
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.shop.catalogue import Catalogue

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

shop, folder, dtype = sys.argv[1:]
features.BLOCK_BYTES = 2**20
catalogue, matrix = Catalogue.read(shop), torch.ones(8192, 2)
torch.ones(32, 8192) @ matrix
before, used = anonymous(), []
rows = FeatureRows(features.FeatureTable.read(folder, catalogue, dtype).features, "disk")
for items in torch.arange(2048).split(32):
    rows.difference(items, items.flip(0))
    used.append(anonymous())
rows.project(matrix)
print(max(*used, anonymous()) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_on_the_disk_take_no_memory_of_the_process(tmp_path, dtype):
    """Of 64 MiB of float32, every row of which is used."""
    (tmp_path / "a.png").touch()
    (tmp_path / "items.csv").write_text("\n".join(["item_id,image,category", *(f"{n},a.png,c" for n in range(2048))]))
    catalogue = Catalogue.read(tmp_path)
    predictions = Predictions(torch.rand(2048, 8192), torch.zeros(2048, dtype=torch.int64), torch.ones(2048))
    FeatureTable.from_predictions(predictions, ("c",), catalogue.fingerprint, "").write(tmp_path, catalogue)
    command = [sys.executable, "-c", MEMORY, str(tmp_path), str(tmp_path), dtype]
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 16


@pytest.fixture(params=[(storage, dtype) for storage in STORAGES for dtype in DTYPES], ids="-".join)
def stored(request, ordinary, catalogue, tmp_path):
    """Features as a data module stores them, and their float32 values."""
    storage, dtype = request.param
    ordinary.write(tmp_path, catalogue)
    features = FeatureTable.read(tmp_path, catalogue, dtype, in_memory=storage != "disk").features
    return FeatureRows(features, storage), torch.from_numpy(by_numpy(ordinary.features, dtype))


def some_items(count, seed):
    return torch.randint(90, (count,), generator=torch.Generator().manual_seed(seed))


class TestRows:
    def test_sizes(self, stored):
        rows, _ = stored
        assert (rows.num_items, rows.num_features) == (90, 7)

    def test_rows_and_differences_are_those_of_plain_indexing(self, stored):
        rows, values = stored
        # Batches of several sizes, so that memory is used again, fits, and does not.
        for seed, count in enumerate([5, 200, 3, 1, 200, 64, 300]):
            i, j = some_items(count, 2 * seed), some_items(count, 2 * seed + 1)
            for found, expected in ((rows.rows(i), values[i]), (rows.difference(i, j), values[i] - values[j])):
                assert found.dtype == torch.float32
                assert torch.equal(found, expected)

    @pytest.mark.parametrize("rows_per_block", [16, 48, 1000])
    def test_projections_are_those_of_the_whole_matrix(self, stored, monkeypatch, rows_per_block):
        monkeypatch.setattr("catwalk.networks.features.BLOCK_BYTES", rows_per_block * 4 * 7)
        rows, values = stored
        matrix = torch.randn(7, 3, requires_grad=True)
        found = rows.project(matrix)
        assert found.shape == (90, 3)
        assert not found.requires_grad
        expected = values.numpy().astype(np.float64) @ matrix.detach().numpy().astype(np.float64)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-2)

    def test_two_losses_before_one_backward(self, stored):
        rows, values = stored
        matrix = torch.randn(7, 3, requires_grad=True)
        reference = matrix.detach().clone().requires_grad_()
        for step in range(3):
            pairs = [(some_items(20, 10 * step + k), some_items(20, 10 * step + k + 5)) for k in range(5)]
            losses = [(rows.difference(i, j) @ matrix).square().sum() for i, j in pairs]
            torch.stack(losses).sum().backward()
            expected = [((values[i] - values[j]) @ reference).square().sum() for i, j in pairs]
            torch.stack(expected).sum().backward()
        torch.testing.assert_close(matrix.grad, reference.grad, rtol=1e-5, atol=0)

    @pytest.mark.parametrize(
        "hold",
        [
            lambda difference, _: difference,
            lambda difference, _: difference[3:].T,
            lambda difference, _: difference.numpy(),
            lambda difference, _: difference.detach(),
            lambda difference, matrix: difference @ matrix,
        ],
        ids=["itself", "a view", "an array", "a tensor of the same storage", "a graph"],
    )
    def test_what_is_still_held_is_not_written_over(self, stored, hold):
        rows, values = stored
        matrix = torch.randn(7, 3, requires_grad=True)
        i, j = some_items(30, 0), some_items(30, 1)
        held = hold(rows.difference(i, j), matrix)
        expected = torch.as_tensor(held).detach().clone()
        for seed in range(6):
            rows.difference(some_items(30, seed + 2), some_items(30, seed + 3))
        assert torch.equal(torch.as_tensor(held), expected)
        if torch.as_tensor(held).requires_grad:
            held.sum().backward()
            want = (values[i] - values[j]).sum(dim=0)[:, None].expand(7, 3)
            torch.testing.assert_close(matrix.grad, want, rtol=1e-5, atol=1e-3)

    def test_memory_is_used_again(self, stored):
        rows, _ = stored
        places = {rows.difference(some_items(50, seed), some_items(50, seed + 1)).data_ptr() for seed in range(20)}
        # Of float32 on a CPU the result comes from the allocator, which gives what is free again.
        assert len(places) <= (2 if rows.features.dtype != torch.float32 else 10)

    def test_results_made_in_inference_can_be_learnt_from(self, stored):
        rows, values = stored
        i, j = some_items(9, 0), some_items(9, 1)
        with torch.inference_mode():
            first = rows.difference(i, j)
            rows.project(torch.ones(7, 2))
        matrix = torch.ones(7, 2, requires_grad=True)
        for difference in (first, rows.difference(i, j), rows.difference(j, i)):
            assert not difference.is_inference()
            (difference @ matrix).sum().backward()
        want = (values[i] - values[j]).sum(dim=0)[:, None].expand(7, 2)
        torch.testing.assert_close(matrix.grad, want, rtol=1e-4, atol=0.1)

    def test_storage_does_not_show_in_the_bits(self, ordinary, catalogue, tmp_path):
        ordinary.write(tmp_path, catalogue)
        matrix = torch.randn(7, 3)
        for dtype in DTYPES:
            tables = [FeatureTable.read(tmp_path, catalogue, dtype, in_memory).features for in_memory in (True, False)]
            products = [FeatureRows(table, "host").project(matrix) for table in tables]
            assert torch.equal(*products)

    def test_features_follow_the_module_only_if_they_lie_on_the_device(self, stored):
        rows, _ = stored
        parent = torch.nn.Module()
        parent.child = rows
        parent.to("meta")
        assert rows.features.device.type == ("meta" if rows.storage == "device" else "cpu")

    def test_they_are_no_part_of_a_checkpoint_or_of_what_processes_exchange(self, stored):
        rows, _ = stored
        assert not rows.state_dict()
        assert not list(rows.buffers())
        assert not list(rows.parameters())

    def test_copies_work(self, stored):
        rows, values = stored
        i, j = some_items(9, 0), some_items(9, 1)
        held = rows.difference(i, j)
        for other in (copy.deepcopy(rows), pickle.loads(pickle.dumps(rows))):
            assert torch.equal(other.difference(j, i), values[j] - values[i])
        assert torch.equal(held, values[i] - values[j])

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    def test_a_gpu_gets_the_same(self, stored):
        rows, values = stored
        rows.to("cuda")
        for seed in range(20):
            i, j = some_items(300, seed), some_items(300, seed + 1)
            found = rows.difference(i.cuda(), j.cuda())
            assert found.is_cuda
            assert torch.equal(found.cpu(), values[i] - values[j])
            assert torch.equal(rows.rows(i.cuda()).cpu(), values[i])
        assert rows.project(torch.ones(7, 2, device="cuda")).is_cuda
