"""What the package ``lpips`` itself builds on random trunks."""

import functools
import re
import warnings

import lpips
import torch
from torch import Tensor

from catwalk.perceptual.trunks import TrunkName

TRUNKS: tuple[TrunkName, ...] = ("vgg", "alex", "squeeze")


@functools.cache
def reference(net: TrunkName) -> lpips.LPIPS:
    """Return the package's own network, with a random trunk and its own linear heads."""
    torch.manual_seed(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def random_trunk(net: TrunkName) -> dict[str, Tensor]:
    """Return the weights of :func:`reference`'s trunk by torchvision's names."""
    state = reference(net).net.state_dict()
    return {re.sub(r"slice\d", "features", name): tensor.clone() for name, tensor in state.items()}
