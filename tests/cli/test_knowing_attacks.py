"""The shipped configurations of the attacks that know what sells, or the recommender."""

import csv
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from catwalk.networks.classifier import load_classifier
from catwalk.poisoning.attack_files import read_summary

DATA = ["--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
VBPR = ["--config", "configs/recommender/vbpr.yaml", *DATA]
RANK = ["--config", "configs/attack/rank8.yaml"]
MATCHING = ["--config", "configs/attack/feature_matching8.yaml"]
ATTACK = "--poison.attack"
OUTPUT = Path("runs/attack")
INTO = f"--poison.output={OUTPUT}"
RECOMMENDER = "runs/vbpr/recommender.ckpt"
EVADE = ["--ckpt_path", RECOMMENDER]
SHORT = ["--trainer.max_epochs=2"]
FEATURES = Path("runs/traditional/features/features.safetensors")


def seen(name: str) -> list[int]:
    """Return the numbers of the items in which the network sees a category."""
    with open("runs/traditional/features/predictions.csv") as file:
        return [number for number, row in enumerate(csv.DictReader(file)) if row["category"] == name]


def features_of_files(folder: Path, items: list[int]) -> np.ndarray:
    """Return the features of images as they are on the disk."""
    levels = np.stack([np.asarray(Image.open(folder / f"images/items/{item:02d}.png")) for item in items])
    network = load_classifier("runs/traditional/classifier.ckpt").network
    with torch.no_grad():
        return network.features(torch.from_numpy(levels).permute(0, 3, 1, 2) / 255).double().numpy()


def scores(checkpoint: dict, features: np.ndarray, items: list[int]) -> np.ndarray:
    """Return the scores of items with given features by all users, in float64."""
    p, q, rho, e = (
        checkpoint["state_dict"][f"model.{name}"].double().numpy()
        for name in ("users.weight", "items.weight", "visual_users.weight", "projection")
    )
    largest = load_file(FEATURES)["features"].abs().max().item()
    return q[items] @ p.T + (features / largest) @ e @ rho.T


@pytest.mark.parametrize("command", [["test", *EVADE], ["fit", *SHORT]])
@pytest.mark.parametrize("objective", ["exponential", "mean"])
def test_the_rank_attack_raises_what_the_known_recommender_thinks(work, run, command: list, objective: str) -> None:
    known = torch.load(RECOMMENDER, weights_only=True)
    outcome = run(command[0], *VBPR, *RANK, INTO, f"{ATTACK}.objective={objective}", *command[1:])
    assert (outcome.code, outcome.err) == (0, "")
    folder, items = OUTPUT, seen("Sandal")
    summary = read_summary(folder)
    assert (summary.attack, summary.source, summary.target) == ("Rank attack (ε = 8)", "Sandal", None)
    assert (summary.n_attacked, summary.linf_levels) == (len(items), 8)
    clean, attacked = features_of_files(Path("data/synthetic"), items), features_of_files(folder, items)
    np.testing.assert_allclose(load_file(FEATURES)["features"][items], clean, rtol=1e-4, atol=1e-5)
    before, after = (scores(known, features, items) for features in (clean, attacked))
    if objective == "mean":
        assert (after.mean(1) > before.mean(1)).all()
    else:
        assert (np.exp(after).sum(1) > np.exp(before).sum(1)).all()
    assert after.mean() > before.mean()
    if command[0] == "fit":  # and another one was trained on what came of it
        trained = torch.load(RECOMMENDER, weights_only=True)["state_dict"]
        assert not torch.equal(trained["model.projection"], known["state_dict"]["model.projection"])


def test_the_list_rank_attack_asks_the_recommender_for_its_lists(work, run) -> None:
    lists = ["--config", "configs/attack/list_rank8.yaml", f"{ATTACK}.queries=20"]
    outcome = run("test", *VBPR, *lists, INTO, *EVADE)
    assert (outcome.code, outcome.err) == (0, "")
    summary = read_summary(OUTPUT)
    assert (summary.attack, summary.access, summary.target) == ("List rank attack (ε = 8)", "lists", None)
    assert 1 <= summary.queries <= 20
    assert summary.n_attacked == len(seen("Sandal"))


@pytest.mark.parametrize("command", [["test", *EVADE], pytest.param(["fit", *SHORT], marks=pytest.mark.slow)])
def test_feature_matching_makes_images_like_the_best_seller(work, run, command: list) -> None:
    outcome = run(command[0], *VBPR, *MATCHING, INTO, *command[1:])
    assert (outcome.code, outcome.err) == (0, "")
    folder, items = OUTPUT, seen("Sandal")
    summary = read_summary(folder)
    assert (summary.attack, summary.target) == ("Feature matching (ε = 8)", "Sneaker")
    assert summary.purpose == "give Sandal the features of the most popular Sneaker"
    with open("data/synthetic/interactions.csv") as file:
        purchases = sorted(csv.DictReader(file), key=lambda row: int(row["timestamp"]))
    histories: dict[str, list[str]] = {}
    for row in purchases:
        histories.setdefault(row["user_id"], []).append(row["item_id"])
    # What a test holds out, nobody is to know.
    sold = Counter(item for history in histories.values() for item in (history[:-1] or history))
    best = max(seen("Sneaker"), key=lambda item: (sold[f"item-{item:02d}"], -item))
    wanted = features_of_files(Path("data/synthetic"), [best])
    before, after = (
        np.linalg.norm(features_of_files(place, items) - wanted, axis=1) for place in (Path("data/synthetic"), folder)
    )
    assert (after < before).all()
    # By the id it is the same attack.
    images = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
    by_id = f"{ATTACK}.item=item-{best:02d}"
    assert run(command[0], *VBPR, *MATCHING, INTO, by_id, *command[1:]).code == 0
    assert [path.read_bytes() for path in sorted(folder.rglob("*.png"))] == images
    assert read_summary(folder).purpose == f"give Sandal the features of item item-{best:02d}"


def test_an_attack_at_test_time_changes_the_lists_and_no_file(work, run) -> None:
    files = [Path(RECOMMENDER), *sorted(Path("runs/traditional").rglob("*.*"))]
    before = [path.read_bytes() for path in files]
    share = re.compile(r"test/chr@20/Sandal\s*│\s*([\d.]+)")
    outputs = [run("test", *VBPR, *attack, *EVADE).out for attack in ([], [*RANK, f"{ATTACK}.epsilon=64"], [])]
    clean, attacked, again = (float(share.search(output).group(1)) for output in outputs)
    assert clean == again
    assert attacked > clean
    assert [path.read_bytes() for path in files] == before


ERRORS = {
    "missing recommender": ([*RANK, f"{ATTACK}.recommender=nowhere.ckpt"], ["checkpoint nowhere.ckpt does not exist"]),
    "a classifier for a recommender": (
        [*RANK, f"{ATTACK}.recommender=runs/traditional/classifier.ckpt"],
        ["classifier.ckpt is not a checkpoint of a recommender that looks at images"],
    ),
    "an objective that is none": ([*RANK, f"{ATTACK}.objective=max"], ["objective", "exponential, mean", "max"]),
    "an item that is none": ([*MATCHING, f"{ATTACK}.item=item-99"], ["item: 'item-99' is no item of the catalogue"]),
    "no target for feature matching": ([*MATCHING, "--poison.target=null"], ["target: a targeted attack needs"]),
    "a step of nothing": ([*MATCHING, f"{ATTACK}.step=0"], ["step", "epsilon / 10", "got 0"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_can_be_mended_is_one_line(work, run, own_store: Path, name: str) -> None:
    arguments, words = ERRORS[name]
    outcome = run("test", *VBPR, *arguments, *EVADE)
    assert outcome.code == 2
    assert re.fullmatch(r"catwalk: error: [^\n]{10,600}\n", outcome.err), outcome.err
    for word in words:
        assert word in outcome.err
    assert not own_store.exists()


def test_a_rank_attack_needs_a_recommender(work, run) -> None:
    shipped = Path(str(files("configs")), "attack", "rank8.yaml").read_text()
    Path("own.yaml").write_text("".join(line for line in shipped.splitlines(True) if "recommender:" not in line))
    outcome = run("test", *VBPR, "--config", "own.yaml", *EVADE)
    assert outcome.err.startswith("catwalk: error: recommender: RankAttack needs the checkpoint of the recommender")
    assert outcome.err.count("\n") == 1


def test_items_that_are_attacked_cannot_be_imitated(work, run) -> None:
    item = f"item-{seen('Sandal')[0]:02d}"
    outcome = run("test", *VBPR, *MATCHING, f"{ATTACK}.item={item}", *EVADE)
    assert outcome.err == f"catwalk: error: item: '{item}' is attacked itself; give one of another category\n"
