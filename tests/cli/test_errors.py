"""What a user can mend ends with exit code 2 and one line that says how."""

import contextlib
import csv
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from catwalk.cli import commands
from catwalk.cli import main as cli

DATA = ["--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
CNN = ["--config", "configs/cnn/traditional.yaml", *DATA]
SMALL = ["--model.backbone_args={width: 8}"]
VBPR = ["--config", "configs/recommender/vbpr.yaml", *DATA]
PGD = ["--config", "configs/attack/pgd8.yaml"]
CLASSIFIER = "runs/traditional/classifier.ckpt"
RECOMMENDER = "runs/vbpr/recommender.ckpt"
ITEMS, INTERACTIONS = Path("data/synthetic/items.csv"), Path("data/synthetic/interactions.csv")
STOP = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.mode=max"]
KEEP = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.mode=max", "--trainer.callbacks.dirpath=runs/best"]


def assert_one_line(outcome, *words: str) -> None:
    assert outcome.code == 2, outcome.err
    assert re.fullmatch(r"catwalk: error: [^\n]{10,600}\n", outcome.err), outcome.err
    assert "jsonargparse" not in outcome.err
    assert "<class" not in outcome.err
    for word in words:
        assert word in outcome.err, outcome.err


ON_THE_LINE = {
    "unknown command": (["frobnicate"], ["frobnicate", "catwalk --help"]),
    "misspelt command": (["fti"], ["'fti'", "did you mean `catwalk fit`?"]),
    "misspelt importer": (["data", "sythetic", "x"], ["'sythetic'", "did you mean synthetic?"]),
    "no importer": (["data"], ["synthetic, show"]),
    "option without its section": (["fit", *VBPR, "--batch_size=3"], ["--batch_size; did you mean --data.batch_size"]),
    "misspelt importer's option": (["data", "synthetic", "x", "--itmes=9"], ["--itmes; did you mean --items?"]),
    "importer's argument as an option": (["data", "folder", "a", "--dest=b"], ["no option --dest; --help lists"]),
    "misspelt study's option": (["study", "--outptu=x"], ["--outptu; did you mean --output?"]),
    "help on a misspelt class": (["fit", "--model.help", "VBRP"], ["--model.help", "did you mean VBPR?"]),
    "size of an image as one number": (["fit", *CNN, "--data.image_size=28"], ["image_size", "such as [28, 28]"]),
    "option of a class before the class": (
        ["fit", *VBPR, "--data.split.day=1"],
        ["data.split: day is given before", "catwalk.shop.splits.DateSplit"],
    ),
    "optimizer that is none": (
        ["fit", *VBPR, "--model.optimizer=torch.optim.lr_scheduler.StepLR"],
        ["model.optimizer: torch.optim.lr_scheduler.StepLR is no Optimizer"],
    ),
    "learning rate that is none": (
        ["fit", *VBPR, "--model.optimizer=SGD", "--model.optimizer.lr=x"],
        ["model.optimizer.lr: expected float, got x"],
    ),
    "learning rate below 0": (
        ["fit", *VBPR, "--model.optimizer=SGD", "--model.optimizer.lr=-1"],
        ["Invalid learning rate: -1.0"],
    ),
    "configuration without --config": (["fit", "configs/data/demo.yaml"], ["configs/data/demo.yaml stands alone"]),
    "configuration's name missing": (["fit", "--config="], ["--config", "YAML file is missing"]),
    "no name behind --config": (["fit", "--config"], ["--config", "missing"]),
    "folder as a configuration": (["fit", "--config", "data"], ["data is a folder"]),
    "misspelt configuration": (
        ["fit", "--config", "configs/recommender/vbrp.yaml"],
        ["did you mean configs/recommender/vbpr.yaml?"],
    ),
    "configuration by its name": (["fit", "--config", "vbpr"], ["did you mean configs/recommender/vbpr.yaml?"]),
    "configuration of another command": (
        ["study", "--config", "configs/recommender/vbpr.yaml"],
        ["data belongs to `catwalk fit`"],
    ),
    "configurations of two models": (
        ["fit", *VBPR, "--config", "configs/cnn/traditional.yaml"],
        ["two of ResumableCheckpoint"],
    ),
    "recommender on images": (
        ["fit", *VBPR, "--data=ProductImages"],
        ["VBPR does not work with ProductImages", "InteractionTriplets"],
    ),
    "CNN on purchases": (
        ["fit", *CNN, "--data=InteractionTriplets"],
        ["ProductClassifier does not work with InteractionTriplets", "ProductImages"],
    ),
    "stopping by what is never measured": (
        ["fit", *VBPR, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/ndcg@20"],
        ["EarlyStopping.monitor is val/ndcg@20", "nothing is held out", "data.validation to true"],
    ),
    "keeping the best of what is never measured": (
        ["fit", *VBPR, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/auc"],
        ["ModelCheckpoint.monitor is val/auc", "nothing is held out"],
    ),
    "stopping by a metric that there is not": (
        ["fit", *VBPR, "--data.validation=true", *STOP, "--trainer.callbacks.monitor=val/ndgc@20"],
        ["EarlyStopping.monitor: there is no metric val/ndgc@20; did you mean val/ndcg@20?"],
    ),
    "keeping the best by a metric that there is not": (
        ["fit", *VBPR, "--data.validation=true", *KEEP, "--trainer.callbacks.monitor=val/ndgc@20"],
        ["ModelCheckpoint.monitor: there is no metric val/ndgc@20; did you mean val/ndcg@20?"],
    ),
    "validating every 0 epochs": (["fit", *VBPR, "--trainer.check_val_every_n_epoch=0"], ["check_val_every", "got 0"]),
    "checkpoints to a file": (["fit", *VBPR, f"--checkpoint_dir={RECOMMENDER}"], ["checkpoint_dir", RECOMMENDER]),
    "nobody to write checkpoints": (
        ["fit", *VBPR, "--trainer.callbacks=null", "--checkpoint_dir=x"],
        ["checkpoint_dir", "callbacks.ResumableCheckpoint"],
    ),
    "folder as a checkpoint": (["test", *VBPR, "--ckpt_path=runs/vbpr"], ["runs/vbpr is a folder"]),
    "no name of a checkpoint": (["test", *VBPR, "--ckpt_path="], ["ckpt_path"]),
    "table as a checkpoint": (
        ["test", *VBPR, "--ckpt_path=data/synthetic/items.csv"],
        ["items.csv cannot be read: it is none"],
    ),
    "checkpoint of a class with the same weights": (
        ["test", "--config", "configs/recommender/amr.yaml", *DATA, f"--ckpt_path={RECOMMENDER}"],
        ["runs/vbpr/recommender.ckpt: the checkpoint is of VBPR, and the model is AMR"],
    ),
    "going on with a class with the same weights": (
        ["fit", "--config", "configs/recommender/amr.yaml", *DATA, f"--ckpt_path={RECOMMENDER}"],
        ["the checkpoint is of VBPR, and the model is AMR"],
    ),
    "checkpoint of a CNN that was trained otherwise": (
        ["test", "--config", "configs/cnn/adversarial.yaml", *DATA, *SMALL, f"--ckpt_path={CLASSIFIER}"],
        ["the checkpoint is of ProductClassifier, and the model is AdversarialClassifier"],
    ),
    "file as a dataset": (["data", "show", "data/synthetic/items.csv"], ["items.csv", "it is a file"]),
    "unknown option": (["fit", *VBPR, "--bogus", "1"], ["--bogus"]),
    "unknown option of the model": (["fit", *VBPR, "--model.bogus=1"], ["bogus", "factors", "regularization"]),
    "unknown class": (["fit", *VBPR, "--model=Nonsense"], ["model: ", "Nonsense", "VBPR", "lightning_modules.VBPR"]),
    "unknown class path": (
        ["fit", *VBPR, "--model=lightning_modules.VPBR"],
        ["VPBR", "Random, TradesClassifier, VBPR"],
    ),
    "unknown module": (["fit", *VBPR, "--model=nowhere.VBPR"], ["model: ", "nowhere"]),
    "wrong type": (["fit", *VBPR, "--model.factors=abc"], ["model.factors: expected int, got abc"]),
    "wrong type for the trainer": (["fit", *VBPR, "--trainer.max_epochs=many"], ["trainer.max_epochs", "int", "many"]),
    "wrong choice": (
        ["fit", *VBPR, "--trainer.callbacks.categories_by=me"],
        ["categories_by: expected one of network, dataset, got me"],
    ),
    "value out of range": (["fit", *VBPR, "--data.batch_size=0"], ["batch_size", "at least 1", "got 0"]),
    "budget out of range": (["fit", *VBPR, *PGD, "--poison.attack.epsilon=-1"], ["epsilon", "-1"]),
    "unknown accelerator": (["fit", *VBPR, "--trainer.accelerator=abacus"], ["abacus", "cpu"]),
    "refused by Lightning": (["fit", *VBPR, "--trainer.overfit_batches=2.5"], ["overfit_batches", "2.5"]),
    "missing configuration": (["fit", "--config", "nowhere.yaml"], ["nowhere.yaml does not exist"]),
    "missing shipped configuration": (["fit", "--config=configs/data/nowhere.yaml"], ["configs/data/demo.yaml"]),
    "no model and no data": (["fit"], ["model and data missing", "configs/recommender/vbpr.yaml"]),
    "no dataset": (["fit", "--config", "configs/recommender/vbpr.yaml"], ["data", "dataset missing"]),
    "data before the model": (
        ["fit", *DATA, "--config", "configs/recommender/vbpr.yaml"],
        ["data: dataset is given before", "configs/recommender/vbpr.yaml"],
    ),
    "missing dataset folder": (["fit", *VBPR, "--data.dataset=nowhere"], ["nowhere", "catwalk data --help"]),
    "missing features": (["fit", *VBPR, "--data.features=nowhere"], ["features in nowhere", "catwalk predict"]),
    "missing features to poison": (
        ["fit", *VBPR, *PGD, "--data.features=nowhere"],
        ["features in nowhere", "catwalk predict"],
    ),
    "list longer than the catalogue": (["fit", *VBPR, "--model.top_k=[20, 91]"], ["91", "90 items"]),
    "callback's list longer than the catalogue": (["fit", *VBPR, "--trainer.callbacks.top_k=[91]"], ["91", "90 items"]),
    "test without a checkpoint": (["test", *VBPR], ["ckpt_path is missing", "catwalk fit"]),
    "predict without a checkpoint": (["predict", *CNN], ["ckpt_path is missing"]),
    "missing checkpoint": (["test", *VBPR, "--ckpt_path=nowhere.ckpt"], ["nowhere.ckpt does not exist"]),
    "missing checkpoint to go on from": (["fit", *VBPR, "--ckpt_path=nowhere.ckpt"], ["nowhere.ckpt does not exist"]),
    "best checkpoint of no training": (["test", *VBPR, "--ckpt_path=best"], ["best does not exist"]),
    "checkpoint of a classifier": (["test", *VBPR, f"--ckpt_path={CLASSIFIER}"], [CLASSIFIER, "ProductClassifier"]),
    "checkpoint of a recommender": (["test", *CNN, *SMALL, f"--ckpt_path={RECOMMENDER}"], [RECOMMENDER, "VBPR"]),
    "checkpoint of another recommender": (
        ["test", "--config", "configs/recommender/bpr_mf.yaml", *DATA, f"--ckpt_path={RECOMMENDER}"],
        ["the checkpoint is of VBPR, and the model is BPRMF"],
    ),
    "checkpoint of another size": (
        ["test", *VBPR, "--model.factors=8", f"--ckpt_path={RECOMMENDER}"],
        ["factors is 64"],
    ),
    "nothing to learn": (
        ["fit", "--config", "configs/recommender/popularity.yaml", *DATA],
        ["Popularity has nothing to learn", "catwalk test"],
    ),
    "missing warm start": (["fit", *VBPR, "--model.warm_start=nowhere.ckpt"], ["nowhere.ckpt does not exist"]),
    "warm start of another size": (
        ["fit", *VBPR, "--model.factors=8", f"--model.warm_start={RECOMMENDER}"],
        ["warm_start", RECOMMENDER, "factors is 64 there and 8 here"],
    ),
    "warm start that knows what is held out": (
        ["fit", *VBPR, "--data.validation=true", f"--model.warm_start={RECOMMENDER}"],
        ["warm_start", "other purchases", "data.validation"],
    ),
    "going on with another optimizer": (
        ["fit", *VBPR, "--model.optimizer=torch.optim.Adagrad", f"--ckpt_path={RECOMMENDER}", "--trainer.max_epochs=3"],
        ["optimizer LazyAdam", "Adagrad"],
    ),
    "training that diverges": (
        ["fit", *VBPR, "--data.validation=true", "--model.optimizer=SGD", "--model.optimizer.lr=1e30"],
        ["diverged"],
    ),
    "warm start of a classifier": (
        ["fit", *VBPR, f"--model.warm_start={CLASSIFIER}"],
        ["warm_start", "is not a checkpoint of a recommender"],
    ),
    "learning rate of no group": (["fit", *VBPR, "--model.learning_rates={X: 0.1}"], ["no group 'X'", "P, Q, E"]),
    "nothing to validate on": (["validate", *VBPR, f"--ckpt_path={RECOMMENDER}"], ["data.validation to true"]),
    "nothing to write": (["predict", *VBPR, f"--ckpt_path={RECOMMENDER}"], ["recommendations.yaml"]),
    "features of a recommender": (
        ["predict", *VBPR, "--config", "configs/cnn/features.yaml", f"--ckpt_path={RECOMMENDER}"],
        ["WriteFeatures", "VBPR"],
    ),
    "unknown category": (["fit", *VBPR, *PGD, "--poison.source=Sandals"], ["'Sandals'", "Bag, Dress, Sandal"]),
    "unknown category to count": (["fit", *VBPR, "--trainer.callbacks.categories=[Hat]"], ["'Hat'", "Bag, Dress"]),
    "source equal to target": (["fit", *VBPR, *PGD, "--poison.target=Sandal"], ["source and target", "'Sandal'"]),
    "missing classifier to attack": (["fit", *VBPR, *PGD, "--poison.classifier=nowhere.ckpt"], ["nowhere.ckpt"]),
    "attack without its category": (["fit", *VBPR, *PGD, "--poison.source=null"], ["poison.source is missing"]),
    "option of an attack that is none": (
        ["fit", *VBPR, "--poison.attack.epsilon=2"],
        ["poison.attack: epsilon is given before a class that has it, such as catwalk.attacks.PGD"],
    ),
    "misspelt attack": (["fit", *VBPR, "--poison.attack=PDG"], ["poison.attack", "PDG", "did you mean PGD?"]),
    "misspelt option of an attack": (["fit", *VBPR, *PGD, "--poison.attack.epsilom=2"], ["poison.attack", "epsilon"]),
    "misspelt option of poison": (["fit", *VBPR, "--poison.sorce=Bag"], ["did you mean --poison.source?"]),
    "poison before the run": (
        ["fit", *VBPR, *PGD, "--poison.from_epoch=-1"],
        ["from_epoch: must be at least 0, got -1"],
    ),
    "attack that no epoch sees": (
        ["fit", *VBPR, *PGD, "--poison.from_epoch=40"],
        ["error: poison.from_epoch is 40", "never be injected"],
    ),
    "attack over the clean features": (
        ["fit", *VBPR, *PGD, "--poison.output=runs/traditional/features"],
        ["runs/traditional/features", "clean features"],
    ),
    "unknown importer": (["data", "nowhere", "x"], ["nowhere", "fashion-mnist", "synthetic, show"]),
    "importer without a destination": (["data", "synthetic"], ["dest"]),
    "importer over a full folder": (["data", "synthetic", "data/synthetic"], ["data/synthetic"]),
    "importer's argument out of range": (["data", "synthetic", "x", "--items=1"], ["items", "at least 6", "got 1"]),
    "importer's argument of another type": (
        ["data", "synthetic", "x", "--items=few"],
        ["items: expected int, got few"],
    ),
    "importer's unknown option": (["data", "synthetic", "x", "--bogus=1"], ["--bogus"]),
    "study without anything": (["study"], ["missing: ", "extractors"]),
}


@pytest.mark.parametrize("name", ON_THE_LINE)
def test_what_is_wrong_on_the_line(work, run, name: str) -> None:
    arguments, words = ON_THE_LINE[name]
    assert_one_line(run(*arguments), *words)


def edit_rows(path: Path, change) -> None:
    """Let ``change`` edit the rows of a CSV file."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0])
    change(rows)
    with path.open("w") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def test_a_missing_image(work, run) -> None:
    Path("data/synthetic/images/items/03.png").unlink()
    assert_one_line(run("predict", *CNN, *SMALL, "--config", "configs/cnn/features.yaml"), "items/03.png", "item-03")


def test_an_unreadable_image(work, run) -> None:
    Path("data/synthetic/images/items/03.png").write_bytes(b"no picture")
    outcome = run("predict", *CNN, *SMALL, "--config", "configs/cnn/features.yaml")
    assert_one_line(outcome, "items/03.png", "'item-03'", "cannot be read")


def test_a_purchase_of_an_unknown_item(work, run) -> None:
    edit_rows(INTERACTIONS, lambda rows: rows[4].update(item_id="item-99"))
    assert_one_line(run("fit", *VBPR), "interactions.csv, row 5", "'item-99'")


def test_an_item_id_that_occurs_twice(work, run) -> None:
    edit_rows(ITEMS, lambda rows: rows[4].update(item_id="item-03"))
    assert_one_line(run("fit", *VBPR), "items.csv", "'item-03' occurs 2 times")


@pytest.mark.parametrize("path", [ITEMS, INTERACTIONS])
@pytest.mark.parametrize("content", ["", "header"])
def test_an_empty_file(work, run, path: Path, content: str) -> None:
    path.write_text(content and path.read_text().splitlines(keepends=True)[0])
    assert_one_line(run("fit", *VBPR), path.name)


def test_features_of_another_catalogue(work, run) -> None:
    edit_rows(ITEMS, lambda rows: rows[0].update(category="Bag" if rows[0]["category"] != "Bag" else "Dress"))
    assert_one_line(run("fit", *VBPR), "features.safetensors", "another catalogue")


def test_features_of_another_network(work, run) -> None:
    other = ["--trainer.callbacks.init_args.dirpath=runs/other"]
    assert run("fit", *CNN, *SMALL, "--trainer.max_epochs=1", *other).code == 0
    assert_one_line(run("fit", *VBPR, *PGD, "--poison.classifier=runs/other/classifier.ckpt"), "another network")


def test_a_classifier_of_other_categories(work, run) -> None:
    labels = Path("data/synthetic/labelled_images.csv")
    labels.unlink()
    shutil.copy(ITEMS, "data/items.csv")
    edit_rows(ITEMS, lambda rows: rows.__setitem__(slice(None), [row for row in rows if row["category"] != "Bag"]))
    Path("data/synthetic/dataset.json").unlink()
    assert_one_line(run("test", *CNN, *SMALL, f"--ckpt_path={CLASSIFIER}"), "6 categories", "has 5")


def test_a_checkpoint_that_is_none(work, run) -> None:
    Path("broken.ckpt").write_bytes(b"no checkpoint")
    assert_one_line(run("test", *VBPR, "--ckpt_path=broken.ckpt"), "broken.ckpt cannot be read")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model: [", ["is no valid YAML", "line 1"]),
        ("model:\n\tclass_path: x\n", ["is no valid YAML", "line 2"]),
        ("model: 2020-13-45", ["is no valid YAML"]),
        ("model: !!python/name:os.system", ["is no valid YAML"]),
        ("just words", ["options and their values", "just words"]),
        ("- a\n- b\n", ["options and their values"]),
        ("", ["is empty"]),
        ("# nothing but this\n", ["is empty"]),
        ("model: {class_path: VBPR}\nmodel: {class_path: AMR}\n", ["'model' twice, in lines 1 and 2"]),
        ("trainer:\n  max_epochs: 1\n  max_epochs: 2\n", ["'max_epochs' twice, in lines 2 and 3"]),
        ("1: 2\n", ["line 1: 1 is no name"]),
        ("modle:\n  class_path: lightning_modules.VBPR\n", ["modle", "did you mean model?"]),
        ("fit:\n  model:\n    class_path: lightning_modules.VBPR\n", ["at the top of a file, without fit"]),
        ("model:\n  class_path: VBPR\n  factors: 3\n", ["factors must stand in init_args"]),
        ("model:\n  class_path: VBPR\n  init_args:\n", ["init_args is empty"]),
        ("trainer:\n", ["nothing but 'trainer:'"]),
        ("model: 3\n", ["model: expected a class, such as lightning_modules.VBPR, got 3"]),
    ],
)
def test_a_configuration_that_is_none(work, run, content: str, words: list[str]) -> None:
    Path("mine.yaml").write_text(content)
    assert_one_line(run("fit", "--config", "mine.yaml"), *words)


def test_an_empty_section_of_a_configuration(work, run) -> None:
    Path("mine.yaml").write_text("trainer: null\n")
    assert_one_line(run("fit", *VBPR, "--config", "mine.yaml"), "trainer: expected options")


def test_keys_that_are_merged_may_be_given_again(work, run) -> None:
    Path("mine.yaml").write_text("a: &a {b: 1}\nc: {<<: *a, b: 2}\n")
    assert "twice" not in run("fit", "--config", "mine.yaml").err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--item=id"], ["items.csv lacks the column 'id'; it has item_id", "--item "]),
        (["--category=kind"], ["lacks the column 'kind'", "--category"]),
        (["--image=path"], ["lacks the column 'path'", "--image"]),
        (["--title=name"], ["lacks the column 'name'", "--title"]),
        (["--purchases", str(INTERACTIONS), "--user=customer"], ["interactions.csv lacks", "'customer'", "--user"]),
        (["--purchases", str(INTERACTIONS), "--time=date"], ["'date'", "--time"]),
        (["--purchases", str(INTERACTIONS), "--purchased_item=article"], ["'article'", "--purchased_item"]),
    ],
)
def test_a_missing_column_comes_with_the_option_that_names_it(work, run, options: list[str], words: list[str]) -> None:
    outcome = run("data", "folder", "data/synthetic", "data/mine", "--items", str(ITEMS), *options)
    assert_one_line(outcome, *words)


def test_ids_of_purchases_under_another_name_than_those_of_items(work, run) -> None:
    ITEMS.write_text(ITEMS.read_text().replace("item_id", "article", 1))
    options = ["--items", str(ITEMS), "--item=article", "--purchases", str(INTERACTIONS)]
    outcome = run("data", "folder", "data/synthetic", "data/mine", *options)
    assert_one_line(outcome, "interactions.csv lacks the column 'article'", "--purchased_item")


def test_a_folder_that_cannot_be_written(work, run, own_store: Path) -> None:
    own_store.parent.mkdir(exist_ok=True)
    own_store.write_text("a file where a folder should be")
    assert_one_line(run("fit", *VBPR, *PGD), str(own_store))


def test_a_bug_of_ours_keeps_its_traceback(work, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(commands, "_run_importer", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["data"])


@pytest.mark.parametrize("where", ["before Lightning", "inside Lightning"])
def test_interruption_by_the_user(work, run, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    target = {
        "before Lightning": "catwalk.cli.commands._run_lightning",
        "inside Lightning": "lightning_modules.vbpr.VBPR.training_step",
    }[where]
    monkeypatch.setattr(target, interrupted)
    outcome = run("fit", *VBPR)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "catwalk: stopped; run the same command again"
    assert "Traceback" not in outcome.err


REFUSALS = {
    "a full disk": (
        OSError(errno.ENOSPC, "No space left on device", "runs/x.csv"),
        "runs/x.csv: No space .*; make room",
    ),
    "no permission": (PermissionError(errno.EACCES, "Permission denied", "runs"), "runs: Permission denied"),
    "a read-only disk": (OSError(errno.EROFS, "Read-only file system", "runs"), "runs: Read-only file system"),
    "a broken disk": (OSError(errno.EIO, "Input/output error", "data/a.png"), "data/a.png: Input/output error"),
    "a file that has gone": (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"),
        "a.csv: No such file",
    ),
    "too long a name": (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), "aaa: File name too long"),
    "too many files": (OSError(errno.EMFILE, "Too many open files"), "HERE: Too many open files; allow more .*ulimit"),
    "a full disk somewhere": (OSError(errno.ENOSPC, "No space left on device"), "HERE: No space left on device"),
    "a broken disk somewhere": (OSError(errno.EIO, "Input/output error"), "HERE: Input/output error"),
    "safetensors": (ValueError("I/O error: Quota exceeded (os error 122)"), f"HERE: {os.strerror(122)}; make room"),
    "torch.save": (
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704"),
        "HERE: Input/output",
    ),
    "torch.save's stream": (RuntimeError("basic_ios::clear: iostream error"), "HERE: Input/output error"),
    "Pillow": (OSError("encoder error -2 when writing image file"), "HERE: Input/output error"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_disk_refuses_names_a_file_or_folder(tmp_path, run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    error, words = REFUSALS[name]

    def refused(_: object) -> None:
        raise error

    monkeypatch.setattr(commands, "_run_study", refused)
    outcome = run("study")
    assert_one_line(outcome)
    assert re.match(f"catwalk: error: {words.replace('HERE', re.escape(str(tmp_path)))}", outcome.err), outcome.err


@pytest.mark.parametrize(
    "error",
    [OSError("no number"), FileNotFoundError(errno.ENOENT, "no name"), ConnectionRefusedError(errno.ECONNREFUSED, "x")],
)
def test_other_errors_of_the_system_are_bugs(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def broken(_: object) -> None:
        raise error

    monkeypatch.setattr(commands, "_run_study", broken)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - it is this one
        cli.main(["study"])
    assert caught.value is error


def test_a_full_disk_below_the_output(tmp_path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        outcome = run("--version")
        patch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert_one_line(outcome, str(tmp_path), "No space left on device")


@pytest.mark.parametrize("of_rich", [True, False])
def test_whoever_reads_only_the_first_lines_ends_it_quietly(of_rich: bool) -> None:
    """As in ``catwalk … | head -1``."""
    script = "import sys; from catwalk.cli import commands, main as cli; from rich.console import Console\n"
    script += (
        f"commands._run_study = lambda _: [{'Console().print' if of_rich else 'print'}(i) for i in range(100_000)]\n"
    )
    script += "cli.main(['study'])"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(60)) == (b"", 141)
    process.stderr.close()


@pytest.mark.parametrize("given", ["last", "runs/vbpr/last.ckpt"])
def test_a_damaged_checkpoint_to_go_on_from(work, run, given: str) -> None:
    path = Path("runs/vbpr/last.ckpt")
    path.write_bytes(Path(RECOMMENDER).read_bytes()[:10_000])
    outcome = run("fit", *VBPR, "--trainer.max_epochs=3", f"--ckpt_path={given}")
    assert outcome.code == 2
    line = outcome.err.splitlines()[-1]
    assert re.match(r"catwalk: error: checkpoint \S*runs/vbpr/last\.ckpt cannot be read: ", line), line
    assert "Traceback" not in outcome.err
