"""Measures how an attack's images look beside their originals."""

from pathlib import Path
from typing import Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console

from callbacks.both_stages import FramingCallback
from callbacks.observed_attack import attack_folder, catalogue_of
from catwalk.errors import CatwalkError
from catwalk.perceptual import LPIPS, load_lpips
from catwalk.perceptual.attacked_images import AttackedImages, measure_attacked_images
from catwalk.perceptual.trunks import TrunkName
from catwalk.poisoning.records import DISTANCES_FILE
from catwalk.terminal.progress import Progress


class PerceptualDistance(FramingCallback):
    """Logs ``attack/lpips``, ``attack/ssim``, ``attack/psnr`` and more of a folder of adversarial images.

    They are measured on the files, before a recommender is trained (``fit``) or ranks (``test``): those that
    :class:`~callbacks.InjectPoisonedImages` writes in the same run, wherever it stands among the callbacks, or those of
    an earlier one. ``perceptual_distances.csv`` in that folder gets a row per image. Nothing of the model, its data or
    its random numbers is touched. One process measures.

    Args:
        attack: Folder of an earlier attack; null for the attack of the run.
        net: Network of LPIPS: ``vgg``, ``alex`` or ``squeeze``.
        trunk: File with its weights, see :class:`~catwalk.perceptual.LPIPS`; null looks for them where they usually
            are.
        on_missing: Where there are none, ``error`` ends the run before it begins, and ``skip`` leaves LPIPS out.
        batch_size: Images measured at once; does not change the metrics.
    """

    def __init__(
        self,
        attack: Path | None = None,
        net: TrunkName = "vgg",
        trunk: Path | None = None,
        on_missing: Literal["error", "skip"] = "error",
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise CatwalkError(f"PerceptualDistance.batch_size: must be at least 1, got {batch_size}")
        self.attack = None if attack is None else Path(attack)
        self.folder = Path()
        self.net = net
        self.trunk = trunk
        self.on_missing = on_missing
        self.batch_size = batch_size
        self._lpips: LPIPS | None = None
        self._cause: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load LPIPS, so that nothing has begun if it cannot be had."""
        self.folder = attack_folder(self, trainer, self.attack)
        catalogue_of(self, trainer)
        if trainer.is_global_zero:
            self._lpips, self._cause = load_lpips(self.net, self.trunk, self.on_missing)
            if self._cause is not None:
                rank_zero_warn(f"LPIPS is left out: {self._cause}")

    def before_run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        if trainer.is_global_zero:
            measured = self._measure(trainer)
            measured.write(self.folder / DISTANCES_FILE)
            distances = measured.distances.summary()
            rank_zero_info(
                f"{self.folder}: {', '.join(f'{name} {value:.4g}' for name, value in distances.items())} of "
                f"{len(measured.item_ids)} images"
            )
            measure = {"net": self.net, "trunk_sha256": None if self._lpips is None else self._lpips.trunk_sha256}
            for logger in trainer.loggers:
                logger.log_hyperparams({"lpips": {**measure, "left_out": self._cause}})
                logger.log_metrics({f"attack/{name}": value for name, value in distances.items()})
        trainer.strategy.barrier("images are measured")

    def _measure(self, trainer: Trainer) -> AttackedImages:
        console = Console()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("Measuring adversarial images")
            return measure_attacked_images(
                self.folder,
                catalogue_of(self, trainer),
                self._lpips,
                batch_size=self.batch_size,
                device=trainer.strategy.root_device,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of LPIPS, which may be on a GPU."""
        self._lpips = None
