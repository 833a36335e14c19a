"""Fast adversarial training of the CNN: one long step from a random start, watched for catastrophic overfitting."""

from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from catwalk.attacks import PGD
from catwalk.attacks.threat_model import GreyLevels, grey_levels
from catwalk.errors import CatwalkError
from catwalk.networks.frozen import eval_mode
from lightning_modules.adversarial_cnn import DefendedClassifier

GUARD = "guard"
"""Entry of a checkpoint: the guard's memory."""


class FastAdversarialClassifier(DefendedClassifier):
    """A CNN trained on adversarial images of a single step from a random start (fast adversarial training).

    ``δ ~ U(-ε, ε)``, then ``δ ← clamp(δ + 1.25 ε·sign ∇CE, -ε, ε)`` (Wong, Rice and Kolter, "Fast is better than free:
    Revisiting adversarial training", ICLR 2020, Algorithm 3). A step costs 5F, with F the cost of a forward pass.

    Training on single steps can fail within a few hundred of them: the network learns to mask its gradient, withstands
    the single step and nothing else (*catastrophic overfitting*). So a guard attacks the current batch by PGD every
    now and then. When the accuracy on it is more than ``max_drop`` below its best twice in a row (once may be a bad
    batch), the training ends with the weights of the last check that was passed.

    The authors' code (``fast_adversarial``, CIFAR10) departs from that, and this class from it:

    - It attacks in train mode: BatchNorm normalises by the batch, and every pass moves its running statistics. Here the
      network is in eval mode for the attack, as in AT: what is attacked is the network as it will be used, and the
      statistics move once a step.
    - It clips the random start and the step to [0, 1], as here; Algorithm 3 clips neither.
    - Its guard is an option (``--early-stop``). Once an epoch it takes five steps of 2 levels on the epoch's first
      batch, in train mode, compares with the check before and ends at the first drop. Here the guard is on, takes ten
      steps of ε/4 on the batch at hand, in eval mode, every ``check_every_n_steps`` steps, compares with the best so
      far and ends at the second drop in a row. Both go back to the weights of the last check that was passed.
    - Learning rate, precision and augmentation are those of :class:`ProductClassifier`, not its own.

    Args:
        epsilon: Radius ε of the perturbations in grey levels, above 0 and at most 255; ``"8/255"`` are 8.
        step: Length of the step in grey levels, above 0; None means ``1.25 * epsilon``.
        check_every_n_steps: Steps from one check to the next; 0 for no guard.
        check_iterations: Steps of ``epsilon / 4`` that PGD takes in a check, at least 1.
        max_drop: Drop of the accuracy under PGD, in (0, 1], that the guard tolerates; 0.2 in Wong et al.
        **settings: As in :class:`ProductClassifier`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        check_every_n_steps: int = 200,
        check_iterations: int = 10,
        max_drop: float = 0.2,
        **settings: Any,
    ) -> None:
        epsilon, step = grey_levels(epsilon), None if step is None else grey_levels(step, "step")
        super().__init__(epsilon, **settings)
        if check_every_n_steps < 0:
            raise CatwalkError(f"check_every_n_steps: must be at least 0 (no guard), got {check_every_n_steps}")
        if not 0 < max_drop <= 1:
            raise CatwalkError(f"max_drop: must be an accuracy above 0 and at most 1, got {max_drop}")
        self.attack = PGD(epsilon, 1.25 * epsilon if step is None else step, iterations=1, targeted=False)
        self.check = PGD(epsilon, epsilon / 4, check_iterations, targeted=False)
        self._batch: tuple[Tensor, Tensor]
        self._accuracy: float | None = None
        self._has_failed = self._has_stopped = False
        self._best_accuracy = 0.0
        self._passed: dict[str, Tensor] | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of adversarial images."""
        self._batch = batch
        return self.loss_under(self.attack, *batch)

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """Take a step and check the weights now and then, before anyone saves them."""
        super().optimizer_step(*arguments, **settings)
        every = self.hparams["check_every_n_steps"]
        if every and (self.global_step + 1) % every == 0:  # this step is counted later
            self._check_weights(every)

    def _check_weights(self, every: int) -> None:
        images, categories = self._batch
        with eval_mode(self.network), self.trainer.precision_plugin.forward_context():
            adversarial, _ = self.check.perturb(self.network, images, categories, None)
            with torch.no_grad():
                hits = (self.network(adversarial).argmax(dim=1) == categories).float().mean()
        # The mean over all processes, so that they decide alike.
        accuracy = self._accuracy = float(self.trainer.strategy.reduce(hits, reduce_op="mean"))
        if accuracy >= self._best_accuracy - self.hparams["max_drop"]:
            self._best_accuracy = max(self._best_accuracy, accuracy)
            self._passed = {name: value.clone() for name, value in self.network.state_dict().items()}
            self._has_failed = False
            return
        if not self._has_failed:
            self._has_failed = True
            return
        assert self._passed is not None  # the first check cannot fail
        self.network.load_state_dict(self._passed)
        self.trainer.should_stop = self._has_stopped = True
        step = self.global_step + 1
        rank_zero_warn(
            f"catastrophic overfitting: after step {step} the accuracy under PGD has fallen from "
            f"{self._best_accuracy:.1%} to {accuracy:.1%}; the training ends here, with the weights of step "
            f"{step - 2 * every}. A lower epsilon, learning rate or step may help; so does AT"
        )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the last check."""
        if self._accuracy is not None:
            self.log("train/pgd_accuracy", self._accuracy, prog_bar=True)
            self._accuracy = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the guard remembers."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[GUARD] = {
            "best_accuracy": self._best_accuracy,
            "passed": self._passed,
            "has_failed": self._has_failed,
            "has_stopped": self._has_stopped,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what the guard remembers."""
        super().on_load_checkpoint(checkpoint)
        guard = checkpoint.get(GUARD)
        if guard is not None:
            self._best_accuracy, self._passed = guard["best_accuracy"], guard["passed"]
            self._has_failed, self._has_stopped = guard["has_failed"], guard["has_stopped"]
            if self._has_stopped and self._trainer is not None and self.trainer.training:
                self.trainer.should_stop = True
