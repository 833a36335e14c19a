"""Classes with their arguments as a study's YAML states them, checked before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    argument: str
    settings: dict[str, Any]
    parser: ArgumentParser
    parsed: Namespace

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
        return cls(argument, parsed["it"].as_dict(), parser, parsed)

    @property
    def module(self) -> str:
        """Name of the module in which the class is defined, wherever it is imported from."""
        return import_object(self.settings["class_path"], self.argument).__module__

    def instantiate(self) -> Any:
        """Make the object.

        Raises:
            CatwalkError: If the class refuses a value.
        """
        try:
            return instantiate(self.parser, self.parsed)["it"]
        except ValueError as error:  # what jsonargparse makes of whatever the class raises
            raise CatwalkError(one_line(str(error), self.argument)) from error
