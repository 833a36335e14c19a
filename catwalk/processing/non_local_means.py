"""Non-local means."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from catwalk.errors import CatwalkError
from catwalk.processing.operation import Operation
from catwalk.processing.squeezing import check_positive, mirrored


class NonLocalMeans(Operation):
    """Replaces each pixel by the mean over the pixels around it, weighted by how alike the patches around both are.

    ``Σ_q w(p, q) x_q / Σ_q w(p, q)`` with ``w = exp(-d² / h²)``, where d² is the mean square of the differences of two
    patches over their pixels and colours (Buades, Coll and Morel, "A non-local algorithm for image denoising", CVPR
    2005, with a patch of even weights). Borders are mirrored, the outermost pixels repeated. It costs ``window²``
    shifts of each image. The gradient is exact.

    Args:
        strength: h, in grey levels, above 0.
        window: Side of the square around p from which q comes, odd.
        patch: Side of the patches, odd.

    Raises:
        CatwalkError: If an argument is out of its range, or the border is wider than an image.
    """

    def __init__(self, strength: float = 4.0, window: int = 11, patch: int = 3) -> None:
        super().__init__()
        check_positive(strength, "strength")
        for argument, side in (("window", window), ("patch", patch)):
            if side < 1 or side % 2 == 0:
                raise CatwalkError(f"{argument}: must be an odd number of pixels, got {side!r}")
        self.strength = strength
        self.window = window
        self.patch = patch

    def forward(self, images: Tensor, draw: int = 0) -> Tensor:
        """Return the means."""
        reach, half = self.window // 2, self.patch // 2
        height, width = images.shape[2:]
        border = reach + half
        if border > min(height, width):
            raise CatwalkError(
                f"NonLocalMeans.window: {self.window} with patches of {self.patch} reaches {border} pixels far, and "
                f"there are images of {width}×{height}"
            )
        rows, columns = (mirrored(length, border, border, images.device) for length in (height, width))
        wide = images[:, :, rows][:, :, :, columns]
        own = wide[:, :, reach : reach + height + 2 * half, reach : reach + width + 2 * half]

        def along_a_row(wide: Tensor, own: Tensor, down: int) -> tuple[Tensor, Tensor]:
            """Return the sums over the q of one row of the square."""
            total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
            for right in range(self.window):
                other = wide[:, :, down : down + height + 2 * half, right : right + width + 2 * half]
                squares = (own - other).square().mean(dim=1, keepdim=True)
                weight = torch.exp(-_window_means(squares, self.patch) / (self.strength / 255) ** 2)
                total = total + weight * other[:, :, half : half + height, half : half + width]
                weights = weights + weight
            return total, weights

        along: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] = along_a_row
        if torch.is_grad_enabled() and images.requires_grad:  # or the shifts of all rows would be kept for the gradient
            along = functools.partial(checkpoint, along_a_row, use_reentrant=False, preserve_rng_state=False)
        sums = [along(wide, own, down) for down in range(self.window)]
        total, weights = (functools.reduce(torch.add, each) for each in zip(*sums, strict=True))
        return total / weights


def _window_means(values: Tensor, side: int) -> Tensor:
    """Return the mean of every window of values ``(N, 1, H, W)``: sums of shifts, whose gradient is quick on CPUs."""
    height, width = (length - side + 1 for length in values.shape[2:])
    rows = functools.reduce(torch.add, [values[:, :, first : first + height] for first in range(side)])
    return functools.reduce(torch.add, [rows[..., first : first + width] for first in range(side)]) / side**2
