"""One clear line out of the trees of messages by which jsonargparse says that a value does not fit."""

import importlib
import inspect
import re
from dataclasses import dataclass, field
from typing import get_args

BASE_CLASSES = ("LightningModule", "LightningDataModule", "Callback")
"""Classes that jsonargparse falls back on where no class was given."""

EXAMPLES = {
    "extractors": "lightning_modules.ProductClassifier",
    "model": "lightning_modules.VBPR",
    "split": "catwalk.splits.DateSplit",
    "data": "datamodules.InteractionTriplets",
    "attack": "catwalk.attacks.PGD",
    "callbacks": "callbacks.CategoryHitRatio",
}


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


def one_line(message: str, name: str | None = None) -> str:
    """Return a message of jsonargparse as one line: the argument, what is allowed, and what it got.

    Args:
        message: The message; one of any other origin only loses its line breaks.
        name: What the user calls the outermost argument, where that is not what the parser calls it.
    """
    tree = _tree(message)
    if name is not None and len(tree) == 1:
        tree[0].text = re.sub(r'^Parser key "[^"]+":$', f'Parser key "{name}":', tree[0].text)
    problem = _simple(message) or _explain(tree, name)
    keys = problem.keys or ((name,) if name is not None else ())
    return " ".join(f"{'.'.join(keys)}: {problem.text}".split() if keys else problem.text.split())


def _simple(message: str) -> Problem | None:
    """Explain the messages that are no trees."""
    if not re.search(r"Parser key|Does not validate|Option '|option '|arguments|expected|argument", message):
        return Problem((), message)
    if match := re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL):
        return Problem((), f"there is no option {match[1].partition('=')[0]}; --help lists them")
    if match := re.fullmatch(r"(?:Subcommand '\w+' does not accept o|O)ption '([^']+)'(?: is not accepted)?", message):
        return Problem((), f"there is no option {match[1]}; --help lists them")
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
        return Problem((), f"there is no {match[1]} {match[2]!r}; it is one of {choices}")
    return None


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
    alternatives = next((node.children for node in nodes if node.text == "Errors:"), nodes)
    problems = [problem for node in alternatives if (problem := _explain_one(node, name, class_path)) is not None]
    if not problems:
        return Problem((), " ".join(node.text for node in nodes))
    # The first of equals.
    best = max(problems, key=lambda problem: (problem.expected is None, not problem.is_vague, len(problem.keys)))
    if best.expected is not None and value is not None:
        types = list(dict.fromkeys(problem.expected for problem in problems if problem.expected is not None))
        return Problem(best.keys, f"expected {' or '.join(types)}, got {value}")
    return best


def _explain_one(node: Node, name: str | None, class_path: str | None) -> Problem | None:
    """Return what one line and those below it tell; None for what tells nothing."""
    text = node.text
    if match := re.fullmatch(r'Parser key "([^"]+)":', text):
        inner = _explain(node.children, match[1], class_path)
        return Problem((match[1], *inner.keys), inner.text)
    if match := re.fullmatch(r"Problem with given class_path '(.+)':", text):
        if match[1].rpartition(".")[2] in BASE_CLASSES:
            return _without_class(node)
        inner = _explain(node.children, name, match[1])
        is_named = inner.keys or match[1] in inner.text
        return inner if is_named else Problem((), f"{match[1]}: {inner.text}")
    if match := re.fullmatch(r"Expected a (.+?)\. Got value: (.*)", text):
        return Problem((), f"expected {_type(match[1])}, got {match[2]}")
    if match := re.fullmatch(r"Expected a dot import path string: (.*)", text):
        return Problem((), f"there is no class {match[1]}; give its import path, such as {_example(name)}")
    if match := re.fullmatch(r"Expected an? (.+)", text):
        is_nothing = "NoneType" in match[1] or match[1].startswith("path but")
        return None if is_nothing else Problem((), text, expected=_type(match[1]))
    if match := re.fullmatch(r"module '(.+)' has no attribute '(.+)'", text):
        return Problem((), f"there is no {match[1]}.{match[2]}{_listed(_classes(match[1]))}")
    if match := re.fullmatch(r"No module named '(.+)'", text):
        return Problem((), f"there is no module {match[1]}; a class path reads like {_example(name)}")
    if match := re.fullmatch(r"Option '(.+)' is not accepted", text):
        return Problem((), f"there is no option {match[1]}{_listed(_options(class_path))}")
    if match := re.fullmatch(r"the following arguments are required: (.+)", text):
        return Problem((), f"{match[1]} missing")
    if text.startswith("Not a valid subclass of"):
        return Problem((), f"class_path is missing or of another kind, unlike {_example(name)}", is_vague=True)
    if text.startswith("Does not validate") and node.children:
        return _explain(node.children, name, class_path)
    if text.startswith(("Does not validate", "Subtypes:", "Given value", "Subclass types expect")):
        return None
    return Problem((), text)


def _without_class(node: Node) -> Problem | None:
    """Explain options of a class that was not given."""
    for child in node.children:
        if match := re.fullmatch(r"Option '(.+)' is not accepted", child.text):
            return Problem(
                (),
                f"{match[1]} is given before a class that has it: a --config with model and data, such as "
                "configs/recommender/vbpr.yaml, comes before those that change them",
                is_vague=True,
            )
    return None


def _type(text: str) -> str:
    """Return a type as people write it."""
    text = re.sub(r"<class '([^']+)'>", r"\1", text)
    text = re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)
    if match := re.fullmatch(r"Literal\[(.+)\]", text):
        return f"one of {match[1]}".replace("'", "")
    return {"Sequence": "list", "PosixPath": "path", "Path": "path"}.get(text, text)


def _example(name: str | None) -> str:
    """Return a class path that fits an argument."""
    for argument, example in EXAMPLES.items():
        if name is not None and argument in name:
            return example
    return "torch.optim.SGD"


def _listed(names: list[str]) -> str:
    return f"; there are {', '.join(names)}" if names else ""


def _classes(module: str) -> list[str]:
    """Return the classes that a module offers for a class path, where it says which."""
    loaded = importlib.import_module(module)
    offered = {name: getattr(loaded, name) for name in sorted(getattr(loaded, "__all__", ()))}
    return [
        name
        for name, value in offered.items()
        if not inspect.isabstract(value)
        and any(base.__name__ in ("Attack", *BASE_CLASSES) for base in getattr(value, "__mro__", ())[1:])
    ]


def _options(class_path: str | None) -> list[str]:
    """Return the arguments of a class, those among its ``**settings: Unpack[…]`` too."""
    try:
        module, _, name = (class_path or "").rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):
        return []
    options: list[str] = []
    for option, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            options += [key for kind in get_args(parameter.annotation) for key in kind.__annotations__]
        else:
            options.append(option)
    return options
