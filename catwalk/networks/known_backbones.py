"""Backbones that a checkpoint may name: a file of results does not decide which code is imported and run."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from catwalk.errors import CatwalkError
from catwalk.moved import todays_name

OURS = frozenset({"catwalk.networks.compact_cnn"})
"""Backbones of Catwalk."""

MAKERS = {
    "torchvision.models.get_model": "name",
    "timm.create_model": "model_name",
    "timm.models.create_model": "model_name",
}
"""Functions of libraries that build a network by its name, and the argument with the name."""


def check_backbone(
    source: str,
    backbone: Any,
    backbone_args: Any,
    named: str | None = None,
    named_args: Mapping[str, Any] | None = None,
    argument: str = "backbone",
) -> None:
    """Refuse a backbone that a file names, unless it is known by name or the user's configuration names the same.

    The same call, that is: a function of the user's own could be made to run anything by the arguments of a file.

    Known are Catwalk's own backbones and the networks that torchvision and timm have registered. A network that timm
    would look for on a hub or in a folder is not among them. Nothing but torchvision and timm themselves is imported.

    Args:
        source: The file, for the message.
        backbone: Import path that the file gives.
        backbone_args: Arguments that the file gives.
        named: Import path that the user's configuration or code names, which is trusted.
        named_args: Arguments that the user names with it.
        argument: What the user can name it by, for the message.

    Raises:
        CatwalkError: If the backbone is neither known nor named, or is no import path with keyword arguments.
    """
    if not isinstance(backbone, str) or not isinstance(backbone_args, Mapping | None):
        raise CatwalkError(f"{source} is damaged: its backbone is no import path with arguments")
    backbone, named = todays_name(backbone), None if named is None else todays_name(named)
    if named is not None and named != backbone:
        raise CatwalkError(
            f"{argument}: is {named}, and {source} was trained with backbone {backbone}: they must agree"
        )
    arguments = dict(backbone_args or {})
    if _is_known(backbone, arguments):
        return
    if named is None:
        called = f" with {arguments}" if arguments else ""
        both = f" and {argument}_args: {arguments}" if arguments else ""
        raise CatwalkError(
            f"{source} asks for backbone {backbone}{called}, which neither Catwalk nor torchvision nor timm builds by "
            f"that name, so running it is up to you: if you trust it, set {argument}: {backbone}{both}"
        )
    if arguments != dict(named_args or {}):
        raise CatwalkError(
            f"{argument}_args: {source} was trained with {arguments} as arguments of {backbone}, and "
            f"{dict(named_args or {})} is given: they must agree, for running them is up to you"
        )


def _is_known(backbone: str, arguments: Mapping[str, Any]) -> bool:
    if backbone in OURS:
        return True
    library = _library(backbone)
    if library is None:
        return False
    if backbone in MAKERS:
        name = arguments.get(MAKERS[backbone])
        return isinstance(name, str) and library.has(name)
    return any(path == backbone for path in library.paths(backbone.rpartition(".")[2]))


class _Torchvision:
    """The classifiers that torchvision has registered; others may download weights where none are asked for."""

    def __init__(self) -> None:
        import torchvision.models

        self._models = torchvision.models
        self._names = torchvision.models.list_models(module=torchvision.models)

    def has(self, name: str) -> bool:
        return name.lower() in self._names

    def paths(self, function: str) -> Iterator[str]:
        for name in self._names:
            builder = self._models.get_model_builder(name)
            if builder.__name__ == function:
                yield from _paths(builder, "torchvision.models")


class _Timm:
    """The networks that timm has registered."""

    def __init__(self) -> None:
        import timm

        self._timm = timm

    def has(self, name: str) -> bool:
        # What stands before a colon or a slash is where to look for it; a tag of weights comes behind a dot.
        return not set(name) & set(":/\\") and self._timm.is_model(name.partition(".")[0])

    def paths(self, function: str) -> Iterator[str]:
        if self._timm.is_model(function):
            yield from _paths(self._timm.model_entrypoint(function), "timm.models")


def _library(backbone: str) -> _Torchvision | _Timm | None:
    """Return the library below which an import path stands; None if there is none, or it is not installed."""
    with contextlib.suppress(ImportError):
        if backbone.startswith("torchvision."):
            return _Torchvision()
        if backbone.startswith("timm."):
            return _Timm()
    return None


def _paths(builder: Callable, package: str) -> Iterator[str]:
    """Yield the import paths of a builder: from where it is defined, and from the packages around that have it."""
    module = builder.__module__
    while module.startswith(package):
        if getattr(sys.modules.get(module), builder.__name__, None) is builder:
            yield f"{module}.{builder.__name__}"
        module = module.rpartition(".")[0]
