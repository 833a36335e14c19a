"""Transfer: an attack crafted on networks that the attacker has, and judged by one that it does not know."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from catwalk.attacks.attack import Attack, AttackContext
from catwalk.attacks.threat_model import Distance
from catwalk.errors import CatwalkError
from catwalk.networks.classifier import Classifier, load_classifier


class Transfer(Attack):
    """Crafts images by another attack on surrogate networks; the network under attack judges them and is asked nothing.

    The threat of an attacker who has not the shop's network but trains or downloads others: adversarial images of one
    network often fool another (Papernot, McDaniel and Goodfellow, "Transferability in Machine Learning", 2016). Several
    surrogates are one network whose logits are the mean of theirs, which Dong et al., "Boosting Adversarial Attacks
    with Momentum" (CVPR 2018, section 3.4), found to transfer best. An attack with momentum
    (:class:`~catwalk.attacks.MIFGSM`) transfers better than one that follows the surrogate's gradient closely.

    The images do not depend on the network under attack, but for which items it is shown: those are chosen as for any
    other attack.

    Args:
        attack: The attack, with its budget; one that must know the network alone.
        surrogates: Checkpoints of the networks to craft on, one at least, with the categories of the network under
            attack.

    Raises:
        CatwalkError: If the attack must know more than a network; when called, if there is no surrogate, or one has
            other categories.

    Example:
        >>> from catwalk.attacks import PGD, Transfer
        >>> Transfer(PGD(epsilon=8), ["runs/t/classifier.ckpt"]).name
        'PGD (ε = 8), transferred'
    """

    access = "nothing"
    norms = get_args(Distance)

    def __init__(self, attack: Attack, surrogates: Sequence[Path | str] = ()) -> None:
        if attack.knowledge != "network" or isinstance(attack, Transfer):
            raise CatwalkError(
                f"attack: must be one that needs a network alone, such as PGD; {attack.title} needs "
                f"{'a transfer' if isinstance(attack, Transfer) else attack.knowledge}"
            )
        norm, epsilon = attack.threat_model.norm, attack.threat_model.epsilon
        super().__init__(
            *(norm, epsilon),
            targeted=attack.targeted,
            random_start=attack.random_start,
            seed=attack.seed,
            batch_size=attack.batch_size,
            precision=attack.precision,
            compiled=attack.compiled,
            mask=attack.threat_model.mask,
        )
        self.is_joint = attack.is_joint
        self.one_by_one = attack.one_by_one
        self.attack = attack
        self.surrogates = [Path(path) for path in surrogates]
        self.networks: list[Classifier] | None = None

    @property
    def name(self) -> str:
        """The attack's, ``"PGD (ε = 8), transferred"``."""
        return f"{self.attack.name}, transferred"

    def purpose(self, source: str, target: str | None) -> str:
        """Return what the attack is for, as half a sentence."""
        return self.attack.purpose(source, target)

    def targets_of(self, scene: AttackContext) -> Tensor:
        """Return the category of every item; see :meth:`Attack.targets_of`.

        Raises:
            CatwalkError: If there is no surrogate, or one sees other categories.
        """
        for path, surrogate in zip(self.surrogates, self._loaded(scene.items.device), strict=True):
            if tuple(surrogate.category_names) != tuple(scene.category_names):
                raise CatwalkError(
                    f"surrogates: {path} has other categories than the network under attack; a surrogate must have the "
                    "same in the same order"
                )
        return self.attack.targets_of(scene)

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft one batch by the attack, on whatever network is given; see :meth:`Attack.perturb`."""
        return self._inside().perturb(network, images, targets, keys)

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return how often each image went through each of the surrogates and back; see :meth:`Attack.passes`."""
        return self.attack.passes(iterations)

    def final_images(self, images: Tensor, clean: Tensor, success: Tensor) -> Tensor:
        """Return the adversarial images: the attacker cannot tell which of them succeed."""
        return images

    def _craft(
        self,
        network: nn.Module,
        images: Tensor,
        targets: Tensor,
        keys: Tensor | None,
        alone: bool,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Craft on the surrogates in the place of the network."""
        surrogates = [surrogate.network for surrogate in self._loaded(images.device)]
        surrogate = surrogates[0] if len(surrogates) == 1 else MeanOfNetworks(surrogates)
        return self._inside()._craft(surrogate, images, targets, keys, alone, progress)

    def _inside(self) -> Attack:
        """Return the attack with the threat model that this one has."""
        inside = copy.copy(self.attack)
        inside.threat_model = self.threat_model
        return inside

    def _loaded(self, device: torch.device) -> list[Classifier]:
        """Return the surrogates on a device; each is read once."""
        if not self.surrogates:
            raise CatwalkError("surrogates: a transfer needs the checkpoint of at least one network to craft on")
        if self.networks is None:
            with torch.inference_mode(False):  # gradients are to flow by their parameters
                self.networks = [load_classifier(path) for path in self.surrogates]
        for surrogate in self.networks:
            surrogate.network.to(device)
        return self.networks


class MeanOfNetworks(nn.Module):
    """Several networks as one, whose logits are the mean of theirs.

    Args:
        networks: Take images in [0, 1], return logits ``(N, C)``; the normalised space is the first one's.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @property
    def mean(self) -> Tensor:
        """Mean per colour channel of the first."""
        return self.networks[0].mean  # type: ignore[return-value]

    @property
    def std(self) -> Tensor:
        """Standard deviation per colour channel of the first."""
        return self.networks[0].std  # type: ignore[return-value]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, C)`` of images ``(N, 3, H, W)`` in [0, 1]."""
        return torch.stack([network(images) for network in self.networks]).mean(dim=0)
