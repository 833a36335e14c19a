"""Poisoning a catalogue: what is written is what was measured, and nothing else changes."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from visual_models import visual_model

from catwalk.attacks import APGD, FGSM, PGD, CarliniWagner, FeatureMatching, RandomNoise, RankAttack, Square
from catwalk.attacks.threat_model import ThreatModelError
from catwalk.errors import CatwalkError
from catwalk.networks.building import build_network
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import network_fingerprint
from catwalk.networks.prediction import predict
from catwalk.poisoning import poison as poisoning
from catwalk.poisoning.attack_files import png_name, read_summary
from catwalk.poisoning.poison import Poisoning, items_to_attack, label_of, poison
from catwalk.poisoning.protocol import Protocol
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode

SOURCE, TARGET = "Sandal", "Sneaker"


def run(trained, folder, attack=None, **settings):
    return poison(
        trained.classifier,
        attack or PGD(epsilon=8, iterations=5),
        trained.catalogue,
        trained.table,
        folder,
        **{"source": SOURCE, "target": TARGET} | settings,
    )


@pytest.mark.parametrize("attack", [PGD(epsilon=0.03), FGSM(epsilon=8 / 255), PGD(epsilon=0.4, norm="l2")])
@pytest.mark.parametrize("settings", [{}, {"quantise": "round"}, {"epsilon_space": "normalised", "clip": False}])
def test_an_epsilon_that_no_file_could_show_is_refused(trained, tmp_path, attack, settings):
    with pytest.raises(CatwalkError, match=r"epsilon: .* is less than half a grey level"):
        run(trained, tmp_path / "out", attack, protocol=Protocol(**settings))
    assert not (tmp_path / "out").exists()


def test_epsilon_may_be_a_share(trained, tmp_path):
    run(trained, tmp_path, FGSM(epsilon="8/255"))
    assert read_summary(tmp_path).epsilon == 8.0
    assert read_summary(tmp_path).attack == "FGSM (ε = 8)"


def read_rows(folder):
    with (folder / "attacked_items.csv").open() as file:
        return list(csv.DictReader(file))


def pixels(path):
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image).astype(np.int64)


def outputs(trained, images):
    """Features and logits by the network's layers themselves, in one batch."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    network = trained.classifier.network
    with torch.no_grad():
        features = network.body((batch - network.mean) / network.std)
        return features.numpy(), F.linear(features, network.head.weight, network.head.bias).numpy()


@pytest.fixture(scope="module")
def attacked(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    return folder, run(trained, folder)


def test_the_files_on_disk_are_what_was_measured(trained, attacked):
    folder, poisoned = attacked
    catalogue, rows, summary = trained.catalogue, read_rows(folder), json.loads((folder / "attack.json").read_text())
    names, place = catalogue.category_names, {item: number for number, item in enumerate(catalogue.item_ids)}
    items = [place[row["item_id"]] for row in rows]
    assert items == np.flatnonzero(trained.table.categories == names.index(SOURCE)).tolist()
    assert [row["image"] for row in rows] == [catalogue.images[item] for item in items]
    assert len(list(folder.glob("images/**/*.png"))) == len(rows) > 5

    clean = [pixels(catalogue.folder / catalogue.images[item]) for item in items]
    adversarial = [pixels(folder / row["image"]) for row in rows]
    features_before, logits_before = outputs(trained, clean)
    features_after, logits_after = outputs(trained, adversarial)
    categories = logits_after.argmax(axis=1)
    distances = [int(abs(a - b).max()) for a, b in zip(adversarial, clean, strict=True)]
    lengths = [float(np.sqrt(((a - b) ** 2).sum())) for a, b in zip(adversarial, clean, strict=True)]
    losses = ((features_after.astype(np.float64) - features_before) ** 2).mean(axis=1)
    probabilities = np.exp(logits_after) / np.exp(logits_after).sum(axis=1, keepdims=True)
    for number, row in enumerate(rows):
        assert row["category_before"] == names[logits_before[number].argmax()] == SOURCE
        assert row["category_after"] == names[categories[number]]
        assert row["success"] == str(names[categories[number]] == TARGET)
        assert float(row["probability_after"]) == pytest.approx(probabilities[number].max(), rel=1e-4)
        assert int(row["linf_levels"]) == distances[number] <= 8
        assert float(row["l2_levels"]) == pytest.approx(lengths[number])
        assert float(row["feature_loss"]) == pytest.approx(losses[number], rel=1e-3)
        assert row["iterations"] == "5"

    success = categories == names.index(TARGET)
    assert success.mean() > 0.3
    assert summary == {
        "attack": "PGD (ε = 8)",
        "norm": "linf",
        "epsilon": 8,
        "space": "pixels",
        "clip": True,
        "quantisation": "inside",
        "purpose": f"make the CNN see {TARGET}",
        "source": SOURCE,
        "target": TARGET,
        "n_attacked": len(rows),
        "sr_float": np.mean([row["success_float"] == "True" for row in rows]),
        "sr": pytest.approx(success.mean(), abs=1e-12),
        "sr_clean": 0.0,
        "sr_net": pytest.approx(success.mean(), abs=1e-12),
        "feature_loss": pytest.approx(losses.mean(), rel=1e-3),
        "linf_levels": max(distances),
        "l2_levels": pytest.approx(np.mean(lengths)),
        "forwards": 5,
        "backwards": 5,
        "access": "gradients",
    }
    assert dataclasses.asdict(read_summary(folder)) == summary | dict.fromkeys(("queries", "mask", "sr_bare"))
    np.testing.assert_allclose(poisoned.features[items].numpy(), features_after, rtol=1e-4, atol=1e-5)


def test_a_summary_from_before_passes_were_counted_is_read(attacked, tmp_path):
    summary = json.loads((attacked[0] / "attack.json").read_text())
    later = dict.fromkeys(("forwards", "backwards", "access", "queries", "mask", "sr_bare"))
    (tmp_path / "attack.json").write_text(
        json.dumps({name: value for name, value in summary.items() if name not in later})
    )
    assert dataclasses.asdict(read_summary(tmp_path)) == summary | later


def test_queries_are_noted_of_an_attack_without_gradients(trained, tmp_path):
    attack = Square(8, queries=7)
    poison(
        *(trained.classifier, attack, trained.catalogue, trained.table, tmp_path),
        **{"source": SOURCE, "target": TARGET},
    )
    summary = read_summary(tmp_path)
    with (tmp_path / "attacked_items.csv").open() as file:
        asked = [int(row["iterations"]) for row in csv.DictReader(file)]
    assert max(asked) == 7
    assert (summary.access, summary.queries, summary.backwards) == ("scores", np.mean(asked), 0)
    assert summary.forwards == summary.queries


def test_only_the_attacked_rows_of_the_features_differ(trained, attacked):
    folder, poisoned = attacked
    is_attacked = trained.table.categories == trained.catalogue.category_names.index(SOURCE)
    differ = (poisoned.features != trained.table.features).any(dim=1).numpy()
    assert np.array_equal(differ, is_attacked)
    for field in ("scale", "category_names", "catalogue", "network"):
        assert getattr(poisoned, field) == getattr(trained.table, field)
    # What the network sees in an item stays what it saw before any attack.
    assert np.array_equal(poisoned.categories, trained.table.categories)
    assert np.array_equal(poisoned.probabilities, trained.table.probabilities)
    read_back = FeatureTable.read(folder, trained.catalogue)
    assert torch.equal(read_back.features, poisoned.features)
    assert np.array_equal(read_back.categories, trained.table.categories)
    assert np.array_equal(read_back.probabilities, trained.table.probabilities)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_does_not_show(trained, attacked, tmp_path, batch_size):
    run(trained, tmp_path, PGD(epsilon=8, iterations=5, batch_size=batch_size))
    assert contents(tmp_path) == contents(attacked[0])


def test_the_seed_of_the_attack_shows(trained, attacked, tmp_path):
    run(trained, tmp_path, PGD(epsilon=8, iterations=5, seed=1))
    assert contents(tmp_path).keys() == contents(attacked[0]).keys()
    image = read_rows(tmp_path)[0]["image"]
    assert (tmp_path / image).read_bytes() != (attacked[0] / image).read_bytes()


def test_the_clean_shop_is_not_touched(trained, tmp_path):
    before = contents(trained.catalogue.folder)
    run(trained, tmp_path, FGSM(epsilon=4))
    assert contents(trained.catalogue.folder) == before


def test_an_untargeted_attack_leaves_the_source(trained, tmp_path):
    run(trained, tmp_path, PGD(epsilon=8, iterations=5, targeted=False), target=None)
    rows, summary = read_rows(tmp_path), read_summary(tmp_path)
    _, logits = outputs(trained, [pixels(tmp_path / row["image"]) for row in rows])
    names = trained.catalogue.category_names
    left = logits.argmax(axis=1) != names.index(SOURCE)
    assert [row["success"] == "True" for row in rows] == left.tolist()
    assert left.mean() > 0.5
    assert summary.target is None
    assert summary.sr == pytest.approx(left.mean(), abs=1e-12)
    assert summary.sr_clean == 0


def test_the_dataset_may_choose_the_items(trained, tmp_path):
    number = trained.catalogue.category_names.index(SOURCE)
    by_dataset = np.flatnonzero(trained.catalogue.categories == number)
    by_network = np.flatnonzero(trained.table.categories == number)
    assert by_dataset.tolist() != by_network.tolist()
    assert items_to_attack(trained.table, trained.catalogue, SOURCE, "dataset").tolist() == by_dataset.tolist()
    run(trained, tmp_path, FGSM(epsilon=4), protocol=Protocol(source_items="dataset"))
    assert read_summary(tmp_path).n_attacked == len(by_dataset)
    target = trained.catalogue.category_names.index(TARGET)
    clean = (trained.table.categories[by_dataset] == target).mean()
    assert read_summary(tmp_path).sr_clean == pytest.approx(clean, abs=1e-12)


def test_images_of_an_earlier_attack_do_not_stay(trained, tmp_path):
    run(trained, tmp_path, source=SOURCE)
    earlier = {row["image"] for row in read_rows(tmp_path)}
    (tmp_path / "mine.png").write_bytes(b"not an attack's")
    run(trained, tmp_path, source=TARGET, target=SOURCE)
    later = {row["image"] for row in read_rows(tmp_path)}
    assert not earlier & later
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert found == later | {"mine.png"}


@pytest.mark.parametrize(
    "text",
    [
        b"item_id,mine\n1,mine.png\n",
        b"image\nmine.png\n",
        b"",
        b"\xff\xfe\x00,image\nmine.png\n",
        b"image\n" + b"m" * 200_000 + b"\n",
    ],
)
def test_images_that_are_no_attacks_stay(trained, tmp_path, text):
    (tmp_path / "mine.png").write_bytes(b"not an attack's")
    (tmp_path / "attacked_items.csv").write_bytes(text)
    run(trained, tmp_path, FGSM())
    assert (tmp_path / "mine.png").read_bytes() == b"not an attack's"


def test_damaged_rows_of_an_earlier_attack(trained, tmp_path):
    run(trained, tmp_path, FGSM())
    path = tmp_path / "attacked_items.csv"
    header, first, second, *_ = path.read_text().splitlines()
    kept, gone = (tmp_path / line.split(",")[1] for line in (first, second))
    path.write_text(f"{header}\n5\n5,\n5,images\n5,a\0b\n5,../x\n{second}\n")
    poisoning.remove_earlier_images(tmp_path)
    assert kept.is_file()
    assert not gone.exists()


def test_progress_is_reported(trained, tmp_path):
    calls = []
    run(trained, tmp_path, FGSM(epsilon=4, batch_size=16), progress=lambda done, total: calls.append((done, total)))
    number = read_summary(tmp_path).n_attacked
    assert calls[-1] == (number, number)


class TestShares:
    """Processes attack their shares of the images, and what comes of it is what comes of one process."""

    def share_out(self, arguments, folder, world_size, **settings):
        """Do as several processes would, the last of them first; return the shares."""
        shares = []
        for rank in reversed(range(world_size)):
            poisoning = Poisoning.plan(*arguments, **{"source": SOURCE, "target": TARGET} | settings)
            share, levels = poisoning.craft(rank, world_size)
            poisoning.save(share, levels, folder)
            shares.append(share)
        Poisoning.plan(*arguments, **{"source": SOURCE, "target": TARGET} | settings).complete(shares, folder)
        return shares

    def knowing_recommender(self, trained):
        random = torch.Generator().manual_seed(0)
        num_items, num_features = trained.table.features.shape
        attack = RankAttack(iterations=3)
        shapes = (9, 4), (num_items, 4), (9, 4), (num_features, 4)
        attack.scorers = [visual_model(*(torch.randn(shape, generator=random) for shape in shapes))]
        return attack

    @pytest.mark.parametrize("world_size", [2, 3, 30])
    @pytest.mark.parametrize(
        "attack",
        [
            PGD(iterations=3),
            APGD(iterations=5),
            CarliniWagner(searches=2, iterations=10),
            FeatureMatching(iterations=3),
            RandomNoise(),
            "rank",
        ],
        ids=lambda attack: attack if isinstance(attack, str) else type(attack).__name__,
    )
    def test_every_attack(self, trained, tmp_path, attack, world_size):
        attack = self.knowing_recommender(trained) if attack == "rank" else attack
        settings = {
            "target": TARGET if attack.targeted else None,
            "purchases": np.random.default_rng(0).integers(0, 9, len(trained.catalogue)),
        }
        arguments = trained.classifier, attack, trained.catalogue, trained.table
        poison(*arguments, tmp_path / "one", source=SOURCE, **settings)
        shares = self.share_out(arguments, tmp_path / "several", world_size, **settings)
        assert contents(tmp_path / "several") == contents(tmp_path / "one")
        sizes = [len(share.rows) for share in shares]
        assert sum(sizes) == read_summary(tmp_path / "one").n_attacked < 30
        assert max(sizes) - min(sizes) <= 1

    @pytest.mark.parametrize("world_size", [2, 5])
    def test_images_of_many_sizes(self, trained, shop_of_many_sizes, tmp_path, world_size):
        catalogue, network = Catalogue.read(shop_of_many_sizes), trained.classifier.network
        table = FeatureTable.from_predictions(
            predict(network, [decode(catalogue.folder / image) for image in catalogue.images]),
            trained.classifier.category_names,
            catalogue.fingerprint,
            network_fingerprint(network),
        )
        classifier = dataclasses.replace(trained.classifier, image_size=None)
        arguments = classifier, PGD(iterations=3), catalogue, table
        protocol = Protocol(source_items="dataset")
        poison(*arguments, tmp_path / "one", source=SOURCE, target=TARGET, protocol=protocol)
        shares = self.share_out(arguments, tmp_path / "several", world_size, protocol=protocol)
        assert contents(tmp_path / "several") == contents(tmp_path / "one")
        sizes = [len(share.rows) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        shapes = {pixels(tmp_path / "one" / row["image"]).shape for row in read_rows(tmp_path / "one")}
        assert len(shapes) > 3

    def test_progress_is_that_of_the_share(self, trained):
        calls = []
        poisoning = Poisoning.plan(
            trained.classifier, FGSM(), trained.catalogue, trained.table, source=SOURCE, target=TARGET
        )
        share, _ = poisoning.craft(1, 3, progress=lambda done, total: calls.append((done, total)))
        assert calls == [(len(share.rows), len(share.rows))]
        assert share.rows.tolist() == list(range(1, len(poisoning.items), 3))


class TestWhatDoesNotFit:
    def test_features_of_another_network(self, trained, tmp_path):
        network = build_network("catwalk.networks.compact_cnn", {"width": 8}, 6).eval()
        other = dataclasses.replace(trained, classifier=dataclasses.replace(trained.classifier, network=network))
        with pytest.raises(CatwalkError, match="the features were made by another network"):
            run(other, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_two_items_with_one_image(self, trained, tmp_path):
        first, second = np.flatnonzero(trained.table.categories == trained.table.category_names.index(SOURCE))[:2]
        images = list(trained.catalogue.images)
        images[second] = images[first]
        shared = dataclasses.replace(trained.catalogue, images=tuple(images))
        with pytest.raises(CatwalkError, match=f"share the image {images[first]}"):
            run(dataclasses.replace(trained, catalogue=shared), tmp_path)
        assert not list(tmp_path.iterdir())

    def test_the_same_source_and_target(self, trained, tmp_path):
        with pytest.raises(CatwalkError, match="source and target are both 'Sandal': they must differ"):
            run(trained, tmp_path, target=SOURCE)

    @pytest.mark.parametrize("argument", ["source", "target"])
    def test_an_unknown_category(self, trained, tmp_path, argument):
        message = f"{argument}: there is no category 'Hat'; the categories are Bag, Dress, Sandal"
        with pytest.raises(CatwalkError, match=message):
            run(trained, tmp_path, **{argument: "Hat"})

    def test_no_item_in_the_source_category(self, trained, tmp_path):
        table = dataclasses.replace(trained.table, categories=np.zeros_like(trained.table.categories))
        with pytest.raises(CatwalkError, match="no item of Synthetic is in category 'Sandal' by the network"):
            run(dataclasses.replace(trained, table=table), tmp_path)

    def test_a_target_for_an_untargeted_attack(self, trained, tmp_path):
        with pytest.raises(CatwalkError, match="target: an untargeted attack takes none, got 'Sneaker'"):
            run(trained, tmp_path, FGSM(targeted=False))

    def test_no_target_for_a_targeted_attack(self, trained, tmp_path):
        with pytest.raises(CatwalkError, match="target: a targeted attack needs the category"):
            run(trained, tmp_path, target=None)

    def test_the_goal(self, trained):
        assert label_of(FGSM(), trained.table, SOURCE, TARGET) == trained.table.category_names.index(TARGET)
        assert label_of(FGSM(targeted=False), trained.table, SOURCE, None) == trained.table.category_names.index(SOURCE)


def test_a_file_that_is_not_the_image_is_noticed(trained, tmp_path, monkeypatch):
    def save_damaged(levels, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        array = levels.numpy().transpose(1, 2, 0).copy()
        array[3, 3, 1] ^= 0x80
        Image.fromarray(array).save(path)

    monkeypatch.setattr(poisoning, "save_png", save_damaged)
    with pytest.raises(ThreatModelError, match=r"adversarial image 0 is 1[0-9]+ grey levels from the clean image"):
        run(trained, tmp_path)
    assert not (tmp_path / "attacked_items.csv").exists()
    assert not (tmp_path / "features.safetensors").exists()


def test_a_file_that_cannot_be_read_is_noticed(trained, tmp_path, monkeypatch):
    def save_half(levels, path):
        save_png(levels, path)
        path.write_bytes(path.read_bytes()[:100])

    save_png = poisoning.save_png
    monkeypatch.setattr(poisoning, "save_png", save_half)
    with pytest.raises(CatwalkError, match=r"\.png cannot be read"):
        run(trained, tmp_path)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("a/b.png", "a/b.png"),
        ("a/b.jpg", "a/b.jpg.png"),
        ("b.PNG", "b.PNG.png"),
        ("b", "b.png"),
        ("a.png/b", "a.png/b.png"),
    ],
)
def test_the_name_of_an_adversarial_image(image, expected):
    assert png_name(image) == expected
