"""A detector that was trained on clean and attacked images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from catwalk.detectors.detector import Detector, Reference, Score, features_of
from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import read_checkpoint
from catwalk.networks.compact_cnn import compact_cnn

Sees = Literal["features", "images"]

SETTINGS = ("sees", "width", "num_features", "network", "trained_on", "roles")
"""What a checkpoint says of its detector besides the weights."""


class PoisoningHead(nn.Module):
    """A small network that gives one logit, above 0 for what it takes for poisoned.

    Args:
        sees: ``features`` of the classifier, which it standardises first, or ``images``.
        width: Hidden units above features; channels of the first of four convolutions over images.
        num_features: Number of the classifier's features, D; without effect for images.
    """

    def __init__(self, sees: Sees, width: int, num_features: int) -> None:
        super().__init__()
        self.sees = sees
        if sees == "features":
            standardised = nn.BatchNorm1d(num_features, affine=False)
            self.layers = nn.Sequential(standardised, nn.Linear(num_features, width), nn.ReLU(), nn.Linear(width, 1))
        else:
            self.layers = compact_cnn(width, num_classes=1)

    def forward(self, seen: Tensor) -> Tensor:
        """Return logits ``(N,)`` of features ``(N, D)``, or of images ``(N, 3, H, W)`` in [0, 1]."""
        return self.layers(seen if self.sees == "features" else 2 * seen - 1)[:, 0]


def check_head(sees: str, width: int) -> None:
    """Raise a CatwalkError unless there is a head of this kind and size."""
    if sees not in get_args(Sees):
        raise CatwalkError(f"sees: must be one of {', '.join(get_args(Sees))}, got {sees!r}")
    if width < 1:
        raise CatwalkError(f"width: must be at least 1, got {width!r}")


@dataclass(frozen=True)
class TrainedDetector(Detector):
    """A small network that learnt to tell attacked images from clean ones, on the classifier's features or on images.

    Metzen et al., "On Detecting Adversarial Perturbations", ICLR 2017 (a binary detector beside the classifier); on the
    last layer's features it is near SafetyNet (Lu, Issaranon and Forsyth, ICCV 2017). What it has learnt of some
    attacks need not hold for others: judge it on attacks that it was not trained on.

    Attributes:
        checkpoint: File that ``catwalk fit`` wrote for ``lightning_modules.PoisoningDetector``.
    """

    checkpoint: Path

    @property
    def title(self) -> str:
        """Such as ``"Trained on features"``."""
        return f"Trained on {self.read().settings['sees']}"

    @property
    def passes(self) -> int:
        """One where it sees features, none where it sees images."""
        return int(self.read().settings["sees"] == "features")

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the attacks that it was trained on."""
        return tuple(self.read().settings["trained_on"])

    @torch.inference_mode(False)
    def fitted(self, reference: Reference) -> Score:
        """Return the score, the logit; the reference tells whether it is of the same network and roles.

        Raises:
            CatwalkError: If the checkpoint is missing or none of a detector, or was trained beside another network or
                with other roles.
        """
        trained = self.read()
        of_features = trained.settings["sees"] == "features"
        if of_features and reference.network not in (None, trained.settings["network"]):
            raise CatwalkError(
                f"detector: {self.checkpoint} was trained on the features of another network: train it on those of the "
                "network that it is to protect"
            )
        trained_with = trained.settings["roles"]
        if reference.roles is not None and vars(reference.roles) != trained_with:
            raise CatwalkError(
                f"roles: {self.checkpoint} was trained with {trained_with}, and {vars(reference.roles)} are given: "
                "items that it was trained on would be among those to judge it by; give the same"
            )
        return _Logit(trained.head(), trained.settings["num_features"])

    def read(self) -> "TrainedHead":
        """Read the checkpoint; errors as of :meth:`fitted`."""
        return TrainedHead.of(read_checkpoint(self.checkpoint), self.checkpoint)


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """What a checkpoint holds.

    Attributes:
        path: The checkpoint.
        settings: Those of :data:`SETTINGS`, as plain values.
        weights: Of the head.
    """

    path: Path
    settings: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], path: Path) -> "TrainedHead":
        """Take them from a checkpoint, or raise a CatwalkError if it is none of a detector."""
        saved, weights = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
        if not isinstance(saved, Mapping) or not isinstance(weights, Mapping) or not set(SETTINGS) <= set(saved):
            raise CatwalkError(
                f"detector: {path} is not a checkpoint of a detector; `catwalk fit` with --config "
                "configs/detector/trained.yaml writes one"
            )
        prefix = "head."
        ours = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        return cls(path, {name: saved[name] for name in SETTINGS}, ours)

    def head(self) -> PoisoningHead:
        """Return the network, in eval mode and without gradients of its weights."""
        head = PoisoningHead(self.settings["sees"], self.settings["width"], self.settings["num_features"])
        try:
            head.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CatwalkError(f"detector: {self.path} does not fit the detector it describes: {error}") from error
        return head.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class _Logit:
    head: PoisoningHead
    num_features: int

    def __call__(self, network: nn.Module, images: Tensor, logits: Tensor, declared: Tensor) -> Tensor:
        self.head.to(images.device)
        if self.head.sees == "images":
            return self.head(images)
        return self.head(features_of(network, images, self.num_features))
