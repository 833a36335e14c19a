"""The stage of a study that looks at an attack's images as people would."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from catwalk.perceptual import LPIPS
from catwalk.perceptual.attacked_images import measure_attacked_images
from catwalk.perceptual.trunks import TrunkName
from catwalk.poisoning.records import DISTANCES_FILE
from catwalk.results.store import StageCache
from catwalk.shop.columns import read_table
from catwalk.study.progress import StudyProgress
from catwalk.study.specifications import modules_of
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.stage import Stage


@dataclass(frozen=True)
class PerceptualSettings:
    """How a study measures LPIPS.

    Attributes:
        net: The network under it: ``vgg``, as in the paper, ``alex`` or ``squeeze``.
        trunk: File with that network's weights, see :class:`~catwalk.perceptual.LPIPS`; null looks for them where they
            usually are.
        on_missing: Where there are none, ``error`` ends the study before it begins, and ``skip`` leaves LPIPS out.
    """

    net: TrunkName = "vgg"
    trunk: Path | None = None
    on_missing: Literal["error", "skip"] = "error"


class PerceptualStage(Stage):
    """LPIPS, SSIM and PSNR of an attack's images, read back from their files, beside the originals."""

    kind = "perceptual"

    def __init__(self, cache: StageCache, attack: AttackStage, lpips: LPIPS | None) -> None:
        super().__init__(cache)
        self.attack = attack
        self.lpips = lpips
        self.inputs = (attack,)
        known = f", {attack.known_recommender}" if attack.known else ""
        self.description = f"Looks of {attack.name}, CNN {attack.features.classifier.name}{known}"
        self.files = attack.features.files
        self.modules = modules_of(measure_attacked_images)
        self.settings = {
            "attack": attack.key,
            "lpips": None if lpips is None else {"net": lpips.net, "trunk": lpips.trunk_sha256},
        }

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Measure every image."""
        features = self.attack.features
        measured = measure_attacked_images(
            self.attack.folder,
            features.shop.catalogue,
            self.lpips,
            device=features.classifier.training.device,
            progress=progress.callback,
        )
        measured.write(folder / DISTANCES_FILE)
        return {"metrics": measured.distances.summary()}

    def value(self, name: str) -> float | None:
        """Return a metric over all images, or None where there is none."""
        value = self.record["metrics"].get(name)
        return None if value is None or math.isnan(value) else value

    def of_images(self, name: str) -> list[float]:
        """Return a metric of every image; NaN for one that has none."""
        column = read_table(self.folder / DISTANCES_FILE, ["item_id"], [name]).column(name).to_pylist()
        return [float(value or "nan") for value in column]

    @property
    def outcome(self) -> str:
        """LPIPS and SSIM, as far as they could be measured."""
        values = {name: self.value(name) for name in ("lpips", "ssim")}
        return ", ".join(f"{name.upper()} {value:.4f}" for name, value in values.items() if value is not None)
