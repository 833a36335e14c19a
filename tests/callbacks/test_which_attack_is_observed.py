"""Observers of an attack take that of their run, or an earlier one on the same shop, and no other."""

import re
from pathlib import Path

import pytest
from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel

from callbacks import AttackedItems, AttackGallery, CategoryBars, InjectPoisonedImages, PerceptualDistance
from catwalk.attacks import FGSM
from catwalk.errors import CatwalkError
from catwalk.importers.synthetic import synthetic
from datamodules import InteractionTriplets

OBSERVERS = {
    "AttackedItems": AttackedItems,
    "CategoryBars": lambda attack=None: CategoryBars(attack, 5),
    "PerceptualDistance": lambda attack=None: PerceptualDistance(attack, trunk=Path("none"), on_missing="skip"),
    "AttackGallery": lambda attack=None: AttackGallery(attack, trunk=Path("none"), on_missing="skip"),
}
every_observer = pytest.mark.parametrize("name", OBSERVERS)
pytestmark = pytest.mark.filterwarnings("ignore:LPIPS is left out")


@pytest.fixture
def inject(trained, tmp_path: Path) -> InjectPoisonedImages:
    return InjectPoisonedImages(trained.checkpoint, FGSM(epsilon=4.0), "Sandal", tmp_path / "fgsm", "Sneaker")


@every_observer
def test_the_one_of_the_run(name, triplets, make_trainer, model, inject, tmp_path: Path) -> None:
    observer = OBSERVERS[name](None)
    make_trainer(max_epochs=1, callbacks=[observer, inject]).fit(model, triplets)
    assert getattr(observer, "followed", observer).attack is None
    assert observer.folder == tmp_path / "fgsm"


@every_observer
def test_not_another_than_that_of_the_run(
    name, triplets, make_trainer, model, inject, attacked, tmp_path: Path
) -> None:
    other = attacked(tmp_path / "pgd")
    trainer = make_trainer(max_epochs=1, callbacks=[OBSERVERS[name](other), inject])
    with pytest.raises(CatwalkError, match=f"{name}.attack is {other}, but the images of {tmp_path / 'fgsm'} are"):
        trainer.fit(model, triplets)
    assert not list(other.glob("*.png"))
    assert trainer.global_step == 0


@every_observer
def test_there_must_be_one(name, triplets, make_trainer, model) -> None:
    with pytest.raises(CatwalkError, match=f"{name} observes the attack of its run, and there is none"):
        make_trainer(max_epochs=1, callbacks=[OBSERVERS[name](None)]).fit(model, triplets)


@every_observer
@pytest.mark.parametrize(
    ("file", "replace", "message"),
    [
        (None, None, "holds no attacked_items.csv: give the folder"),
        ("attacked_items.csv", (r"\n\w.*?,", "\nnobody,"), "has no item 'nobody': give the dataset that was attacked"),
        (
            "attacked_items.csv",
            ("True|False", "maybe"),
            "is damaged, attack again: success_float must be True or False",
        ),
        ("attack.json", (r'"norm"', '"form"'), "attack.json is damaged, attack again"),
        ("attack.json", (r"^\{", ""), "attack.json is damaged, attack again"),
    ],
)
def test_a_folder_of_no_attack_ends_the_run_before_it_begins(
    name, attacked, triplets, make_trainer, model, tmp_path: Path, file, replace, message: str
) -> None:
    folder = tmp_path / "attack"
    if file is None:
        folder.mkdir()
    else:
        path = attacked(folder) / file
        path.write_text(re.sub(*replace, path.read_text()))
    trainer = make_trainer(max_epochs=1, callbacks=[OBSERVERS[name](folder)])
    with pytest.raises(CatwalkError, match=message):
        trainer.fit(model, triplets)
    assert trainer.global_step == 0


@every_observer
def test_nor_the_attack_on_another_shop_with_the_same_ids(
    name, attacked, shop: Path, features: Path, trained, make_trainer, model, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    synthetic(other, items=90, users=200, image_size=16, train_images=60, test_images=20, seed=5)
    folder = attacked(tmp_path / "attack")
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    data = InteractionTriplets(other, batch_size=64)
    data.setup("fit")
    stamped = tmp_path / "features"
    trained.table.__class__(**{**vars(trained.table), "catalogue": data.catalogue.fingerprint}).write(
        stamped, data.catalogue
    )
    data = InteractionTriplets(other, stamped, batch_size=64)
    with pytest.raises(CatwalkError, match=r"is no whole attack on .*: .* was made of another catalogue than"):
        make_trainer(max_epochs=1, callbacks=[OBSERVERS[name](folder)]).fit(model, data)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before


@pytest.mark.parametrize("name", ["PerceptualDistance", "AttackGallery"])
def test_there_must_be_a_shop(name, attacked, make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(max_epochs=1, callbacks=[OBSERVERS[name](attacked(tmp_path / "attack"))])
    with pytest.raises(CatwalkError, match=f"{name} observes attacks on a shop's images"):
        trainer.fit(BoringModel(), BoringDataModule())
