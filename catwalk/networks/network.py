"""Networks that classify product images and give their features."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from catwalk.errors import CatwalkError
from catwalk.processing.known import specifications_of
from catwalk.processing.operation import Operation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Network(nn.Module):
    """A CNN that takes images in [0, 1], normalises them itself, and gives away its features.

    Args:
        body: Maps normalised images ``(N, 3, H, W)`` to features ``(N, D)``.
        head: The classification layer, ``(N, D)`` to logits ``(N, C)``.
        mean: Mean per colour channel, subtracted first.
        std: Standard deviation per colour channel, divided by then.
        head_name: Where in the body the classification layer has been taken from, such as ``fc``.
        input_operations: What happens to images before they are normalised: a shop's processing, or a defence.

    Attributes:
        is_head_new: Whether :func:`build_network` put a new classification layer on top of trained weights.
        draws: Numbers of the draws of random operations, over which features, and so logits, are averaged. In train
            mode there is one, from torch's global generator.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        head_name: str = "",
        input_operations: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.input_operations = nn.ModuleList(input_operations)
        self.draws: tuple[int, ...] = (0,)
        self.body = body
        self.head = head
        self.head_name = head_name
        self.is_head_new = False
        self._frozen: tuple[str, ...] = ()
        # Constants of the configuration, not weights: a checkpoint need not hold them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Return features ``(N, D)`` of images ``(N, 3, H, W)`` in [0, 1]: what the classification layer reads."""
        if not len(self.input_operations):
            return self._features(images)
        draws = (int(torch.randint(2**31, ())),) if self.training and self.is_random else self.draws
        # The classification layer is linear: of averaged features come averaged logits.
        features = [self._features(self.processed(images, draw)) for draw in draws]
        return features[0] if len(features) == 1 else torch.stack(features).mean(dim=0)

    @torch.compiler.disable
    def processed(self, images: Tensor, draw: int = 0) -> Tensor:
        """Return images ``(N, 3, H, W)`` in [0, 1] as the input operations leave them, one draw of the random ones."""
        with torch.autocast(images.device.type, enabled=False):
            for operation in self.input_operations:
                images = operation(images, draw)
        return images

    @property
    def operations(self) -> list[Operation]:
        """The input operations, in the order in which they are applied."""
        return [operation for operation in self.input_operations if isinstance(operation, Operation)]

    @property
    def is_random(self) -> bool:
        """Whether an input operation is."""
        return any(operation.is_random for operation in self.operations)

    def behind(self, operations: Iterable[nn.Module], draws: tuple[int, ...] = (0,)) -> "Network":
        """Return a network of the same layers, which are shared, behind other input operations.

        Args:
            operations: All of them, in the order in which they are applied.
            draws: See :attr:`draws`.
        """
        mean, std = (values.flatten().tolist() for values in (self.mean, self.std))
        network = Network(self.body, self.head, mean, std, self.head_name, operations)
        network.mean, network.std = self.mean, self.std  # where they are, on whatever device
        network.draws = draws
        network.is_head_new = self.is_head_new
        network._frozen = self._frozen
        network.training = self.training
        for operation in network.input_operations:
            operation.training = self.training
        return network.to(self.mean.device)

    def _features(self, images: Tensor) -> Tensor:
        features = self.body((images - self.mean) / self.std)
        # Asked like this, for what follows a computation gives symbols instead of tensors.
        if isinstance(features, tuple | list | Mapping):
            raise CatwalkError(
                f"backbone: returns a {type(features).__name__} of {len(features)}, as networks with several heads do, "
                "and one tensor of features (N, D) is needed; let it return that alone, as torchvision's inception_v3 "
                "and googlenet do with backbone_args: {aux_logits: false}"
            )
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, C)`` of images ``(N, 3, H, W)`` in [0, 1]."""
        return self.head(self.features(images))

    def freeze_up_to(self, name: str) -> None:
        """Let a module and everything that is registered before it stay as it is, in training too.

        Their parameters take no gradients, and they stay in eval mode, so that BatchNorm's statistics do not move and
        nothing is dropped. What surrounds the module keeps its mode, but its own parameters, such as a transformer's
        class token, count as registered before.

        Args:
            name: In the backbone's own naming, such as ``layer3``.

        Raises:
            CatwalkError: If there is no such module, or nothing would be left to train.
        """
        modules = [module for module, _ in self.body.named_modules() if module]
        if name not in modules:
            children = ", ".join(module for module, _ in self.body.named_children())
            raise CatwalkError(
                f"freeze_up_to: the backbone has no module {name!r}; it has {children}, and modules inside of them"
            )
        last = max(place for place, module in enumerate(modules) if f"{module}.".startswith(f"{name}."))
        before = modules[: last + 1]
        if self.head_name in before:
            raise CatwalkError(
                f"freeze_up_to: {name!r} leaves nothing to train: the classification layer, {self.head_name}, is in it "
                "or before it; name a module before that"
            )
        for module in ("", *before):
            for parameter in self.body.get_submodule(module).parameters(recurse=False):
                parameter.requires_grad_(False)
        self._frozen = tuple(module for module in before if not name.startswith(f"{module}."))
        self.train(self.training)

    def train(self, mode: bool = True) -> "Network":
        """Set the mode of everything that is not frozen."""
        super().train(mode)
        # By name: Lightning may have put other modules in their places, for BatchNorm over several processes.
        for name in self._frozen:
            self.body.get_submodule(name).eval()
        return self


def network_fingerprint(network: Network) -> str:
    """Return the SHA-256 of a network's weights, statistics, normalisation and input operations, in hexadecimal."""
    digest = hashlib.sha256()
    if len(network.input_operations):
        operations = {"operations": specifications_of(network.operations), "draws": network.draws}
        digest.update(f"{json.dumps(operations, sort_keys=True)}\0".encode())
    tensors = {**network.state_dict(), "mean": network.mean, "std": network.std}
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}\0".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
