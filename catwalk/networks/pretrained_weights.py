"""Weights that others trained: reading their files without running code, and finding a backbone's tensors in them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import verify_checksums

NOT_OF_THE_BACKBONE = frozenset({"attacker", "normalizer", "normalize"})
"""Parts that the ``robustness`` library saves beside a network: a second view of it, and its normalisation."""

BODY, HEAD = "network.body.", "network.head."
"""Where our own checkpoints keep a network."""

TOLERANCE = 1e-4
"""By how much a mean or standard deviation in a file may differ from the one stated: files hold float32."""


@dataclass(frozen=True)
class PretrainedWeights:
    """The tensors of a file, with what it says of how they were trained.

    Attributes:
        path: The file.
        tensors: Every tensor under all of its keys from the outermost, joined by dots.
        mean: Mean per colour channel that the network was trained with, where the file holds it.
        std: Standard deviation per colour channel, where the file holds it.
        category_names: What the outputs stand for, where the file is a checkpoint of ``catwalk fit``.
        trained_as: Backbone and arguments, where the file is a checkpoint of ``catwalk fit``.
    """

    path: str
    tensors: dict[str, Tensor]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    category_names: tuple[str, ...] | None = None
    trained_as: str | None = None

    def check_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Raise a CatwalkError if the network was trained with another normalisation than ``mean`` and ``std``."""
        for argument, stated, trained in (("mean", mean, self.mean), ("std", std, self.std)):
            if trained is not None and not _equal(trained, stated):
                both = [
                    f"{name}: {_rounded(value)}" for name, value in (("mean", self.mean), ("std", self.std)) if value
                ]
                raise CatwalkError(
                    f"{argument}: the network of weights {self.path} was trained with {_rounded(trained)}, got "
                    f"{_rounded(stated)}; set {' and '.join(both)}"
                )

    def of_backbone(self, expected: Mapping[str, Tensor], head: str, backbone: str) -> dict[str, Tensor]:
        """Return the backbone's tensors under its own names.

        They are looked for under the one prefix below which the file has every name that the backbone has, such as
        ``state_dict.module.``; of several the one with the fewest parts counts, and none with a part ``attacker``.
        The number of classes may differ; a missing ``num_batches_tracked``, which old files lack and no result depends
        on, is taken from ``expected``.

        Args:
            expected: The backbone's own ``state_dict``.
            head: Name of its classification layer.
            backbone: What messages call it.

        Raises:
            CatwalkError: If tensors are missing, left over or of another shape, or two prefixes are equally good.
        """
        tensors = self.tensors
        if self.category_names is not None:
            # Our own checkpoints keep the classification layer apart; put it back where the backbone has it.
            tensors = {_rejoined(name, head): tensor for name, tensor in tensors.items()}
        required = [key for key in expected if not key.endswith("num_batches_tracked")]
        prefix = self._prefix(tensors, required, backbone)
        found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        missing = [key for key in required if key not in found]
        surplus = [key for key in found if key not in expected and not NOT_OF_THE_BACKBONE & set(key.split("."))]
        different = [
            key
            for key in required
            if key in found and not _fits(found[key], expected[key], key.rpartition(".")[0] == head)
        ]
        if missing or surplus or different:
            parts = [f"it lacks {_listed(missing)}"] * bool(missing)
            parts += [f"the backbone has no {_listed(surplus)}"] * bool(surplus)
            shapes = [
                f"{key} {tuple(found[key].shape)} there and {tuple(expected[key].shape)} here" for key in different
            ]
            parts += [f"shapes differ: {_listed(shapes)}"] * bool(different)
            trained_as = f", but {self.trained_as}" if self.trained_as else ""
            raise CatwalkError(
                f"weights: {self.path} is not of backbone {backbone}{trained_as}: {'; '.join(parts)}; give the "
                "backbone and backbone_args that it was trained with"
            )
        return {key: found.get(key, tensor) for key, tensor in expected.items()}

    def _prefix(self, tensors: Mapping[str, Tensor], required: Sequence[str], backbone: str) -> str:
        """Return the prefix below which all of the backbone's tensors are, or else most of them."""
        counts = Counter(prefix for key in required for prefix in _prefixes(tensors, key))
        if not counts:
            raise CatwalkError(
                f"weights: {self.path} holds nothing of backbone {backbone}, such as {required[0]}, but "
                f"{_listed(list(tensors)) or 'no tensors'}; give the backbone that it was trained with"
            )
        complete = [prefix for prefix, count in counts.items() if count == len(required)]
        if not complete:
            return max(counts, key=lambda prefix: (counts[prefix], -prefix.count("."), prefix))
        fewest = min(prefix.count(".") for prefix in complete)
        best = [prefix for prefix in complete if prefix.count(".") == fewest]
        if len(best) > 1:
            raise CatwalkError(
                f"weights: {self.path} holds several networks, {' and '.join(prefix.rstrip('.') for prefix in best)}; "
                "save the one that you mean in a file of its own"
            )
        return best[0]


def read_weights(path: str | Path) -> PretrainedWeights:
    """Read a file of PyTorch or safetensors, told apart by their contents. No code in it is run.

    Args:
        path: Weights alone, or whatever a training script saved with them in dictionaries.

    Raises:
        CatwalkError: If the file is missing, damaged, of another kind, or holds objects besides tensors and plain
            values.
    """
    check_file(path)
    content = _safetensors_or_none(path)
    if content is None:
        content = _load(path)
    if not isinstance(content, Mapping):
        raise CatwalkError(f"weights: {path} holds a {type(content).__name__}, not a dictionary of tensors")
    tensors = dict(_flat(content))
    mean, std = _normalisation(tensors)
    settings = content.get("hyper_parameters")
    if isinstance(settings, Mapping) and {"category_names", "backbone"} <= set(settings) and "state_dict" in content:
        arguments = settings["backbone_args"]
        return PretrainedWeights(
            str(path),
            tensors,
            tuple(settings["mean"]),
            tuple(settings["std"]),
            tuple(settings["category_names"]),
            f"{settings['backbone']} with {arguments}" if arguments else settings["backbone"],
        )
    return PretrainedWeights(str(path), tensors, mean, std)


def check_file(path: str | Path) -> None:
    """Raise a CatwalkError unless a file of weights is there."""
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise CatwalkError(
            f"weights: {path} {what}; give a file with the backbone's weights (.pt, .pth, .ckpt or .safetensors)"
        )


def _safetensors_or_none(path: str | Path) -> dict[str, Tensor] | None:
    """Return the tensors of a safetensors file, or None if it is none.

    Raises:
        CatwalkError: If the file is one and is damaged.
    """
    with Path(path).open("rb") as file:
        start = file.read(9)
    # The length of the header, and its first character.
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{" or length > 100_000_000:
        return None
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CatwalkError(f"weights: {path} cannot be read: {error}; fetch it again") from error


def _load(path: str | Path) -> Any:
    """Return what a file of PyTorch holds."""
    with Path(path).open("rb") as file:
        start = file.read(24)
    if not start.startswith((b"PK", b"\x80")):
        raise CatwalkError(
            f"weights: {path} is neither a file of PyTorch nor of safetensors: it begins with {start!r}; fetch it "
            "again, and look whether what came is a web page or a pointer to the file"
        )
    try:
        verify_checksums(path)
        with Path(path).open("rb") as file:  # given a path, torch would go by its name
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        message = str(error) or type(error).__name__
        refused = re.search(r"GLOBAL (\S+)|Unsupported (?:class|type) (\S+)|(TorchScript)", message)
        if refused is None:
            reason = message.splitlines()[0].partition(". ")[0]
            raise CatwalkError(f"weights: {path} cannot be read: {reason}; fetch it again") from error
        found = next(group for group in refused.groups() if group)
        dill = ", pickle_module=__import__('dill')" if "dill" in found else ""
        raise CatwalkError(
            f"weights: {path} holds more than tensors and plain values ({found}), and to read that runs the code of "
            "whoever wrote the file, so it is refused; if you know and trust them, convert it once: "
            f"python -c \"import torch; f = torch.load('{path}', 'cpu'{dill}, weights_only=False); "
            "torch.save(f.get('state_dict') or f['model'] if isinstance(f, dict) else f.state_dict(), 'weights.pt')\""
        ) from error


def _flat(content: Mapping, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of nested dictionaries under its keys, joined by dots."""
    for key, value in content.items():
        if isinstance(key, str):
            if isinstance(value, Tensor):
                yield f"{prefix}{key}", value
            elif isinstance(value, Mapping):
                yield from _flat(value, f"{prefix}{key}.")


def _normalisation(tensors: Mapping[str, Tensor]) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and standard deviation per channel that a file of the ``robustness`` library holds, or None."""
    found: dict[str, tuple[float, ...]] = {}
    for name, tensor in tensors.items():
        *parts, last = name.split(".")
        kind = last.removeprefix("new_")
        if {"normalizer", "normalize"} & set(parts) and kind in ("mean", "std") and tensor.numel() == 3:
            found.setdefault(kind, tuple(tensor.flatten().tolist()))
    return found.get("mean"), found.get("std")


def _rejoined(name: str, head: str) -> str:
    """Return the name of a tensor of our own checkpoints as if body and head had never been divided."""
    before, is_head, after = name.partition(HEAD)
    return f"{before}{BODY}{head}.{after}" if is_head else name


def _prefixes(tensors: Mapping[str, Tensor], key: str) -> Iterator[str]:
    """Yield what stands before a key in the names that end with it."""
    for name in tensors:
        if name == key or name.endswith(f".{key}"):
            prefix = name[: len(name) - len(key)]
            if "attacker" not in prefix.split("."):
                yield prefix


def _fits(found: Tensor, expected: Tensor, is_head: bool) -> bool:
    """Return whether the shapes are the same, up to the number of classes in the classification layer."""
    return found.ndim == expected.ndim and found.shape[is_head:] == expected.shape[is_head:]


def _equal(first: Sequence[float], second: Sequence[float]) -> bool:
    return len(first) == len(second) and all(abs(a - b) <= TOLERANCE for a, b in zip(first, second, strict=True))


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _listed(names: Sequence[str]) -> str:
    """Return the first names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
