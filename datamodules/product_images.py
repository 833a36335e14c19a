"""Product images in batches: the labelled ones to train and test a CNN, the catalogue to extract features."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from catwalk.errors import CatwalkError
from catwalk.files.watched import WatchedFiles, watch_folder, watch_named
from catwalk.limits import check_count, check_memory, check_seed
from catwalk.networks.augmentation import random_flip, random_shift
from catwalk.networks.batching import size_buckets
from catwalk.shop.catalogue import Catalogue, fingerprint_texts, item_names
from catwalk.shop.images import ItemImages, StoredImages, load_images, store_images, to_float
from catwalk.shop.labelled_images import LabelledImages
from datamodules.batches import Batches, check_shares, first_batch


class ProductImages(LightningDataModule):
    """Images of a dataset folder, decoded once, kept as 8-bit arrays on disk, and augmented on the device.

    ``fit``, ``validate`` and ``test`` read ``labelled_images.csv`` where the folder has one and otherwise the
    catalogue's own images and categories; ``predict`` runs over the catalogue.

    Args:
        dataset: A dataset folder; ``catwalk data`` writes one.
        image_size: Height and width to bring every image to; their own sizes by default, which must then be the same
            for all labelled images. Those of the catalogue may differ.
        batch_size: Images per batch and process.
        validation_share: Share in [0, 1) of every category's training images that is held out for validation, where
            the folder does not say which; 0 trains on all of them.
        test_share: The same for the test, where the folder has no ``labelled_images.csv``.
        flip: Mirror training images left to right with probability 1/2.
        shift: Move training images by up to this many pixels in each direction, filled up by repeating the border.
        seed: Seed of order, augmentation and what is held out; by default that of the run, ``--seed_everything``, and 0
            from Python.
        cache: Folder for the 8-bit arrays; ``.cache`` inside the dataset folder by default.

    Attributes:
        catalogue: The catalogue, once it has been read.
        labelled: The labelled images.
        watched: The files of the catalogue, watched since before they were read.

    Example:
        >>> from datamodules import ProductImages
        >>> data = ProductImages("data/synthetic", batch_size=4)
        >>> data.setup("fit")
        >>> images, categories = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        >>> images.shape, categories.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4]))
    """

    def __init__(
        self,
        dataset: Path,
        image_size: tuple[int, int] | None = None,
        batch_size: int = 128,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        flip: bool = True,
        shift: int = 2,
        seed: int | None = None,
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        check_count(batch_size, "batch_size")
        check_count(shift, "shift", least=0)
        self.seed = 0 if seed is None else seed
        check_seed(self.seed)
        if image_size is not None:
            if not isinstance(image_size, Sequence) or len(image_size) != 2:
                raise CatwalkError(f"image_size must be a height and a width, got {image_size!r}")
            for side in image_size:
                check_count(side, "image_size")
        self.dataset = Path(dataset)
        self.image_size = image_size
        self.batch_size = batch_size
        self.validation_share = validation_share
        self.test_share = test_share
        self.flip = flip
        self.shift = shift
        self.cache = cache
        self.catalogue: Catalogue
        self.labelled: LabelledImages
        self.watched: tuple[WatchedFiles, ...] = ()
        self._labelled_levels: NDArray[np.uint8] | None = None
        self._item_images: StoredImages | None = None

    def prepare_data(self) -> None:
        """Read the lists of the folder; images are decoded in :meth:`setup`, by one process for all."""
        self._read()

    def setup(self, stage: str) -> None:
        """Read the folder; arrays are mapped, not loaded."""
        self._read()
        if stage == "predict":
            images, names = self.catalogue.images, item_names(self.catalogue)
            self._item_images = store_images(self.dataset, images, self.image_size, names=names, cache=self.cache)
        else:
            self._labelled_levels = load_images(self.dataset, self.labelled.images, self.image_size, cache=self.cache)

    def _read(self) -> None:
        if not hasattr(self, "catalogue"):
            lists = watch_folder(self.dataset, "items.*", "dataset.json")
            self.catalogue = Catalogue.read(self.dataset)
            images = watch_named(self.dataset, self.catalogue.images)
            self.watched = lists, images
            self.labelled = LabelledImages.read(self.catalogue, self.validation_share, self.test_share, self.seed)
            if self.image_size is not None:
                height, width = self.image_size
                rows = min(self.batch_size, len(self.labelled.images), len(self.catalogue))
                check_memory(
                    rows * 3 * height * width * 4,  # as float32
                    f"a batch of {rows} images of image_size {height}, {width}",
                    "give a smaller image_size or batch_size",
                )

    def state_dict(self) -> dict[str, str]:
        """Return what a checkpoint remembers: which images there were, and which of them were held out."""
        if not hasattr(self, "labelled"):
            return {}
        digests = {split: fingerprint_texts(*map(str, self.labelled.rows(split))) for split in ("validation", "test")}
        return {"images": fingerprint_texts(*self.labelled.images), **digests}

    def load_state_dict(self, state_dict: dict[str, str]) -> None:
        """Compare with what a checkpoint remembers: a network is not to be measured on what it was trained on.

        Raises:
            CatwalkError: If images that are held out here may have been trained on.
        """
        stage = None if self.trainer is None else self.trainer.state.fn
        split = {TrainerFn.VALIDATING: "validation", TrainerFn.TESTING: "test"}.get(cast(TrainerFn, stage))
        own = self.state_dict()
        if split is None or state_dict.get("images") != own["images"] or state_dict[split] == own[split]:
            return
        raise CatwalkError(
            f"the checkpoint was trained with other images held out for the {split}: give --seed_everything (or "
            f"data.seed), data.validation_share and data.test_share as in its training"
        )

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names of the catalogue's C categories."""
        return self.catalogue.category_names

    def train_dataloader(self) -> DataLoader:
        """Return batches in an order that depends on (seed, epoch) alone; each process gets every ``world_size``-th."""
        images = self.labelled.rows("train")
        if len(images) == 0:
            raise CatwalkError(f"{self.dataset} has no labelled images of the split train")
        world_size = self._world_size
        # Each process takes as many steps as the others: the order is filled up from its own beginning.
        per_rank = -(-len(images) // world_size)

        def batches() -> Iterator[dict[str, Any]]:
            epoch = self.trainer.current_epoch if self.trainer is not None else 0
            random = np.random.default_rng((self.seed, epoch))
            order = random.permutation(images)
            mine = np.resize(order, per_rank * world_size)[self._rank :: world_size]
            augmentation = np.random.default_rng((self.seed, epoch, self._rank + 1))
            seeds = augmentation.integers(2**62, size=-(-per_rank // self.batch_size)).tolist()
            for number in range(first_batch(self.trainer), len(seeds)):
                rows = mine[number * self.batch_size : (number + 1) * self.batch_size]
                yield {**self._labelled(rows), "augmentation": seeds[number]}

        return Batches(batches, -(-per_rank // self.batch_size)).loader(self._pin_memory)

    def val_dataloader(self) -> DataLoader | list:
        """Return this process's share of the validation images; nothing where none are held out."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader | list:
        """Return this process's share of the test images."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader | list:
        all_rows = self.labelled.rows(split)
        check_shares(len(all_rows), self._world_size, f"images of the split {split}")
        rows = all_rows[self._rank :: self._world_size]
        if len(rows) == 0:
            return []
        starts = range(0, len(rows), self.batch_size)
        return Batches(
            lambda: (self._labelled(rows[start : start + self.batch_size]) for start in starts), len(starts)
        ).loader(self._pin_memory)

    def predict_dataloader(self) -> DataLoader:
        """Return the catalogue's images as :class:`ItemImages`; each process gets a contiguous share.

        They come in the order of the catalogue if they all have one size, and else size by size.
        """
        check_shares(len(self.catalogue), self._world_size, "items")
        images = self._item_images
        assert images is not None
        batches = list(self._item_batches(images))
        return Batches(
            lambda: (
                ItemImages(torch.from_numpy(images.stack(items)), torch.from_numpy(items), alone)
                for items, alone in batches
            ),
            len(batches),
        ).loader(self._pin_memory)

    def _item_batches(self, images: StoredImages) -> Iterator[tuple[NDArray[np.int64], bool]]:
        """Yield the items of this process's batches, and whether they run alone, which the whole catalogue decides."""
        share = np.array_split(np.arange(len(images)), self._world_size)[self._rank]
        for rows, alone in size_buckets(images.sizes.tolist()):
            items = rows[(share[0] <= rows) & (rows <= share[-1])]
            for start in range(0, len(items), self.batch_size):
                yield items[start : start + self.batch_size], alone

    def _labelled(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        assert self._labelled_levels is not None
        return {
            "levels": torch.from_numpy(self._labelled_levels[rows]),
            "categories": torch.from_numpy(self.labelled.categories[rows]),
        }

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn 8-bit batches into ``(images, categories)`` on the device, augmented while training."""
        if isinstance(batch, ItemImages):
            return batch
        levels: Tensor = batch["levels"]
        if "augmentation" in batch:
            random = torch.Generator().manual_seed(batch["augmentation"])
            if self.shift:
                levels = random_shift(levels, self.shift, random)
            if self.flip:
                levels = random_flip(levels, random)
        return to_float(levels), batch["categories"]

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    @property
    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
