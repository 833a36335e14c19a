"""What every attack on a network has in common: its contract, and the loop over batches that keeps it."""

import abc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catwalk.attacks.threat_model import ThreatModel
from catwalk.batching import padded_batches
from catwalk.errors import CatwalkError


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Adversarial images, and how the attack fared on each.

    Attributes:
        images: float32 ``(N, 3, H, W)`` in [0, 1], verified against the attack's threat model.
        success: bool ``(N,)``: the network takes these float images for the target category (targeted), or no longer
            for the category given (untargeted).
        iterations: int64 ``(N,)``, gradient steps taken for each image.
    """

    images: Tensor
    success: Tensor
    iterations: Tensor


class Attack(abc.ABC):
    """Crafts adversarial images against a network that takes images in [0, 1] and returns logits.

    A subclass implements :meth:`perturb`. Calling the attack wraps it in what the contract promises: the network's
    train and eval flags, running statistics and ``.grad`` are afterwards as before, the images of an item do not
    depend on the batch, and no image leaves the threat model.

    Attributes:
        threat_model: What the attack may do to an image.
        targeted: Whether ``targets`` are the categories to reach (True) or the ones to leave (False).
        seed: Seed of the random starts.
        batch_size: Images per forward pass; changes speed and memory, never the result.
        random_start: Whether images start from a random point, so that a call needs ``keys``.
    """

    random_start: bool = False

    def __init__(self, threat_model: ThreatModel, *, targeted: bool = True, seed: int = 0, batch_size: int = 64):
        if batch_size < 1:
            raise CatwalkError(f"batch_size: must be at least 1, got {batch_size!r}")
        self.threat_model = threat_model
        self.targeted = targeted
        self.seed = seed
        self.batch_size = batch_size

    @property
    def name(self) -> str:
        """Name for tables, with the budget in grey levels: ``"FGSM (ε = 4)"``."""
        epsilon = self.threat_model.epsilon
        return type(self).__name__ if epsilon is None else f"{type(self).__name__} (ε = {epsilon:g})"

    @abc.abstractmethod
    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch: the bare computation, for callers that keep the state themselves.

        Needs gradients to be enabled. Leaves the network's flags as they are and its parameters' ``.grad`` alone.

        Args:
            network: Takes images in [0, 1], returns logits ``(N, C)``.
            images: float32 ``(N, 3, H, W)`` in [0, 1]; not changed.
            targets: int64 ``(N,)``, the categories to reach (targeted) or to leave (untargeted), in 0..C-1.
            keys: int64 ``(N,)``, each item's key, from which its random start is drawn; None draws it from torch's
                global generator.

        Returns:
            ``(images, iterations)`` as in :class:`AttackResult`, the images not yet verified.
        """

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        targets: Tensor,
        *,
        keys: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> AttackResult:
        """Craft adversarial images.

        The network runs in eval mode whatever its flags. Works under ``torch.no_grad()`` and
        ``torch.inference_mode()`` as well.

        Args:
            network: Takes float32 images in [0, 1], returns logits ``(N, C)``; on the device of the images.
            images: float32 ``(N, 3, H, W)`` in [0, 1], the clean images; not changed.
            targets: int64 ``(N,)``, the categories to reach (targeted) or to leave (untargeted), in 0..C-1.
            keys: int64 ``(N,)``, each item's key. The random start depends on (``seed``, key) alone. Required by
                attacks with a random start, ignored by others.
            progress: Called after each batch with the number of images done and the number of all.

        Returns:
            One row per image, in order; the same bits for every ``batch_size``.

        Raises:
            ValueError: If a tensor has the wrong dtype, shape, range or device, or keys are missing.
            CatwalkError: If a target is no class of the network, or the network's logits are not finite.
            ThreatModelError: If an adversarial image is not allowed by the threat model.
        """
        images = images.detach()
        self._check_arguments(network, images, targets, keys)
        total, done = len(images), 0
        results: list[tuple[Tensor, Tensor, Tensor]] = []
        # Gradients must flow under an outer no_grad, and indexing makes copies that can, of inference tensors too.
        with torch.inference_mode(False), torch.enable_grad(), eval_mode(network):
            if total:
                self._check_classes(network, images, targets)
            for rows, count in padded_batches(total, self.batch_size):
                rows = rows.to(images.device)
                batch_targets = targets[rows]
                adversarial, iterations = self.perturb(
                    network, images[rows], batch_targets, None if keys is None else keys[rows]
                )
                adversarial = adversarial.detach()
                self.threat_model.verify(adversarial[:count], images[done : done + count], first=done)
                success = self._success(network, adversarial, batch_targets)
                results.append((adversarial[:count], success[:count], iterations[:count]))
                done += count
                if progress is not None:
                    progress(done, total)
            if not results:
                return AttackResult(images.clone(), targets.to(torch.bool), targets.clone())
            return AttackResult(*(torch.cat(parts) for parts in zip(*results, strict=True)))

    @torch.no_grad()
    def _success(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        hits = network(images).argmax(dim=1) == targets
        return hits if self.targeted else ~hits

    def _check_arguments(self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None) -> None:
        if images.dtype != torch.float32 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images: must be float32 of shape (N, 3, H, W), got {images.dtype} of shape {tuple(images.shape)}"
            )
        if images.numel():
            low, high = (float(bound) for bound in images.aminmax())
            if not (low >= 0 and high <= 1):  # negated, so that NaN fails as well
                raise ValueError(f"images: values must be in [0, 1], got {low:g} to {high:g}")
        if keys is None and self.random_start:
            raise ValueError(
                f"keys: {type(self).__name__} starts from a random point, which it draws from (seed, key); "
                "give each image's item key, or set random_start to False"
            )
        for argument, tensor in (("targets", targets), ("keys", keys)):
            if tensor is None:
                continue
            if tensor.dtype != torch.int64 or tensor.shape != images.shape[:1]:
                raise ValueError(
                    f"{argument}: must be int64 of shape ({len(images)},), one per image, "
                    f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
                )
            if tensor.device != images.device:
                raise ValueError(f"{argument}: must be on the images' device, {images.device}, got {tensor.device}")
        parameter = next(network.parameters(), None)
        if parameter is not None and parameter.device != images.device:
            raise ValueError(f"network: must be on the images' device, {images.device}, got {parameter.device}")

    @torch.no_grad()
    def _check_classes(self, network: nn.Module, images: Tensor, targets: Tensor) -> None:
        """Check targets against the classes before a loss does: a GPU's own check cannot be recovered from."""
        logits = network(images[:1].clone())
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"network: must return logits of shape (N, C), got {found} for one image")
        if not bool(logits.isfinite().all()):
            raise CatwalkError("network: its logits are not finite on the first image; check its weights")
        num_classes = logits.shape[1]
        offenders = ((targets < 0) | (targets >= num_classes)).nonzero()
        if len(offenders):
            position = int(offenders[0])
            raise CatwalkError(
                f"targets: must be in 0..{num_classes - 1}, for the network has {num_classes} classes; "
                f"got {int(targets[position])} for image {position}"
            )


def cross_entropy_gradient(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the cross-entropy with respect to the images, and no other.

    Args:
        network: Takes images, returns logits ``(N, C)`` of any floating dtype.
        images: float32 ``(N, 3, H, W)``.
        targets: int64 ``(N,)`` in 0..C-1.

    Returns:
        float32 ``(N, 3, H, W)``. Each row is the gradient of its own image's loss.
    """
    images = images.detach().requires_grad_()
    # Summed: a mean divides gradients by N, which underflow where a network computes in float16.
    loss = F.cross_entropy(network(images).float(), targets, reduction="sum")
    return torch.autograd.grad(loss, images)[0]


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into eval mode and give each its own flag back afterwards.

    Sets the flags themselves: ``train()`` and ``eval()`` reach all submodules alike, and may be overridden.
    """
    flags = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training
