"""Operations by their specifications, as configurations and checkpoints hold them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import nn

from catwalk.configuration.import_object import import_object
from catwalk.errors import CatwalkError
from catwalk.processing.codecs import JPEG, ColourConversion, WebP
from catwalk.processing.denoiser import Denoiser
from catwalk.processing.noise import GaussianNoise
from catwalk.processing.non_local_means import NonLocalMeans
from catwalk.processing.operation import Operation, Specification
from catwalk.processing.resizing import RandomResizePad, Resize, Thumbnail
from catwalk.processing.squeezing import BitDepth, GaussianSmoothing, Median, TotalVariation

OURS: dict[str, type[Operation]] = {
    f"catwalk.processing.{kind.__name__}": kind
    for kind in (
        *(
            BitDepth,
            ColourConversion,
            Denoiser,
            GaussianNoise,
            GaussianSmoothing,
            JPEG,
            Median,
            NonLocalMeans,
            RandomResizePad,
        ),
        *(Resize, Thumbnail, TotalVariation, WebP),
    )
}
"""Operations of Catwalk, which a checkpoint may name."""


def specifications_of(operations: Iterable[nn.Module]) -> list[Specification]:
    """Return the specification of each operation, as plain values."""
    return [cast(Operation, operation).specification for operation in operations]


def build_operations(
    specifications: Any, source: str, named: Sequence[Operation | Specification] | None = None
) -> list[Operation]:
    """Build the operations that a file lists.

    Nothing that the file says is imported but Catwalk's own operations; anything else must be named by the caller with
    the same arguments.

    Args:
        specifications: A list of ``class_path`` and ``init_args``; None for none.
        source: The file, for messages.
        named: Operations that the user's configuration or code names, which are trusted.

    Raises:
        CatwalkError: If one is neither Catwalk's own nor named, or refuses its arguments.
    """
    if specifications is None:
        return []
    trusted = [each.specification if isinstance(each, Operation) else complete(each) for each in named or ()]
    if not isinstance(specifications, Sequence) or isinstance(specifications, str):
        raise CatwalkError(f"{source} is damaged: its input_operations are no list, but {specifications!r}")
    return [_built(each, source, trusted) for each in specifications]


def complete(specification: Mapping[str, Any]) -> Specification:
    """Return a specification that may lack its arguments with them."""
    return {"class_path": specification["class_path"], "init_args": dict(specification.get("init_args") or {})}


def _built(specification: Any, source: str, trusted: Sequence[Specification]) -> Operation:
    arguments = specification.get("init_args") or {} if isinstance(specification, Mapping) else None
    path = specification.get("class_path") if isinstance(specification, Mapping) else None
    if not isinstance(arguments, Mapping) or not isinstance(path, str):
        raise CatwalkError(
            f"{source}: an input operation must be a class_path with init_args, such as {{class_path: "
            f"catwalk.processing.JPEG, init_args: {{quality: 75}}}}, got {specification!r}"
        )
    kind = OURS.get(path)
    if kind is None:
        if complete(specification) not in trusted:
            raise CatwalkError(
                f"{source} asks for the input operation {path} with {dict(arguments)}, which is none of Catwalk's, so "
                "running it is up to you: if you trust it, name it with the same arguments, as model.input_operations "
                "of your configuration or operations of load_classifier"
            )
        kind = import_object(path, "input_operations")
    try:
        operation = kind(**arguments)
    except TypeError as error:
        raise CatwalkError(f"{source}: {path} refused its arguments {dict(arguments)}: {error}") from error
    if not isinstance(operation, Operation):
        raise CatwalkError(f"{source}: {path} is no subclass of catwalk.processing.Operation")
    return operation
