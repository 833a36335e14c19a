"""Draws what an attack did to the categories: their places in the lists, and what the network sees in its images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import Metric

from callbacks.both_stages import FramingCallback
from callbacks.log_picture import log_picture
from callbacks.observed_attack import attack_folder, catalogue_of
from callbacks.other_features import clean_features, looking_at
from callbacks.ranked_lists import CategoriesBy, RankedListsCallback, item_categories
from catwalk.metrics import CategoryHitRatio
from catwalk.metrics.category_hit_ratio import category_hits
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.records import read_attacked_items
from catwalk.recommenders.ranking import block_width, user_blocks
from lightning_modules.data_protocols import RecommenderData, poisonable_data_of, recommender_data_of, tested_users
from lightning_modules.measured_module import Stage
from lightning_modules.recommender import Ranking, Recommender

BARS_FILE = "category_bars.png"
CONFUSION_FILE = "confusion.png"

COUNTED = "category_bars"
"""Entry of a checkpoint with what was counted so far, for a run that goes on."""


@dataclass(frozen=True)
class _Counted:
    """CHR@K of every category, and when it was counted."""

    hit_ratios: Mapping[str, float]
    when: str


class CategoryBars(RankedListsCallback, FramingCallback):
    """After ``fit`` and ``test``, draws CHR@K of the categories and what became of what the network saw.

    Both pictures are written into the attack's folder, and shown by W&B and TensorBoard:

    - ``category_bars.png`` (``attack/category_bars``): CHR@K of the 20 categories with the highest, and of source and
      target, in the last validation of a ``fit`` or in the test. Marks show it before the attack: in a ``fit``, in the
      last of the epochs that ``InjectPoisonedImages.from_epoch`` left clean, also where the run was broken off since
      then and goes on from a checkpoint; in a test into which images are injected, what the same recommender shows with
      the clean ones. A ``fit`` without validation has no such picture;
    - ``confusion.png`` (``attack/confusion``): what the network saw in the attacked items before, and sees now.

    Args:
        attack: Folder of an earlier attack; null for the attack of the run.
        top_k: Length of the lists, K.
        categories_by: ``network`` takes for an item's category what the network that made the features sees in its
            clean image, ``dataset`` what the dataset says.
    """

    def __init__(self, attack: Path | None = None, top_k: int = 20, categories_by: CategoriesBy = "network") -> None:
        super().__init__([top_k])
        self.attack = None if attack is None else Path(attack)
        self.folder = Path()
        self.categories_by = categories_by
        self.names: tuple[str, ...] = ()
        self._item_categories = torch.zeros(0, dtype=torch.int64)
        self._is_injected = False
        self._counted: dict[bool, _Counted] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the categories."""
        super().setup(trainer, pl_module, stage)
        self.folder = attack_folder(self, trainer, self.attack)
        data = recommender_data_of(trainer, type(self).__name__)
        self._item_categories, self.names = item_categories(self, data, self.categories_by, None)
        self._counted = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what was counted: a ``state_dict`` would be missed, with a warning, by runs that draw nothing."""
        counted = {is_injected: asdict(counted) for is_injected, counted in self._counted.items()}
        checkpoint.setdefault(COUNTED, {})[self._settings] = counted

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what was counted in the epochs of a training that goes on: none may be left that are clean."""
        if trainer.state.fn == "fit":
            counted = checkpoint.get(COUNTED, {}).get(self._settings, {})
            self._counted = {is_injected: _Counted(**values) for is_injected, values in counted.items()}

    @property
    def _settings(self) -> str:
        """What tells this callback from others of its kind."""
        return f"{self.folder} {self.top_k[0]} {self.categories_by}"

    def before_run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look into the attack's folder before anything is trained or tested."""
        read_attacked_items(self.folder, catalogue_of(self, trainer))

    def make_metrics(self, data: RecommenderData, stage: Stage) -> dict[str, Metric]:
        """Return CHR@K."""
        return {"chr": CategoryHitRatio(self.top_k, self._item_categories, len(self.names))}

    def count(self, ranking: Ranking) -> None:
        """Count the lists of some users."""
        self.metrics["chr"].update(ranking["recommended"])

    def values(self) -> dict[str, Tensor]:
        """Return nothing: what was counted is drawn."""
        return {}

    def end_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Keep what was counted."""
        super().end_measuring(trainer, pl_module, stage)
        if not trainer.sanity_checking:
            self._keep(
                trainer, "in the test" if stage == "test" else f"in the validation of epoch {trainer.current_epoch}"
            )

    def _keep(self, trainer: Trainer, when: str) -> None:
        features = poisonable_data_of(trainer, type(self).__name__).features
        self._is_injected = features is not None and Path(features).resolve() == self.folder.resolve()
        values = self.metrics["chr"].compute().reshape(len(self.names)).tolist()
        self._counted[self._is_injected] = _Counted(dict(zip(self.names, values, strict=True)), when)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, beside what there would be without the attack."""
        clean = clean_features(trainer)
        if trainer.is_global_zero and self._is_injected and clean is not None:
            self._counted[False] = _Counted(self._with_features(clean, pl_module, trainer), "in the test")
        super().on_test_end(trainer, pl_module)

    def _with_features(self, table: FeatureTable, model: LightningModule, trainer: Trainer) -> dict[str, float]:
        """Return CHR@K of every category if the recommender looked at other features."""
        assert isinstance(model, Recommender)
        data, (k,) = recommender_data_of(trainer, type(self).__name__), self.top_k
        categories = self._item_categories.to(model.device)
        users = tested_users(data).to(model.device)
        hits = torch.zeros(len(self.names), dtype=torch.int64, device=model.device)
        seen = data.seen_items("test").to(model.device)
        with looking_at(table, model, trainer) as other:
            for block in user_blocks(users, block_width(data.num_items)):
                recommended, _ = other.candidates(block, seen).top_k(k)
                hits = hits + category_hits(recommended, categories, len(self.names), k).squeeze(0)
        return dict(zip(self.names, (hits.double() / len(users)).tolist(), strict=True))

    def after_run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        if trainer.is_global_zero:
            from catwalk.plots.category_bars import draw_category_bars  # matplotlib would slow down the help
            from catwalk.plots.confusion import draw_confusion
            from catwalk.plots.style import save

            _, rows = read_attacked_items(self.folder, catalogue_of(self, trainer))
            summary = read_summary(self.folder)
            drawn = {
                CONFUSION_FILE: draw_confusion(
                    [row.category_before for row in rows],
                    [row.category_after for row in rows],
                    f"{summary.attack}: what the network sees in the {len(rows):,} attacked items",
                )
            }
            now, before = self._counted.get(True), self._counted.get(False)
            if now is None:
                now, before = before, None
            if now is not None:
                drawn[BARS_FILE] = draw_category_bars(
                    now.hit_ratios,
                    None if before is None else before.hit_ratios,
                    None if before is None else f"clean catalogue, {before.when}",
                    top_k=self.top_k[0],
                    source=summary.source,
                    target=summary.target,
                    title=f"CHR@{self.top_k[0]} {now.when}",
                )
            for name, figure in drawn.items():
                save(figure, self.folder / name)
                log_picture(trainer, f"attack/{name.removesuffix('.png')}", self.folder / name)
            rank_zero_info(f"Drew {' and '.join(drawn)} in {self.folder}")
        trainer.strategy.barrier("the categories are drawn")
