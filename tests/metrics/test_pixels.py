import numpy as np
import pytest
import torch
from torch import Tensor

from catwalk.metrics.pixels import changed_pixels, mean_squared_error


def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    originals = torch.randint(0, 256, (4, 3, 9, 14), dtype=torch.uint8, generator=generator)
    adversarial = originals.clone()
    adversarial[1, 0, 3, 5] ^= 1  # one channel of one pixel
    adversarial[2, :, 3:5, 5] ^= 255  # all channels of two
    adversarial[3] = torch.randint(0, 256, (3, 9, 14), dtype=torch.uint8, generator=generator)
    return originals, adversarial


def test_mean_squared_error_equals_numpy() -> None:
    originals, adversarial = pairs()
    expected = ((originals.numpy() / 255 - adversarial.numpy() / 255) ** 2).mean(axis=(1, 2, 3))
    assert mean_squared_error(originals, adversarial).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_pixel_counts_once_whichever_of_its_channels_changed() -> None:
    originals, adversarial = pairs()
    random = sum(
        bool(np.any(originals[3, :, y, x].numpy() != adversarial[3, :, y, x].numpy()))
        for y in range(9)
        for x in range(14)
    )
    assert changed_pixels(originals, adversarial).tolist() == [0, 1, 2, random]


@pytest.mark.parametrize(
    ("originals", "adversarial", "message"),
    [
        (torch.rand(1, 3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "originals: must be uint8"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4, dtype=torch.uint8), "adversarial: must be"),
        (*(torch.zeros(n, 3, 4, 4, dtype=torch.uint8) for n in (1, 2)), "must have one shape"),
    ],
)
def test_refuses_what_is_no_pair_of_8_bit_images(originals: Tensor, adversarial: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_squared_error(originals, adversarial)
