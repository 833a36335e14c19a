"""``catwalk study init``: a study's configuration for a shop, with every key explained."""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_text
from catwalk.overview import Overview, look
from catwalk.overview.facts import CategoryFacts
from catwalk.overview.time_facts import TimeFacts
from catwalk.terminal.screen_text import printable

WIDTH = 110
"""Length of a line of comments."""

SMALL_SIDE = 64
"""Images whose longer side has up to this many pixels go to the compact CNN, which is quick on a processor; networks
trained on ImageNet see nothing in them."""

LARGE_SIDE = 224
"""To this length the longer side of larger images is brought: ImageNet's networks were trained on it."""

STEPS, EPOCHS = 1000, (4, 20)
"""Steps that a CNN with random weights trains for, about, and the fewest and the most epochs."""

TUNING_STEPS, TUNING_EPOCHS = 300, (3, 10)
"""The same of one that comes from ImageNet."""

MANY_PURCHASES = 1_000_000
"""From this many purchases on, recommenders train for a quarter of the epochs, with one seed: epochs are long."""

COMPACT = "backbone: catwalk.networks.compact_cnn # a function that returns a network; your own, too\n"
RESNET = COMPACT.replace("catwalk.networks.compact_cnn", "torchvision.models.resnet18")
TUNED = """\
backbone: torchvision.models.resnet50 # a function that returns a network; your own, too
backbone_args: {weights: IMAGENET1K_V2} # downloaded once; a file instead: `weights: FILE` here and no backbone_args
freeze_up_to: layer3 # only what comes behind it is trained
optimizer: # by class path; the rate suits a network that has learnt something already
  class_path: torch.optim.SGD
  init_args: {lr: 0.01, momentum: 0.9, weight_decay: 0.0005}
"""
"""Arguments of the networks, as lines of YAML."""


def init_study(dataset: Path, output: Path | None = None) -> None:
    """Write the configuration of a study of a dataset folder, with every key explained, for `catwalk study --config`.

    Source and target are the first promising pair of `catwalk data show`; networks, sizes and epochs go by what the
    folder holds. All of it is there to be changed.

    Args:
        dataset: The dataset folder.
        output: The YAML file to write, which must not exist; the folder's name with .yaml, here, by default.

    Raises:
        CatwalkError: If the dataset folder is missing or malformed, or has fewer than two categories with items; if the
            file exists already or its folder does not.
    """
    name = re.sub(r"\s+", "_", dataset.resolve().name) or "study"
    output = Path(f"{name}.yaml") if output is None else output
    if output.exists():
        raise CatwalkError(f"output: {output} exists already: give another name with --output, or remove it")
    if not output.parent.is_dir():
        raise CatwalkError(f"output: there is no folder {output.parent} to write {output.name} into; make it")
    overview = look(dataset).overview
    write_text(output, configuration(name, dataset, overview))
    console = Console()
    for line in (f"{output} is a study of {overview.name}; read it, then run", f"catwalk study --config {output}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def configuration(name: str, dataset: Path, overview: Overview) -> str:
    """Return the text of a study's YAML.

    Args:
        name: The study's name.
        dataset: The dataset folder.
        overview: What it holds.

    Raises:
        CatwalkError: If there are fewer than two categories with items.
    """
    source, target, why = _pair(overview)
    sections = [
        _comment(f"A study of {overview.name} by `catwalk study init`: change what you like.", *_facts(overview)),
        _section("Name of the study: its tables go to runs/NAME.", "name", name),
        _section("The dataset folder. `catwalk data show` tells more of it.", "dataset", str(dataset)),
        _section(f"The category whose images are attacked. {why}", "source", source.name),
        _section("The category that the network shall see in them.", "target", target.name),
        *_networks(overview),
        _attacks(),
        *(_recommenders(overview) if overview.purchases is not None else ()),
        _comment(
            "How alike attacked and clean images look to people. LPIPS needs the weights of net, as the paper has it, "
            "vgg; where these cannot be had, on_missing: skip leaves it out, and error ends the study before it begins."
        )
        + "lpips: {net: vgg, on_missing: skip}\n",
    ]
    stated = set(re.findall(r"^(?:# (?=\w+: \{))?(\w+):", "\n".join(sections), re.MULTILINE))
    return "\n".join([*sections, _others(stated)])


def _pair(overview: Overview) -> tuple[CategoryFacts, CategoryFacts, str]:
    """Return source, target, and why these."""
    if overview.pairs:
        best = overview.pairs[0]
        return (
            best.source,
            best.target,
            f"One of its items is bought {best.ratio:.2f} times as often as one of the target's: the first of the "
            "promising pairs of `catwalk data show`.",
        )
    filled = sorted((one for one in overview.categories if one.items), key=lambda one: -one.items)[:2]
    if len(filled) < 2:
        raise CatwalkError(
            f"dataset: {overview.name} has {len(filled)} category with items, and a study needs two, a source and a "
            "target"
        )
    if overview.purchases is None:
        why = "Without purchases, the two largest categories are as good as any."
    else:
        filled.sort(key=lambda one: one.per_item or 0.0)
        why = "No pair of this shop is promising; these are its two largest categories, the one bought less first."
    return filled[0], filled[1], why


def _facts(overview: Overview) -> Iterator[str]:
    """Yield sentences on the shop."""
    bought = "no purchases" if overview.purchases is None else f"{overview.purchases.purchases:,} purchases"
    yield f"It has {overview.items:,} items in {len(overview.categories):,} categories, and {bought}."
    if overview.weaknesses:
        yield "What makes a study of it weak:"
        yield from (f"- {weakness}" for weakness in overview.weaknesses)


def _networks(overview: Overview) -> Iterator[str]:
    """Yield the section of the networks: a traditionally trained one, and the same trained adversarially."""
    labels = overview.labels
    width, height, _ = next(iter((labels.files or overview.images).sizes), (LARGE_SIDE, LARGE_SIDE, 0))
    images = max(labels.by_split["train"], 1)
    batch_size = 128 if images >= 5000 else 32
    steps, (fewest, most) = STEPS, EPOCHS
    is_small = max(width, height) <= SMALL_SIDE
    if is_small:
        origin, model = "from random weights, by a small network, for the images are small", COMPACT
    elif labels.own_file:
        origin, model = "from random weights", RESNET
    else:
        origin, model = "from ImageNet's weights, for none but the items' own photographs teach them", TUNED
        steps, (fewest, most) = TUNING_STEPS, TUNING_EPOCHS
    epochs = min(max(round(steps * batch_size / images), fewest), most)
    data = f"batch_size: {batch_size}\n"
    if not (is_small and _is_of_one_size(overview)):
        scale = min(1.0, LARGE_SIDE / max(width, height))
        size = [round(height * scale), round(width * scale)]
        data += f"image_size: {size} # height and width that every image is brought to\n"
    yield (
        _comment(
            "The networks (CNNs) that see the images, by the names that head the tables. Each learns the shop's "
            f"categories {origin}, on {images:,} images, and is measured on {labels.by_split['test']:,} others."
        )
        + "extractors:\n"
        + _network("T: # traditional training", "ProductClassifier", model, data, epochs)
    )
    defended = _network("AT: # adversarial training, a defence", "AdversarialClassifier", model, data, epochs // 2)
    if is_small:
        yield defended
    else:  # as a comment
        price = "# An epoch of adversarial training costs as much as six of the others: better on a GPU.\n"
        yield textwrap.indent(price, "  ") + re.sub(r"^  ", "  # ", defended, flags=re.MULTILINE)


def _network(heading: str, module: str, model: str, data: str, epochs: int) -> str:
    """Return the entry of a network."""
    return f"""\
  {heading}
    model:
      class_path: lightning_modules.{module}
      init_args:
{textwrap.indent(model, " " * 8)}\
    data: # arguments of datamodules.ProductImages
{textwrap.indent(data, " " * 6)}\
    trainer: # arguments of Lightning's Trainer
      max_epochs: {epochs}
    seed: 0 # of weights and batches
"""


def _is_of_one_size(overview: Overview) -> bool:
    """Return whether all images have one size, of the items and of those that a network learns from."""
    kinds = [overview.images] if overview.labels.files is None else [overview.images, overview.labels.files]
    return all(images.different_sizes == 1 for images in kinds)


def _attacks() -> str:
    return (
        _comment(
            "The attacks; a run without any is added to them. epsilon is how far each value of an image may be moved, "
            "in grey levels of 0..255. `catwalk.attacks` has more, such as APGD, MIFGSM, CarliniWagner, RankAttack."
        )
        + """\
attacks:
  - class_path: catwalk.attacks.FGSM # one step
    init_args: {epsilon: 8}
  - class_path: catwalk.attacks.PGD # ten steps: stronger
    init_args: {epsilon: 8}
"""
    )


def _recommenders(overview: Overview) -> Iterator[str]:
    """Yield the sections of the recommenders."""
    assert overview.purchases is not None
    is_large = overview.purchases.purchases >= MANY_PURCHASES
    epochs = 10 if is_large else 40
    yield (
        _comment(
            "The recommenders, trained again on the features of every attack's images. Leave them out to measure "
            "networks and attacks alone. Each may have data (arguments of datamodules.InteractionTriplets) and model "
            "(class_path and init_args), such as factors; `catwalk tune` looks for the best. model and trainer are as "
            "above."
        )
        + f"""\
recommenders:
  BPR-MF: # sees no images: the control
    model: {{class_path: lightning_modules.BPRMF}}
    trainer: {{max_epochs: {epochs}}}
  VBPR: # sees the images by their features
    model: {{class_path: lightning_modules.VBPR}}
    trainer: {{max_epochs: {epochs}}}
  AMR: # VBPR defended: trained against the worst change of the features
    model: {{class_path: lightning_modules.AMR}}
    trainer: {{max_epochs: {epochs // 2}}}
    warm_start: VBPR # the recommender above with whose parameters it begins
"""
    )
    seeds = [0] if is_large else [0, 1, 2]
    yield _section("Every recommender is trained once with each of these; tables show the means.", "seeds", seeds)
    yield _section("K: how many items a list of recommendations has.", "top_k", min(20, overview.items))
    if overview.split is not None and overview.split.seen_future and overview.time is not None:
        rule = {"class_path": "catwalk.shop.splits.DateSplit", "init_args": {"test_from": _test_from(overview.time)}}
        yield (
            _comment(
                "How purchases are divided. By default every user's last one is the test, and recommenders learn from "
                "what others bought later; a rule by date avoids that. From test_from on it tests: about the last "
                "fifth."
            )
            + f"# split: {_scalar(rule)}\n"
        )


def _test_from(time: TimeFacts) -> str | int | float:
    """Return the latest moment, between two bars of the purchases over time, from which on at least a fifth was bought.

    Args:
        time: When things were bought.

    Returns:
        As the timestamps are: a date, or a number.
    """
    since = np.cumsum(time.counts[::-1])[::-1]
    edge = time.edges[int((since >= since[0] / 5).sum()) - 1]
    if not isinstance(edge, str):
        return int(edge) if edge == int(edge) else edge
    moment = np.datetime64(edge, "s")
    if time.read_as == "dates":
        return str(moment if time.period == "hour" else moment.astype("datetime64[D]"))
    return int(moment.astype(np.int64)) * (1000 if time.read_as == "unix milliseconds" else 1)


def _others(stated: set[str]) -> str:
    """Return those arguments of a study that the file does not state, as comments with their defaults."""
    from catwalk.study import run_study

    told = _arguments(run_study)
    text = _comment("What else can be stated, with what holds where it is not:")
    for name, parameter in inspect.signature(run_study).parameters.items():
        if name not in stated and parameter.default is not inspect.Parameter.empty:
            default = parameter.default
            plain = asdict(default) if is_dataclass(default) and not isinstance(default, type) else default
            text += "#\n" + _comment(told[name]) + f"# {name}: {_scalar(plain)}\n"
    return text


def _arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Return what a function's docstring says of each argument."""
    (block,) = re.findall(r"^Args:\n(.*?)\n\n", inspect.getdoc(function) or "", re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", block, re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.replace("``", "`").split()) for name, text in entries}


def _section(comment: str, key: str, value: Any) -> str:
    return f"{_comment(comment)}{key}: {_scalar(value)}\n"


def _comment(*paragraphs: str) -> str:
    """Return paragraphs as lines of comments, safe to show on a screen."""
    lines = []
    for paragraph in paragraphs:
        clean = " ".join(printable(paragraph).split())
        indent = "  " if clean.startswith("- ") else ""
        lines += textwrap.wrap(clean, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line."""
    plain = str(value) if isinstance(value, Path) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10_000)
    return text.removesuffix("...\n").strip()
