"""One clear line out of the trees of messages by which jsonargparse says that a value does not fit."""

import ast
import importlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from catwalk.configuration.names import OUR_PACKAGES, closest, did_you_mean

COMMANDS = ("fit", "validate", "test", "predict")
"""LightningCLI's."""

SECTIONS = {
    **dict.fromkeys(("model", "data", "trainer", "poison", "ckpt_path"), "fit"),
    **dict.fromkeys(("extractors", "recommenders", "attacks"), "study"),
    "search": "tune",
}
"""Sections of a configuration that belong to one command alone, and the command."""

BASE_CLASSES = ("LightningModule", "LightningDataModule", "Callback", "Logger", "Optimizer", "SplitRule", "Attack")
"""Classes that jsonargparse falls back on where no class was given."""

EXAMPLES = {
    "extractors": "lightning_modules.ProductClassifier",
    "model": "lightning_modules.VBPR",
    "split": "catwalk.shop.splits.DateSplit",
    "data": "datamodules.InteractionTriplets",
    "attack": "catwalk.attacks.PGD",
    "callbacks": "callbacks.CategoryHitRatio",
    "logger": "pytorch_lightning.loggers.CSVLogger",
    "optimizer": "torch.optim.SGD",
}
"""A class for each argument that takes one, by a part of the argument's name."""

MISSING = {
    ("data", "dataset"): "; give --data.dataset, or a --config such as configs/data/synthetic.yaml",
    (
        "DateSplit",
        "test_from",
    ): "; give the first moment to test, such as 2021-12-01, or a number as timestamps are",
}
"""Remedies for a missing option, by the argument or the class, and the option."""


ONE_BY_ONE = "its entries are given in a --config, not one by one on the line"
"""Answer to ``--recommenders.VBPR.model.factors 3``."""


@dataclass
class Node:
    """A line of a message with the lines that are indented below it."""

    text: str
    children: list["Node"] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a value.

    Attributes:
        keys: Where the value stands, from the outermost argument inwards.
        text: What is wrong.
        expected: The type that was expected, where that is all there is to say.
        is_vague: Whether any other problem says more.
    """

    keys: tuple[str, ...]
    text: str
    expected: str | None = None
    is_vague: bool = False


@dataclass(frozen=True)
class Context:
    """Where a line of a message stands.

    Attributes:
        name: The argument.
        class_path: The class that has the argument.
        kinds: The types that are allowed, as the message shows them.
        value: The value that was given, likewise.
    """

    name: str | None
    class_path: str | None
    kinds: str
    value: str | None


def one_line(message: str, name: str | None = None, options: Sequence[str] = (), arguments: Sequence[str] = ()) -> str:
    """Return a message of jsonargparse as one line: the argument, what is allowed, and what it got.

    Args:
        message: The message; one of any other origin only loses its line breaks.
        name: What the user calls the outermost argument, where that is not what the parser calls it.
        options: The options that the command has, without dashes.
        arguments: What stands on the command line, where a message of jsonargparse leaves names out.
    """
    tree = _tree(message)
    if name is not None and len(tree) == 1:
        tree[0].text = re.sub(r'^Parser key "[^"]+":$', f'Parser key "{name}":', tree[0].text)
    problem = _simple(message, options) or _explain(tree, name)
    keys = problem.keys or ((name,) if name is not None else ())
    if problem.text.endswith(ONE_BY_ONE):
        keys = _keys_on_the_line(keys, arguments)
    return " ".join(f"{'.'.join(keys)}: {problem.text}".split() if keys else problem.text.split())


def _keys_on_the_line(keys: tuple[str, ...], arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of ``--recommenders.VBPR.model.factors`` without the last, for recommenders and model."""
    for argument in arguments:
        parts = argument.partition("=")[0].removeprefix("--").split(".")
        if argument.startswith("--") and (*parts[:1], *parts[2:-1]) == keys:
            return tuple(parts[:-1])
    return keys


def _simple(message: str, options: Sequence[str]) -> Problem | None:
    """Explain the messages that are no trees."""
    if match := re.fullmatch(r"(?:argument )?--([\w.]+)\.help: Expected a dot import path string: (.*)", message):
        return Problem((f"--{match[1]}.help",), f"there is no class {match[2]}{_listed_classes(match[2], match[1])}")
    if match := re.match(r'Parser key "([\w.]+)":\s+Unable to load config \'(.*)\'', message):
        return Problem((match[1],), f"expected options and their values, got {match[2]}")
    if match := re.fullmatch(r"Unexpected config: (.*)", message, re.DOTALL):
        return Problem((), f"configuration: expected options and their values, got nothing but {match[1].strip()!r}")
    if not re.search(r"Parser key|Does not validate|[Oo]ption|[Gg]roup '|arguments|expected|argument", message):
        return Problem((), message)
    if match := re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL):
        return Problem((), _no_option(match[1].partition("=")[0], options))
    if match := re.fullmatch(
        r"(?:(?:Subcommand|Group) '(\S+)' does not accept option|Option) '([^']+)'(?: is not accepted.*)?", message
    ):
        is_group = message.startswith("Group") and not match[2].startswith(f"{match[1]}.")
        return Problem((), _no_option(f"{match[1]}.{match[2]}" if is_group else match[2], options))
    if match := re.fullmatch(r"ambiguous option: (\S+) could match (.+)", message):
        matches = [option for option in match[2].split(", ") if not option.endswith(("+", ".help"))]
        return Problem((), f"there is no option {match[1].partition('=')[0]}; did you mean {' or '.join(matches)}?")
    if match := re.fullmatch(r"argument (?:-\w/)?(--[\w.]+): expected one argument", message):
        return Problem((match[1],), "a value is missing behind it")
    if match := re.fullmatch(r"the following arguments are required: (.+)", message):
        missing = [key.split(".", 1)[-1] for key in match[1].split(", ")]
        if set(missing) <= {"model", "data"}:
            return Problem(
                (),
                f"{' and '.join(sorted(missing, reverse=True))} missing: begin with a --config that has both, such as "
                "configs/cnn/traditional.yaml or configs/recommender/vbpr.yaml, or give classes to --model and --data",
            )
        return Problem((), f"missing: {', '.join(missing)}")
    if match := re.fullmatch(r'expected "(\w+)" to be one of \{(.+)\}, but it was not provided\.', message):
        return Problem((), f"{match[1]} is missing; it is one of {match[2].replace(',', ', ')}")
    if match := re.fullmatch(r"argument (\w+): invalid choice: '(.*)' \(choose from (.+)\)", message):
        choices = match[3].replace("'", "")
        similar = closest(match[2], choices.split(", "))[:1]
        hint = f"; did you mean {similar[0]}? It is one of {choices}" if similar else f"; it is one of {choices}"
        return Problem((), f"there is no {match[1]} {match[2]!r}{hint}")
    return None


def _no_option(given: str, options: Sequence[str]) -> str:
    """Explain an option that the command does not have, of the command line or of a file."""
    dashes = "--" if given.startswith("--") else ""
    name = given.lstrip("-").removesuffix(".class_path").replace(".init_args.", ".")
    if not dashes and name.endswith((".yaml", ".yml")):
        return f"{given} stands alone: each configuration has a --config of its own before it"
    section, dot, _ = name.partition(".")
    command = SECTIONS.get(section)
    if command is not None and not any(option.partition(".")[0] == section for option in options):
        return f"there is no option {given}; {section} belongs to `catwalk {command}`"
    if dot and section in COMMANDS:
        return f"there is no option {given}: options stand at the top of a file, without {section}"
    by_end: dict[str, list[str]] = {}
    for option in options:
        by_end.setdefault(option.rpartition(".")[2], []).append(option)
    similar = by_end.get(name) or closest(name, options) or [by_end[end][0] for end in closest(name, list(by_end))]
    if not dashes and not similar and not dot:
        return f"{given} is one word too many; the name of an option begins with --, and --help lists them"
    hint = f"did you mean {' or '.join(dashes + option for option in similar[:2])}?" if similar else "--help lists them"
    return f"there is no option {given}; {hint}"


def _tree(message: str) -> list[Node]:
    """Return the lines of a message, nested by their indentation."""
    root = Node("")
    open_nodes = [(-1, root)]
    for line in message.splitlines():
        text = line.strip()
        if not text:
            continue
        indentation = len(line) - len(line.lstrip())
        if text.startswith("- "):
            text, indentation = text[2:], indentation + 1
        if text.startswith("Given value: "):
            text = re.sub(r"\. Got value: Namespace\(.*\)$", "", text)
        while open_nodes[-1][0] >= indentation:
            open_nodes.pop()
        node = Node(text)
        open_nodes[-1][1].children.append(node)
        open_nodes.append((indentation, node))
        if match := re.fullmatch(r'(Parser key "[^"]+":) (.+)', text):
            node.text, node.children = match[1], [Node(match[2])]
    return root.children


def _explain(nodes: list[Node], name: str | None = None, class_path: str | None = None) -> Problem:
    """Return the most specific of the problems that some lines tell."""
    value = next((match[1] for node in nodes if (match := re.fullmatch(r"Given value: (.*)", node.text))), None)
    kinds = next((match[1] for node in nodes if (match := re.fullmatch(r"Subtypes: \[(.*)\]", node.text))), "")
    alternatives = next((node.children for node in nodes if node.text == "Errors:"), nodes)
    context = Context(name, class_path, kinds, value)
    problems = [problem for node in alternatives if (problem := _explain_one(node, context)) is not None]
    if not problems:
        return Problem((), " ".join(node.text for node in nodes))
    # The first of equals.
    best = max(problems, key=lambda problem: (problem.expected is None, not problem.is_vague, len(problem.keys)))
    if best.expected is not None and value is not None:
        types = list(dict.fromkeys(problem.expected for problem in problems if problem.expected is not None))
        got = f"; {ONE_BY_ONE}" if value.startswith("Namespace(") else f", got {value}"
        return Problem(best.keys, f"expected {' or '.join(types)}{got}")
    return best


def _explain_one(node: Node, context: Context) -> Problem | None:
    """Return what one line and those below it tell; None for what tells nothing."""
    text, name = node.text, context.name
    if match := re.fullmatch(r'Parser key "([^"]+)":', text):
        inner = _explain(node.children, match[1], context.class_path)
        return Problem((match[1], *inner.keys), inner.text)
    if match := re.fullmatch(r"Problem with given class_path '(.+)':", text):
        if match[1].rpartition(".")[2] in BASE_CLASSES:
            return _without_class(node, context)
        inner = _explain(node.children, name, match[1])
        is_named = inner.keys or match[1] in inner.text
        return inner if is_named else Problem((), f"{match[1]}: {inner.text}")
    if re.match(r"Expected an? instantiatable class, but [\w.]+ is abstract", text):
        options = re.findall(r"NestedArg\(key='(.+?)'", f"{text} {context.value}") or ["an option"]
        return Problem((), f"{options[0]} is given before a class that has it, such as {_example(name)}")
    if match := re.fullmatch(r"Expected a (.+?)\. Got value: ?(.*)", text):
        kind = _type(match[1])
        if match[2].startswith("Namespace("):
            return Problem((), f"expected {kind}; {ONE_BY_ONE}")
        example = f", such as [{match[2]}]," if kind == "list" and re.fullmatch(r"-?[\d.]+", match[2]) else ","
        return Problem((), f"expected {kind}{example} got {match[2] or 'nothing'}")
    if match := re.fullmatch(r"Expected a dot import path string: ?(.*)", text):
        if re.search(r"<class '(int|float)'>", context.kinds):
            return None  # a number was meant
        if not match[1]:
            return Problem((), f"expected a class, such as {_example(name)}, got nothing")
        return Problem((), f"there is no class {match[1]}{_listed_classes(match[1], name, context.kinds)}")
    if text.startswith("Expected a path but") or text.startswith("Expected a <class 'NoneType'>"):
        return None
    if re.match(r"Expected a (<class 'tuple'>|tuple with)", text):
        return Problem((), text, expected=_tuple(context))
    if match := re.fullmatch(r"Expected an? (.+)", text):
        return Problem((), text, expected=_type(match[1]))
    if text.startswith("Not of type Path"):
        return Problem((), text, expected="path")
    if match := re.fullmatch(r"module '(.+)' has no attribute '(.+)'", text):
        return Problem((), f"there is no {match[1]}.{match[2]}{did_you_mean(match[2], _classes(match[1]))}")
    if match := re.fullmatch(r"No module named '(.+)'", text):
        return Problem(
            (), f"there is no module {match[1]}{_own_files(match[1])}; a class path reads like {_example(name)}"
        )
    if match := re.fullmatch(r'Type typing\.Callable.+? callable class: (Parser key "[^"]+":)', text):
        return _explain_one(Node(match[1], node.children), context)
    if match := re.fullmatch(r"Type typing\.Callable.+?: (.+?)\. Got value: Namespace\(class_path='([^']+)'.*", text):
        return _explain_one(Node(f"Problem with given class_path '{match[2]}':", [Node(match[1])]), context)
    if match := re.fullmatch(r"Option '(.+)' is not accepted", text):
        hint = "; --checkpoint_dir sets that of all checkpoints" if match[1] == "dirpath" else ""
        return Problem((), f"there is no option {match[1]}{did_you_mean(match[1], _options(context.class_path))}{hint}")
    if match := re.fullmatch(r"the following arguments are required: (.+)", text):
        owners = (name or "", (context.class_path or "").rpartition(".")[2])
        hint = next((MISSING[owner, match[1]] for owner in owners if (owner, match[1]) in MISSING), "")
        return Problem((), f"{match[1]} missing{hint}")
    if match := re.fullmatch(r"Expected '(.+)' to be a subclass of <class '(?:\w+\.)*(\w+)'>\.?", text):
        return Problem((), f"{match[1]} is no {match[2]}, unlike {_example(name)}")
    if match := re.fullmatch(r"Import path (\S+ )?does not correspond to a subclass of (\w+)", text):
        return Problem((), f"{context.value or match[1] or 'the class'} is no {match[2]}, unlike {_example(name)}")
    if text == "'NoneType' object has no attribute 'keys'":
        return Problem((), "init_args is empty: leave it out, or give it options")
    if match := re.fullmatch(r"Not a valid subclass of \w+\.?(?: Got value: ?(.*))?", text):
        value = context.value or match[1]
        got = "" if value is None else f", got {value}"
        return Problem((), f"expected a class, such as {_example(name)}{got}", is_vague=True)
    if text.startswith("Does not validate") and node.children:
        return _explain(node.children, name, context.class_path)
    if text.startswith(("Does not validate", "Subtypes:", "Given value", "Subclass types expect")):
        return None
    return Problem((), text)


def _without_class(node: Node, context: Context) -> Problem | None:
    """Explain options of a class that was not given."""
    for child in node.children:
        if match := re.fullmatch(r"Option '(.+)' is not accepted", child.text):
            if match[1] == "class_path":  # which was given, with options where they do not belong
                beside = _keys(context.value) - {"class_path", "init_args"}
                return Problem(
                    (), f"{', '.join(sorted(beside)) or 'options'} must stand in init_args, below class_path"
                )
            if context.name is not None and "optimizer" in context.name:
                return Problem((), f"{match[1]} is given before a class that has it, such as {_example(context.name)}")
            return Problem(
                (),
                f"{match[1]} is given before a class that has it: a --config with model and data, such as "
                "configs/recommender/vbpr.yaml, comes before those that change them",
                is_vague=True,
            )
    return None


def _keys(value: str | None) -> set[str]:
    """Return the keys of a dictionary that a message shows."""
    try:
        shown = ast.literal_eval(value or "")
    except (ValueError, SyntaxError):
        return set()
    return set(shown) if isinstance(shown, dict) else set()


def _tuple(context: Context) -> str:
    """Return what a tuple holds, with an example made of what was given."""
    match = re.search(r"tuple\[([\w, ]+)\]", context.kinds)
    if match is None:
        return "list"
    parts = match[1].split(", ")
    given = re.findall(r"\d+", context.value or "") if set(parts) == {"int"} else []
    example = f", such as [{', '.join((given + given[-1:] * len(parts))[: len(parts)])}]" if given else ""
    return f"list of {len(parts)} ({match[1]}){example}"


def _type(text: str) -> str:
    """Return a type as people write it."""
    text = re.sub(r"<class '([^']+)'>", r"\1", text)
    text = re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)
    if match := re.fullmatch(r"Literal\[(.+)\]", text):
        return f"one of {match[1]}".replace("'", "")
    names = {
        "Sequence": "list",
        "PosixPath": "path",
        "Path": "path",
        "tuple": "list of values",
        "dict": "dict such as {name: value}",
    }
    return names.get(text, text)


def _example(name: str | None) -> str:
    """Return a class path that fits an argument, or what one looks like."""
    for argument, example in EXAMPLES.items():
        if name is not None and argument in name:
            return example
    return "package.module.Class"


def _listed_classes(given: str, name: str | None, kinds: str = "") -> str:
    """Return the end of a message about a class that there is not: what may have been meant, or what there is.

    Args:
        given: The name.
        name: The argument.
        kinds: The types that the argument takes, as the message shows them; by the argument's example if empty.
    """
    paths = [path for path in re.findall(r"(?:\w+\.)+\w+", kinds) if not path.startswith(("typing.", "collections."))]
    bases = [base for path in paths if inspect.isclass(base := imported(path))]
    example = imported(_example(name))
    if not kinds and inspect.isclass(example):
        bases = [base for base in example.__mro__ if base.__name__ in BASE_CLASSES]
    classes = [kind for base in bases for kind in _subclasses(base)]
    similar = closest(given.rpartition(".")[2], [kind.__name__ for kind in classes])
    if similar:
        return f"; did you mean {' or '.join(similar)}?"
    ours = [kind for kind in classes if kind.__module__.partition(".")[0] in OUR_PACKAGES]
    listed = did_you_mean(given, sorted({kind.__name__ for kind in ours or classes}))
    return f"{listed}; of others give the import path, such as {_example(name)}"


def _own_files(module: str) -> str:
    """Return the hint of a message about a module that there is not: a file in this folder that may have been meant."""
    similar = closest(module, sorted(path.stem for path in Path().glob("*.py")))
    return f"; did you mean {' or '.join(f'{name} ({name}.py)' for name in similar)}?" if similar else ""


def _subclasses(base: type) -> list[type]:
    """Return the classes below one that have been imported and can be made, of us and of those whom we build upon."""
    found: dict[str, type] = {}
    pending = [base]
    while pending:
        below: list[type] = pending.pop().__subclasses__()
        pending += below
        for kind in below:
            is_known = kind.__module__.partition(".")[0] in (*OUR_PACKAGES, "pytorch_lightning", "torch")
            if is_known and not inspect.isabstract(kind) and not kind.__name__.startswith(("_", "LazyInstance_")):
                found[kind.__name__] = kind
    return list(found.values())


def imported(path: str) -> Any:
    """Return what a dotted path of ours, or of a message about a type, names; None if there is no such thing."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def _classes(module: str) -> list[str]:
    """Return the classes that a module offers for a class path, where it says which."""
    loaded = importlib.import_module(module)
    offered = {name: getattr(loaded, name) for name in sorted(getattr(loaded, "__all__", ()))}
    if not offered:
        offered = {name: value for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module}
    return [
        name
        for name, value in offered.items()
        if not inspect.isabstract(value)
        and any(base.__name__ in BASE_CLASSES for base in getattr(value, "__mro__", ())[1:])
    ]


def _options(class_path: str | None) -> list[str]:
    """Return the options of a class, those that it hands on to its parents too."""
    kind = imported(class_path or "")
    if not inspect.isclass(kind):
        return []
    try:
        options = ArgumentParser(exit_on_error=False).add_class_arguments(kind, fail_untyped=False)
    except (ValueError, TypeError):
        return []
    is_optimizer = any(base.__name__ == "Optimizer" for base in kind.__mro__)
    return [option for option in options if not (is_optimizer and option == "params")]  # which the model gives


def options_of(kind: type, section: str) -> list[str]:
    """Return the options of a class as options of a command, such as ``model.factors``."""
    return [f"{section}.{option}" for option in _options(f"{kind.__module__}.{kind.__qualname__}")]
