"""Networks of a study that are others with operations in front: input defences, and the shop's own processing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catwalk.errors import CatwalkError

Settings = dict
"""``class_path`` and ``init_args`` of an operation, checked when the network is planned."""

PLAIN = "plain"
"""What rows of attacks end with that know the network, but not what stands in front of it."""


@dataclass
class Defence:
    """An input defence: operations that stand in front of one network, before every image that it sees.

    Attributes:
        network: The extractor that it defends.
        input: The operations (:mod:`catwalk.processing`), first to last, one at least.
    """

    network: str
    input: list[Settings]


@dataclass
class Pipeline:
    """The shop's own processing of every uploaded image, attacked or not, before any network sees it.

    Attributes:
        operations: The operations (:mod:`catwalk.processing`), first to last, one at least.
        networks: The extractors and defences behind it; all extractors if empty.
    """

    operations: list[Settings]
    networks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Derived:
    """A network that is another one with operations in front.

    Attributes:
        name: What heads its columns.
        network: Name of the other one.
        operations: What stands in front of it, first to last.
        defence: Name of the defence; None behind a pipeline of a network that has none.
        pipeline: Name of the pipeline; None where there is none.
    """

    name: str
    network: str
    operations: Sequence[Settings]
    defence: str | None
    pipeline: str | None

    @property
    def argument(self) -> str:
        """What the user calls the operations."""
        return f"defences.{self.defence}.input" if self.pipeline is None else f"pipelines.{self.pipeline}.operations"


def derived_networks(
    extractors: Mapping[str, Any], defences: Mapping[str, Defence], pipelines: Mapping[str, Pipeline]
) -> list[Derived]:
    """Return all networks that a study derives from others, each behind the one that it is made of.

    Args:
        extractors: The study's own networks, by name.
        defences: By name.
        pipelines: By name.

    Raises:
        CatwalkError: If a name is taken, a network is unknown, or there is no operation.
    """
    found: list[Derived] = []
    for name, defence in defences.items():
        argument = f"defences.{name}"
        if name in extractors:
            raise CatwalkError(f"{argument}: an extractor has the same name; give the defence another")
        if not isinstance(defence.network, str) or defence.network not in extractors:
            raise CatwalkError(
                f"{argument}.network: must be one of the extractors, {', '.join(extractors)}, got {defence.network!r}"
            )
        _check_operations(f"{argument}.input", defence.input)
        found.append(Derived(name, defence.network, defence.input, name, None))
    known = [*extractors, *defences]
    for name, pipeline in pipelines.items():
        _check_operations(f"pipelines.{name}.operations", pipeline.operations)
        for network in pipeline.networks or extractors:
            if network not in known:
                raise CatwalkError(
                    f"pipelines.{name}.networks: each must be an extractor or a defence, {', '.join(known)}, got "
                    f"{network!r}"
                )
            defended_by = network if network in defences else None
            found.append(Derived(f"{network} behind {name}", network, pipeline.operations, defended_by, name))
    names = [*extractors, *(each.name for each in found)]
    for name in names:
        if names.count(name) > 1:
            raise CatwalkError(f"pipelines: there are two networks called {name!r}; rename one")
    return found


def _check_operations(argument: str, operations: Sequence[Settings]) -> None:
    """Raise a CatwalkError unless there is an operation."""
    if not operations:
        raise CatwalkError(f"{argument}: must have at least one operation, such as catwalk.processing.JPEG")
