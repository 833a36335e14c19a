"""Attacking a folder's images from Python and from the command line, without any purchase."""

import csv
import json
import shutil

import numpy as np
import pytest

from catwalk.attacks import FGSM, PGD, FeatureMatching
from catwalk.cli.main import main
from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.attack_images import attack_images
from catwalk.poisoning.attack_inputs import files_of
from catwalk.poisoning.poison import poison
from catwalk.shop.decoding import decode

GOAL = {"source": "Sandal", "target": "Sneaker"}


@pytest.fixture
def images_alone(shop, tmp_path):
    """The tiny shop without its purchases, of which the importer of folders writes none either."""
    folder = tmp_path / "images alone"
    shutil.copytree(shop, folder, ignore=shutil.ignore_patterns("interactions.*", ".cache"))
    return folder


def test_it_does_what_poisoning_a_catalogue_does(images_alone, trained, tmp_path):
    summary = attack_images(
        images_alone, trained.checkpoint, PGD(epsilon=8, iterations=3), output=tmp_path / "o", **GOAL
    )
    poison(
        trained.classifier,
        PGD(epsilon=8, iterations=3),
        trained.catalogue,
        trained.table,
        tmp_path / "reference",
        **GOAL,
    )
    written = json.loads((tmp_path / "reference" / "attack.json").read_text())
    assert json.loads((tmp_path / "o" / "attack.json").read_text()) == written
    assert summary.sr == written["sr"]
    with (tmp_path / "o" / "attacked_items.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == written["n_attacked"] > 5
    for row in rows:
        image = decode(tmp_path / "o" / row["image"])
        assert np.array_equal(image, decode(tmp_path / "reference" / row["image"]))
        change = abs(image.astype(int) - decode(images_alone / row["image"]).astype(int)).max()
        assert change == int(row["linf_levels"]) <= 8
    clean = FeatureTable.read(tmp_path / "o" / "clean", trained.catalogue)
    assert np.allclose(clean.features, trained.table.features, atol=1e-5)
    assert clean.categories.tolist() == trained.table.categories.tolist()
    assert not (tmp_path / "o" / ".partial").exists()


def test_it_is_run_again_only_where_something_has_changed(images_alone, trained, tmp_path, capsys):
    def run(attack, **others):
        arguments = {"output": tmp_path / "o", "results": tmp_path / "store"} | others
        attack_images(images_alone, trained.checkpoint, attack, **arguments, **GOAL)
        out, err = capsys.readouterr()
        return "as an earlier run left them" in out, " ".join(err.split())

    assert run(FGSM(epsilon=8)) == (False, "")
    assert run(FGSM(epsilon=8)) == (True, "")
    is_taken, line = run(FGSM(epsilon=4))
    assert not is_taken
    assert line == "FGSM (ε = 4) on Sandal: again, because setting epsilon changed"
    whole = {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}
    damaged = next((tmp_path / "o" / "images").rglob("*.png"))
    damaged.write_bytes(b"")
    is_taken, line = run(FGSM(epsilon=4))  # a copy of what is in the store, which is whole
    assert is_taken
    assert f"{damaged.relative_to(tmp_path / 'o')} was changed after it was written in {tmp_path / 'o'}; what" in line
    assert {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()} == whole
    assert run(FGSM(epsilon=8), output=tmp_path / "another") == (True, "")
    assert not run(FGSM(epsilon=8), output=tmp_path / "third", results=tmp_path / "other store")[0]


def test_a_file_that_the_attack_names_must_stay_as_it_is(images_alone, trained, tmp_path, monkeypatch):
    """Its content has entered the key; what is read later may be another."""

    class Informed(FGSM):
        def __init__(self):
            super().__init__(epsilon=8)
            self.notes = {"places": [tmp_path / "notes.txt"]}

    (tmp_path / "notes.txt").write_text("one")
    attack = Informed()
    assert files_of(attack) == [tmp_path / "notes.txt"]
    perturb = FGSM.perturb

    def write_and_perturb(self, *arguments, **settings):
        (tmp_path / "notes.txt").write_text("two")
        return perturb(self, *arguments, **settings)

    monkeypatch.setattr(FGSM, "perturb", write_and_perturb)
    with pytest.raises(CatwalkError, match=r"notes\.txt was written, added or removed while this ran"):
        attack_images(images_alone, trained.checkpoint, attack, output=tmp_path / "o", **GOAL)
    assert not (tmp_path / "o").exists()


def test_an_attack_that_must_know_purchases_says_so(images_alone, shop, trained, tmp_path):
    with pytest.raises(CatwalkError, match=r"FeatureMatching must know the purchases of .* has no interactions\.csv"):
        attack_images(images_alone, trained.checkpoint, FeatureMatching(epsilon=8), output=tmp_path / "o", **GOAL)
    assert not (tmp_path / "o").exists()
    known = attack_images(
        shop, trained.checkpoint, FeatureMatching(epsilon=8, iterations=1), output=tmp_path / "o", **GOAL
    )
    assert known.n_attacked > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "Sandals"], "source: there is no category 'Sandals'; did you mean Sandal? The categories are "),
        (["--target", "Sandal"], "source and target are both 'Sandal': they must differ"),
        (["--device", "abacus"], "device: 'abacus' cannot be used, give cpu or a GPU such as cuda:0: "),
        (["--dataset", "nowhere"], "nowhere is not a dataset folder: it does not exist; "),
        (["--classifier", "none.ckpt"], "checkpoint none.ckpt does not exist"),
        (["--output", "{dataset}/new"], "output is {dataset}/new, and the dataset is in {dataset}: "),
        (["--attack.epsilon", "-1"], ""),
    ],
)
def test_the_command_and_what_is_wrong(images_alone, trained, tmp_path, capsys, options, message):
    given = [
        *GIVEN,
        "--dataset",
        f"{images_alone}",
        "--classifier",
        f"{trained.checkpoint}",
        "--output",
        f"{tmp_path}/o",
    ]
    with pytest.raises(SystemExit) as caught:
        main([*given, *(option.format(dataset=images_alone) for option in options)])
    assert caught.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"catwalk: error: {message.format(dataset=images_alone)}")
    assert not (tmp_path / "o").exists()


GIVEN = ["attack", "--config", "configs/images/pgd8.yaml", "--attack.iterations", "2"]


def test_the_command_prints_what_it_did(images_alone, trained, tmp_path, capsys):
    main([*GIVEN, "--dataset", f"{images_alone}", "--classifier", f"{trained.checkpoint}", "--output", f"{tmp_path}/o"])
    out = capsys.readouterr().out
    summary = json.loads((tmp_path / "o" / "attack.json").read_text())
    assert f"PGD (ε = 8) on {summary['n_attacked']} images of Sandal: {summary['sr']:.1%} seen as Sneaker" in out
    assert "before the attack the network saw Sandal in" in out
