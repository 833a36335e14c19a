"""What says that a folder holds exactly this attack: keys that follow all that it depends on, and files as written."""

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from visual_models import visual_model

from catwalk import attacks
from catwalk.attacks import FGSM, PGD, FeatureMatching, ForeignAttack, RankAttack, Transfer
from catwalk.attacks.attack import Attack, AttackSettings
from catwalk.attacks.masks import Border
from catwalk.detectors import DeclaredCategory, ItemRoles, NeighbourDistance
from catwalk.errors import CatwalkError
from catwalk.poisoning import finished_attack
from catwalk.poisoning.attack_inputs import attack_inputs
from catwalk.poisoning.finished_attack import (
    ATTACK,
    FINISHED_FILE,
    check_folder,
    copy_attack,
    damage_of,
    damage_since,
    has_key,
    is_finished,
    put_in_place,
)
from catwalk.poisoning.poison import poison
from catwalk.poisoning.protocol import Protocol
from catwalk.results import keys as stage_keys
from catwalk.results.record import RECORD_FILE, write_record
from catwalk.shop.catalogue import Catalogue

GIVEN = {
    "batch_size": 7,
    "alpha": 0.5,
    "check_every": 3,
    "components": ("square",),
    "detector": DeclaredCategory(),
    "item": "42",
    "mask": Border(3),
    "recommender": Path("recommender.ckpt"),
    "roles": ItemRoles(seed=1),
    "step": 0.75,
    "surrogates": ["VBPR"],
    "users": 3,
    "weight": 0.5,
}
"""Another value than the default of arguments whose type and default do not tell one."""


def another(name: str, default: Any, kind: Any) -> Any:
    """Return another value of an argument than its default."""
    if name == "batch_size" or not isinstance(default, bool | int | float | str):
        return GIVEN[name]
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind)[::-1] if choice != default)
    if isinstance(default, bool):
        return not default
    return default + 1 if isinstance(default, int) else 0.75 * default or 0.5


REQUIRED = {"detector": NeighbourDistance()}
"""Arguments that have no default."""

CLASSES = sorted(
    (kind for kind in vars(attacks).values() if inspect.isclass(kind) and issubclass(kind, Attack)),
    key=lambda kind: kind.__name__,
)
OF_OTHERS = (ForeignAttack, Transfer)
CONCRETE = [kind for kind in CLASSES if not inspect.isabstract(kind) and kind not in OF_OTHERS]
"""All that are not made of another attack."""


@pytest.fixture(scope="module")
def features(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    trained.table.write(folder, trained.catalogue)
    return folder


@pytest.fixture
def key(trained, features):
    """Return a function that gives the key of an attack, with some of its arguments replaced."""

    def key_of(attack=None, **others):
        arguments = {"classifier": trained.checkpoint, "catalogue": trained.catalogue, "features": features} | {
            "source": "Sandal",
            "target": "Sneaker",
            "protocol": Protocol(),
            "purchases": None,
        }
        inputs = attack_inputs(attack=attack or PGD(), **arguments | others)
        return None if inputs is None else inputs.key

    return key_of


class TestKeys:
    @pytest.mark.parametrize("kind", CONCRETE, ids=lambda kind: kind.__name__)
    def test_every_argument_but_those_of_speed(self, key, kind, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        parameters = inspect.signature(kind).parameters
        required = {name: value for name, value in REQUIRED.items() if name in parameters}
        defaults = {name: p.default for name, p in parameters.items() if p.kind != p.VAR_KEYWORD} | required
        kinds = get_type_hints(AttackSettings) | get_type_hints(kind.__init__)
        of_settings = {"batch_size": 64, "compiled": False, "mask": None, "precision": "32"}
        assert set(of_settings) == set(AttackSettings.__annotations__)
        assert key(kind(**required)) == key(kind(**defaults))
        keys = {"": key(kind(**required))}
        for name, default in (defaults | of_settings).items():
            with contextlib.suppress(*[CatwalkError] * (name in ("precision", "mask"))):  # which some refuse
                keys[name] = key(kind(**{**required, name: another(name, default, kinds[name])}))
        assert None not in keys.values()
        assert keys[""] == keys.pop("batch_size")
        assert len(set(keys.values())) == len(keys)

    def test_the_attack_that_is_transferred_and_what_its_surrogates_hold(self, key, tmp_path):
        surrogate, same, other = (tmp_path / name for name in ("surrogate.ckpt", "same.ckpt", "other.ckpt"))
        for path, content in ((surrogate, b"weights"), (same, b"weights"), (other, b"others")):
            path.write_bytes(content)
        keys = {
            key(Transfer(PGD(), [surrogate])),
            key(Transfer(PGD(epsilon=7.0), [surrogate])),
            key(Transfer(FGSM(), [surrogate])),
            key(Transfer(PGD(), [other])),
            key(Transfer(PGD(), [surrogate, other])),
        }
        assert len(keys) == 5
        assert None not in keys
        assert key(Transfer(PGD(batch_size=3), [same])) == key(Transfer(PGD(), [surrogate]))

    def test_the_class(self, key):
        class Other(PGD):
            pass

        assert len({key(PGD()), key(Other()), key(FGSM())}) == 3

    def test_a_threat_model_that_was_replaced(self, key):
        attack = PGD()
        attack.threat_model = dataclasses.replace(attack.threat_model, epsilon=9.0)
        assert key(attack) != key(PGD())

    def test_source_target_protocol_and_purchases(self, key):
        protocols = [
            Protocol(source_items="dataset"),
            Protocol(epsilon_space="normalised"),
            Protocol(clip=False),
            Protocol(quantise="round"),
            Protocol(source_popularity="cold"),
        ]
        keys = [key(), key(source="Bag"), key(target="Bag"), key(target=None)]
        keys += [key(protocol=protocol) for protocol in protocols]
        keys += [key(purchases=np.zeros(90, np.int64)), key(purchases=np.ones(90, np.int64))]
        assert len(set(keys)) == len(keys)
        assert key() == key(protocol=Protocol(name="mine", chr_categories="dataset"))

    def test_the_networks_weights_and_what_its_checkpoint_says_of_it(self, key, trained, tmp_path):
        checkpoint = torch.load(trained.checkpoint, weights_only=True)
        path, settings, weights = tmp_path / "other.ckpt", checkpoint["hyper_parameters"], checkpoint["state_dict"]

        def key_with(**changed):
            torch.save(checkpoint | {"epoch": 77} | changed, path)
            return key(classifier=path)

        assert key_with() == key()
        name = next(iter(weights))
        keys = [key_with(), key_with(state_dict=weights | {name: weights[name] + 1e-7})]
        for changed in (
            {"image_size": [16, 16]},
            {"mean": [0.1, 0.2, 0.3]},
            {"std": [0.1, 0.2, 0.3]},
            {"category_names": [*settings["category_names"][:-1], "Hat"]},
            {"backbone_args": {"width": 9}},
            {"backbone": "torchvision.models.resnet18"},
        ):
            keys.append(key_with(hyper_parameters=settings | changed))
        assert len(set(keys)) == len(keys)

    def test_images_as_they_are_now(self, key, trained, tmp_path):
        shutil.copytree(trained.catalogue.folder, tmp_path / "shop")
        catalogue = Catalogue.read(tmp_path / "shop")
        assert key(catalogue=catalogue) == key()
        path = tmp_path / "shop" / catalogue.images[5]
        with Image.open(path) as image:
            image.putpixel((0, 0), (1, 2, 3))
            image.save(path)
        assert key(catalogue=catalogue) != key()  # though it was asked for its fingerprint before

    @pytest.mark.parametrize("name", ["features.safetensors", "predictions.csv"])
    def test_the_clean_features(self, key, features, tmp_path, name):
        shutil.copytree(features, tmp_path, dirs_exist_ok=True)
        assert key(features=tmp_path) == key()
        content = bytearray((tmp_path / name).read_bytes())
        content[-2] ^= 1
        (tmp_path / name).write_bytes(content)
        assert key(features=tmp_path) != key()

    def test_a_known_recommender_by_what_is_in_its_file(self, key, tmp_path):
        first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
        first.write_bytes(b"one")
        second.write_bytes(b"one")
        keys = [key(RankAttack(recommender=first)), key(RankAttack(recommender=str(first)))]
        assert key(RankAttack(recommender=second)) == keys[0]
        first.write_bytes(b"two")
        keys += [key(RankAttack(recommender=first)), key(RankAttack(recommender=str(first)))]
        assert len(set(keys)) == 4

    def test_a_known_recommender_by_its_parameters(self, key):
        attack = RankAttack()
        attack.scorers = [visual_model(*(torch.ones(3, 2) for _ in range(4)))]
        before = key(attack)
        attack.scorers[0].items.weight[1, 1] += 1e-6
        assert None not in {before, key(attack)}
        assert before != key(attack)

    @pytest.mark.parametrize(
        "content", [torch.nn.Linear(2, 2), lambda: 0, object()], ids=["module", "function", "object"]
    )
    def test_there_is_none_for_what_cannot_be_told_apart(self, key, content):
        attack = PGD()
        attack.more = [content]
        assert key(attack) is None

    def test_an_attack_of_the_users_own_by_its_code(self, key, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        path = tmp_path / "attack_of_mine.py"
        path.write_text("from catwalk.attacks import PGD\n\nclass Mine(PGD):\n    strength = 1\n")
        mine = importlib.import_module("attack_of_mine").Mine
        before = key(mine())
        path.write_text(path.read_text().replace("= 1", "= 2"))
        stage_keys.forget_code()
        assert before is not None
        assert key(mine()) not in (before, None)

    @pytest.mark.parametrize("module", ["__main__", "module_of_no_file"])
    def test_there_is_none_for_code_that_cannot_be_read(self, key, monkeypatch, module):
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as in a notebook
        stage_keys.forget_code()
        mine = type("Mine", (FeatureMatching,), {"__module__": module})
        assert key(mine()) is None


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def attacked(trained, tmp_path):
    """Return a function that attacks, into a folder beside ``tmp_path / "out"``."""

    def attack(number=0, key="key", **settings):
        arguments = trained.classifier, FGSM(**settings), trained.catalogue, trained.table
        folder = tmp_path / f"partial{number}"
        poison(*arguments, folder, source="Sandal", target="Sneaker")
        if key is not None:
            write_record(folder, {"stage": ATTACK, "key": key})
        (tmp_path / "out").mkdir(exist_ok=True)
        return folder

    return attack


class TestFolders:
    def test_what_was_put_in_place_is_finished(self, attacked, tmp_path):
        partial, folder = attacked(), tmp_path / "out"
        (folder / "mine.png").write_bytes(b"not an attack's")
        expected = contents(partial)
        put_in_place(partial, folder, "key")
        found = contents(folder)
        assert found.pop("mine.png") == b"not an attack's"
        assert found == expected
        assert RECORD_FILE in found
        assert is_finished(folder, "key")
        assert has_key(folder, "key")
        assert not is_finished(folder, "other")
        assert not has_key(folder, "other")
        assert contents(partial) == {}

    def test_any_damage_is_noticed(self, attacked, tmp_path):
        folder = tmp_path / "out"
        put_in_place(attacked(), folder, "key")
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {path.name for path in files} >= {
            "attack.json",
            "attacked_items.csv",
            "features.safetensors",
            "predictions.csv",
        }
        assert sum(path.suffix == ".png" for path in files) > 5
        for path in files:
            content = path.read_bytes()
            for damaged in (content[:-2], content[: len(content) // 2], b"", bytes([content[0] ^ 1]) + content[1:]):
                path.write_bytes(damaged)
                assert not is_finished(folder, "key"), path
            path.unlink()
            assert not is_finished(folder, "key"), path
            path.write_bytes(content)
            assert is_finished(folder, "key")

    @pytest.mark.parametrize(
        "text",
        [
            "[]",
            '{"key": "key"}',
            '{"files": {}}',
            '{"stage": "attack", "key": "key", "files": {}}',
            '{"stage": "attack", "key": "key", "files": 3}',
            "\x00",
        ],
    )
    @pytest.mark.parametrize("name", [RECORD_FILE, FINISHED_FILE])
    def test_a_record_of_another_kind(self, tmp_path, name, text):
        (tmp_path / name).write_text(text)
        assert not is_finished(tmp_path, "key")

    def test_a_record_of_another_result_or_of_too_few_files(self, attacked, tmp_path):
        partial = attacked()
        (partial / "features.safetensors").unlink()
        for number, record in enumerate(({"stage": ATTACK, "key": "other"}, {"stage": "features", "key": "key"})):
            shutil.copytree(partial, tmp_path / f"copy{number}")
            write_record(tmp_path / f"copy{number}", record)
            assert "stage.json is of another result" in damage_of(tmp_path / f"copy{number}", "key")
        (partial / RECORD_FILE).unlink()
        write_record(partial, {"stage": ATTACK, "key": "key"})
        assert damage_of(partial, "key") == "features.safetensors is missing"

    def test_an_attack_of_an_earlier_version_is_read_and_its_damage_noticed(self, attacked, tmp_path):
        folder = attacked(key=None)
        files = {name: hashlib.sha256(content).hexdigest() for name, content in contents(folder).items()}
        (folder / FINISHED_FILE).write_text(json.dumps({"key": "key", "files": files}))
        assert damage_since(folder) is None
        assert damage_of(folder, "key") == "it was written by an earlier version of Catwalk"
        image = sorted(folder.rglob("*.png"))[2]
        image.write_bytes(image.read_bytes()[:-1])
        assert damage_since(folder) == f"{image.relative_to(folder)} is missing or was changed after it was written"
        put_in_place(attacked(1), folder, "key")
        assert is_finished(folder, "key")
        assert not (folder / FINISHED_FILE).exists()

    def test_a_copy_is_whole_and_apart(self, attacked, tmp_path):
        stored, folder = attacked(), tmp_path / "out"
        before = contents(stored)
        (stored / "features.float16.safetensors").write_bytes(b"beside the result, and no part of it")
        copy_attack(stored, folder, "key")
        assert contents(folder) == before
        image = sorted(folder.rglob("*.png"))[0]
        image.write_bytes(b"edited")
        assert contents(stored).items() >= before.items()
        assert damage_of(folder, "key") == f"{image.relative_to(folder)} was changed after it was written"
        copy_attack(stored, folder, "key")
        assert contents(folder) == before

    def test_without_a_key_nothing_is_ever_finished(self, attacked, tmp_path):
        folder = tmp_path / "out"
        put_in_place(attacked(), folder, "key")
        put_in_place(attacked(1, key=None, epsilon=4), folder, None)
        assert not (folder / RECORD_FILE).exists()
        assert not is_finished(folder, None)
        assert not is_finished(folder, "key")

    def test_a_move_that_was_killed_never_looks_finished(self, attacked, tmp_path, monkeypatch):
        """Whichever file it was killed at, in the place of a finished attack."""
        first, second, folder = attacked(key="first"), attacked(1, key="second", epsilon=4), tmp_path / "out"
        kept, first_files = tmp_path / "kept", tmp_path / "first"
        shutil.copytree(first, first_files)
        put_in_place(first, folder, "first")
        shutil.copytree(folder, kept)
        changed = [name for name, content in contents(second).items() if contents(first_files)[name] != content]
        assert RECORD_FILE in changed
        replace, number = Path.replace, len(changed)
        for killed_at in range(number):
            left = [killed_at]

            def killed(path, target, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return replace(path, target)

            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
            assert is_finished(folder, "first")
            shutil.copytree(second, tmp_path / "copy", dirs_exist_ok=True)
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", killed)
                with pytest.raises(KeyboardInterrupt):
                    put_in_place(tmp_path / "copy", folder, "second")
            assert not is_finished(folder, "first")
            assert not is_finished(folder, "second")
            assert (folder / "features.safetensors").exists() == (killed_at == number - 1)
        put_in_place(second, folder, "second")
        assert is_finished(folder, "second")

    def test_what_a_killed_move_left_can_be_replaced(self, attacked, trained, tmp_path, monkeypatch):
        """Whichever file it was killed at, in a new folder."""
        partial, folder = attacked(), tmp_path / "out"
        (partial / "0.png").write_bytes(b"an image that sorts before all else")
        catalogue, replace = dataclasses.replace(trained.catalogue, images=("0.png",)), Path.replace
        for killed_at in range(1, len(contents(partial))):
            left = [killed_at]

            def killed(path, target, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return replace(path, target)

            shutil.rmtree(folder)
            shutil.copytree(partial, tmp_path / "copy", dirs_exist_ok=True)
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", killed)
                with pytest.raises(KeyboardInterrupt):
                    put_in_place(tmp_path / "copy", folder, "key")
            assert len(contents(folder)) == killed_at
            check_folder(folder, catalogue)

    def test_two_runs_with_the_same_result_at_once(self, attacked, tmp_path, monkeypatch):
        """What the first has finished is not taken away by the second, which had looked before that."""
        partials, folder = (attacked(), attacked(1)), tmp_path / "out"
        has_begun, has_looked, is_done = threading.Event(), threading.Event(), threading.Event()
        replace, unlink, look, removed = Path.replace, Path.unlink, finished_attack.is_finished, []

        def replacing(path, target):
            if Path(target).name == RECORD_FILE and threading.current_thread() is first:
                has_begun.set()
                has_looked.wait(1)  # in vain, where the second has to wait
            return replace(path, target)

        def looking(*arguments):
            found = look(*arguments)
            if threading.current_thread() is second:
                has_looked.set()
                is_done.wait(60)
            return found

        def unlinking(path, **settings):
            if path.name == RECORD_FILE and is_done.is_set():
                removed.append(path)
            unlink(path, **settings)

        def run(partial):
            put_in_place(partial, folder, "key")
            is_done.set()

        first, second = (threading.Thread(target=run, args=[partial]) for partial in partials)
        monkeypatch.setattr(Path, "replace", replacing)
        monkeypatch.setattr(Path, "unlink", unlinking)
        monkeypatch.setattr(finished_attack, "is_finished", looking)
        first.start()
        assert has_begun.wait(60)
        second.start()
        first.join()
        second.join()
        assert removed == []
        assert has_looked.is_set()
        assert look(folder, "key")

    def test_another_run_with_the_same_result_is_not_disturbed(self, attacked, tmp_path):
        first, second, folder = attacked(), attacked(1), tmp_path / "out"
        put_in_place(first, folder, "key")
        numbers = {path: os.stat(path).st_ino for path in folder.rglob("*")}
        put_in_place(second, folder, "key")
        assert {path: os.stat(path).st_ino for path in folder.rglob("*")} == numbers
        (folder / RECORD_FILE).unlink()  # as if it were not quite done
        put_in_place(attacked(2), folder, "key")
        others = {path: os.stat(path).st_ino for path in folder.rglob("*") if path.name != RECORD_FILE}
        assert others.items() <= numbers.items()
        assert is_finished(folder, "key")
