"""Recommenders, classifiers and callbacks work on anybody's data module, and say what one lacks."""

import pytest
import torch
from pytorch_lightning import LightningDataModule, seed_everything
from pytorch_lightning.demos.boring_classes import BoringDataModule
from torch.utils.data import DataLoader

from callbacks import AttackedItems, CategoryHitRatio, InjectPoisonedImages, WriteFeatures, WriteRecommendations
from catwalk.attacks import FGSM
from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import load_images, to_float
from catwalk.shop.labelled_images import LabelledImages
from catwalk.shop.splits import read_split
from catwalk.shop.user_items import SeenItems
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import VBPR, Popularity, ProductClassifier


class OwnShop(LightningDataModule):
    """Purchases in memory, in three batches that are the same in every epoch."""

    def __init__(self, shop, table):
        super().__init__()
        self.catalogue = Catalogue.read(shop)
        self.split = read_split(self.catalogue)
        self.feature_table = table
        self.num_users, self.num_items = self.split.num_users, len(self.catalogue)

    def feature_rows(self, device):
        return FeatureRows(self.feature_table.features).to(device)

    def held_out_items(self, stage):
        return self.split.test if stage == "test" else self.split.validation

    def seen_items(self, stage):
        pairs = torch.from_numpy(self.split.users), torch.from_numpy(self.split.items)
        return SeenItems.from_pairs(*pairs, self.num_users, self.num_items)

    def may_be_tested(self, trained_on):
        return trained_on == self.split.trained_on

    def train_dataloader(self):
        users, items = torch.from_numpy(self.split.users), torch.from_numpy(self.split.items)
        triplets = zip(users.chunk(3), items.chunk(3), ((items + 1) % self.num_items).chunk(3), strict=True)
        return DataLoader(list(triplets), batch_size=None)

    def test_dataloader(self):
        return DataLoader(list(torch.arange(self.num_users).split(64)), batch_size=None)

    predict_dataloader = test_dataloader


class OwnImages(LightningDataModule):
    """The shop's test images in memory."""

    image_size = None

    def __init__(self, shop):
        super().__init__()
        catalogue = Catalogue.read(shop)
        labelled = LabelledImages.read(catalogue, 0.1, 0.1, 0)
        rows = labelled.rows("test")
        levels = load_images(shop, labelled.images, None)[rows]
        self.category_names = catalogue.category_names
        self.batch = to_float(torch.from_numpy(levels)), torch.from_numpy(labelled.categories[rows])

    def test_dataloader(self):
        return DataLoader([self.batch], batch_size=None)


@pytest.fixture
def folder(trained, tmp_path):
    trained.table.write(tmp_path / "features", trained.catalogue)
    return tmp_path / "features"


def test_a_recommender_on_an_own_data_module(shop, trained, folder, make_trainer, tmp_path):
    seed_everything(0, verbose=False)
    own, model = OwnShop(shop, FeatureTable.read(folder, trained.catalogue)), VBPR(factors=4, visual_factors=4)
    make_trainer(max_epochs=2).fit(model, own)
    values = [
        make_trainer(callbacks=[CategoryHitRatio([5])]).test(model, data, verbose=False)
        for data in (own, InteractionTriplets(shop, folder))
    ]
    assert values[0][0].keys() == values[1][0].keys() > {"test/hr@20", "test/auc"}
    for name, value in values[1][0].items():
        assert values[0][0][name] == pytest.approx(value, rel=1e-12), name
    make_trainer(callbacks=[WriteRecommendations(tmp_path / "lists.csv", 5)]).predict(model, own)
    assert len((tmp_path / "lists.csv").read_text().splitlines()) == 1 + 200 * 5


def test_a_classifier_on_an_own_data_module(shop, trained, make_trainer):
    model = ProductClassifier.load_from_checkpoint(trained.checkpoint)
    own, ours = (make_trainer().test(model, data, verbose=False)[0] for data in (OwnImages(shop), ProductImages(shop)))
    assert own["test/accuracy"] == ours["test/accuracy"]
    assert own["test/loss"] == pytest.approx(ours["test/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("command", "model", "callbacks", "message"),
    [
        ("test", Popularity, [], r"a recommender needs a data module with catalogue, feature_rows, .*, split, and Bo"),
        ("test", Popularity, [CategoryHitRatio()], r"CategoryHitRatio needs a data module with catalogue, .*"),
        ("fit", VBPR, [AttackedItems], r"a recommender needs a data module with catalogue, "),
        ("fit", VBPR, [InjectPoisonedImages], r"InjectPoisonedImages needs a data module with .*, read_features, .*"),
        (
            "predict",
            ProductClassifier,
            [WriteFeatures],
            r"WriteFeatures needs .* catalogue, category_names, image_size,",
        ),
        (
            "test",
            ProductClassifier,
            [],
            r"a classifier needs a data module with category_names, image_size, and Boring",
        ),
    ],
)
def test_what_a_data_module_lacks_is_named(make_trainer, tmp_path, trained, command, model, callbacks, message):
    make = {
        AttackedItems: lambda: AttackedItems(tmp_path),
        InjectPoisonedImages: lambda: InjectPoisonedImages(trained.checkpoint, FGSM(), "Sandal", tmp_path, "Sneaker"),
        WriteFeatures: lambda: WriteFeatures(tmp_path),
    }
    trainer = make_trainer(max_epochs=1, callbacks=[make.get(each, lambda each=each: each)() for each in callbacks])
    with pytest.raises(CatwalkError, match=f"^data: {message}") as caught:
        getattr(trainer, command)(model(), BoringDataModule())
    assert "\n" not in str(caught.value)


def test_a_data_module_is_missed(make_trainer):
    with pytest.raises(CatwalkError, match=r"^data: a recommender needs a data module, and the Trainer has none; give"):
        make_trainer().test(Popularity(), DataLoader([torch.arange(3)], batch_size=None))
