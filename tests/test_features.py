"""Features and predictions: their values, and the files that hold them."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from catwalk.backbones import build_network
from catwalk.catalogue import Catalogue
from catwalk.errors import CatwalkError
from catwalk.features import FeatureTable, Predictions, predict


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build_network("catwalk.backbones.compact_cnn", {"width": 8}, 5)
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
        network = build_network("catwalk.backbones.compact_cnn", {"width": 2}, 3).eval()
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
            (lambda lines: ["item_id,category,share", *lines[1:]], "lacks the column 'probability'"),
        ],
    )
    def test_damaged_predictions(self, table, catalogue, tmp_path, change, message):
        table.write(tmp_path, catalogue)
        path = tmp_path / "predictions.csv"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
        with pytest.raises(CatwalkError, match=rf"predictions\.csv {message}"):
            FeatureTable.read(tmp_path, catalogue)

    def test_predictions_that_lack(self, table, catalogue, tmp_path):
        table.write(tmp_path, catalogue)
        (tmp_path / "predictions.csv").unlink()
        with pytest.raises(CatwalkError, match=r"predictions\.csv does not exist"):
            FeatureTable.read(tmp_path, catalogue)

    @pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
    def test_unusable_features(self, value):
        predictions = Predictions(torch.full((2, 3), value), torch.zeros(2, dtype=torch.int64), torch.ones(2))
        with pytest.raises(CatwalkError, match="the network's features are unusable"):
            FeatureTable.from_predictions(predictions, ("a",), "", "")


def test_poisoning_touches_only_its_rows(table):
    before = table.features.clone()
    new = torch.full((3, 7), 1e9)
    poisoned = table.poisoned(np.array([5, 80, 0]), new)
    assert torch.equal(table.features, before)
    changed = (poisoned.features != before).any(dim=1)
    assert torch.nonzero(changed).flatten().tolist() == [0, 5, 80]
    assert torch.equal(poisoned.features[[5, 80, 0]], new)
    assert_same(dataclasses.replace(poisoned, features=table.features), table)  # its scale, too
