"""Judging detectors from Python and from the command line, against arithmetic by hand."""

import csv
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catwalk.cli.main import main
from catwalk.detection.clean_items import CleanItems
from catwalk.detection.command import detect
from catwalk.detection.judging import judge
from catwalk.detectors import DeclaredCategory, FeatureSqueezing, ItemRoles, NeighbourDistance
from catwalk.errors import CatwalkError
from catwalk.poisoning.records import read_attacked_items
from catwalk.poisoning.uploads import AttackedUploads
from catwalk.shop.decoding import decode

ROLES = ItemRoles(0.3, 0.3)


@pytest.fixture(scope="module")
def clean(trained) -> CleanItems:
    return CleanItems.see(trained.classifier, trained.catalogue, ROLES)


def test_clean_items_are_what_the_network_sees_in_them(clean, trained) -> None:
    assert torch.allclose(clean.features, trained.table.features, atol=1e-5)
    names = trained.classifier.category_names
    labels = [trained.catalogue.category_names[label] for label in trained.catalogue.categories]
    assert [names[number] for number in clean.declared] == labels
    keys = torch.from_numpy(trained.catalogue.keys)
    assert np.array_equal(clean.with_role("judge"), ROLES.has("judge", keys).numpy())
    assert len(clean.reference.features) == int(ROLES.has("fit", keys).sum())


def test_a_row_is_what_its_scores_say(clean, trained, attacked) -> None:
    rows = judge([DeclaredCategory()], clean, [attacked["fgsm"], attacked["pgd"]], false_positives=0.1)
    network, roles = trained.classifier.network, {r: clean.with_role(r) for r in ("fit", "calibrate", "judge")}

    def surprise(levels, items):
        with torch.no_grad():
            logits = network(torch.from_numpy(np.stack(levels)).float() / 255)
        return F.cross_entropy(logits, clean.declared[torch.from_numpy(items)], reduction="none").numpy()

    of_all = surprise(clean.levels(np.arange(90)), np.arange(90))
    calibration = np.sort(of_all[roles["calibrate"]])
    place = int(np.ceil((len(calibration) + 1) * 0.9)) - 1
    for judged, folder in zip(rows, (attacked["fgsm"], attacked["pgd"]), strict=True):
        items, records = read_attacked_items(folder, trained.catalogue)
        mine = [n for n, item in enumerate(items) if roles["judge"][item]]
        poisoned = surprise([decode(folder / records[n].image) for n in mine], items[mine])
        row, low = judged.detection, of_all[roles["judge"]]
        assert row.threshold == pytest.approx(calibration[place], rel=1e-4)
        pairs = (poisoned[:, None] > low) + 0.5 * (poisoned[:, None] == low)
        assert row.auroc == pytest.approx(pairs.mean(), abs=1e-3)
        flagged = poisoned > row.threshold
        success = np.array([records[n].success for n in mine])
        assert row.tpr == pytest.approx(flagged.mean())
        assert row.fpr == pytest.approx((low > row.threshold).mean())
        assert (row.n_attacked, row.n_clean) == (len(mine), int(roles["judge"].sum()))
        assert row.sr == pytest.approx(success.mean())
        assert row.sr_unflagged == pytest.approx((success & ~flagged).mean())
        assert row.held_out
        assert row.auroc_low <= row.auroc <= row.auroc_high


def test_no_item_is_on_both_sides(clean, attacked, monkeypatch) -> None:
    """What is fitted to, calibrated on and judged by are three sets of items, clean and attacked."""
    seen: list[np.ndarray] = []
    levels_of = CleanItems.levels

    def note(self, items):
        seen.append(items)
        return levels_of(self, items)

    monkeypatch.setattr(CleanItems, "levels", note)
    judge([NeighbourDistance()], clean, [attacked["pgd"]], false_positives=0.1)
    fitted, (calibrated, judged) = np.flatnonzero(clean.with_role("fit")), seen
    uploads = AttackedUploads.read(attacked["pgd"], clean.catalogue, clean.with_role("judge"))
    assert set(uploads.items) <= set(judged)
    assert len({*fitted, *calibrated, *judged}) == len(fitted) + len(calibrated) + len(judged) == 90


def test_the_command_prints_and_writes_the_rows(shop, trained, attacked, tmp_path, capfd) -> None:
    main(
        [
            *("detect", "--dataset", str(shop), "--classifier", str(trained.checkpoint), "--false_positives", "0.1"),
            *("--attacked", f"[{attacked['fgsm']}, {attacked['pgd']}]", "--output", str(tmp_path / "o")),
            *("--detectors+=DeclaredCategory", "--detectors+=FeatureSqueezing", "--detectors.bits=3"),
            *("--detectors.smoothing=null", "--confidence", "0.9", "--device", "cpu"),
        ]
    )
    expected = detect(
        shop,
        trained.checkpoint,
        list(attacked.values()),
        [DeclaredCategory(), FeatureSqueezing(bits=3, smoothing=None)],
        false_positives=0.1,
        confidence=0.9,
    )
    with (tmp_path / "o" / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: str(value) for name, value in asdict(row).items()} for row in expected]
    shown = capfd.readouterr().out
    assert f"TPR at {0.1:.3g} FPR" in shown
    assert f"{expected[1].auroc:.3f} ({expected[1].auroc_low:.3f} to" in shown
    assert (tmp_path / "o" / "roc.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attacked": "[]"}, "attacked: give the folder of one attack"),
        ({"attacked": "[nowhere]"}, "attacked: nowhere is no folder"),
        ({"false_positives": "0.01"}, "needs 99 clean items to calibrate on"),
        ({"roles.fit": "0.9"}, "their sum must be below 1"),
        ({"roles.fit": "0.49", "roles.calibrate": "0.505"}, "none of the attacked items in"),
        ({"confidence": "1"}, r"confidence: must be in"),
        ({"detectors": "[NeighbourDistance]", "detectors.neighbours": "0"}, "neighbours: must be at least 1"),
        ({"device": "abacus"}, "device: 'abacus' cannot be used"),
    ],
)
def test_what_cannot_be_judged(shop, trained, attacked, capfd, changed, message) -> None:
    arguments = {"dataset": shop, "classifier": trained.checkpoint, "attacked": f"[{attacked['fgsm']}]"}
    arguments |= {"false_positives": "0.1", "detectors": "[DeclaredCategory]"} | changed
    with pytest.raises(SystemExit) as ended:
        main(["detect", *(f"--{name}={value}" for name, value in arguments.items())])
    assert ended.value.code == 2
    assert message in " ".join(capfd.readouterr().err.split())


def test_an_attack_on_another_catalogue(clean, attacked, tmp_path, shop_of_many_sizes, trained) -> None:
    from catwalk.shop.catalogue import Catalogue

    with pytest.raises(CatwalkError, match="another catalogue"):
        AttackedUploads.read(attacked["fgsm"], Catalogue.read(shop_of_many_sizes))


def test_an_attack_past_a_detector_is_told_from_one_past_another(shop, trained, tmp_path, capsys) -> None:
    def run(*detector: str) -> bool:
        main(
            [
                *("attack", "--dataset", str(shop), "--classifier", str(trained.checkpoint), "--source", "Sandal"),
                *("--target", "Sneaker", "--attack", "EvadingPGD", "--attack.iterations=2", "--device=cpu"),
                *(f"--attack.detector{option}" for option in detector),
                *("--output", str(tmp_path / "o"), "--results", str(tmp_path / "store")),
            ]
        )
        return "as an earlier run left them" in capsys.readouterr().out

    assert [run("=NeighbourDistance"), run("=NeighbourDistance")] == [False, True]
    assert not run("=NeighbourDistance", ".neighbours=3")
    assert not run("=DeclaredCategory")
