"""Batches of product images: what comes when, and what augmentation does to it."""

import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from catwalk.errors import CatwalkError
from catwalk.importers.synthetic import synthetic
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode
from catwalk.shop.labelled_images import LabelledImages
from datamodules import ProductImages


def make_data(shop, stage="fit", epoch=0, rank=0, world_size=1, **settings):
    """A data module as it is within a Trainer, in some epoch and on some process."""
    data = ProductImages(shop, **{"batch_size": 32} | settings)
    data.trainer = SimpleNamespace(
        current_epoch=epoch,
        fit_loop=SimpleNamespace(batch_idx=-1),
        global_rank=rank,
        world_size=world_size,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    data.prepare_data()
    data.setup(stage)
    return data


def images_by_hand(shop, split, **settings):
    """Every labelled image of a split with its category, as a multiset of bytes."""
    labelled = LabelledImages.read(Catalogue.read(shop), **settings)
    rows = labelled.rows(split)
    return sorted((decode(shop / labelled.images[row]).tobytes(), int(labelled.categories[row])) for row in rows)


def raw(loader):
    """The 8-bit images of a loader with their categories, in order."""
    return [
        (image.numpy().tobytes(), int(category))
        for batch in loader
        for image, category in zip(batch["levels"], batch["categories"], strict=True)
    ]


class TestTraining:
    def test_every_image_comes_once_per_epoch(self, shop):
        data = make_data(shop)
        loader = data.train_dataloader()
        assert sorted(raw(loader)) == images_by_hand(shop, "train")
        assert [len(batch["levels"]) for batch in loader] == [32] * 10 + [4]
        assert len(loader) == 11

    def test_the_order_depends_on_seed_and_epoch_alone(self, shop):
        orders = {}
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
            order = raw(make_data(shop, epoch=epoch, seed=seed, validation_share=0).train_dataloader())
            assert order not in orders.values()
            orders[seed, epoch] = order
            torch.manual_seed(epoch + 7)
            np.random.seed(epoch + 7)  # noqa: NPY002
            other_batches = make_data(shop, epoch=epoch, seed=seed, validation_share=0, batch_size=100, flip=False)
            assert raw(other_batches.train_dataloader()) == order

    def test_a_loader_follows_the_epochs_of_the_trainer(self, shop):
        data = make_data(shop)
        loader = data.train_dataloader()
        first = raw(loader)
        data.trainer.current_epoch = 1
        assert raw(loader) == raw(make_data(shop, epoch=1).train_dataloader()) != first

    @pytest.mark.parametrize("world_size", [2, 5])
    def test_processes_share_an_epoch_and_take_as_many_steps(self, shop, world_size):
        whole = raw(make_data(shop).train_dataloader())
        loaders = [make_data(shop, rank=rank, world_size=world_size).train_dataloader() for rank in range(world_size)]
        shares = [raw(loader) for loader in loaders]
        assert len({len(share) for share in shares}) == len({len(loader) for loader in loaders}) == 1
        merged = [image for images in zip(*shares, strict=True) for image in images]
        assert merged[: len(whole)] == whole
        assert merged[len(whole) :] == whole[: len(merged) - len(whole)]

    def test_processes_augment_differently(self, shop):
        seeds = [
            [batch["augmentation"] for batch in make_data(shop, rank=rank, world_size=2).train_dataloader()]
            for rank in range(2)
        ]
        assert len(set(seeds[0] + seeds[1])) == 12


def transferred(data, loader):
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


class TestAugmentation:
    @pytest.mark.parametrize(("flip", "shift"), [(True, 2), (True, 0), (False, 3)])
    def test_each_image_is_moved_and_mirrored_on_its_own(self, shop, flip, shift):
        """Every image must be one of its 2·(2s+1)² possible versions, which a loop makes one by one."""
        data = make_data(shop, flip=flip, shift=shift, batch_size=50)
        found = set()
        for batch in list(data.train_dataloader())[:2]:
            images, categories = data.on_after_batch_transfer(batch, 0)
            assert images.dtype == torch.float32
            assert torch.equal(categories, batch["categories"])
            for image, original in zip(images, batch["levels"].numpy(), strict=True):
                versions = {}
                for down in range(-shift, shift + 1):
                    for right in range(-shift, shift + 1):
                        moved = np.empty_like(original)
                        for row in range(16):
                            for column in range(16):
                                source = min(max(row + down, 0), 15), min(max(column + right, 0), 15)
                                moved[:, row, column] = original[:, source[0], source[1]]
                        versions[moved.astype(np.float32).tobytes()] = (False, down, right)
                        if flip:
                            versions[moved[:, :, ::-1].astype(np.float32).tobytes()] = (True, down, right)
                found.add(versions[(image * 255).round().numpy().tobytes()])
        assert {mirrored for mirrored, _, _ in found} == ({False, True} if flip else {False})
        assert {down for _, down, _ in found} == {right for _, _, right in found} == set(range(-shift, shift + 1))
        assert len(found) > (len({False, flip}) * (2 * shift + 1) ** 2) / 2

    def test_it_depends_on_seed_and_epoch(self, shop):
        def images(**settings):
            data = make_data(shop, **settings)
            return transferred(data, data.train_dataloader())[0][0]

        assert torch.equal(images(), images())
        assert not torch.equal(images(), images(epoch=1))

    def test_without_it_images_are_exact(self, shop):
        data = make_data(shop, flip=False, shift=0)
        found = [
            ((image * 255).round().to(torch.uint8).numpy().tobytes(), int(category))
            for images, categories in transferred(data, data.train_dataloader())
            for image, category in zip(images, categories, strict=True)
        ]
        assert sorted(found) == images_by_hand(shop, "train")
        (batch, *_) = data.train_dataloader()
        images, _ = data.on_after_batch_transfer(batch, 0)
        assert np.array_equal(images.numpy(), batch["levels"].numpy().astype(np.float32) / np.float32(255))


class TestEvaluation:
    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_images_are_exact_and_processes_share_them_without_repeats(self, shop, split):
        method = {"validation": "val_dataloader", "test": "test_dataloader"}[split]
        expected = images_by_hand(shop, split)
        for world_size in (1, 2, 7):
            shares = []
            for rank in range(world_size):
                data = make_data(shop, rank=rank, world_size=world_size, batch_size=5)
                loader = getattr(data, method)()
                share = raw(loader)
                assert len(loader) == -(-len(share) // 5)
                shares.append(share)
            assert sorted(image for share in shares for image in share) == expected
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
        (batch, *_) = loader
        images, _ = data.on_after_batch_transfer(batch, 0)
        assert np.array_equal(images.numpy(), batch["levels"].numpy().astype(np.float32) / np.float32(255))

    def test_nothing_held_out_is_no_loader(self, shop):
        assert make_data(shop, validation_share=0).val_dataloader() == []

    def test_more_processes_than_images_are_refused_everywhere(self, tmp_path):
        synthetic(tmp_path / "shop", items=6, users=5, image_size=16, train_images=2, test_images=1)
        for rank in (0, 6):
            data = make_data(tmp_path / "shop", "test", rank=rank, world_size=7)
            message = "6 images of the split test cannot be divided among 7 processes: use fewer devices"
            with pytest.raises(CatwalkError, match=message):
                data.test_dataloader()
            data.setup("predict")
            with pytest.raises(CatwalkError, match="6 items cannot be divided among 7 processes"):
                data.predict_dataloader()


@pytest.mark.parametrize("world_size", [1, 4])
def test_predict_runs_over_the_catalogue_in_order(shop, world_size):
    catalogue = Catalogue.read(shop)
    found, items = [], []
    for rank in range(world_size):
        data = make_data(shop, "predict", rank=rank, world_size=world_size, batch_size=13)
        loader = data.predict_dataloader()
        batches = transferred(data, loader)
        assert len(batches) == len(loader)
        assert all(batch.levels.dtype == torch.uint8 and not batch.alone for batch in batches)
        found += [image.numpy() for batch in batches for image in batch.levels]
        items += [item for batch in batches for item in batch.items.tolist()]
    assert items == list(range(90))
    assert np.array_equal(np.stack(found), [decode(shop / path) for path in catalogue.images])


class TestImagesOfManySizes:
    @pytest.mark.parametrize("world_size", [1, 2, 7])
    def test_predict_brings_every_item_once_size_by_size(self, shop_of_many_sizes, world_size):
        images = [decode(shop_of_many_sizes / path) for path in Catalogue.read(shop_of_many_sizes).images]
        count = Counter(image.shape for image in images)
        items = []
        for rank in range(world_size):
            data = make_data(shop_of_many_sizes, "predict", rank=rank, world_size=world_size, batch_size=13)
            loader = data.predict_dataloader()
            batches = transferred(data, loader)
            assert len(batches) == len(loader)
            for batch in batches:
                assert len(batch.levels) == len(batch.items) <= 13
                assert batch.alone == (count[tuple(batch.levels.shape[1:])] < 16)
                for levels, item in zip(batch.levels.numpy(), batch.items, strict=True):
                    assert np.array_equal(levels, images[item])
            mine = sorted(item for batch in batches for item in batch.items.tolist())
            assert mine == list(range(mine[0], mine[-1] + 1))
            items += mine
            if world_size == 1:
                assert len(batches) == sum(-(-number // 13) for number in count.values())
        assert items == list(range(90))

    @pytest.mark.parametrize("stage", ["fit", "validate", "test"])
    def test_they_are_not_learnt_and_not_measured(self, shop_of_many_sizes, tmp_path, stage):
        folder = tmp_path / "shop"
        shutil.copytree(shop_of_many_sizes, folder)
        (folder / "labelled_images.csv").unlink()
        make_data(folder, "predict")
        message = r"^image .*\.png is \d+×\d+ and the first is 16×16: give an image_size to bring all to one size$"
        with pytest.raises(CatwalkError, match=message):
            make_data(folder, stage)
        data = make_data(folder, stage, image_size=(16, 16))
        assert len(data.labelled.images) == 90


def test_images_are_brought_to_one_size(shop, tmp_path):
    data = make_data(shop, "test", image_size=(20, 12), cache=tmp_path / "cache")
    (batch, *_) = data.test_dataloader()
    assert batch["levels"].shape == (32, 3, 20, 12)
    labelled = data.labelled
    expected = [decode(shop / labelled.images[row], (20, 12)) for row in labelled.rows("test")[:32]]
    assert np.array_equal(batch["levels"].numpy(), expected)
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"image_size": (32, 0)}, "image_size must be at least 1, got 0"),
        ({"shift": -1}, "shift must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_named(shop, settings, message):
    with pytest.raises(CatwalkError, match=message):
        ProductImages(shop, **settings)


def test_a_shop_without_training_images_is_refused(tmp_path):
    synthetic(tmp_path / "shop", items=6, users=5, image_size=16, train_images=2, test_images=1)
    path = tmp_path / "shop" / "labelled_images.csv"
    path.write_text(path.read_text().replace(",train", ",test"))
    with pytest.raises(CatwalkError, match="has no labelled images of the split train"):
        make_data(tmp_path / "shop").train_dataloader()
