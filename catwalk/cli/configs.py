"""The files behind ``--config``: ours are found from any folder, and each is checked before a parser reads it."""

from collections.abc import Sequence
from pathlib import Path

from catwalk.errors import CatwalkError

SHIPPED = Path(__file__).parents[2] / "configs"
"""The configurations that come with Catwalk: beside its package, whatever else is called ``configs``."""


def find_shipped_configs(arguments: Sequence[str]) -> list[str]:
    """Replace ``--config configs/…`` by the file that comes with Catwalk, where there is none in this folder.

    Raises:
        CatwalkError: If a file is missing or is no YAML.
    """
    found = []
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if equals and option in ("-c", "--config"):
            found.append(f"{option}={_config_file(value)}")
        elif position and arguments[position - 1] in ("-c", "--config"):
            found.append(_config_file(argument))
        else:
            found.append(argument)
    return found


def _config_file(path: str) -> str:
    if not path:
        raise CatwalkError("--config: the name of a YAML file is missing behind it")
    parts = Path(path).parts
    if not Path(path).exists() and parts[:1] == ("configs",) and SHIPPED.joinpath(*parts[1:]).is_file():
        path = str(SHIPPED.joinpath(*parts[1:]))
    if Path(path).is_dir():
        raise CatwalkError(f"configuration {path} is a folder: give a YAML file in it")
    if not Path(path).is_file():
        raise CatwalkError(f"configuration {path} does not exist{_configs_like(Path(path))}")
    _check_yaml(path)
    return path


def _configs_like(path: Path) -> str:
    """Return the end of a message about a configuration that there is not: which of ours may have been meant."""
    from catwalk.configuration.names import closest

    ours = sorted(file.relative_to(SHIPPED.parent) for file in SHIPPED.glob("*/*.yaml"))
    of_the_group = [file for file in ours if file.parent.name == path.parent.name]
    for choice in (of_the_group, ours):
        by_stem = {file.stem: file.as_posix() for file in reversed(choice)}
        if similar := closest(path.stem, list(by_stem)):
            return f"; did you mean {' or '.join(by_stem[stem] for stem in similar)}?"
    if path.parts[:1] != ("configs",):
        return ""
    return f"; these come with Catwalk: {', '.join(file.as_posix() for file in of_the_group or ours)}"


def _check_yaml(path: str) -> None:
    """Raise a CatwalkError unless a file holds options and their values, each once."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        content, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        # Of PyYAML's messages the last lines quote the file.
        told = str(error).replace('in "<unicode string>", line', "at line").splitlines()
        lines = [line.strip().rstrip(":") for line in told if line[:4].strip() or line.startswith("  at line")]
        raise CatwalkError(f"configuration {path} is no valid YAML: {' '.join(lines) or error}") from error
    except ValueError as error:  # as of 2020-13-45, which looks like a date
        raise CatwalkError(f"configuration {path} is no valid YAML: {error}") from error
    if content is None:
        raise CatwalkError(f"configuration {path} is empty; it must hold options and their values")
    if not isinstance(content, dict):
        raise CatwalkError(f"configuration {path} must hold options and their values, got {str(content)[:50]!r}")
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        lines_of: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if node is tree and key.tag != "tag:yaml.org,2002:str":
                raise CatwalkError(f"configuration {path}, line {line}: {key.value} is no name of an option")
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in lines_of:
                    raise CatwalkError(
                        f"configuration {path} has {key.value!r} twice, in lines {lines_of[key.value]} and {line}: the "
                        "first would be ignored"
                    )
                lines_of[key.value] = line
            pending.append(value)
