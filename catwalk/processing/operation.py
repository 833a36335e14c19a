"""Base of the operations that a shop or a defence applies to images before a network sees them."""

import abc
import inspect
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from catwalk.keyed_random import content_keys, derived_seed, uniform

Specification: TypeAlias = dict[str, Any]
"""``class_path`` and ``init_args`` of an operation, as plain values."""


class Operation(nn.Module, abc.ABC):
    """What happens to images in [0, 1] before a network sees them; images in [0, 1] come of it.

    A subclass implements :meth:`forward`, keeps each argument of its constructor under the argument's name, from which
    :attr:`specification` reads it back, and never mixes the images of a batch. One whose result cannot be
    differentiated subclasses :class:`StraightThrough`.

    Attributes:
        is_random: Whether the result depends on the number of the draw.
    """

    is_random = False

    @abc.abstractmethod
    def forward(self, images: Tensor, draw: int = 0) -> Tensor:
        """Process images.

        Args:
            images: Floating ``(N, 3, H, W)`` in [0, 1]; while an attack that does not clip is running, values may lie
                outside.
            draw: Which of the random draws to take, for operations that are random. A draw depends on the operation's
                seed, this number and the image alone, so that batches and their order do not show.

        Returns:
            Images ``(N, 3, H', W')`` in [0, 1], of the dtype and on the device of ``images``.
        """

    @property
    def specification(self) -> Specification:
        """``class_path`` and ``init_args``, from which the same operation can be built again."""
        kind = type(self)
        names = [name for name in inspect.signature(kind).parameters if name != "self"]
        package = "catwalk.processing"
        module = package if kind.__module__.startswith(f"{package}.") else kind.__module__
        return {
            "class_path": f"{module}.{kind.__qualname__}",
            "init_args": {name: getattr(self, name) for name in names},
        }

    def extra_repr(self) -> str:
        """Show the arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.specification["init_args"].items())


class StraightThroughFunction(torch.autograd.Function):
    """Gives the exact result, and lets gradients go to what stands in for it."""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, exact: Tensor) -> Tensor:
        """Return what is exact."""
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Give the gradient to what is smooth."""
        return gradient, None


class StraightThrough(Operation):
    """Base of the operations that cannot be differentiated, or whose gradient is of no use (rounding, codecs).

    What they give is exact. Their gradient is that of a smooth function close by, the identity unless a subclass knows
    a better one (backward pass differentiable approximation, BPDA: Athalye, Carlini and Wagner, "Obfuscated Gradients
    Give a False Sense of Security", ICML 2018, section 4.1). So gradient attacks go through them as they are.
    """

    @abc.abstractmethod
    def process(self, images: Tensor) -> Tensor:
        """Return the exact result for images, which nothing differentiates; see :meth:`Operation.forward`."""

    def approximate(self, images: Tensor) -> Tensor:
        """Return what the gradient is taken of, of the exact result's shape: the images themselves."""
        return images

    def forward(self, images: Tensor, draw: int = 0) -> Tensor:
        """Process images exactly; gradients are those of :meth:`approximate`."""
        with torch.no_grad():
            exact = self.process(images.detach()).to(images)
        if not (images.requires_grad and torch.is_grad_enabled()):
            return exact
        return StraightThroughFunction.apply(self.approximate(images), exact)


class FileOperation(StraightThrough):
    """Base of the operations that Pillow does on 8-bit images, as a shop's own software does."""

    @abc.abstractmethod
    def process_file(self, image: Image.Image) -> Image.Image:
        """Return what becomes of an RGB image, in RGB."""

    def process(self, images: Tensor) -> Tensor:
        """Round to 8 bits, process one by one, and return the 8-bit results as floats."""
        levels = to_levels(images).permute(0, 2, 3, 1).cpu().numpy()
        if not len(levels):
            return images
        return from_levels([np.asarray(self.process_file(Image.fromarray(image))) for image in levels])


def to_levels(images: Tensor) -> Tensor:
    """Return images in [0, 1] as the nearest grey levels, uint8 of the same shape."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def from_levels(images: Iterable[NDArray[np.uint8]]) -> Tensor:
    """Return uint8 images ``(H, W, 3)`` of one size as float32 ``(N, 3, H, W)`` in [0, 1]."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).contiguous().float().div_(255)


def drawn(seed: int, draw: int, images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return uniform numbers in [0, 1) for each image, float32 ``(N, *shape)``, by seed, draw and the image's pixels.

    Images count by their nearest grey levels: one that is changed by less than that has the same numbers.
    """
    return uniform(derived_seed(seed, draw), content_keys(images.detach().float()), shape)
