"""LPIPS: how different two images look, by the features of a network trained on ImageNet."""

import re
import warnings
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.networks.frozen import exact_convolutions
from catwalk.networks.pretrained_weights import read_weights
from catwalk.perceptual.trunks import MODELS, TrunkName, find_trunk

SMALLEST: dict[TrunkName, int] = {"vgg": 16, "alex": 31, "squeeze": 17}
"""Pixels of the shorter side below which nothing is left of an image in a trunk's last layers."""

ENLARGED = 64
"""Pixels to which the shorter side is enlarged where it is below that: those of the images that LPIPS was fitted to."""


class LPIPS:
    """Learned perceptual image patch similarity, version 0.1, between images and what became of them.

    It is no ``nn.Module``, so that a module or Trainer that has one neither trains it, nor saves it, nor changes its
    mode: within LPIPS is dropout, and in training mode it would give random distances. It goes to the device of the
    images, and computes in float32 whatever is around it.

    Reference: Zhang, Isola, Efros, Shechtman and Wang, *The unreasonable effectiveness of deep features as a perceptual
    metric*, CVPR 2018; the linear heads and the architectures are those of the authors' package ``lpips``.

    Args:
        net: The network whose features are compared: VGG-16, AlexNet or SqueezeNet 1.1.
        trunk: File with its weights, as torchvision publishes them; where there is none, see
            :func:`catwalk.perceptual.trunks.find_trunk`.

    Attributes:
        net: As given.
        trunk_origin: The file that the network's weights came from.
        trunk_sha256: SHA-256 of these weights.

    Raises:
        CatwalkError: If there is no such network, or its weights cannot be had, are damaged or are another network's.
    """

    def __init__(self, net: TrunkName = "vgg", trunk: str | Path | None = None) -> None:
        if net not in MODELS:
            raise CatwalkError(f"LPIPS: net: must be one of {', '.join(MODELS)}, got {net!r}")
        import lpips  # takes a second

        # On the meta device nothing is initialised, so that no random numbers are drawn and no memory is taken.
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # of torchvision, about how it is called there
            network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        torchvision_names = {name: re.sub(r"^slice\d+", "features", name) for name in network.net.state_dict()}
        expected = {torchvision_names[name]: tensor for name, tensor in network.net.state_dict().items()}
        found = find_trunk(net, expected, trunk)
        heads = read_weights(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth").tensors
        network.net.load_state_dict(
            {name: found.tensors[torchvision_names[name]] for name in torchvision_names}, assign=True
        )
        for number, head in enumerate(network.lins):
            head.load_state_dict({"model.1.weight": heads[f"lin{number}.model.1.weight"]}, assign=True)
        # Convolutions are faster in this layout, on CPUs and GPUs alike.
        self._network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._has_noted = False
        self.net: TrunkName = net
        self.trunk_origin = found.origin
        self.trunk_sha256 = found.sha256

    def __call__(self, originals: Tensor, adversarial: Tensor) -> Tensor:
        """Return the distance of each image from its original.

        Images whose shorter side is below :data:`SMALLEST` are enlarged first (bilinear) until it has
        :data:`ENLARGED` pixels; a warning says so once.

        Args:
            originals: float32 ``(N, 3, H, W)`` in [0, 1].
            adversarial: Like ``originals``.

        Returns:
            float32 ``(N,)``, at least 0; 0 for the same image.

        Raises:
            ValueError: If the images have another dtype, shape or range, or the shapes differ.
        """
        _check(originals, "originals")
        _check(adversarial, "adversarial")
        if originals.shape != adversarial.shape:
            raise ValueError(
                f"originals and adversarial: must have one shape, got {tuple(originals.shape)} and "
                f"{tuple(adversarial.shape)}"
            )
        network = self._network.to(originals.device)
        with torch.inference_mode(), torch.autocast(originals.device.type, enabled=False), exact_convolutions():
            features = torch.cat([originals, adversarial])
            if min(features.shape[-2:]) < SMALLEST[self.net]:
                features = self._enlarge(features)
            # Layer by layer: the features of all layers at once would take three times the memory.
            features = network.scaling_layer(2 * features.contiguous(memory_format=torch.channels_last) - 1)
            distances = torch.zeros(len(originals), device=originals.device)
            for part, head in zip(network.net.children(), network.lins, strict=True):
                features = part(features)
                lengths = features.square().sum(dim=1, keepdim=True).sqrt()
                before, after = (features / (lengths + 1e-10)).chunk(2)
                distances = distances + head((before - after).square()).mean(dim=(1, 2, 3))
        return distances.clone()  # one that may take part in gradients, unlike what inference mode makes

    def _enlarge(self, images: Tensor) -> Tensor:
        if not self._has_noted:
            self._has_noted = True
            warnings.warn(
                f"images whose shorter side is below {SMALLEST[self.net]} pixels are enlarged to {ENLARGED} for LPIPS "
                f"({self.net}), which sees nothing in them otherwise",
                stacklevel=2,
            )
        factor = ENLARGED / min(images.shape[-2:])
        size = [round(side * factor) for side in images.shape[-2:]]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def load_lpips(
    net: TrunkName = "vgg", trunk: str | Path | None = None, on_missing: Literal["error", "skip"] = "error"
) -> tuple[LPIPS | None, str | None]:
    """Return LPIPS, or the cause for which there is none.

    Args:
        net: See :class:`LPIPS`.
        trunk: See :class:`LPIPS`.
        on_missing: Where the weights cannot be had or are not sound, ``error`` raises and ``skip`` goes on without.

    Returns:
        ``(LPIPS, None)``, or ``(None, cause)``.

    Raises:
        CatwalkError: As :class:`LPIPS` does, if ``on_missing`` is ``error``.
    """
    try:
        return LPIPS(net, trunk), None
    except CatwalkError as error:
        if on_missing == "error":
            raise
        return None, str(error)


def _check(images: Tensor, name: str) -> None:
    if images.dtype != torch.float32 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{name}: must be float32 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    # Negated, so that NaN is outside as well.
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(f"{name}: must lie in [0, 1], got {float(images.min()):.6g} to {float(images.max()):.6g}")
