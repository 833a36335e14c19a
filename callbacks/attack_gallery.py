"""Shows what an attack did to some items: their images before and after, what the network sees, and where they rank."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from callbacks.both_stages import FramingCallback
from callbacks.log_picture import log_picture
from callbacks.observed_attack import attack_folder, catalogue_of
from callbacks.other_features import clean_features, looking_at
from callbacks.perceptual_distance import PerceptualDistance
from callbacks.trainer_callbacks import callbacks_of
from callbacks.wandb_loggers import files_with_run, wandb_loggers
from catwalk.errors import CatwalkError
from catwalk.metrics.measured_users import measure_users
from catwalk.networks.features import FeatureTable
from catwalk.perceptual import LPIPS, load_lpips
from catwalk.perceptual.distances import image_distances
from catwalk.perceptual.trunks import TrunkName
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.records import read_attacked_items
from catwalk.recommenders.ranking import block_width, user_blocks
from catwalk.shop.decoding import UInt8Array
from catwalk.shop.user_items import NO_ITEM
from lightning_modules.data_protocols import poisonable_data_of, recommender_data_of, tested_users
from lightning_modules.recommender import Recommender

if TYPE_CHECKING:  # matplotlib would slow down the help
    from catwalk.plots.gallery import GalleryItem

GALLERY_FILE = "gallery.png"

COLUMNS = (
    "item",
    "before",
    "after",
    "difference × 16",
    "predicted before",
    "probability before",
    "predicted after",
    "probability after",
    "LPIPS",
    "SSIM",
)
RANK_COLUMNS = ("mean rank before", "mean rank after")


class AttackGallery(FramingCallback):
    """After ``fit`` and ``test``, shows some of the attacked items: ``gallery.png`` in the attack's folder.

    A row for each: its image before and after the attack, their difference ×16 around grey, what the network sees in
    them with its probability, LPIPS and SSIM, and the item's mean rank over users before and after. Both ranks are
    those that the recommender as it is now gives the item, once with the clean features of the catalogue and once with
    those of the attack; a recommender without images has none. With a ``WandbLogger`` the rows are a table as well,
    ``attack/items``, with the images in its cells; W&B and TensorBoard show the picture as ``attack/gallery``.

    Which items are shown depends on their ids alone. The attack is the one that
    :class:`~callbacks.InjectPoisonedImages` makes in the same run, wherever it stands among the callbacks, or an
    earlier one. LPIPS and SSIM are those of :class:`~callbacks.PerceptualDistance` where it has measured the images,
    and measured of the shown ones otherwise. Nothing of the model, its data or its random numbers is touched.

    Args:
        attack: Folder of an earlier attack; null for the attack of the run.
        items: How many items to show, at most.
        net: Network of LPIPS, where it is measured here: ``vgg``, ``alex`` or ``squeeze``.
        trunk: File with its weights, see :class:`~catwalk.perceptual.LPIPS`; null looks for them where they usually
            are.
        on_missing: Where there are none, ``error`` ends the run before it begins, and ``skip`` leaves LPIPS out.

    Raises:
        CatwalkError: If ``items`` is less than 1.
    """

    def __init__(
        self,
        attack: Path | None = None,
        items: int = 16,
        net: TrunkName = "vgg",
        trunk: Path | None = None,
        on_missing: Literal["error", "skip"] = "error",
    ) -> None:
        if items < 1:
            raise CatwalkError(f"AttackGallery.items must be at least 1, got {items}")
        self.attack = None if attack is None else Path(attack)
        self.folder = Path()
        self.items = items
        self.net = net
        self.trunk = trunk
        self.on_missing = on_missing
        self._lpips: LPIPS | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load LPIPS, unless another callback will have measured it, so that nothing has begun if it cannot be had."""
        self.folder = attack_folder(self, trainer, self.attack)
        catalogue_of(self, trainer)
        others = [callback for callback in callbacks_of(trainer) if isinstance(callback, PerceptualDistance)]
        measured = [attack_folder(other, trainer, other.attack).resolve() for other in others]
        if trainer.is_global_zero and self.folder.resolve() not in measured:
            self._lpips, cause = load_lpips(self.net, self.trunk, self.on_missing)
            if cause is not None:
                rank_zero_warn(f"LPIPS is left out: {cause}")

    def before_run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look into the attack's folder before anything is trained or tested."""
        catalogue = catalogue_of(self, trainer)
        read_attacked_items(self.folder, catalogue)
        table = FeatureTable.read(self.folder, catalogue)
        used = getattr(getattr(trainer, "datamodule", None), "feature_table", None)
        if used is not None and used.network != table.network:
            raise CatwalkError(
                f"AttackGallery.attack: {self.folder} was attacked by another network than the one that made the "
                "recommender's features: give the attack on that one"
            )

    def after_run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the items."""
        if trainer.is_global_zero:
            from catwalk.plots.gallery import draw_gallery
            from catwalk.plots.style import save

            summary = read_summary(self.folder)
            shown = self._gallery_items(trainer, pl_module)
            path = self.folder / GALLERY_FILE
            save(draw_gallery(shown, f"{summary.attack} on {summary.source}, to {summary.purpose}"), path)
            log_picture(trainer, "attack/gallery", path)
            _log_table(trainer, shown)
            rank_zero_info(f"{path} shows {len(shown)} of the {summary.n_attacked} attacked items")
        trainer.strategy.barrier("the gallery is drawn")

    def _gallery_items(self, trainer: Trainer, model: LightningModule) -> list["GalleryItem"]:
        from catwalk.plots.gallery_items import gallery_items

        catalogue = catalogue_of(self, trainer)
        shown = gallery_items(self.folder, catalogue, self.items, measured=self.folder)
        if all(item.ssim is None and item.lpips is None for item in shown):
            measured = [_measure(item.before, item.after, self._lpips) for item in shown]
            shown = [replace(item, lpips=lpips, ssim=ssim) for item, (lpips, ssim) in zip(shown, measured, strict=True)]
        numbers = {item_id: number for number, item_id in enumerate(catalogue.item_ids)}
        items = np.array([numbers[item.item_id] for item in shown], dtype=np.int64)
        ranks = zip(*_mean_ranks_before_and_after(trainer, model, items, self.folder), strict=True)
        return [
            replace(item, rank_before=before, rank_after=after)
            for item, (before, after) in zip(shown, ranks, strict=True)
        ]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of LPIPS."""
        self._lpips = None


def _log_table(trainer: Trainer, shown: list["GalleryItem"]) -> None:
    """Log the items to W&B, where it is among the loggers, as a table with images."""
    loggers = wandb_loggers(trainer)
    if not loggers:
        return
    import wandb

    from catwalk.plots.gallery import difference

    has_ranks = any(item.rank_after is not None for item in shown)
    rows = []
    for item in shown:
        pictures = (item.before, item.after, difference(item.before, item.after))
        row: list[Any] = [
            item.item_id,
            *(wandb.Image(picture.transpose(1, 2, 0)) for picture in pictures),
            item.category_before,
            item.probability_before,
            item.category_after,
            item.probability_after,
            item.lpips,
            item.ssim,
        ]
        rows.append([*row, item.rank_before, item.rank_after] if has_ranks else row)
    for logger in loggers:
        with files_with_run(logger.experiment):
            logger.log_table("attack/items", [*COLUMNS, *(RANK_COLUMNS if has_ranks else ())], rows)


def _measure(before: UInt8Array, after: UInt8Array, lpips: LPIPS | None) -> tuple[float | None, float | None]:
    """Return LPIPS and SSIM of an image."""
    distances = image_distances(torch.from_numpy(before)[None], torch.from_numpy(after)[None], lpips)
    ssim = float(distances.ssim)
    return None if distances.lpips is None else float(distances.lpips), None if math.isnan(ssim) else ssim


def _mean_ranks_before_and_after(
    trainer: Trainer, model: LightningModule, items: NDArray[np.int64], attack: Path
) -> tuple[list[float | None], list[float | None]]:
    """Return the items' mean ranks with clean features and with those of the attack, where there are such."""
    nothing: list[float | None] = [None] * len(items)
    if not (isinstance(model, Recommender) and model.uses_features):
        return nothing, nothing
    data = poisonable_data_of(trainer, AttackGallery.__name__)
    is_injected = data.features is not None and data.features.resolve() == attack.resolve()
    injected = data.feature_table if is_injected else None
    poisoned = data.read_features(attack) if injected is None else injected
    clean = clean_features(trainer) if is_injected else data.feature_table
    before = nothing if clean is None else _mean_ranks(trainer, model, clean, items)
    return before, _mean_ranks(trainer, model, poisoned, items)


def _mean_ranks(
    trainer: Trainer, model: Recommender, table: FeatureTable, items: NDArray[np.int64]
) -> list[float | None]:
    """Return the mean rank of each item over the users whose candidate it is; None where it is nobody's."""
    data, device = recommender_data_of(trainer, AttackGallery.__name__), model.device
    wanted, seen = torch.from_numpy(items).to(device), data.seen_items("test").to(device)
    total, count = (torch.zeros(len(items), dtype=torch.int64, device=device) for _ in range(2))
    with looking_at(table, model, trainer) as other:
        for users in user_blocks(tested_users(data).to(device), block_width(data.num_items)):
            nothing = users.new_full((len(users), 1), NO_ITEM)  # that was held out
            ranks = measure_users(other.candidates, users, seen, 1, nothing, wanted).ranks
            total, count = total + ranks.sum(dim=0), count + (ranks > 0).sum(dim=0)
    return [rank / users if users else None for rank, users in zip(total.tolist(), count.tolist(), strict=True)]
