"""A trained network that takes adversarial perturbations out of images before another one sees them."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import read_checkpoint
from catwalk.limits import check_count
from catwalk.processing.operation import Operation, StraightThroughFunction

PREFIX = "unet."
"""Below which a checkpoint of ``lightning_modules.ImageDenoiser`` has the weights."""


class DenoisingUNet(nn.Module):
    """Estimates the perturbation of each image, and takes it away: ``x - d(x)``, which may leave [0, 1] by a little.

    A small form of the DUNET of Liao et al., "Defense Against Adversarial Attacks Using High-Level Representation
    Guided Denoiser", CVPR 2018, section 3.2: blocks of convolution, BatchNorm and ReLU, halved on the way down, and on
    the way up put together with what had that size before. At first it changes nothing, for its last layer is 0.

    Args:
        width: Channels at full size; every level below has twice as many.
        depth: How often the size is halved.

    Raises:
        CatwalkError: If an argument is below 1.
    """

    def __init__(self, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        check_count(width, "width")
        check_count(depth, "depth")
        self.depth = depth
        widths = [width * 2**level for level in range(depth + 1)]
        inputs = [3, *widths[:-1]]
        self.down = nn.ModuleList(
            _block(before, after, stride=1 if level == 0 else 2)
            for level, (before, after) in enumerate(zip(inputs, widths, strict=True))
        )
        self.up = nn.ModuleList(_block(below + after, after) for below, after in zip(widths[1:], widths, strict=False))
        self.last = nn.Conv2d(width, 3, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return images ``(N, 3, H, W)`` without what is taken for a perturbation; any size will do."""
        height, width = images.shape[2:]
        multiple = 2**self.depth
        hidden = F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        levels = []
        for block in self.down:
            hidden = block(hidden)
            levels.append(hidden)
        for level in reversed(range(self.depth)):
            hidden = F.interpolate(hidden, scale_factor=2.0, mode="nearest")
            hidden = self.up[level](torch.cat([hidden, levels[level]], dim=1))
        return images - self.last(hidden)[:, :, :height, :width]


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(2):
        first = number == 0
        layers += [
            nn.Conv2d(inputs if first else outputs, outputs, 3, stride if first else 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class Denoiser(Operation):
    """Takes perturbations out of images by a network that was trained for it (``configs/cnn/denoiser.yaml``).

    Liao et al., CVPR 2018, see :class:`DenoisingUNet`. The gradient is exact, but that clipping to [0, 1] lets it
    through.

    Args:
        checkpoint: Checkpoint that ``catwalk fit`` wrote for ``lightning_modules.ImageDenoiser``. The checkpoint of a
            network behind a denoiser holds the denoiser's weights, and no longer needs this file.
        width: Of the network; the checkpoint says it.
        depth: Of the network; the checkpoint says it.

    Raises:
        CatwalkError: If there is no checkpoint, or it is none of a denoiser.
    """

    def __init__(self, checkpoint: str | None = None, width: int | None = None, depth: int | None = None) -> None:
        super().__init__()
        weights: dict[str, Tensor] | None = None
        if checkpoint is not None:
            width, depth, weights = _read(checkpoint)
        if width is None or depth is None:
            raise CatwalkError(
                "Denoiser.checkpoint is missing: give the checkpoint that `catwalk fit --config "
                "configs/cnn/denoiser.yaml` wrote"
            )
        self.checkpoint = None  # its weights are in the state, and a specification names no file
        self.width = width
        self.depth = depth
        with torch.random.fork_rng(devices=[]):  # its first weights, which are replaced, are drawn
            self.unet = DenoisingUNet(width, depth)
        if weights is not None:
            try:
                self.unet.load_state_dict(weights)
            except RuntimeError as error:
                raise CatwalkError(f"Denoiser.checkpoint: {checkpoint} does not fit what it describes") from error
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Denoiser":
        """Stay in eval mode: it is trained before the network that it stands in front of."""
        super().train(False)
        return self

    def forward(self, images: Tensor, draw: int = 0) -> Tensor:
        """Denoise, and clip."""
        denoised = self.unet(images)
        return StraightThroughFunction.apply(denoised, denoised.detach().clamp(0, 1))


def _read(path: str) -> tuple[int, int, dict[str, Tensor]]:
    """Return width, depth and weights of a checkpoint."""
    checkpoint = read_checkpoint(Path(path))
    settings, state = (checkpoint.get(name) for name in ("hyper_parameters", "state_dict"))
    if (
        not isinstance(settings, Mapping)
        or not isinstance(state, Mapping)
        or not all(isinstance(settings.get(name), int) for name in ("width", "depth"))
    ):
        raise CatwalkError(f"Denoiser.checkpoint: {path} is no checkpoint of lightning_modules.ImageDenoiser")
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    return settings["width"], settings["depth"], weights
