"""Threat models: what an attack may do to an image, and the check that it did no more."""

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from catwalk.attacks.masks import Mask
from catwalk.errors import CatwalkError

Norm = Literal["linf", "l2"]
"""Norms whose ball an attack can follow a gradient in."""

Distance = Literal["linf", "l2", "l0"]
"""All norms that a budget may be stated in."""

Space = Literal["pixels", "normalised"]
Quantisation = Literal["inside", "round", "truncate"]

GreyLevels = float | str
"""A number of grey levels, or such as text: ``"8"``, or as a share of the range of a value, ``"8/255"``."""

HALF_A_LEVEL = 0.5
"""With an ε below, no value of an 8-bit image can change."""

_SLACK = {"inside": 0.0, "round": 0.5, "truncate": 1.0}
"""Grey levels by which each way of quantising may move a pixel beyond the ball."""

_FLOAT32_ROUNDING = 255 * 2.0**-23
"""Grey levels by which float32 may misplace one pixel in [0, 1] and its distance from another."""


def grey_levels(value: GreyLevels, argument: str = "epsilon") -> float:
    """Return a number of grey levels, of which ``"8/255"`` are 8.

    Args:
        value: A number, which is returned as it is, or text.
        argument: What the caller calls it, for the message.

    Raises:
        CatwalkError: If the text is neither a number nor a fraction.

    Example:
        >>> from catwalk.attacks.threat_model import grey_levels
        >>> grey_levels("8/255")
        8.0
    """
    if not isinstance(value, str):
        return value
    try:
        number, *divisor = (Fraction(part.strip()) for part in value.split("/"))
        if len(divisor) > 1:
            raise ValueError
        return float(number * 255 / divisor[0] if divisor else number)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise CatwalkError(
            f"{argument}: must be a number of grey levels, such as 8, or a share of the range of a value, such as "
            f"8/255, which is the same; got {value!r}"
        ) from None


def below_half_a_level(epsilon: float | None) -> str | None:
    """Return what is to be said of an ε that is too small for 8-bit images; None of others.

    An ε of 0 changes no image either, but whoever writes it means so.
    """
    if epsilon is None or epsilon == 0 or epsilon >= HALF_A_LEVEL:
        return None
    levels = f"{255 * epsilon:.4g}"
    return (
        f"{epsilon:.4g} is less than half a grey level, so that no 8-bit image would change; ε counts grey levels: "
        f"write {levels}, or {levels}/255 as text, for {levels}/255 of the range of a value"
    )


class ThreatModelError(RuntimeError):
    """Adversarial images are not what their threat model allows: a bug of ours, or a damaged file."""


@dataclass(frozen=True)
class ThreatModel:
    """The ball around each clean image in which its adversarial image must lie, and the 8-bit lattice it ends on.

    Every adversarial image also lies in [0, 1], or 0..255 in grey levels. With a mask it also differs from the clean
    image within a region alone (:class:`~catwalk.attacks.masks.Mask`), which :meth:`for_images` finds.

    In the space of the pixels a distance is one between images. In the normalised space it is one between what a
    network makes of them first, ``(x - mean) / std``: a change of a pixel by one grey level counts as ``1 / std``
    levels. Images that attacks are given and give are of pixels in either case; inside, an attack computes with
    ``x / std`` in the normalised space, which are its *coordinates*.

    Attributes:
        norm: Distance between images, ``"linf"`` (largest change of a value), ``"l2"`` (Euclidean, over all
            channels and pixels of an image) or ``"l0"`` (number of pixels that changed, each with all its channels).
        epsilon: Radius of the ball in grey levels (8 means 8/255), any real number of 0 or above, and for ``"l0"`` a
            whole number of pixels; None for an attack that minimises the distance and has no budget. With 0 nothing
            may change: the attack is a control.
        quantisation: How images become 8-bit. ``"inside"`` rounds to the nearest level and then moves back what
            left the ball. ``"round"`` only rounds and may leave the ball by half a level per value. ``"truncate"``
            cuts off the fraction, as ``(x * 255).astype(uint8)`` does, and may leave it by a level per value.
        space: Where distances are measured, ``"pixels"`` or ``"normalised"`` (as in the reproduced paper's code, where
            ε = 4 comes to less than one grey level).
        clip: Whether an attack keeps to [0, 1] at every step, or only its outcome is clipped.
        std: What the network divides each colour channel by, above 0. An attack in the normalised space fills it in.
        mask: Where an image may change; None means everywhere.
        region: What the mask comes to for a batch of images, bool ``(N, 1, H, W)``; :meth:`for_images` fills it in.

    Raises:
        CatwalkError: If a field has a value that is not allowed.
    """

    norm: Distance
    epsilon: float | None
    quantisation: Quantisation = "inside"
    space: Space = "pixels"
    clip: bool = True
    std: tuple[float, float, float] | None = None
    mask: Mask | None = None
    region: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for argument, allowed, value in (
            ("norm", get_args(Distance), self.norm),
            ("quantisation", get_args(Quantisation), self.quantisation),
            ("space", get_args(Space), self.space),
        ):
            if value not in allowed:
                raise CatwalkError(f"{argument}: must be one of {', '.join(allowed)}, got {value!r}")
        if self.epsilon is not None and not 0 <= self.epsilon < math.inf:
            raise CatwalkError(
                f"epsilon: must be a number of grey levels of 0 or above (8 means 8/255), or null for no budget, "
                f"got {self.epsilon!r}"
            )
        if self.norm == "l0" and self.epsilon is not None and self.epsilon != int(self.epsilon):
            raise CatwalkError(f"epsilon: in l0 it is a whole number of pixels, got {self.epsilon!r}")

    @property
    def budget(self) -> float:
        """ε in grey levels, or pixels for ``"l0"``.

        Raises:
            ValueError: If there is none.
        """
        if self.epsilon is None:
            raise ValueError("epsilon: this threat model has no budget")
        return self.epsilon

    def of(self, network: nn.Module) -> "ThreatModel":
        """Return the threat model with the standard deviations that a network divides by, where they count.

        Raises:
            CatwalkError: If the space is the normalised one and the network has no ``std`` of three channels, as
                :class:`~catwalk.networks.network.Network` has.
        """
        if self.space == "pixels":
            return self
        std = getattr(network, "std", None)
        if not isinstance(std, Tensor) or std.numel() != 3:
            raise CatwalkError(
                "space: normalised needs a network with its standard deviations, `std`, as "
                "catwalk.networks.network.Network has; or measure in pixels"
            )
        return replace(self, std=tuple(std.flatten().tolist()))

    def for_images(self, images: Tensor, keys: Tensor | None) -> "ThreatModel":
        """Return the threat model with the region of each image that its mask leaves free.

        Args:
            images: float32 ``(N, 3, H, W)`` in [0, 1], clean images as pixels.
            keys: int64 ``(N,)``, each item's key, for masks that come with the items.

        Raises:
            CatwalkError: If an image has no such region.
        """
        return self if self.mask is None else replace(self, region=self.mask.region(images, keys))

    def free(self, clean: Tensor) -> Tensor | None:
        """Return where images may change, bool ``(N, 1, H, W)``; None where that is everywhere.

        Raises:
            ValueError: If there is a mask and its region is missing, or that of other images.
        """
        if self.mask is None:
            return None
        if self.region is None or self.region.shape != (len(clean), 1, *clean.shape[-2:]):
            raise ValueError("region: a mask has another one for each image; use ThreatModel.for_images(images, keys)")
        return self.region

    def compose(self, images: Tensor, clean: Tensor) -> Tensor:
        """Return the images where they may change and the clean ones elsewhere, ``(N, 3, H, W)``."""
        region = self.free(clean)
        return images if region is None else torch.where(region, images, clean)

    def scale(self, images: Tensor) -> Tensor | None:
        """Return what coordinates are multiplied by to give pixels, ``(1, 3, 1, 1)``; None where they are pixels.

        Raises:
            ValueError: If the space is the normalised one and ``std`` is missing; :meth:`of` fills it in.
        """
        if self.space == "pixels":
            return None
        if self.std is None:
            raise ValueError("std: the normalised space is a network's own; use ThreatModel.of(network)")
        return images.new_tensor(self.std).view(1, 3, 1, 1)

    def clamp(self, images: Tensor) -> Tensor:
        """Return coordinates ``(N, 3, H, W)`` clipped to those of [0, 1], where attacks are to keep to it."""
        if not self.clip:
            return images
        scale = self.scale(images)
        return images.clamp(0, 1) if scale is None else images.clamp(torch.zeros_like(scale), 1 / scale)

    def project(self, images: Tensor, clean: Tensor) -> Tensor:
        """Return the images moved onto the ball around the clean images, then clipped (see :meth:`clamp`).

        Outside of a mask's region they become the clean images first.

        Args:
            images: float32 ``(N, 3, H, W)``, coordinates of any value.
            clean: float32 ``(N, 3, H, W)``, coordinates of images in [0, 1].

        Returns:
            float32 ``(N, 3, H, W)``. For ``"linf"`` and ``"l0"`` the nearest point that is allowed: for ``"l0"`` the
            ε pixels keep their change whose loss would carry the image furthest from where it was (Croce and Hein,
            "Sparse and Imperceivable Adversarial Attacks", ICCV 2019, section 2.2), of equals the first. For
            ``"l2"`` the perturbation is scaled to length ε first; clipping only brings it nearer to the clean image.
        """
        images = self.compose(images, clean)
        if self.epsilon is None:
            return self.clamp(images)
        if self.norm == "l0":
            return self._fewest_pixels(images, clean)
        radius = self.epsilon / 255
        perturbation = images - clean
        if self.norm == "linf":
            perturbation = perturbation.clamp(-radius, radius)
        else:
            lengths = torch.linalg.vector_norm(perturbation, dim=(1, 2, 3), keepdim=True)
            lengths = lengths.clamp(min=torch.finfo(lengths.dtype).tiny)  # of the clean image itself it is 0
            perturbation = perturbation * (radius / lengths).clamp(max=1)
        return self.clamp(clean + perturbation)

    def _fewest_pixels(self, images: Tensor, clean: Tensor) -> Tensor:
        """Return the images, clipped, with the clean image's pixels but for the ε that matter most."""
        clipped = self.clamp(images)
        # By how much the squared distance from the images grows where a pixel goes back to the clean one.
        gains = ((images - clean).double().square() - (images - clipped).double().square()).sum(dim=1).flatten(1)
        order = gains.argsort(dim=1, descending=True, stable=True)
        kept = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, : int(self.budget)], True)
        return torch.where(kept.reshape(len(images), 1, *images.shape[-2:]), clipped, clean)

    def restore(self, images: Tensor, clean: Tensor) -> Tensor:
        """Return pixels of which those that no attack has moved are the clean image's to the last bit.

        Coordinates of the normalised space were divided and multiplied, and a value that stayed where it was may come
        out a bit beside; that must not count as a pixel that changed.

        Args:
            images: float32 ``(N, 3, H, W)`` in [0, 1], adversarial.
            clean: float32 ``(N, 3, H, W)`` in [0, 1].
        """
        images = self.compose(images, clean)
        if self.norm != "l0":
            return images
        return torch.where((images - clean).abs() <= 2 * _FLOAT32_ROUNDING / 255, clean, images)

    def quantise(self, images: Tensor, clean: Tensor) -> Tensor:
        """Return the 8-bit grey levels in which the images are to be saved.

        With ``"inside"`` and ``"linf"``, the rounded levels are clipped to at most ⌊ε⌋ levels (⌊ε·std⌋ of a channel in
        the normalised space) from the clean ones.
        With ``"inside"`` and ``"l2"``, values that differ from the clean image are moved one level towards it until
        the image is inside the ball, those first that rounding had carried furthest away from it.
        With ``"l0"``, and outside of a mask's region, values that did not change keep their level however the others
        become 8-bit.

        Args:
            images: float32 ``(N, 3, H, W)`` in [0, 1].
            clean: float32 ``(N, 3, H, W)``, 8-bit levels divided by 255.

        Returns:
            uint8 ``(N, 3, H, W)``.

        Raises:
            ThreatModelError: If the images are not float32 of the clean images' shape, or hold values outside [0, 1].
            ValueError: If the clean images are not 8-bit levels divided by 255, for then no level may be inside.
        """
        _check_images(images, clean, first=0)
        clean_levels = (clean * 255).round()
        if not bool(((clean * 255 - clean_levels).abs() < 1e-3).all()):
            raise ValueError("clean: must be 8-bit grey levels divided by 255; quantise the clean images first")
        levels = self.compose(self._levels(images, clean, clean_levels), clean_levels)
        return levels.to(torch.uint8)

    def _levels(self, images: Tensor, clean: Tensor, clean_levels: Tensor) -> Tensor:
        """Return whole grey levels as float32, by the way of quantising and the norm; masks come after."""
        levels = (images * 255).floor() if self.quantisation == "truncate" else (images * 255).round()
        if self.norm == "l0":
            return torch.where(images == clean, clean_levels, levels)
        if self.quantisation != "inside" or self.epsilon is None:
            return levels
        scale = self.scale(images)
        if self.norm == "linf":
            # In float64: in float32 an ε next below a whole number would become that.
            reach = self.epsilon * (images.new_ones((), dtype=torch.float64) if scale is None else scale.double())
            reach = reach.floor().to(images)
            return torch.minimum(torch.maximum(levels, clean_levels - reach), clean_levels + reach)
        perturbation = (self._nearest(images, clean) - clean) * 255
        if scale is None:
            steps = _shorten(perturbation, torch.ones_like(clean[:1]).double(), math.floor(self.epsilon**2))
        else:
            steps = _shorten(perturbation, (scale.double() ** -2).expand_as(clean[:1]), self.epsilon**2)
        return clean_levels + steps

    def _nearest(self, images: Tensor, clean: Tensor) -> Tensor:
        """Return pixels moved onto the ball, which float32 may have left by its last bits."""
        scale = self.scale(images)
        if scale is None:
            return self.project(images, clean)
        return (self.project(images / scale, clean / scale) * scale).clamp(0, 1)

    def verify(self, images: Tensor, clean: Tensor, *, first: int = 0) -> None:
        """Check that the images are allowed, before anyone uses them.

        Args:
            images: float32 ``(N, 3, H, W)`` in [0, 1], pixels in either space.
            clean: float32 ``(N, 3, H, W)`` in [0, 1].
            first: Position that messages give to the first image, where the images are part of a larger batch.

        Raises:
            ThreatModelError: If dtype, shape or range are wrong, a distance exceeds ε, or something changed outside of
                a mask's region; names the first such image.
        """
        _check_images(images, clean, first)
        self._check_region(images, clean, first)
        if self.epsilon is None:
            return
        self._check_distances(images, clean, 0.0, self._tolerance(images), first)

    def verify_levels(self, levels: Tensor, clean_levels: Tensor, *, first: int = 0) -> None:
        """Check the 8-bit images that were read back from their files, in exact arithmetic.

        Args:
            levels: uint8 ``(N, 3, H, W)``, as read back.
            clean_levels: uint8 ``(N, 3, H, W)``, the images before the attack.
            first: Position that messages give to the first image, where the images are part of a larger batch.

        Raises:
            ThreatModelError: If dtype or shape are wrong, a distance exceeds ε (by more than the chosen
                quantisation may add, unless that is ``"inside"``), or something changed outside of a mask's region;
                names the first such image.
        """
        _check_layout(levels, clean_levels, torch.uint8)
        self._check_region(levels, clean_levels, first)
        if self.epsilon is None:
            return
        slack = 0.0 if self.norm == "l0" else _SLACK[self.quantisation]
        exact = 0.0 if self.space == "pixels" else 1e-9 * self.epsilon  # but for float64's quotients
        # With slack, float32 may have misplaced what was then rounded.
        self._check_distances(levels, clean_levels, slack, self._tolerance(levels) if slack else exact, first)

    def _tolerance(self, images: Tensor) -> float:
        """Return the grey levels by which rounding in float32 may carry an image beyond the ball."""
        if self.norm == "l0":
            return 0.0
        values = 1.0 if self.norm == "linf" else math.sqrt(images.shape[1:].numel())
        scale = 1.0 if self.std is None else 1 / min(self.std)
        return _FLOAT32_ROUNDING * values * scale + 1e-5 * (self.epsilon or 0)

    def _distances(self, images: Tensor, clean: Tensor, slack: float) -> Tensor:
        """Return how far images are from the clean ones in grey levels ``(N,)``, each value up to ``slack`` nearer."""
        if self.norm == "l0":
            return changed(images, clean).flatten(1).sum(dim=1)
        scale = self.scale(images.new_zeros((), dtype=torch.float64))
        if slack == 0 and scale is None:
            return (linf_levels if self.norm == "linf" else l2_levels)(images, clean)
        differences = _differences(images, clean).double().abs()
        if images.is_floating_point():
            differences = differences * 255
        nearer = (differences - slack).clamp(min=0).reshape(images.shape)
        if scale is not None:
            nearer = nearer / scale
        return torch.linalg.vector_norm(nearer.flatten(1), math.inf if self.norm == "linf" else 2, dim=1)

    def _check_region(self, images: Tensor, clean: Tensor, first: int) -> None:
        region = self.free(clean)
        if region is None:
            return
        outside = (changed(images, clean) & ~region).flatten(1).sum(dim=1)
        offenders = outside.nonzero()
        if len(offenders) and self.mask is not None:
            position = int(offenders[0])
            raise ThreatModelError(
                f"adversarial image {first + position} differs from the clean image in {int(outside[position])} "
                f"pixels outside of its mask ({self.mask.name})"
            )

    def _check_distances(self, images: Tensor, clean: Tensor, slack: float, tolerance: float, first: int) -> None:
        distances = self._distances(images, clean, slack)
        offenders = (distances > self.budget + tolerance).nonzero()
        if len(offenders):
            position = int(offenders[0])
            if self.norm == "l0":
                raise ThreatModelError(
                    f"adversarial image {first + position} differs from the clean image in {int(distances[position])} "
                    f"pixels, beyond its budget of {int(self.budget)} pixels"
                )
            where = self.norm if self.space == "pixels" else f"{self.norm} of the normalised space"
            rounded = f" (of which {slack:g} of each value is due to {self.quantisation})" if slack else ""
            raise ThreatModelError(
                f"adversarial image {first + position} is {float(distances[position]):.6g} grey levels from the clean "
                f"image in {where}, beyond its budget of {self.budget:.6g} grey levels{rounded}"
            )


def linf_levels(images: Tensor, clean: Tensor) -> Tensor:
    """Return the largest change of any value of each image, in grey levels.

    Args:
        images: ``(N, 3, H, W)``, float32 in [0, 1] or uint8 levels.
        clean: Like ``images``.

    Returns:
        ``(N,)`` in 0..255; float32 for float images, exact float64 for levels.

    Raises:
        ValueError: If the two differ in shape or dtype, or have another dtype.
    """
    differences = _differences(images, clean).abs().amax(dim=1)
    return differences * 255 if differences.is_floating_point() else differences.to(torch.float64)


def l2_levels(images: Tensor, clean: Tensor) -> Tensor:
    """Return the Euclidean distance of each image from the clean one, in grey levels, over all its values.

    Args:
        images: ``(N, 3, H, W)``, float32 in [0, 1] or uint8 levels.
        clean: Like ``images``.

    Returns:
        ``(N,)``, at least 0; float32 for float images, float64 for levels.

    Raises:
        ValueError: If the two differ in shape or dtype, or have another dtype.
    """
    differences = _differences(images, clean)
    if differences.is_floating_point():
        return torch.linalg.vector_norm(differences, dim=1) * 255
    squares = (differences**2).sum(dim=1, dtype=torch.int64)
    # torch's vectorised float64 root may be off by its last bit, which is too much for a distance of exactly ε.
    return torch.tensor([math.sqrt(square) for square in squares.tolist()], dtype=torch.float64, device=images.device)


def changed(images: Tensor, clean: Tensor) -> Tensor:
    """Return which pixels of each image differ from the clean one in any channel, bool ``(N, 1, H, W)``."""
    return (images != clean).any(dim=1, keepdim=True)


def _differences(images: Tensor, clean: Tensor) -> Tensor:
    """Return ``images - clean`` as ``(N, 3·H·W)``, float32 for float images and int32 for levels."""
    if images.shape != clean.shape or images.dtype != clean.dtype or images.dtype not in (torch.float32, torch.uint8):
        raise ValueError(
            f"images and clean: must have the same shape and dtype, float32 or uint8, "
            f"got {images.dtype} {tuple(images.shape)} and {clean.dtype} {tuple(clean.shape)}"
        )
    if images.dtype == torch.uint8:
        images, clean = images.to(torch.int32), clean.to(torch.int32)
    return (images - clean).flatten(1)


def _shorten(perturbation: Tensor, weights: Tensor, budget: float) -> Tensor:
    """Round each perturbation to integers whose weighted squares sum to at most ``budget``.

    Moving a value from ±k to ±(k - 1) takes 2k - 1 times its weight off the sum. Values are moved in the order of how
    far rounding had carried them away from 0, as few as suffice. One level per value always suffices for a perturbation
    that was inside itself: rounding carries by half a level at most.

    Args:
        perturbation: float32 ``(N, 3, H, W)`` in grey levels, each no longer than the root of ``budget``.
        weights: float64 ``(1, 3, H, W)``, above 0. With whole ones the sums are exact.
        budget: What the sum may come to.

    Returns:
        float32 ``(N, 3, H, W)`` of whole numbers.
    """
    flat, of_values = perturbation.flatten(1), weights.flatten(1).expand(len(perturbation), -1)
    steps = flat.round()
    sizes = steps.abs().double()
    carried = torch.where(sizes > 0, sizes - flat.abs(), -torch.inf)
    order = carried.argsort(dim=1, descending=True, stable=True)
    gains = ((2 * sizes - 1).clamp(min=0) * of_values).gather(1, order)
    sums = gains.cpu().cumsum(dim=1).to(gains.device)  # CUDA has no deterministic sum of this kind
    sum_before = (sizes**2 * of_values).sum(dim=1, keepdim=True) - (sums - gains)
    moved = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, sum_before > budget)
    return (steps - steps.sign() * moved).reshape(perturbation.shape)


def _check_layout(images: Tensor, clean: Tensor, dtype: torch.dtype) -> None:
    for name, tensor in (("adversarial", images), ("clean", clean)):
        if tensor.dtype != dtype or tensor.ndim != 4 or tensor.shape[1] != 3:
            raise ThreatModelError(
                f"{name} images must be {dtype} of shape (N, 3, H, W), got {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}"
            )
    if images.shape != clean.shape:
        raise ThreatModelError(
            f"adversarial images have shape {tuple(images.shape)}, but the clean images {tuple(clean.shape)}"
        )


def _check_images(images: Tensor, clean: Tensor, first: int) -> None:
    _check_layout(images, clean, torch.float32)
    for name, tensor in (("adversarial", images), ("clean", clean)):
        # Negated, so that NaN is outside as well.
        outside = ~((tensor >= 0) & (tensor <= 1)).flatten(1)
        offenders = outside.any(dim=1).nonzero()
        if len(offenders):
            position = int(offenders[0])
            value = float(tensor[position].flatten()[outside[position]][0])
            raise ThreatModelError(
                f"{name} image {first + position} holds {value * 255:.6g} grey levels, outside 0 to 255"
            )
