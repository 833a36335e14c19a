"""Triplets of users, items bought and items not bought; and blocks of users to rank the catalogue for."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from catwalk.errors import CatwalkError
from catwalk.limits import check_count, check_seed
from catwalk.networks.features import FeatureDtype, FeatureStorage, FeatureTable
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.ranking import MAX_BLOCK_BYTES, block_width, user_blocks
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.ids import item_keys
from catwalk.shop.splits import Split, SplitRule, read_split
from catwalk.shop.triplets import Negatives, TripletSampler
from catwalk.shop.user_items import SeenItems, UserItems
from datamodules.batches import Batches, check_shares, first_batch

MIN_BLOCKS = 64
"""Users are ranked in at least this many blocks, as far as blocks of 16 allow."""


class InteractionTriplets(LightningDataModule):
    """Interactions of a dataset folder, divided into training, validation and test, with the features of the items.

    Each epoch has every training pair once, with a negative: an item that its user has not bought in training, and
    somebody has. The order and the negatives depend on ``(seed, epoch)`` alone.

    Args:
        dataset: A dataset folder; ``catwalk data`` writes one.
        features: Folder with the features that ``catwalk predict`` wrote; needed by visual recommenders.
        batch_size: Triplets per batch and process.
        validation: Hold out validation items, for tuning and early stopping. Without it, all but the test items are
            trained on.
        seed: Seed of order and negatives; by default that of the run, ``--seed_everything``, and 0 from Python.
        negatives: How probable an item is as a negative: as any other (``uniform``), or in proportion to its number of
            training purchases (``popularity``).
        feature_storage: Where the features lie: on the training device (``device``), in the machine's memory
            (``host``), or in their file (``disk``), of which every process reads what it uses, and the machine keeps in
            memory what it has room for.
        feature_dtype: Type of the stored features. ``float16`` and ``bfloat16`` halve what they take, and round them;
            recommenders compute in float32 all the same. On the ``disk`` such features have a file of their own, which
            is written beside the others.
        split: How ``interactions.csv`` is divided: a rule of ``catwalk.shop.splits``. By default the publisher's
            ``splits/`` are used where the folder has them, and otherwise every user's last purchase is the test.
        drop_last: Leave out the last batch of an epoch where it is smaller than the others, as the paper's code does:
            in every epoch others of the triplets go untrained.
        test_users: Validate and test that many users instead of all. A hash of their ids chooses them: for every seed,
            recommender and attack the same ones, all of whom are among those of a larger number. Who is trained on, and
            whom ``catwalk predict`` writes lists for, are all.

    Example:
        >>> from datamodules import InteractionTriplets
        >>> data = InteractionTriplets("data/synthetic", batch_size=4)
        >>> data.setup("fit")
        >>> users, positives, negatives = next(iter(data.train_dataloader()))
        >>> users.shape
        torch.Size([4])
    """

    def __init__(
        self,
        dataset: Path,
        features: Path | None = None,
        batch_size: int = 512,
        validation: bool = False,
        seed: int | None = None,
        negatives: Negatives = "uniform",
        feature_storage: FeatureStorage = "device",
        feature_dtype: FeatureDtype = "float32",
        split: SplitRule | None = None,
        drop_last: bool = False,
        test_users: int | None = None,
    ) -> None:
        super().__init__()
        check_count(batch_size, "batch_size")
        if test_users is not None:
            check_count(test_users, "test_users")
        self.seed = 0 if seed is None else seed
        check_seed(self.seed)
        for argument, choice, choices in (
            ("negatives", negatives, get_args(Negatives)),
            ("feature_storage", feature_storage, get_args(FeatureStorage)),
            ("feature_dtype", feature_dtype, get_args(FeatureDtype)),
        ):
            if choice not in choices:
                raise CatwalkError(f"{argument} must be one of {', '.join(choices)}, got {choice!r}")
        self.dataset = Path(dataset)
        self.features = features
        self.batch_size = batch_size
        self.validation = validation
        self.negatives = negatives
        self.feature_storage = feature_storage
        self.feature_dtype = feature_dtype
        self.rule = split
        self.drop_last = drop_last
        self.test_users = test_users
        self.catalogue: Catalogue
        self.split: Split
        self.feature_table: FeatureTable | None = None

    def setup(self, stage: str) -> None:
        """Read the folder and the features, once; check, where there will be training, that all users have negatives.

        Raises:
            CatwalkError: If a file is missing or damaged, or a user has bought whatever could be a negative.
        """
        if not hasattr(self, "split"):
            self._read()
        if stage == "fit":
            self._sampler = TripletSampler(self.split, self._seen, self.negatives)

    def _read(self) -> None:
        self.catalogue = Catalogue.read(self.dataset)
        if self.features is not None:
            self.feature_table = self.read_features(self.features)
        split = read_split(self.catalogue, self.validation, self.rule)
        users, items = torch.from_numpy(split.users), torch.from_numpy(split.items)
        self._seen = SeenItems.from_pairs(users, items, split.num_users, len(self.catalogue))
        self._seen_before_test = self._seen
        if len(split.validation):
            self._seen_before_test = SeenItems.from_pairs(
                torch.cat([users, split.validation.users]),
                torch.cat([items, split.validation.items]),
                split.num_users,
                len(self.catalogue),
            )
        if self.test_users is not None and self.test_users > split.num_users:
            raise CatwalkError(
                f"test_users is {self.test_users:,}, and there are {split.num_users:,} users: give fewer, or leave it "
                "out to test all"
            )
        self.split = split
        rank_zero_info(f"{self.catalogue.name}: {'; '.join(split.facts())}")

    def may_be_tested(self, trained_on: str) -> bool:
        """Return whether what was trained on certain purchases knows none of the test items.

        Args:
            trained_on: What :attr:`~catwalk.shop.splits.Split.trained_on` was in training: it may have held out
                purchases for validation where this data module does not, or the other way round.
        """
        if trained_on == self.split.trained_on:
            return True
        try:
            other = read_split(self.catalogue, not self.validation, self.rule)
        except CatwalkError:  # a rule that has no validation items
            return False
        return trained_on == other.trained_on

    def read_features(self, folder: Path) -> FeatureTable:
        """Read features of the catalogue from a folder, to lie where ``feature_storage`` says, as ``feature_dtype``."""
        # What goes to another device as it is in the file needs no room in memory on its way.
        as_in_file = self._device.type != "cpu" and self.feature_dtype == "float32"
        in_memory = self.feature_storage == "host" or (self.feature_storage == "device" and not as_in_file)
        return FeatureTable.read(folder, self.catalogue, self.feature_dtype, in_memory)

    def feature_rows(self, device: torch.device | str) -> FeatureRows:
        """Return the features as recommenders use them, on ``device`` if that is where they are to lie."""
        assert self.feature_table is not None
        return FeatureRows(self.feature_table.features, self.feature_storage).to(device)

    @property
    def num_users(self) -> int:
        """Number of users, U."""
        return self.split.num_users

    @property
    def tested_users(self) -> Tensor:
        """Users who are validated and tested, int64, ascending."""
        if self.test_users is None:
            return torch.arange(self.num_users)
        keys = torch.from_numpy(item_keys(self.split.user_ids))
        return keys.argsort(stable=True)[: self.test_users].sort().values

    @property
    def num_items(self) -> int:
        """Number of items, N."""
        return len(self.catalogue)

    def held_out_items(self, stage: str) -> UserItems:
        """Return each user's held-out items of the stage ``val`` or ``test``."""
        return self.split.validation if stage == "val" else self.split.test

    def seen_items(self, stage: str) -> SeenItems:
        """Return what is not to be recommended: the training items and, in the test, the validation items too."""
        return self._seen if stage == "val" else self._seen_before_test

    def train_dataloader(self) -> DataLoader:
        """Return batches of triplets; each process gets every ``world_size``-th of the epoch's triplets."""
        world_size, rank = self._world_size, self._rank
        sampler = self._sampler.to(self._device)
        per_rank = -(-len(self.split.users) // world_size)
        num_batches = per_rank // self.batch_size if self.drop_last else -(-per_rank // self.batch_size)
        if num_batches == 0:
            raise CatwalkError(
                f"drop_last leaves nothing to train on: batch_size is {self.batch_size}, and a process has "
                f"{per_rank} triplets in an epoch; make batches smaller, or keep the last one"
            )

        def batches() -> Iterator[tuple[Tensor, ...]]:
            epoch = self.trainer.current_epoch if self.trainer is not None else 0
            triplets = sampler.sample_epoch(self.seed, epoch, rank, world_size)
            first = first_batch(self.trainer)
            yield from zip(*(column.split(self.batch_size)[first:num_batches] for column in triplets), strict=True)

        return Batches(batches, num_batches).loader()

    def val_dataloader(self) -> DataLoader | list:
        """Return this process's blocks of the tested users; nothing where no validation items are held out."""
        return self._user_loader(self.tested_users, len(self.held_out_items("val")) > 0)

    def test_dataloader(self) -> DataLoader | list:
        """Return this process's blocks of the tested users; nothing where no test items are held out."""
        return self._user_loader(self.tested_users, len(self.held_out_items("test")) > 0)

    def predict_dataloader(self) -> DataLoader | list:
        """Return this process's blocks of all users."""
        return self._user_loader(torch.arange(self.num_users), True)

    def _user_loader(self, users: Tensor, is_wanted: bool) -> DataLoader | list:
        if not is_wanted:
            return []
        width = block_width(self.num_items)
        # Enough blocks for every process to have some, and the same ones however many processes there are.
        max_bytes = min(MAX_BLOCK_BYTES, 4 * width * (len(users) // MIN_BLOCKS))
        blocks = list(user_blocks(users, width, max_bytes=max_bytes))
        check_shares(len(blocks), self._world_size, f"blocks of {len(blocks[0])} users")
        mine = blocks[self._rank :: self._world_size]
        return Batches(lambda: iter(mine), len(mine)).loader()

    @property
    def _device(self) -> torch.device:
        """The device of training."""
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1
