"""An attack is run once: its files are taken where they are whole and nothing that it depends on has changed."""

import copy
import gc
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from pytorch_lightning import Callback, seed_everything
from safetensors.torch import load_file

import callbacks.inject_poisoned_images
from callbacks import AttackedItems, InjectPoisonedImages
from catwalk.attacks import FGSM, PGD, CarliniWagner, FeatureMatching, RankAttack
from catwalk.errors import CatwalkError
from catwalk.poisoning import poison as poisoning
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.finished_attack import ATTACK
from catwalk.poisoning.poison import Poisoning, poison
from catwalk.poisoning.protocol import Protocol
from catwalk.poisoning.records import read_attacked_items
from catwalk.results.record import RECORD_FILE
from catwalk.results.store import StageCache
from catwalk.shop.splits import RatioSplit
from datamodules import InteractionTriplets
from lightning_modules import VBPR

SOURCE, TARGET = "Sandal", "Sneaker"


@pytest.fixture
def crafted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the attacks that were run, which grows."""
    names, craft = [], Poisoning.craft

    def noted(self, *arguments, **settings):
        names.append(self.attack.name)
        return craft(self, *arguments, **settings)

    monkeypatch.setattr(Poisoning, "craft", noted)
    return names


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(callbacks.inject_poisoned_images, "rank_zero_info", lines.append)
    return lines


@pytest.fixture
def inject(trained, tmp_path: Path):
    """Return a function that makes the callback."""

    def make(attack=None, **settings) -> InjectPoisonedImages:
        arguments = {"classifier": trained.checkpoint, "source": SOURCE, "target": TARGET, "output": tmp_path / "out"}
        arguments["results"] = tmp_path / "store"
        return InjectPoisonedImages(attack=attack or PGD(epsilon=32.0), **arguments | settings)

    return make


class StopAfter(Callback):
    """Stops a run after some epochs, before its end."""

    def __init__(self, epochs: int | None) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


@pytest.fixture
def fit(shop, features, make_trainer):
    """Return a function that trains a recommender on fresh data and returns it, with what its callbacks saw."""

    def run(*given, epochs=1, stop=None, data=None, model=None, ckpt_path=None, save=None, **settings) -> VBPR:
        seed_everything(0, verbose=False)
        model = model or VBPR(factors=4, visual_factors=4, top_k=[5])
        data = data or InteractionTriplets(shop, features, batch_size=64, **settings)
        trainer = make_trainer(max_epochs=epochs, callbacks=[*given, StopAfter(stop)])
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
        if save is not None:
            trainer.save_checkpoint(save)
        return model

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_record(folder: Path) -> dict[str, bytes]:
    """Return the contents of an attack's folder but for the record, which says how long it took."""
    return {name: content for name, content in contents(folder).items() if name != RECORD_FILE}


def same_weights(one: VBPR, other: VBPR) -> bool:
    return all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())


def test_a_second_run_takes_what_the_first_has_left(inject, fit, crafted, said, tmp_path):
    first = fit(inject())
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    second = fit(inject())
    assert crafted == ["PGD (ε = 32)"]
    assert same_weights(first, second)
    assert torch.equal(second.model.features.features, load_file(tmp_path / "out" / "features.safetensors")["features"])
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert contents(tmp_path / "out").keys() == {path.relative_to(tmp_path / "out").as_posix() for path in files}
    assert len(said) == 2  # nothing of another attack
    assert said[1] == f"{said[0]}, as an earlier run left them"
    assert said[0].endswith(f"images in {tmp_path / 'out'}")


def test_training_testing_and_other_recommenders_share_one_attack(
    inject, fit, crafted, shop, features, recommender, make_trainer
):
    callback = inject()
    fit(callback)
    fit(callback)
    fit(inject(), model=VBPR(factors=2, visual_factors=3, top_k=[5]), seed=4, validation=True, feature_dtype="float16")
    fit(inject(from_epoch=1), epochs=2, split=RatioSplit(0.4))
    for run in ("test", "validate", "predict"):
        model = VBPR(factors=4, visual_factors=4, top_k=[5])
        settings = {} if run == "predict" else {"verbose": False}
        getattr(make_trainer(callbacks=[inject()]), run)(
            model, InteractionTriplets(shop, features), ckpt_path=recommender, **settings
        )
    fit(inject(PGD(epsilon=32.0, batch_size=3)))
    assert len(crafted) == 1


CHANGES = {
    "epsilon": {"attack": PGD(epsilon=16.0)},
    "step": {"attack": PGD(epsilon=32.0, step=1.0)},
    "iterations": {"attack": PGD(epsilon=32.0, iterations=2)},
    "random_start": {"attack": PGD(epsilon=32.0, random_start=False)},
    "seed": {"attack": PGD(epsilon=32.0, seed=1)},
    "norm": {"attack": PGD(epsilon=32.0, norm="l2")},
    "precision": {"attack": PGD(epsilon=32.0, precision="bf16")},
    "class": {"attack": FGSM(epsilon=32.0)},
    "no budget": {"attack": CarliniWagner(searches=1, iterations=3)},
    "untargeted": {"attack": PGD(epsilon=32.0, targeted=False), "target": None},
    "source": {"source": "Bag"},
    "target": {"target": "Bag"},
    "source_items": {"protocol": Protocol(source_items="dataset")},
    "epsilon_space": {"protocol": Protocol(epsilon_space="normalised")},
    "clip": {"protocol": Protocol(clip=False)},
    "quantise": {"protocol": Protocol(quantise="truncate")},
}


def some_fast(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """Return cases of a test of which only some are among the fast ones: keys of attacks have tests of their own."""
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]


WHY = {
    "epsilon": "setting epsilon and setting step",  # which is a share of it
    "class": "the class of attack",
    "no budget": "the class of attack",
    "untargeted": "setting targeted and setting target",
}
"""What is said to have changed, where it is not the setting of that name alone."""


@pytest.mark.parametrize("change", some_fast(CHANGES, "epsilon", "class", "source", "target"))
def test_whatever_changes_the_attack_is_run_again(inject, fit, crafted, said, tmp_path, change):
    fit(inject())
    (tmp_path / "out" / "mine.png").write_bytes(b"not an attack's")
    said.clear()
    fit(inject(**CHANGES[change]))
    assert len(crafted) == 2
    assert said[0].endswith(f": again, because {WHY.get(change, f'setting {change}')} changed"), said
    fit(inject(**CHANGES[change], output=tmp_path / "fresh", results=tmp_path / "other store"))
    assert len(crafted) == 3
    assert without_record(tmp_path / "out") == without_record(tmp_path / "fresh") | {"mine.png": b"not an attack's"}
    fit(inject(**CHANGES[change]))
    assert len(crafted) == 3
    fit(inject())  # what was there before that is in the store
    assert len(crafted) == 3
    assert read_summary(tmp_path / "out").attack == "PGD (ε = 32)"


def test_another_network_is_attacked_again(inject, fit, crafted, trained, features, shop, tmp_path):
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    other = tmp_path / "other.ckpt"
    torch.save(checkpoint | {"epoch": 99}, other)
    fit(inject())
    fit(inject(classifier=other))  # the same network
    assert len(crafted) == 1
    name = next(name for name in checkpoint["state_dict"] if name.endswith("head.bias"))
    torch.save(checkpoint | {"state_dict": checkpoint["state_dict"] | {name: torch.ones(6)}}, other)
    with pytest.raises(CatwalkError, match="the features were made by another network"):
        fit(inject(classifier=other))
    fit(inject())
    assert len(crafted) == 1


@pytest.mark.parametrize("validation", [False, True])
def test_purchases_matter_to_those_who_look_at_them(inject, fit, crafted, validation):
    fit(inject(), validation=validation)
    fit(inject(), validation=not validation)
    assert len(crafted) == 1
    fit(inject(FeatureMatching(iterations=2)), validation=validation)
    fit(inject(FeatureMatching(iterations=2)), validation=not validation)
    fit(inject(FeatureMatching(iterations=2)), validation=not validation)
    assert len(crafted) == 3


def test_a_known_recommender_is_its_parameters(inject, fit, crafted, recommender, tmp_path):
    known = tmp_path / "known.ckpt"
    shutil.copy(recommender, known)
    for path in (recommender, known):
        fit(inject(RankAttack(iterations=2, recommender=path), target=None))
    assert len(crafted) == 1
    fit(save=known)
    fit(inject(RankAttack(iterations=2, recommender=known), target=None))
    assert len(crafted) == 2


NAMES = ["png", "attacked_items.csv", "attack.json", "features.safetensors", "predictions.csv", RECORD_FILE]


def zeros_in_the_middle(path: Path) -> None:
    content = path.read_bytes()
    middle, length = len(content) // 2, min(16, len(content) // 4)
    path.write_bytes(content[:middle] + bytes(length) + content[middle + length :])


DAMAGES = {
    "zeros": zeros_in_the_middle,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "emptied": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


def damaged(folder: Path, name: str, damage: str, other: Path) -> Path:
    """Damage a file of an attack and return it; ``another's`` puts that of another attack in its place."""
    path = sorted(folder.rglob("*.png"))[3] if name == "png" else folder / name
    if damage == "another's":
        path.write_bytes((other / path.relative_to(folder)).read_bytes())
    else:
        DAMAGES[damage](path)
    return path


@pytest.mark.parametrize("damage", [*DAMAGES, "another's"])
def test_what_is_damaged_in_the_folder_is_taken_from_the_store(inject, fit, crafted, said, tmp_path, damage):
    fit(inject(PGD(epsilon=16.0), output=tmp_path / "other"))
    fit(inject())
    before = contents(tmp_path / "out")
    for name in NAMES if damage != "another's" else NAMES[:-2]:  # predictions are of the clean images
        path = damaged(tmp_path / "out", name, damage, tmp_path / "other")
        said.clear()
        fit(inject())
        assert len(crafted) == 2
        assert contents(tmp_path / "out") == before
        assert path.name in said[0]
        assert said[0].endswith(f" in {tmp_path / 'out'}; what an attack left there is replaced")


@pytest.mark.parametrize("damage", some_fast([*DAMAGES, "another's"], "zeros", "missing"))
def test_what_is_damaged_in_the_store_is_set_aside_and_made_again(inject, fit, crafted, said, tmp_path, damage):
    store = tmp_path / "store"
    fit(inject(PGD(epsilon=16.0), output=tmp_path / "other"))
    fit(inject(output=None))
    (found,) = [path.parent for path in (store / ATTACK).glob("*/attack.json") if '"epsilon": 32' in path.read_text()]
    before = without_record(found)
    for number, name in enumerate(NAMES if damage != "another's" else [*NAMES[:-2], RECORD_FILE]):
        path = damaged(found, name, damage, tmp_path / "other")
        said.clear()
        fit(inject(output=None))
        assert len(crafted) == 3 + number
        assert without_record(found) == before
        assert path.name in said[0]
        assert f"it is set aside in {store / 'damaged'}" in said[0]
        assert len(said) == 2  # and what it did
    assert len(list((store / "damaged").iterdir())) == number + 1


def test_a_hash_that_was_compared_before_is_compared_again_where_that_is_asked(inject, fit, crafted, tmp_path):
    fit(inject(output=None))
    fit(inject(output=None))
    (note,) = (tmp_path / "store" / ".verified").iterdir()
    (image, *_) = sorted((tmp_path / "store" / ATTACK).rglob("*.png"))
    zeros_in_the_middle(image)
    state = image.stat()
    noted = json.loads(note.read_text())  # as if the disk had lost it, whose times stay
    name = image.relative_to(*(tmp_path / "store" / ATTACK).iterdir()).as_posix()
    assert noted["files"][name][0] == state.st_size
    noted["files"][name] = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    note.write_text(json.dumps(noted))
    fit(inject(output=None))
    assert len(crafted) == 1
    fit(inject(output=None, verify=True))
    assert len(crafted) == 2


def test_without_a_folder_the_result_is_in_the_store_and_observed_there(inject, fit, crafted, said, tmp_path):
    observer = AttackedItems()
    callback = inject(output=None)
    fit(observer, callback, validation=True)
    (folder,) = (tmp_path / "store" / ATTACK).iterdir()
    assert observer.folder == folder
    assert read_summary(folder) == callback.summary
    fit(inject(), observer, validation=True)
    assert crafted == ["PGD (ε = 32)"]
    assert contents(tmp_path / "out") == contents(folder)
    assert said[-1] == f"{said[0].replace(str(folder), str(tmp_path / 'out'))}, as an earlier run left them"


def test_an_attack_that_another_run_is_making_is_waited_for_and_taken(inject, fit, crafted, said, tmp_path):
    fit(inject(output=None))
    (folder,) = (tmp_path / "store" / ATTACK).iterdir()
    kept = Path(shutil.move(folder, tmp_path / "kept"))
    store, has_begun = StageCache(tmp_path / "store"), threading.Event()

    def make(place: Path) -> dict:
        has_begun.set()
        while not any("waits for process" in line for line in said):
            time.sleep(0.01)
        for path in kept.iterdir():
            if path.name != RECORD_FILE:
                shutil.move(path, place)
        return {}

    with ThreadPoolExecutor() as pool:
        made = pool.submit(store.write, ATTACK, folder.name, make)
        assert has_begun.wait(60)
        fit(inject())
        assert made.result() is True
    assert len(crafted) == 1
    assert contents(tmp_path / "out") == contents(folder)


def test_images_that_were_changed_since_are_not_observed(inject, fit, trained, tmp_path):
    fit(inject())
    assert len(read_attacked_items(tmp_path / "out", trained.catalogue)[1]) > 3
    path = sorted((tmp_path / "out").rglob("*.png"))[3]
    ImageOps.invert(Image.open(path).convert("RGB")).save(path)
    with pytest.raises(CatwalkError, match=rf"{path.name} was changed after it was written; attack again"):
        read_attacked_items(tmp_path / "out", trained.catalogue)


def test_what_a_function_left_is_no_finished_attack(inject, fit, crafted, trained, tmp_path):
    poison(trained.classifier, PGD(), trained.catalogue, trained.table, tmp_path / "out", source=TARGET, target=SOURCE)
    earlier = set((tmp_path / "out").rglob("*.png"))
    fit(inject())
    assert len(crafted) == 2
    assert not earlier & set((tmp_path / "out").rglob("*.png"))
    assert read_summary(tmp_path / "out").source == SOURCE


class Unkept(PGD):
    """An attack that holds what has no value."""

    def __init__(self):
        super().__init__(epsilon=32.0)
        self.rule = lambda: None


def test_an_attack_that_cannot_be_told_from_another_is_run_every_time(inject, fit, crafted, said, tmp_path):
    fit(inject())
    for _ in range(2):
        fit(inject(Unkept()))
    assert len(crafted) == 3
    assert not (tmp_path / "out" / RECORD_FILE).exists()
    assert not any("earlier" in line for line in said)
    with pytest.raises(CatwalkError, match=r"InjectPoisonedImages.output is missing: .* give it a folder"):
        fit(inject(Unkept(), output=None))


class TestWhatFails:
    @pytest.fixture(params=["plan", "craft", "save", "complete", "copy_attack"])
    def broken(self, request, monkeypatch):
        """Return a function that lets a step of the attack fail, having done its work or part of it."""

        def broken(where):
            function = getattr(where, request.param)

            def fails(*arguments, **settings):
                if request.param == "save":
                    poisoning.save_png(arguments[2][0], arguments[3] / "images" / "first.png")
                elif request.param != "copy_attack":
                    function(*arguments, **settings)
                raise CatwalkError("it failed")

            return fails

        def let_it_fail(patch):
            where = callbacks.inject_poisoned_images if request.param == "copy_attack" else Poisoning
            patch.setattr(where, request.param, broken(where))

        return let_it_fail

    def test_leaves_nothing_where_nothing_was(self, inject, fit, broken, triplets, monkeypatch, tmp_path):
        with monkeypatch.context() as patch:
            broken(patch)
            with pytest.raises(CatwalkError, match="it failed"):
                fit(inject(), data=triplets)
        assert not (tmp_path / "out").exists()
        clean = triplets.feature_table
        fit(inject(), data=triplets)
        assert triplets.feature_table is clean

    @pytest.mark.parametrize("what", ["an image", "the features"])
    def test_what_is_written_while_the_attack_runs(self, inject, fit, shop, features, monkeypatch, tmp_path, what):
        """What was attacked may then be neither what the key says nor what is there afterwards."""
        shutil.copytree(shop, tmp_path / "shop")
        shutil.copytree(features, tmp_path / "features")
        craft = Poisoning.craft

        def craft_and_touch(self, *arguments, **settings):
            image = tmp_path / "shop" / self.catalogue.images[0]
            path = image if what == "an image" else tmp_path / "features" / "features.safetensors"
            path.write_bytes(path.read_bytes())
            return craft(self, *arguments, **settings)

        monkeypatch.setattr(Poisoning, "craft", craft_and_touch)
        with pytest.raises(CatwalkError, match="was written, added or removed while this ran, so PGD"):
            fit(inject(), data=InteractionTriplets(tmp_path / "shop", tmp_path / "features", batch_size=64))
        assert not (tmp_path / "out").exists()

    def test_leaves_an_earlier_attack_as_it_was(self, inject, fit, broken, crafted, monkeypatch, tmp_path):
        fit(inject())
        before = contents(tmp_path / "out")
        with monkeypatch.context() as patch:
            broken(patch)
            with pytest.raises(CatwalkError, match="it failed"):
                fit(inject(FGSM()))
        assert contents(tmp_path / "out") == before
        crafted.clear()
        fit(inject())
        assert crafted == []

    def test_a_run_that_fails_later_gives_the_clean_features_back(self, inject, fit, triplets, features):
        class Breaks(Callback):
            def on_train_epoch_end(self, trainer, pl_module):
                raise ZeroDivisionError

        fit(inject(), data=triplets)
        clean = triplets.feature_table
        with pytest.raises(ZeroDivisionError):
            fit(inject(), Breaks(), data=triplets)
        assert triplets.feature_table is clean
        assert triplets.features == features

    def test_another_attack_written_at_the_same_time_is_noticed(self, inject, fit, triplets, monkeypatch, tmp_path):
        read = InteractionTriplets.read_features

        def meanwhile(self, folder):
            table = read(self, folder)
            if folder == tmp_path / "out":
                (folder / RECORD_FILE).write_text('{"key": "another", "files": {}}')
            return table

        monkeypatch.setattr(InteractionTriplets, "read_features", meanwhile)
        with pytest.raises(CatwalkError, match=r"another run has just written another attack to .*out; give each"):
            fit(inject(), data=triplets)


KILLED = """
import os, signal, sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from pytorch_lightning import Trainer
from callbacks import InjectPoisonedImages
from catwalk.attacks import PGD
from catwalk.poisoning import finished_attack
from catwalk.poisoning import poison as poisoning
from datamodules import InteractionTriplets
from lightning_modules import VBPR

shop, features, classifier, output, store, step, count = sys.argv[1:]
left = int(count)

def killed(function):
    def until_then(*arguments, **settings):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **settings)
    return until_then

if step == "save_png":
    poisoning.save_png = killed(poisoning.save_png)
elif step == "decode":
    poisoning.decode = killed(poisoning.decode)
else:
    put_in_place = finished_attack.put_in_place

    def killed_there(*arguments):
        Path.replace = killed(Path.replace)
        put_in_place(*arguments)

    finished_attack.put_in_place = killed_there
attack = InjectPoisonedImages(
    Path(classifier), PGD(epsilon=32.0), "Sandal", Path(output), "Sneaker", results=Path(store)
)
trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[attack])
trainer.fit(VBPR(factors=4, visual_factors=4, top_k=[5]), InteractionTriplets(Path(shop), Path(features)))
"""


@pytest.mark.parametrize(
    ("step", "count"),
    [
        pytest.param("save_png", 3, marks=pytest.mark.slow),
        pytest.param("decode", 3, marks=pytest.mark.slow),
        ("replace", 4),
    ],
)
def test_a_killed_attack_never_looks_finished(
    inject, fit, crafted, shop, features, trained, tmp_path, step: str, count: int
):
    fit(inject(output=tmp_path / "whole", results=tmp_path / "other store"))
    arguments = [shop, features, trained.checkpoint, tmp_path / "out", tmp_path / "store", step, count]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path for name in ("out", "store/.partial") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert left
    assert not (tmp_path / "out" / RECORD_FILE).exists()
    fit(inject())
    assert len(crafted) == (1 if step == "replace" else 2)  # which puts a whole result of the store in its place
    assert without_record(tmp_path / "out") == without_record(tmp_path / "whole")
    assert not (tmp_path / "out" / ".partial").exists()


class TestARunThatGoesOn:
    """A fit that was stopped after an epoch and goes on ends as one that was not stopped."""

    @pytest.mark.parametrize("from_epoch", [0, pytest.param(1, marks=pytest.mark.slow), 2, 3])
    @pytest.mark.parametrize(
        "stop", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
    )
    def test_with_the_attack_before_and_after(self, inject, fit, crafted, tmp_path, from_epoch, stop):
        apart = {"output": tmp_path / "whole", "results": tmp_path / "other store"}
        whole = fit(inject(from_epoch=from_epoch, **apart), epochs=4)
        path = tmp_path / "last.ckpt"
        fit(inject(from_epoch=from_epoch), epochs=4, stop=stop, save=path)
        resumed = fit(inject(from_epoch=from_epoch), epochs=4, ckpt_path=path)
        assert len(crafted) == 2
        assert same_weights(resumed, whole)
        assert torch.equal(resumed.model.features.features, whole.model.features.features)

    def test_with_an_attack_that_was_lost_meanwhile(self, inject, fit, crafted, tmp_path):
        whole = fit(inject(from_epoch=1), epochs=3)
        fit(inject(from_epoch=1), epochs=3, stop=2, save=tmp_path / "last.ckpt")
        shutil.rmtree(tmp_path / "out")
        shutil.rmtree(tmp_path / "store")
        resumed = fit(inject(from_epoch=1), epochs=3, ckpt_path=tmp_path / "last.ckpt")
        assert len(crafted) == 2
        assert same_weights(resumed, whole)


def test_neither_attacking_nor_taking_leaves_a_trace(inject, shop, features, make_trainer, tmp_path):
    """Random numbers, the attack and the data module are as they were."""
    states = []

    class Look(Callback):
        def setup(self, trainer, pl_module, stage):
            states.append((torch.get_rng_state(), random.getstate()))

    attack = PGD(epsilon=32.0)
    before = copy.deepcopy(vars(attack))
    for given in ([Look()], [inject(attack), Look()], [inject(attack), Look()]):
        seed_everything(3, verbose=False)
        data = InteractionTriplets(shop, features, batch_size=64)
        make_trainer(max_epochs=1, callbacks=given).fit(VBPR(factors=4, visual_factors=4, top_k=[5]), data)
        assert data.features == features
    assert vars(attack) == before
    assert all(torch.equal(torch_state, states[0][0]) for torch_state, _ in states)
    assert all(python_state == states[0][1] for _, python_state in states)
    assert not (tmp_path / "out" / ".partial").exists()


def test_the_poisoned_features_are_let_go_of(inject, fit):
    tables = []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            tables.append(weakref.ref(trainer.datamodule.feature_table))

    callback = inject()
    fit(callback, Look())
    gc.collect()
    assert [table() for table in tables] == [None]
    assert callback.summary is not None
