"""Classes with their arguments as a study's YAML states them, checked before anything runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from catwalk.configuration.import_object import import_object
from catwalk.configuration.messages import one_line
from catwalk.configuration.parsers import instantiate
from catwalk.errors import CatwalkError


@dataclass(frozen=True)
class Specification:
    """A class with its arguments, complete with defaults, that has been checked but not called.

    Attributes:
        argument: What the user calls it, for messages.
        settings: ``class_path`` and ``init_args`` as plain values.
        parser: Makes the object.
        parsed: What the parser made of the settings.
        given: Arguments in place of those that were parsed.
        base: What the class is a subclass of.
        stated: The arguments that the user has stated, as they were.
    """

    argument: str
    settings: dict[str, Any]
    parser: ArgumentParser
    parsed: Namespace
    given: Mapping[str, Any]
    base: type
    stated: Mapping[str, Any]

    @classmethod
    def of(cls, settings: Mapping[str, Any], base: type, argument: str) -> "Specification":
        """Check ``class_path`` and ``init_args`` against a class and complete them.

        Raises:
            CatwalkError: If the class is no subclass of ``base`` or does not take the arguments.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(base, "it", required=True)
        try:
            parsed = parser.parse_object({"it": dict(settings)})
        except ArgumentError as error:
            raise CatwalkError(one_line(str(error), argument)) from error
        stated = dict(settings.get("init_args") or {})
        return cls(argument, parsed["it"].as_dict(), parser, parsed, {}, base, stated)

    @property
    def kind(self) -> type:
        """The class."""
        kind: type = import_object(self.settings["class_path"], self.argument)
        return kind

    def with_defaults(self, **arguments: Any) -> "Specification":
        """Return the same with other defaults of some arguments: what the user has stated stays.

        Args:
            **arguments: Arguments that the class takes, as configurations state them.

        Raises:
            CatwalkError: If the class does not take one.
        """
        if arguments.keys() <= self.stated.keys():
            return self
        complete = {"class_path": self.settings["class_path"], "init_args": {**arguments, **self.stated}}
        changed = Specification.of(complete, self.base, self.argument)
        return replace(changed.with_arguments(**self.given) if self.given else changed, stated=self.stated)

    def with_arguments(self, **arguments: Any) -> "Specification":
        """Return the same with other values of some arguments, which are taken as they are: nothing is parsed again.

        Args:
            **arguments: Arguments that the class takes, as it takes them. Those that it keeps in its settings must be
                plain values.
        """
        settings = {**self.settings, "init_args": {**self.settings["init_args"], **arguments}}
        return replace(self, settings=settings, given={**self.given, **arguments})

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules in which the class, and those in its arguments, are defined, but for PyTorch's own.

        PyTorch is known by its version.
        """
        paths = dict.fromkeys(class_paths(self.settings))
        names = [import_object(path, self.argument).__module__ for path in paths]
        return tuple(dict.fromkeys(name for name in names if name.partition(".")[0] != "torch"))

    def instantiate(self) -> Any:
        """Make the object.

        Raises:
            CatwalkError: If the class refuses a value.
        """
        parsed = self.parsed
        if self.given:
            parsed = parsed.clone()
            parsed["it"]["init_args"].update(Namespace(**self.given))
        try:
            return instantiate(self.parser, parsed)["it"]
        except ValueError as error:  # what jsonargparse makes of whatever the class raises
            raise CatwalkError(one_line(str(error), self.argument)) from error


def class_paths(settings: Any) -> Iterator[str]:
    """Yield the ``class_path`` of every class that settings name, however deep within them."""
    if isinstance(settings, Mapping):
        if isinstance(settings.get("class_path"), str):
            yield settings["class_path"]
        for value in settings.values():
            yield from class_paths(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from class_paths(value)
