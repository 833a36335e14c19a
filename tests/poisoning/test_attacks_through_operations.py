"""Attacks on networks behind input operations: what the attacker knows, what is measured, from Python and the CLI."""

import csv
import json

import numpy as np
import pytest
import torch

from catwalk.attacks import FGSM, PGD
from catwalk.cli.main import main
from catwalk.networks.defended import averaged, defended
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import network_fingerprint
from catwalk.networks.prediction import predict
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.finished_attack import is_of_an_attack
from catwalk.poisoning.poison import poison
from catwalk.poisoning.records import read_attacked_items
from catwalk.processing import JPEG, BitDepth, GaussianNoise
from catwalk.shop.decoding import decode
from catwalk.shop.images import load_images

GOAL = {"source": "Sandal", "target": "Sneaker"}


def table_of(trained, classifier):
    levels = torch.tensor(load_images(trained.catalogue.folder, trained.catalogue.images, None))
    return FeatureTable.from_predictions(
        predict(classifier.network, levels),
        classifier.category_names,
        trained.catalogue.fingerprint,
        network_fingerprint(classifier.network),
    )


def attacked_levels(trained, folder):
    items, rows = read_attacked_items(folder, trained.catalogue)
    clean = [decode(trained.catalogue.folder / trained.catalogue.images[item]) for item in items]
    images = torch.from_numpy(np.stack([decode(folder / row.image) for row in rows]))
    return items, rows, torch.from_numpy(np.stack(clean)), images


@pytest.mark.parametrize("adaptive", [True, False])
def test_images_are_crafted_as_the_attacker_knows_and_judged_through_the_operations(trained, tmp_path, adaptive):
    classifier = defended(trained.classifier, [BitDepth(3), GaussianNoise(6)])
    attack = PGD(epsilon=8, iterations=3)
    table = table_of(trained, classifier)
    poison(classifier, attack, trained.catalogue, table, tmp_path, **GOAL, adaptive=adaptive, draws=2)
    items, rows, clean, images = attacked_levels(trained, tmp_path)

    view = averaged(classifier.network, 2) if adaptive else trained.classifier.network
    target = classifier.category_names.index("Sneaker")
    keys = torch.from_numpy(trained.catalogue.keys[items])
    expected = attack(view, clean / 255, torch.full((len(items),), target), keys=keys).images
    assert torch.equal(attack.threat_model.quantise(expected, clean / 255), images)

    seen = classifier.network(images / 255).argmax(dim=1) == target
    by_the_bare = trained.classifier.network(images / 255).argmax(dim=1) == target
    assert [row.success for row in rows] == seen.tolist()
    assert [row.success_bare for row in rows] == by_the_bare.tolist()
    summary = read_summary(tmp_path)
    assert summary.sr == pytest.approx(float(seen.float().mean()))
    assert summary.sr_bare == pytest.approx(float(by_the_bare.float().mean()))
    assert is_of_an_attack(tmp_path)


def test_without_operations_nothing_is_said_of_them(trained, tmp_path):
    poison(trained.classifier, FGSM(epsilon=8), trained.catalogue, trained.table, tmp_path, **GOAL)
    assert "sr_bare" not in json.loads((tmp_path / "attack.json").read_text())
    with (tmp_path / "attacked_items.csv").open() as file:
        assert "success_bare" not in next(csv.reader(file))
    assert read_summary(tmp_path).sr_bare is None
    assert all(row.success_bare is None for row in read_attacked_items(tmp_path, trained.catalogue)[1])
    assert is_of_an_attack(tmp_path)


class TestCommandLine:
    def run(self, trained, tmp_path, capsys, *options, output="o"):
        main(
            [
                *("attack", "--dataset", str(trained.catalogue.folder), "--source", "Sandal", "--target", "Sneaker"),
                *("--attack", "FGSM", "--attack.epsilon", "8", "--output", str(tmp_path / output)),
                *("--results", str(tmp_path / "store"), *options),
            ]
        )
        return " ".join(capsys.readouterr().out.split())

    def test_a_pipeline_is_a_defended_network(self, trained, tmp_path, capsys):
        checkpoint, behind = str(trained.checkpoint), str(tmp_path / "behind.ckpt")
        main(["defend", checkpoint, behind, "--config", "configs/processing/jpeg75.yaml"])
        assert capsys.readouterr().out.startswith("• ")
        with_option = ["--classifier", checkpoint, "--config", "configs/processing/jpeg75.yaml"]
        assert "without its input operations" in self.run(trained, tmp_path, capsys, *with_option)
        done = self.run(trained, tmp_path, capsys, "--classifier", behind, output="p")
        assert "as an earlier run left them" in done  # it is the same attack
        plain = self.run(trained, tmp_path, capsys, "--classifier", behind, "--adaptive", "false", output="q")
        assert "as an earlier run left them" not in plain
        table = FeatureTable.read(tmp_path / "q" / "clean", trained.catalogue)
        levels = torch.tensor(load_images(trained.catalogue.folder, trained.catalogue.images, None))
        expected = trained.classifier.network.features(JPEG(75)(levels / 255))
        assert torch.allclose(table.features, expected, atol=1e-5)

    def test_what_is_wrong_is_told_in_a_line(self, trained, tmp_path, capsys):
        for arguments, message in (
            (["defend"], "checkpoint is missing: catwalk defend CHECKPOINT OUTPUT"),
            (["defend", str(trained.checkpoint), str(tmp_path / "a.ckpt")], "operations: give one at least"),
            (
                ["defend", str(trained.checkpoint), str(tmp_path / "a.ckpt"), "--operations", "[{class_path: JPG}]"],
                "operations: there is no class JPG",
            ),
            (
                [
                    *("defend", str(trained.checkpoint), str(tmp_path / "a.ckpt")),
                    *("--operations", "[{class_path: JPEG, init_args: {quality: 0}}]"),
                ],
                "quality must be at least 1, got 0",
            ),
        ):
            with pytest.raises(SystemExit) as outcome:
                main(arguments)
            assert outcome.value.code == 2
            assert message in capsys.readouterr().err
