"""The JPEG codec as a computation that can be differentiated, for the gradients of attacks."""

import io
import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

BLOCK = 8
"""Side of the squares of pixels that are transformed together."""

SHARES = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""How many rows and columns of pixels share a colour."""


def soft_round(values: Tensor) -> Tensor:
    """Return ``⌊x⌉ + (x - ⌊x⌉)³``, close to the rounded values, whose derivative is not 0 everywhere."""
    nearest = values.round().detach()
    return nearest + (values - nearest) ** 3


def smooth_jpeg(
    images: Tensor, quality: int, subsampling: str = "4:2:0", rounding: Callable[[Tensor], Tensor] = soft_round
) -> Tensor:
    """Return what a JPEG file would hold of images, nearly, with a gradient that knows what its tables suppress.

    All steps of the codec but the lossless ones: YCbCr, coarser colours, the cosine transform of blocks of 8×8 pixels,
    and division by the tables that Pillow uses; the coefficients are rounded by :func:`soft_round` (Shin and Song,
    "JPEG-resistant Adversarial Images", NeurIPS workshop on machine learning and computer security 2017).

    Args:
        images: Floating ``(N, 3, H, W)`` in [0, 1].
        quality: Pillow's, 1 to 100.
        subsampling: Of the colours: ``4:4:4``, ``4:2:2`` or ``4:2:0``.
        rounding: How coefficients are rounded.

    Returns:
        ``(N, 3, H, W)``, which may leave [0, 1] by a little, as files cannot.
    """
    height, width = images.shape[2:]
    rows, columns = SHARES[subsampling]
    to_luma = images.new_tensor(_TO_YCBCR)
    colours = torch.einsum("ij,njhw->nihw", to_luma, images * 255 - 128)
    colours = F.pad(colours, (0, -width % (BLOCK * columns), 0, -height % (BLOCK * rows)), mode="replicate")
    tables = [torch.tensor(table).to(images) for table in quantisation_tables(quality)]
    luma = _coded(colours[:, :1], tables[0], rounding)
    chroma = _coded(F.avg_pool2d(colours[:, 1:], (rows, columns)), tables[1], rounding)
    if rows * columns > 1:
        # Libjpeg's triangle filter.
        chroma = F.interpolate(chroma, scale_factor=(float(rows), float(columns)), mode="bilinear")
    decoded = torch.einsum("ij,njhw->nihw", torch.linalg.inv(to_luma), torch.cat([luma, chroma], dim=1))
    return (decoded[:, :, :height, :width] + 128) / 255


@lru_cache(maxsize=128)
def quantisation_tables(quality: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the tables for brightness and colours of a quality, 64 divisors each, row by row, as Pillow has them."""
    file = io.BytesIO()
    Image.new("RGB", (BLOCK, BLOCK)).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        tables = image.quantization  # type: ignore[attr-defined]
    luma, chroma = (tuple(float(divisor) for divisor in tables[number]) for number in (0, 1))
    return luma, chroma


_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)
"""ITU-R 601, for colours around grey."""


def _coded(planes: Tensor, table: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Return planes ``(N, C, H, W)``, whose sides are multiples of 8, with their coefficients rounded."""
    count, channels, height, width = planes.shape
    shape = (count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    blocks = planes.reshape(shape).transpose(3, 4)
    basis = torch.tensor(_COSINES).to(planes)
    divisors = table.view(BLOCK, BLOCK)
    coefficients = rounding(basis @ blocks @ basis.T / divisors) * divisors
    return (basis.T @ coefficients @ basis).transpose(3, 4).reshape(planes.shape)


_COSINES = [
    [
        math.sqrt((1 if row == 0 else 2) / BLOCK) * math.cos((2 * column + 1) * row * math.pi / (2 * BLOCK))
        for column in range(BLOCK)
    ]
    for row in range(BLOCK)
]
"""The orthonormal discrete cosine transform (DCT-II) of 8 values."""
