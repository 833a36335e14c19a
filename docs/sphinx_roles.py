"""Docstrings name other objects by Sphinx's roles, such as ``:class:`Attack` ``; here they become links of the site."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:py:)?(?:class|func|meth|attr|mod|data|exc|obj):`(~?)\.?([\w.]+)`")
OURS = ("catwalk", "lightning_modules", "datamodules", "callbacks")


class SphinxRoles(griffe.Extension):
    """Turns the roles of every docstring into references by the full name of what they name."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Rewrite the docstrings of one of our packages.

        Args:
            pkg: The package, with all that is in it.
            loader: What has loaded it, and loads the others.
            **kwargs: What Griffe says besides.
        """
        if pkg.path in OURS:
            self._rewrite(pkg, loader)

    def _rewrite(self, obj: griffe.Object, loader: griffe.GriffeLoader) -> None:
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(
                lambda match: reference(obj, bool(match[1]), match[2], loader), obj.docstring.value
            )
        for member in obj.members.values():
            if not member.is_alias:
                self._rewrite(member, loader)  # type: ignore[arg-type]


def reference(obj: griffe.Object, short: bool, name: str, loader: griffe.GriffeLoader) -> str:
    """Return what stands for a role: a link, or the name alone of what has no place on the site.

    That is what another package has, what is private, and what has no docstring. A name of ours that there is not
    becomes a link to nowhere, which ends a strict build.

    Args:
        obj: The object whose docstring it is.
        short: Whether to show the last part of the name alone.
        name: The name, as seen from the object.
        loader: What finds other packages.
    """
    shown = name.rpartition(".")[2] if short else name
    try:
        path = obj.resolve(name)
    except griffe.NameResolutionError:
        path = f"{obj.parent.path}.{name}" if obj.parent is not None and obj.parent.is_class else name
    package = path.partition(".")[0]
    if package not in OURS:
        return f"`{shown}`"
    if package not in loader.modules_collection:
        loader.load(package)
    try:
        found = loader.modules_collection[path]
        found = found.final_target if found.is_alias else found
    except (KeyError, griffe.AliasResolutionError):
        inherited = obj.parent is not None and obj.parent.is_class and path == f"{obj.parent.path}.{name}"
        return f"`{shown}`" if inherited else f"[`{shown}`][{path}]"
    private = any(part.startswith("_") for part in found.path.split("."))
    return f"`{shown}`" if private or found.docstring is None else f"[`{shown}`][{found.path}]"
