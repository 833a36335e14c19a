"""The differentiable codec, against Pillow's files."""

import pytest
import torch
from every_operation import make_images

from catwalk.processing import JPEG
from catwalk.processing.smooth_jpeg import smooth_jpeg, soft_round


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_with_rounded_coefficients_it_is_the_file_but_for_rounding(quality, subsampling):
    """Pillow rounds colours and pixels, too, to whole levels: so one coefficient in some thousand is another one."""
    images = make_images(8, 29, 37)
    file = JPEG(quality, subsampling)(images)
    ours = smooth_jpeg(images, quality, subsampling, torch.round).clamp(0, 1)
    difference = (ours - file).abs() * 255
    assert float(difference.mean()) < 1.6
    assert float((difference < 3).float().mean()) > 0.85
    assert float(difference.mean()) < 0.7 * float((images - file).abs().mean()) * 255


def test_no_rounding_is_no_compression():
    images = make_images(2, 24, 16)
    assert torch.allclose(smooth_jpeg(images, 10, "4:4:4", lambda values: values), images, atol=1e-5)


def test_the_derivative_of_soft_rounding():
    values = torch.tensor([0.0, 0.3, -1.5001, 2.7], dtype=torch.float64, requires_grad=True)
    soft_round(values).sum().backward()
    expected = [3 * 0.0, 3 * 0.09, 3 * 0.4999**2, 3 * 0.09]
    assert values.grad.tolist() == pytest.approx(expected)
    assert soft_round(values).tolist() == pytest.approx([0, 0.027, -2 + 0.4999**3, 3 - 0.027])


def test_the_gradient_is_of_what_it_computes():
    images = make_images(1, 16, 16).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: smooth_jpeg(x, 50, "4:2:0"), images[:, :, :8, :8].detach().requires_grad_()
    )


def test_an_attack_takes_it():
    images, weights = make_images().requires_grad_(), make_images(seed=1)
    (JPEG(50)(images) * weights).sum().backward()
    (expected,) = torch.autograd.grad((smooth_jpeg(images, 50) * weights).sum(), images)
    assert torch.equal(images.grad, expected)
