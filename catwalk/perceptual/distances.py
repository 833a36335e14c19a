"""All distances between images and their attacked versions at once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from catwalk.attacks.threat_model import l2_levels, linf_levels
from catwalk.metrics.peak_signal_to_noise_ratio import peak_signal_to_noise_ratio
from catwalk.metrics.pixels import changed_pixels, check_levels, mean_squared_error
from catwalk.metrics.structural_similarity import structural_similarity
from catwalk.networks.batching import map_batches
from catwalk.perceptual.lpips_distance import LPIPS
from catwalk.shop.images import ReportProgress, to_float


@dataclass(frozen=True)
class ImageDistances:
    """How far each of N images is from its original.

    Attributes:
        lpips: LPIPS, float64 ``(N,)``, at least 0; None where it was not measured.
        ssim: Structural similarity, float64 ``(N,)``, at most 1; NaN for images too small for it.
        psnr: Peak signal-to-noise ratio in dB, float64 ``(N,)``; infinite where nothing changed.
        mse: Mean squared error of values in [0, 1], float64 ``(N,)``.
        l2_levels: Euclidean distance over all values, in grey levels, float64 ``(N,)``.
        linf_levels: Largest change of any value, in grey levels, int64 ``(N,)`` in 0..255.
        changed_pixels: Number of pixels of which any channel changed, int64 ``(N,)``.
    """

    lpips: Tensor | None
    ssim: Tensor
    psnr: Tensor
    mse: Tensor
    l2_levels: Tensor
    linf_levels: Tensor
    changed_pixels: Tensor

    def summary(self) -> dict[str, float]:
        """Return what all images come to, under the names of the distances.

        The means of all images, but of those that changed for ``psnr``, and the largest for ``linf_levels``; what could
        not be had of an image is not there.
        """
        changed = self.psnr[self.psnr.isfinite()]
        means = {
            "lpips": self.lpips,
            "ssim": self.ssim,
            "psnr": changed if len(changed) else None,
            "mse": self.mse,
            "l2_levels": self.l2_levels,
            "changed_pixels": self.changed_pixels,
        }
        found = {name: float(values.double().mean()) for name, values in means.items() if values is not None}
        found["linf_levels"] = float(self.linf_levels.max())
        return {name: value for name, value in found.items() if not math.isnan(value)}


def image_distances(
    originals: Tensor,
    adversarial: Tensor,
    lpips: LPIPS | None = None,
    *,
    batch_size: int = 16,
    alone: bool = False,
    progress: ReportProgress | None = None,
) -> ImageDistances:
    """Measure images of one size, as they were read back from files.

    Args:
        originals: uint8 ``(N, 3, H, W)``.
        adversarial: uint8 ``(N, 3, H, W)``.
        lpips: What measures LPIPS, on the images' device; None leaves it out.
        batch_size: Images measured at once; does not change the distances. With VGG, LPIPS takes about 1.5 kB per
            pixel of a batch.
        alone: Whether to measure one image at a time, see :func:`catwalk.networks.batching.size_buckets`.
        progress: Called as images are measured.

    Raises:
        ValueError: If there are no images, they are no 8-bit images, or the two shapes differ.
    """
    check_levels(originals, adversarial)
    done = 0

    def measure(then: Tensor, now: Tensor) -> Tensor:
        """Return one row of distances per image; float64 holds the whole numbers exactly."""
        nonlocal done
        columns = [
            structural_similarity(then, now),
            peak_signal_to_noise_ratio(then, now),
            mean_squared_error(then, now),
            l2_levels(now, then),
            linf_levels(now, then),
            changed_pixels(then, now).double(),
        ]
        if lpips is not None:
            columns.append(lpips(to_float(then), to_float(now)).double())
        done = min(done + len(then), len(originals))
        if progress is not None:
            progress(done, len(originals))
        return torch.stack(columns, dim=1)

    rows = map_batches(measure, originals, adversarial, batch_size=batch_size, alone=alone)
    ssim, psnr, mse, l2, linf, changed, *rest = rows.unbind(dim=1)
    return ImageDistances(rest[0] if rest else None, ssim, psnr, mse, l2, linf.long(), changed.long())
