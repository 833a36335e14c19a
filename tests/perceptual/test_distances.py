from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from random_trunks import reference
from torch import Tensor

from catwalk.metrics.structural_similarity import structural_similarity
from catwalk.perceptual import LPIPS, image_distances


def pairs(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    originals = torch.randint(0, 256, (count, 3, height, width), generator=generator)
    changes = torch.randint(-9, 10, originals.shape, generator=generator)
    changes[1] = 0
    return originals.to(torch.uint8), (originals + changes).clamp(0, 255).to(torch.uint8)


def test_every_figure_equals_its_own_reference(trunk_file: Callable[..., Path]) -> None:
    originals, adversarial = pairs(3, 20, 24)
    distances = image_distances(originals, adversarial, LPIPS("squeeze", trunk_file("squeeze")))
    then, now = originals.numpy().astype(float), adversarial.numpy().astype(float)
    assert distances.linf_levels.tolist() == np.abs(now - then).max(axis=(1, 2, 3)).tolist()
    assert distances.linf_levels.dtype == torch.int64
    assert distances.changed_pixels.tolist() == (now != then).any(axis=1).sum(axis=(1, 2)).tolist()
    l2 = np.sqrt(((now - then) ** 2).sum(axis=(1, 2, 3)))
    assert distances.l2_levels.tolist() == pytest.approx(l2.tolist(), rel=1e-12)
    mse = ((now / 255 - then / 255) ** 2).mean(axis=(1, 2, 3))
    assert distances.mse.tolist() == pytest.approx(mse.tolist(), rel=1e-12)
    with np.errstate(divide="ignore"):
        assert distances.psnr.tolist() == pytest.approx((10 * np.log10(1 / mse)).tolist(), rel=1e-12)
    torch.testing.assert_close(distances.ssim, structural_similarity(originals, adversarial), rtol=1e-14, atol=0)
    with torch.no_grad():
        lpips = reference("squeeze")(originals / 127.5 - 1, adversarial / 127.5 - 1).flatten()
    assert distances.lpips is not None
    assert distances.lpips.tolist() == pytest.approx(lpips.tolist(), abs=1e-6)
    assert distances.lpips[1] == distances.mse[1] == 0


def test_the_size_of_batches_does_not_show(trunk_file: Callable[..., Path]) -> None:
    images = pairs(37, 24, 20)
    distance = LPIPS("vgg", trunk_file("vgg"))
    first, second = (image_distances(*images, distance, batch_size=size) for size in (16, 48))
    for field in fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


def test_one_at_a_time_gives_the_same_figures(trunk_file: Callable[..., Path]) -> None:
    images = pairs(5, 24, 20)
    distance = LPIPS("squeeze", trunk_file("squeeze"))
    together, alone = (image_distances(*images, distance, alone=alone) for alone in (False, True))
    for field in fields(alone):
        torch.testing.assert_close(
            getattr(alone, field.name), getattr(together, field.name), rtol=1e-5, atol=1e-7, equal_nan=True
        )


def test_without_lpips_the_rest_is_there() -> None:
    distances = image_distances(*pairs(3, 9, 8))
    assert distances.lpips is None
    assert distances.ssim.isnan().all()
    assert distances.psnr.isinf().tolist() == [False, True, False]
