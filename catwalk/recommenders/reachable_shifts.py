"""Shifts of an item's features that a perturbation of its image can reach: what they are, and their file."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.files.atomic import flush, written_aside
from catwalk.limits import check_count, check_number
from catwalk.networks.features import STAMP, FeatureTable
from catwalk.recommenders.losses import dot

SHIFTS_FILE = "reachable_shifts.safetensors"


@dataclass(frozen=True)
class ShiftSettings:
    """How the shifts are found that images can reach.

    Attributes:
        epsilon: Radius of the L∞ ball around every image in grey levels, at least half of one: less changes no file.
        directions: In how many directions of the feature space features are moved, each to and fro, at least 1: the
            first principal components of the clean catalogue's features, as many as there are.
        iterations: Steps of every search, at least 1.

    Raises:
        CatwalkError: If a setting is out of its range.
    """

    epsilon: float = 8.0
    directions: int = 16
    iterations: int = 5

    def __post_init__(self) -> None:
        check_number(self.epsilon, "shifts.epsilon", least=0.5)
        check_count(self.directions, "shifts.directions")
        check_count(self.iterations, "shifts.iterations")


@dataclass(frozen=True, eq=False)
class ReachableShifts:
    """Shifts of the features of a whole catalogue.

    Attributes:
        shifts: float32 ``(N, J, D)``: features of J perturbed images of every item, less those of the image itself.
        directions: float32 ``(J / 2, D)``, unit vectors along which features were moved to and fro.
        settings: How they were found.
        catalogue: Fingerprint of the catalogue.
        network: Fingerprint of the network.
    """

    shifts: Tensor
    directions: Tensor
    settings: ShiftSettings
    catalogue: str
    network: str

    def write(self, folder: Path) -> None:
        """Write ``reachable_shifts.safetensors`` into a folder, whole or not at all."""
        tensors = {"directions": self.directions.contiguous(), "shifts": self.shifts.contiguous()}
        stamp = {"settings": asdict(self.settings), "catalogue": self.catalogue, "network": self.network}
        stamp["sha256"] = {name: _digest(tensor) for name, tensor in tensors.items()}
        with written_aside(Path(folder) / SHIFTS_FILE) as path:
            safetensors.torch.save_file(tensors, path, {STAMP: json.dumps(stamp, sort_keys=True)})
            flush(path)

    @classmethod
    def read(cls, folder: str | Path, table: FeatureTable) -> "ReachableShifts":
        """Read the shifts in a folder.

        Args:
            folder: The folder.
            table: Features of the same catalogue by the same network, poisoned or not.

        Raises:
            CatwalkError: If there are none, they are damaged, or they are of another catalogue or network.
        """
        path = Path(folder) / SHIFTS_FILE
        if not path.is_file():
            raise CatwalkError(
                f"shifts: {folder} holds no {SHIFTS_FILE}; `catwalk predict` with a trained classifier and "
                "configs/cnn/reachable_shifts.yaml writes it"
            )
        again = "find them again with `catwalk predict`"
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                stamp = json.loads((file.metadata() or {})[STAMP])
                tensors = {name: file.get_tensor(name) for name in ("directions", "shifts")}
            settings = ShiftSettings(**stamp["settings"])
            made_of, made_by, digests = stamp["catalogue"], stamp["network"], stamp["sha256"]
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CatwalkError(f"shifts: {path} cannot be read, {again}: {error}") from error
        if any(_digest(tensor) != digests.get(name) for name, tensor in tensors.items()):
            raise CatwalkError(f"shifts: {path} is damaged; {again}")
        if made_of != table.catalogue:
            raise CatwalkError(f"shifts: {path} is of another catalogue than the features; {again}")
        if made_by != table.network:
            raise CatwalkError(f"shifts: {path} is of another network than the features; {again}")
        return cls(tensors["shifts"], tensors["directions"], settings, made_of, made_by)


def reachable_drop(directions: Tensor, bought: Tensor, others: Tensor) -> Tensor:
    """Return by how much image-borne shifts of both items can lower ``s_ui - s_uj``, ``(B,)``, at least 0.

    The score is linear in the features, so that the worst of an item's shifts, and of all that lie between them and no
    shift at all, is one of them: ``max(0, max_k -⟨v, δ_ik⟩)`` where the item was bought and ``max(0, max_k ⟨v, δ_jk⟩)``
    where it was not, with ``v = E ρ_u``. Its gradient is that of shifts which are held constant (Danskin's theorem).

    Args:
        directions: ``E ρ_u`` of each triplet's user, ``(B, D)``.
        bought: Shifts of the items bought, ``(B, J, D)``.
        others: Shifts of those that were not, ``(B, J, D)``.
    """
    return _furthest(directions, others) + _furthest(-directions, bought)


def _furthest(directions: Tensor, shifts: Tensor) -> Tensor:
    """Return how far the shift that goes furthest along each direction does, ``(B,)``, at least 0."""
    with torch.no_grad():  # which shift it is, among all; the gradient needs that one alone
        chosen = torch.bmm(shifts, directions[:, :, None])[:, :, 0].argmax(dim=1)
    return dot(directions, shifts[torch.arange(len(shifts), device=shifts.device), chosen]).clamp(min=0)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
