"""Clean and attacked images of a shop, from which a detector learns to tell them apart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from catwalk.detection.clean_items import CleanItems
from catwalk.detectors import ItemRoles
from catwalk.detectors.item_roles import Role
from catwalk.errors import CatwalkError
from catwalk.limits import check_count, check_seed
from catwalk.networks.classifier import load_classifier
from catwalk.networks.prediction import predict
from catwalk.poisoning.uploads import AttackedUploads
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import UInt8Array
from catwalk.shop.images import to_float
from datamodules.batches import Batches, check_shares, first_batch


class PoisonedImages(LightningDataModule):
    """Clean items and images of attacks on them: those to fit to are trained on, those to calibrate on validated on.

    The items to judge by (:class:`~catwalk.detectors.ItemRoles`) are not among them, clean or attacked: they are for
    ``catwalk detect``, as are attacks that are not named here.

    Args:
        dataset: The dataset folder.
        classifier: Checkpoint of the network that the detector is to protect, and that was attacked.
        attacked: Folders with attacked images, which ``catwalk attack`` wrote.
        batch_size: Images per step, clean and attacked.
        roles: Which items are trained on; as ``catwalk detect`` has it.
        seed: Seed of the order; by default that of the run, ``--seed_everything``, and 0 from Python.
        backbone: Import path of the classifier's backbone, where it is your own.
        backbone_args: The arguments that it was trained with, if there were any.

    Attributes:
        num_features: Number of the classifier's features.
        network_fingerprint: Fingerprint of the classifier.
        attack_names: Names of the attacks.
        clean_per_poisoned: Clean training images for each attacked one.
    """

    num_features: int = 0
    network_fingerprint: str = ""
    attack_names: tuple[str, ...] = ()
    clean_per_poisoned: float = 1.0

    def __init__(
        self,
        dataset: Path,
        classifier: Path,
        attacked: list[Path],
        batch_size: int = 64,
        roles: ItemRoles = ItemRoles(),  # noqa: B008 - frozen
        seed: int | None = None,
        backbone: str | None = None,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_count(batch_size, "batch_size")
        self.seed = 0 if seed is None else seed
        check_seed(self.seed)
        if not attacked:
            raise CatwalkError("data.attacked: give the folder of one attack at least, which `catwalk attack` wrote")
        self.dataset = Path(dataset)
        self.classifier = Path(classifier)
        self.attacked = [Path(folder) for folder in attacked]
        self.batch_size = batch_size
        self.roles = roles
        self.backbone = backbone
        self.backbone_args = backbone_args
        self._tensors: dict[Role, dict[str, Tensor]] = {}

    def setup(self, stage: str) -> None:
        """Read and see all images, once."""
        if self._tensors:
            return
        classifier = load_classifier(self.classifier, self.backbone, self.backbone_args)
        clean = CleanItems.see(classifier, Catalogue.read(self.dataset), self.roles)
        self.num_features, self.network_fingerprint = clean.features.shape[1], clean.fingerprint
        uploads = [AttackedUploads.read(folder, clean.catalogue) for folder in self.attacked]
        self.attack_names = tuple(dict.fromkeys(upload.attack for upload in uploads))
        roles: tuple[Role, ...] = ("fit", "calibrate")
        for role in roles:
            self._tensors[role] = _tensors(clean, uploads, clean.with_role(role))
        is_poisoned = self._tensors["fit"]["is_poisoned"]
        if bool(is_poisoned.all()) or not bool(is_poisoned.any()):
            raise CatwalkError(
                f"data.attacked: of the items to fit to {int((~is_poisoned).sum())} are there clean and "
                f"{int(is_poisoned.sum())} attacked, and both are needed: give attacks on more items, or a larger "
                "roles.fit"
            )
        self.clean_per_poisoned = float((~is_poisoned).sum() / is_poisoned.sum())

    def train_dataloader(self) -> DataLoader:
        """Return batches in an order that depends on (seed, epoch) alone; each process gets every ``world_size``-th."""
        tensors = self._tensors["fit"]
        count, world_size = len(tensors["is_poisoned"]), self._world_size
        per_rank = -(-count // world_size)
        steps = -(-per_rank // self.batch_size)

        def batches() -> Iterator[dict[str, Tensor]]:
            epoch = self.trainer.current_epoch if self.trainer is not None else 0
            order = np.random.default_rng((self.seed, epoch)).permutation(count)
            mine = np.resize(order, per_rank * world_size)[self._rank :: world_size]
            # Of nearly the same size: the mean of a batch of one image would have no variance.
            for rows in np.array_split(mine, steps)[first_batch(self.trainer) :]:
                yield _rows(tensors, rows)

        return Batches(batches, steps).loader()

    def val_dataloader(self) -> DataLoader:
        """Return this process's share of the items to calibrate on."""
        tensors = self._tensors["calibrate"]
        check_shares(len(tensors["is_poisoned"]), self._world_size, "images to calibrate on")
        mine = np.arange(len(tensors["is_poisoned"]))[self._rank :: self._world_size]
        starts = range(0, len(mine), self.batch_size)
        return Batches(
            lambda: (_rows(tensors, mine[start : start + self.batch_size]) for start in starts), len(starts)
        ).loader()

    def test_dataloader(self) -> DataLoader:
        """Refuse: what is held out is judged with a threshold, and beside other attacks.

        Raises:
            CatwalkError: Always.
        """
        raise CatwalkError(
            "test: `catwalk detect` judges a detector, by items and attacks that it was not trained on; give it the "
            "checkpoint as detectors: [{class_path: catwalk.detectors.TrainedDetector, init_args: {checkpoint: …}}]"
        )

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Turn 8-bit images into float32 on the device."""
        levels = batch.pop("levels", None)
        return batch if levels is None else {**batch, "images": to_float(levels)}

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1


def _tensors(clean: CleanItems, uploads: list[AttackedUploads], among: NDArray[np.bool_]) -> dict[str, Tensor]:
    """Return clean and attacked images of some items: their features, and their pixels where all are of one size."""
    items = np.flatnonzero(among)
    attacked = [
        image for upload in uploads for item, image in zip(upload.items, upload.levels, strict=True) if among[item]
    ]
    levels: list[UInt8Array] = [*clean.levels(items), *attacked]
    features = [clean.features[torch.from_numpy(items)]]
    if attacked:
        features.append(predict(clean.network, attacked).features.clone())
    tensors = {
        "features": torch.cat(features),
        "is_poisoned": torch.arange(len(levels)) >= len(items),
    }
    if len({image.shape for image in levels}) == 1:
        tensors["levels"] = torch.from_numpy(np.stack(levels))
    return tensors


def _rows(tensors: dict[str, Tensor], rows: NDArray[np.int64]) -> dict[str, Tensor]:
    return {name: tensor[torch.from_numpy(rows)] for name, tensor in tensors.items()}
