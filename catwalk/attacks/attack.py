"""Base of all attacks on a network: the contract, and the loop over batches that keeps it."""

import abc
import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypedDict, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catwalk.attacks.masks import Mask
from catwalk.attacks.threat_model import Distance, GreyLevels, Norm, ThreatModel, below_half_a_level, grey_levels
from catwalk.errors import CatwalkError
from catwalk.limits import check_seed
from catwalk.networks.batching import ROW_MULTIPLE, map_batches, padded_batches
from catwalk.networks.device import slow_in_bfloat16
from catwalk.networks.frozen import FrozenNetwork, Precision, eval_mode, exact_convolutions, frozen

Knowledge = Literal["network", "network and detector", "network and purchases", "network and recommender"]
Access = Literal["nothing", "gradients", "scores", "decisions", "lists"]


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Adversarial images, and how the attack fared on each.

    Attributes:
        images: float32 ``(N, 3, H, W)`` in [0, 1], verified against the attack's threat model.
        success: bool ``(N,)``: what the attack wants of an image has come true for these float images, by the network
            in float32.
        iterations: int64 ``(N,)``, what each image cost: gradient steps, or queries of an attack that has no gradients.
        perturbation: float32 ``(3, H, W)``, what an attack has added to all images alike; None where there is no such.
    """

    images: Tensor
    success: Tensor
    iterations: Tensor
    perturbation: Tensor | None = None


@dataclass(frozen=True, eq=False)
class AttackContext:
    """A catalogue, as an attack on some of its items may know it.

    Attributes:
        items: int64 ``(n,)``, the items to attack.
        item_ids: The shop's id of each of the N items.
        category: The category to reach, or to leave by an attack that is not targeted.
        category_names: Names of the C categories.
        features: float32 ``(N, D)``, of the clean images.
        categories: int64 ``(N,)``, what the network sees in the clean images.
        purchases: int64 ``(N,)``, how often each item was bought in the recommenders' training data; None if that is
            not known.
        images_of: Returns the clean images of items, for their numbers int64 ``(m,)``: float32 ``(3, H, W)`` in [0, 1]
            each; None if they are not at hand.
        declared: The category that the shop lists each item under, int64 ``(N,)`` by the network's numbers, -1 where
            the network does not tell it; None if that is not known.
        keys: int64 ``(N,)``, each item's key; None if that is not known.
    """

    items: Tensor
    item_ids: Sequence[str]
    category: int
    category_names: Sequence[str]
    features: Tensor
    categories: Tensor
    purchases: Tensor | None
    images_of: Callable[[Tensor], list[Tensor]] | None = None
    declared: Tensor | None = None
    keys: Tensor | None = None


class AttackSettings(TypedDict, total=False):
    """The arguments that every attack hands on to :class:`Attack`: where it may change images, and how it computes."""

    mask: Mask | None
    batch_size: int
    precision: Precision
    compiled: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """Some of the images of a call, as an attack sees them.

    Attributes:
        network: Takes coordinates of these images, one row for each, and returns logits; it is shown the clean images
            outside of a mask's region.
        threat_model: With the region of these images.
        images: float32 ``(n, 3, H, W)``, coordinates of the clean images.
        targets: What to aim at, a row for each.
        keys: int64 ``(n,)``, each item's key; None where the call was given none.
        count: How many of the rows are images of the call; the others pad the batch.
    """

    network: nn.Module
    threat_model: ThreatModel
    images: Tensor
    targets: Tensor
    keys: Tensor | None
    count: int


class MaskedNetwork(nn.Module):
    """What an attack sees of a network where it may change images within a region alone.

    Args:
        network: The network in its quickest form.
        threat_model: With the region of a batch of images.
        clean: Coordinates of these images.
    """

    def __init__(self, network: FrozenNetwork, threat_model: ThreatModel, clean: Tensor) -> None:
        super().__init__()
        self._network = network
        self._threat_model = threat_model
        self._clean = clean
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images, one for each of the batch, with the clean images outside of their regions."""
        return cast(Tensor, self._network(self._composed(images)))

    def features(self, images: Tensor) -> Tensor:
        """Return the features of such images."""
        return self._network.features(self._composed(images))

    def _composed(self, images: Tensor) -> Tensor:
        if len(images) != len(self._clean):
            raise CatwalkError(
                f"mask: the attack asks the network about {len(images)} images at once, and {len(self._clean)} were "
                "given to it, so that nobody knows which region each has; use it without a mask, or let it ask about "
                "all rows of its batch in their order"
            )
        return self._threat_model.compose(images, self._clean.to(images.dtype))


class Attack(abc.ABC):
    """Crafts adversarial images against a network that takes images in [0, 1] and returns logits.

    A subclass implements :meth:`perturb`. Calling the attack wraps it in what the contract promises: the network's
    train and eval flags, running statistics and ``.grad`` are afterwards as before, the images of an item do not
    depend on the batch, and no image leaves the threat model. Meanwhile the network runs in its quickest form, see
    :func:`~catwalk.networks.frozen.frozen`; whether an attack has succeeded is asked of the network as it is.

    Args:
        norm: Distance between images.
        epsilon: Budget in grey levels, a number or text such as ``"8/255"``, which are 8, or for ``"l0"`` in pixels;
            None for an attack that has none.
        targeted: Whether ``targets`` are the categories to reach (True) or the ones to leave (False).
        random_start: Whether images start from a random point or are otherwise left to chance, so that a call needs
            ``keys``.
        seed: Seed of the random starts.
        mask: Where an image may change (:mod:`catwalk.attacks.masks`); None means everywhere.
        batch_size: Images per forward pass, at least 1; changes speed and memory, never the result.
        precision: ``"32"`` is exact float32, on GPUs as well; ``"tf32"`` lets GPUs round in convolutions, as PyTorch
            does by default; ``"bf16"`` lets the network compute in bfloat16 inside, which on CPUs without
            instructions for it is slower. Images and perturbations stay float32.
        compiled: Whether to compile the network (with CUDA graphs on a GPU), which takes up to a minute at first.

    Attributes:
        threat_model: What the attack may do to an image. May be replaced, by
            ``dataclasses.replace(attack.threat_model, space="normalised", clip=False)`` for one.
    """

    knowledge: Knowledge = "network"
    """What the attacker must know, or be able to ask."""

    access: Access = "gradients"
    """How much the attacker sees of that: nothing; gradients, and with them all parameters; the scores that the network
    gives to all categories; its decisions, the category that it names, alone; or the lists that are shown to users."""

    norms: tuple[Distance, ...] = get_args(Norm)
    """In which norms its budget can be stated."""

    is_joint: bool = False
    """Whether what comes of an image depends on the other images of the call, so that processes cannot share them."""

    takes_masks: bool = True
    """Whether it can be held to a region of each image: one that asks the network about other rows than those of its
    batch, in their order, cannot."""

    one_by_one: bool = False
    """Whether each image goes through the network by itself, whatever the call says."""

    def __init__(
        self,
        norm: Distance,
        epsilon: GreyLevels | None,
        *,
        targeted: bool = True,
        random_start: bool = False,
        seed: int = 0,
        mask: Mask | None = None,
        batch_size: int = 64,
        precision: Precision = "32",
        compiled: bool = False,
    ) -> None:
        if batch_size < 1:
            raise CatwalkError(f"batch_size: must be at least 1, got {batch_size!r}")
        if precision not in get_args(Precision):
            raise CatwalkError(f"precision: must be one of {', '.join(get_args(Precision))}, got {precision!r}")
        check_seed(seed)
        if mask is not None and not self.takes_masks:
            raise CatwalkError(
                f"mask: {type(self).__name__} asks the network about several points of an image at once, and cannot be "
                "held to a region; leave mask out, or take PGD or SparseRS"
            )
        if norm not in self.norms:
            raise CatwalkError(f"norm: must be one of {', '.join(self.norms)}, got {norm!r}")
        self.threat_model = ThreatModel(norm, None if epsilon is None else grey_levels(epsilon), mask=mask)
        self.targeted = targeted
        self.random_start = random_start
        self.seed = seed
        self.batch_size = batch_size
        self.precision: Precision = precision
        self.compiled = compiled

    @property
    def title(self) -> str:
        """Name of the method, for tables: the class's name where a subclass does not say otherwise."""
        return type(self).__name__

    @property
    def other_modules(self) -> tuple[str, ...]:
        """Names of modules whose code makes its images besides those of its class: of stored results they are part."""
        return ()

    @property
    def name(self) -> str:
        """Name for tables, with the budget in grey levels, or pixels, and the mask.

        Such as ``"FGSM (ε = 4)"``, ``"PGD-L2 (ε = 255)"``, ``"JSMA (20 pixels)"``, ``"PGD (ε = 8, background)"``.
        """
        ball = self.threat_model
        limits = []
        if ball.epsilon is not None:
            limits.append(f"{ball.epsilon:g} pixels" if ball.norm == "l0" else f"ε = {ball.epsilon:g}")
        if ball.mask is not None:
            limits.append(ball.mask.name)
        norm = "-L2" if ball.norm == "l2" and ball.epsilon is not None else ""
        return f"{self.title}{norm} ({', '.join(limits)})" if limits else self.title

    def check_eight_bit(self) -> None:
        """Raise a CatwalkError if ε is above 0, and yet so small that no 8-bit image would change."""
        reason = below_half_a_level(self.threat_model.epsilon)
        if reason is not None:
            raise CatwalkError(f"{type(self).__name__}.epsilon: {reason}")

    def purpose(self, source: str, target: str | None) -> str:
        """Return what the attack is for, as half a sentence: ``"make the CNN see Sneaker"``."""
        return f"make the CNN see {target}" if self.targeted else f"make the CNN see anything but {source}"

    def targets_of(self, scene: AttackContext) -> Tensor:
        """Return the ``targets`` to call the attack with for the items of a scene, one for each.

        Raises:
            CatwalkError: If the scene has not what the attack needs.
        """
        return torch.full_like(scene.items, scene.category)

    @abc.abstractmethod
    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch: the bare computation, for callers that keep the state themselves.

        Needs gradients to be enabled. Leaves the network's flags as they are and its parameters' ``.grad`` alone.

        Args:
            network: Takes coordinates of images (:class:`ThreatModel`; by default images in [0, 1]), returns logits
                ``(N, C)``.
            images: float32 ``(N, 3, H, W)``, coordinates of the clean images; not changed.
            targets: What to aim at, one row for each image, such as int64 ``(N,)`` categories in 0..C-1.
            keys: int64 ``(N,)``, each item's key, from which its random start is drawn; None draws it from torch's
                global generator.

        Returns:
            ``(images, iterations)`` as in :class:`AttackResult`, the images as coordinates and not yet verified.
        """

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        targets: Tensor,
        *,
        keys: Tensor | None = None,
        alone: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> AttackResult:
        """Craft adversarial images.

        The network runs in eval mode whatever its flags. Works under ``torch.no_grad()`` and
        ``torch.inference_mode()`` as well.

        Args:
            network: Takes float32 images in [0, 1], returns logits ``(N, C)``; on the device of the images.
            images: float32 ``(N, 3, H, W)`` in [0, 1], the clean images; not changed.
            targets: int64 ``(N,)``, the categories to reach (targeted) or to leave (untargeted), in 0..C-1, unless the
                attack says otherwise.
            keys: int64 ``(N,)``, each item's key. The random start depends on (``seed``, key) alone. Required by
                attacks with a random start, ignored by others.
            alone: Whether every image goes through the network by itself, instead of in batches padded to 16: for a few
                images of a size of their own (:func:`~catwalk.networks.batching.size_buckets`).
            progress: Called after each batch with the number of images done and the number of all.

        Returns:
            One row per image, in order; the same bits for every ``batch_size``.

        Raises:
            ValueError: If a tensor has the wrong dtype, shape, range or device, or keys are missing.
            CatwalkError: If a target is no class of the network, or the network's logits are not finite.
            ThreatModelError: If an adversarial image is not allowed by the threat model.
        """
        reason = below_half_a_level(self.threat_model.epsilon)
        if reason is not None:
            warnings.warn(f"{type(self).__name__}.epsilon: {reason}", stacklevel=2)
        notice = slow_in_bfloat16(images.device) if self.precision == "bf16" else None
        if notice is not None:
            warnings.warn(f"{type(self).__name__}.precision: {notice}; leave it at 32", stacklevel=2)
        images = images.detach()
        self._check_arguments(network, images, targets, keys)
        # Gradients must flow under an outer no_grad, and indexing makes copies that can, of inference tensors too.
        no_autocast = torch.autocast(images.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), no_autocast:
            if not len(images):
                none = torch.zeros(0, dtype=torch.int64, device=images.device)
                return AttackResult(images.clone(), none.bool(), none)
            with eval_mode(network):
                self.check_targets(network, images[:1].clone(), targets)
            adversarial, iterations, perturbation = self._craft(network, images, targets, keys, alone, progress)
            with eval_mode(network), torch.no_grad(), exact_convolutions():
                rows = adversarial, images, targets
                succeeds = partial(self.succeeds, network)
                success = map_batches(succeeds, *rows, batch_size=self.batch_size, alone=alone)
            adversarial = self.final_images(adversarial, images, success)
        self.threat_model.of(network).for_images(images, keys).verify(adversarial, images)
        return AttackResult(adversarial, success, iterations, perturbation)

    def _craft(
        self,
        network: nn.Module,
        images: Tensor,
        targets: Tensor,
        keys: Tensor | None,
        alone: bool,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return adversarial images, iterations and what all share, crafted on the network's quickest form."""
        inside = copy.copy(self)
        ball = inside.threat_model = self.threat_model.of(network).for_images(images, keys)
        scale = ball.scale(images)
        done, parts = 0, []
        with frozen(network, images, precision=self.precision, scale=scale, compiled=self.compiled) as view:

            def batches(order: Tensor | None) -> Iterator[Batch]:
                # With a mask the fewest there are: nobody would know the regions where rows have left a larger batch.
                size = self.batch_size if ball.mask is None else ROW_MULTIPLE
                for rows, count in padded_batches(len(images), size, alone or self.one_by_one):
                    rows = rows.to(images.device)
                    if order is not None:
                        rows = order[rows]
                    clean = images[rows] if scale is None else images[rows] / scale
                    own = ball if ball.region is None else replace(ball, region=ball.region[rows])
                    seen = view if ball.mask is None else MaskedNetwork(view, own, clean)
                    yield Batch(seen, own, clean, targets[rows], None if keys is None else keys[rows], count)

            order = None if keys is None else keys.argsort(stable=True)
            shared = inside.learn(partial(batches, order))
            for batch in batches(None):
                inside.threat_model = batch.threat_model
                returned = inside.perturb(batch.network, batch.images, batch.targets, batch.keys)
                if not (isinstance(returned, tuple) and len(returned) == 2):
                    raise CatwalkError(
                        f"{type(self).__name__}.perturb returns a {type(returned).__name__}: return two tensors, the "
                        "adversarial images and the number of steps of each"
                    )
                adversarial, iterations = returned
                parts.append((adversarial[: batch.count].detach(), iterations[: batch.count]))
                done += batch.count
                if progress is not None:
                    progress(done, len(images))
        adversarial, iterations = (torch.cat(part) for part in zip(*parts, strict=True))
        if scale is not None or not self.threat_model.clip:
            adversarial = (adversarial if scale is None else adversarial * scale).clamp(0, 1)
        if shared is not None and scale is not None:
            shared = shared * scale[0]
        return ball.restore(adversarial, images), iterations, shared

    def learn(self, batches: Callable[[], Iterator[Batch]]) -> Tensor | None:
        """Learn what is to be known of all images of a call before :meth:`perturb` is given the first batch.

        For attacks whose images depend on each other, which set :attr:`is_joint`; it may keep what it learns on itself.

        Args:
            batches: Gives the batches of all images, as often as it is called. They are in the order of the keys, and
                their sizes are multiples of :data:`~catwalk.networks.batching.ROW_MULTIPLE`, or 1, so that a sum need
                depend neither on the order of the images nor on ``batch_size``.

        Returns:
            float32 ``(3, H, W)``, what is added to the coordinates of all images alike; None where there is no such.
        """
        return None

    def succeeds(self, network: nn.Module, images: Tensor, clean: Tensor, targets: Tensor) -> Tensor:
        """Return whether what the attack wants of each image has come true, bool ``(N,)``.

        Args:
            network: As it is, in eval mode.
            images: float32 ``(N, 3, H, W)`` in [0, 1], the adversarial images.
            clean: Like ``images``, those before the attack.
            targets: As the attack was given.
        """
        hits = network(images).argmax(dim=1) == targets
        return hits if self.targeted else ~hits

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return how often each image went through the network and back, for what it cost: once a gradient step each.

        What asks whether the attack has succeeded does not count.

        Args:
            iterations: int64 ``(N,)``, as in :class:`AttackResult`.

        Returns:
            ``(forwards, backwards)``, int64 ``(N,)`` each; the same whatever the batches.
        """
        return iterations, iterations

    def queries_of(self, iterations: Tensor) -> Tensor | None:
        """Return how often the system under attack was asked about each image; None for an attack by gradients.

        Args:
            iterations: int64 ``(N,)``, as in :class:`AttackResult`.
        """
        return None if self.access == "gradients" else iterations

    def final_images(self, images: Tensor, clean: Tensor, success: Tensor) -> Tensor:
        """Return what to hand out, of adversarial images, the clean ones and whether they succeed: the adversarial."""
        return images

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
                f"keys: {type(self).__name__} starts from a random point or draws others, by (seed, key); give each "
                "image's item key, or set random_start to False where the attack has it"
            )
        self._check_layout_of_targets(images, targets)
        if keys is not None:
            check_one_per_image("keys", keys, images)
        for argument, tensor in (("targets", targets), ("keys", keys)):
            if tensor is not None and tensor.device != images.device:
                raise ValueError(f"{argument}: must be on the images' device, {images.device}, got {tensor.device}")
        parameter = next(network.parameters(), None)
        if parameter is not None and parameter.device != images.device:
            raise ValueError(f"network: must be on the images' device, {images.device}, got {parameter.device}")

    def _check_layout_of_targets(self, images: Tensor, targets: Tensor) -> None:
        """Raise a ValueError unless targets have the dtype and the shape that the attack takes."""
        check_one_per_image("targets", targets, images)

    @torch.no_grad()
    def check_targets(self, network: nn.Module, image: Tensor, targets: Tensor) -> None:
        """Check targets before a loss does: a GPU's own check cannot be recovered from.

        Args:
            network: In eval mode.
            image: float32 ``(1, 3, H, W)``, some image.
            targets: As the attack was given.

        Raises:
            CatwalkError: If a target does not exist, or the network's logits are not finite.
            ValueError: If the network returns something else than logits.
        """
        check_numbers("targets", targets, logits_of(network, image).shape[1], "for the network has {} classes")


def check_one_per_image(argument: str, tensor: Tensor, images: Tensor) -> None:
    """Raise a ValueError unless a tensor is int64 ``(N,)`` for N images."""
    if tensor.dtype != torch.int64 or tensor.shape != images.shape[:1]:
        raise ValueError(
            f"{argument}: must be int64 of shape ({len(images)},), one per image, "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)}"
        )


def check_numbers(argument: str, numbers: Tensor, count: int, reason: str) -> None:
    """Raise a CatwalkError unless numbers, int64 ``(N,)``, are in ``0..count-1``; ``{}`` in the reason is the count."""
    offenders = ((numbers < 0) | (numbers >= count)).nonzero()
    if len(offenders):
        position = int(offenders[0])
        raise CatwalkError(
            f"{argument}: must be in 0..{count - 1}, {reason.format(count)}; got {int(numbers[position])} for image "
            f"{position}"
        )


def logits_of(network: nn.Module, image: Tensor) -> Tensor:
    """Return a network's logits ``(1, C)`` for an image ``(1, 3, H, W)``.

    Raises:
        CatwalkError: If they are not finite.
        ValueError: If they are no logits.
    """
    logits = network(image)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"network: must return logits of shape (N, C), got {found} for one image")
    if not bool(logits.isfinite().all()):
        raise CatwalkError("network: its logits are not finite on the first image; check its weights")
    return logits


def check_steps(iterations: int, step: float | None, default: str) -> None:
    """Raise a CatwalkError unless there is a step, and of a length above 0 where it is given."""
    if iterations < 1:
        raise CatwalkError(f"iterations: must be at least 1, got {iterations!r}")
    if step is not None and not 0 < step < math.inf:
        raise CatwalkError(f"step: must be a number of grey levels above 0, or null for {default}, got {step!r}")


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
