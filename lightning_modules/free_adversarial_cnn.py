"""Free adversarial training (FAT) of the CNN: one backward pass serves the weights and the perturbation."""

from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from catwalk.attacks.threat_model import GreyLevels, grey_levels
from catwalk.errors import CatwalkError
from lightning_modules.adversarial_cnn import DefendedClassifier

PERTURBATION = "perturbation"
"""Entry of a checkpoint: the perturbation of every process, float32 ``(processes, N, 3, H, W)``."""


class FreeAdversarialClassifier(DefendedClassifier):
    """A CNN trained on perturbed images whose perturbation costs nothing (free adversarial training, FAT in the paper).

    A perturbation δ of a whole batch starts at 0 and lives as long as the training. Every batch is replayed m times;
    each replay takes one forward and one backward pass at ``clip(x + δ)``, which give a step of the weights and
    ``δ ← clamp(δ + ε·sign ∇CE, -ε, ε)`` (Shafahi et al., "Adversarial Training for Free!", NeurIPS 2019, Algorithm 1).
    The gradient is the one at the perturbed image, as in Algorithm 1, not the one through the clipping: that would be 0
    for ever where a white or black pixel has been pushed out of range.

    A replay costs what a traditional step does. So that the training does as well, ``trainer.max_epochs`` counts
    *traditional* epochs, and ``⌈max_epochs / m⌉`` are run; whatever else counts epochs, such as ``min_epochs``, counts
    those. ``max_steps``, ``global_step`` and the learning rate schedule count replays.

    Args:
        epsilon: Radius ε of the perturbations and length of their steps, in grey levels, above 0 and at most 255;
            ``"8/255"`` are 8.
        replays: Number m of times that each batch is used in a row, at least 1.
        **settings: As in :class:`ProductClassifier`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(self, epsilon: GreyLevels = 8.0, replays: int = 4, **settings: Any) -> None:
        epsilon = grey_levels(epsilon)
        super().__init__(epsilon, **settings)
        if replays < 1:
            raise CatwalkError(f"replays: must be at least 1, got {replays}")
        self.automatic_optimization = False
        self._max_epochs: int | None = None
        # Neither a parameter nor a buffer: processes would wait for its gradient, or be given the first one's.
        self._perturbation: Tensor | None = None

    def setup(self, stage: str) -> None:
        """Divide the Trainer's epochs by the number of replays."""
        super().setup(stage)
        loop, replays = self.trainer.fit_loop, self.hparams["replays"]
        if stage == "fit" and loop.max_epochs is not None and loop.max_epochs > 0:
            self._max_epochs = loop.max_epochs
            loop.max_epochs = -(-loop.max_epochs // replays)
            rank_zero_info(f"{self._max_epochs} epochs are {loop.max_epochs} with {replays} replays of every batch")

    def teardown(self, stage: str) -> None:
        """Give the Trainer its epochs back."""
        super().teardown(stage)
        if self._max_epochs is not None:
            self.trainer.fit_loop.max_epochs, self._max_epochs = self._max_epochs, None

    def total_steps(self) -> int:
        """Return the number of replays of the whole training."""
        batches, max_steps = super().total_steps(), self.trainer.max_steps
        replays = batches * self.hparams["replays"]
        return replays if max_steps == -1 else min(replays, max_steps)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Replay a batch."""
        images, categories = batch
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        perturbation = self._perturbation_of(images)
        radius = self.hparams["epsilon"] / 255
        for _ in range(self.hparams["replays"]):
            if self.global_step == self.trainer.max_steps:
                break
            perturbed = (images + perturbation).clamp_(0, 1).requires_grad_()
            loss = self.classification_loss(perturbed, categories)
            optimizer.zero_grad()
            self.manual_backward(loss)
            gradient = perturbed.grad
            assert gradient is not None
            scale = self._loss_scale()
            optimizer.step()
            scheduler.step()
            # Where float16 has overflowed, the weights have not moved, and the gradient says nothing of the images.
            if self._loss_scale() >= scale:
                perturbation.add_(gradient.sign(), alpha=radius).clamp_(-radius, radius)
            self.log("train/loss", loss.detach(), prog_bar=True)

    def _perturbation_of(self, images: Tensor) -> Tensor:
        """Return the rows of the perturbation for a batch of images, which change what is kept when they are changed.

        Raises:
            CatwalkError: If the training goes on with images of another size.
        """
        kept = images.new_zeros((0, *images.shape[1:])) if self._perturbation is None else self._perturbation
        if kept.shape[1:] != images.shape[1:]:
            raise CatwalkError(
                f"free adversarial training has one perturbation for all batches: images must stay at "
                f"{tuple(kept.shape[1:])} (channels, height, width), got {tuple(images.shape[1:])}"
            )
        fresh = images.new_zeros((max(len(images) - len(kept), 0), *images.shape[1:]))
        self._perturbation = torch.cat([kept.to(images), fresh]) if len(fresh) else kept.to(images)
        return self._perturbation[: len(images)]

    def _loss_scale(self) -> float:
        """Return the factor by which losses are multiplied in float16; it shrinks with every overflow."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else scaler.get_scale()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the perturbations of all processes."""
        super().on_save_checkpoint(checkpoint)
        if self._perturbation is None:
            return
        mine = self._perturbation.to(self.device)
        rows = int(self.trainer.strategy.reduce(torch.tensor(len(mine), device=mine.device), reduce_op="max"))
        # A row that was never used is 0.
        padded = torch.cat([mine, mine.new_zeros((rows - len(mine), *mine.shape[1:]))])
        gathered = self.all_gather(padded)
        assert isinstance(gathered, Tensor)
        checkpoint[PERTURBATION] = gathered.view(-1, *padded.shape).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take this process's perturbation back."""
        super().on_load_checkpoint(checkpoint)
        if PERTURBATION not in checkpoint or self._trainer is None or not self.trainer.training:
            return
        processes = len(checkpoint[PERTURBATION])
        if processes != self.trainer.world_size:
            rank_zero_warn(
                f"the checkpoint holds the perturbations of {processes} processes and {self.trainer.world_size} go on: "
                "the training goes on from there, but not as it would have"
            )
        self._perturbation = checkpoint[PERTURBATION][self.global_rank % processes].clone()
