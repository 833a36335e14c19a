"""LPIPS, SSIM and PSNR on a GPU are those of the CPU."""

import pytest
import torch
from gpu import DEVICE
from torchvision import models

from catwalk.perceptual import LPIPS
from catwalk.perceptual.distances import image_distances

TRUNKS = {"vgg": models.vgg16, "alex": models.alexnet, "squeeze": models.squeezenet1_1}


@pytest.mark.parametrize("net", TRUNKS)
@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.filterwarnings("ignore:images whose shorter side")
def test_figures_beside_the_cpu(net, size, tmp_path, record_property):
    torch.manual_seed(0)
    path = tmp_path / f"{net}.pth"
    torch.save({f"features.{name}": value for name, value in TRUNKS[net]().features.state_dict().items()}, path)
    random = torch.Generator().manual_seed(1)
    then = torch.randint(256, (5, 3, size, size), generator=random, dtype=torch.int16)
    noise = torch.randint(-9, 10, then.shape, generator=random, dtype=torch.int16)
    now = (then + noise).clamp(0, 255).to(torch.uint8)
    then = then.to(torch.uint8)
    expected = image_distances(then, now, LPIPS(net, path))
    found = image_distances(then.to(DEVICE), now.to(DEVICE), LPIPS(net, path))
    assert found.lpips.device.type == DEVICE.type
    assert float(expected.lpips.min()) > 0
    errors = ((found.lpips.cpu() - expected.lpips) / expected.lpips).abs()
    record_property("largest relative error of LPIPS", float(errors.max()))
    assert float(errors.max()) < 1e-4
    for name in ("ssim", "psnr", "mse", "l2_levels"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), rtol=1e-10, atol=0)
    for name in ("linf_levels", "changed_pixels"):
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name))
