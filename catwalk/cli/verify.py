"""``catwalk attack verify``: what is to be said of a folder of attacked images, whoever made them."""

from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from catwalk.attacks.masks import Mask
from catwalk.attacks.threat_model import Distance, GreyLevels, ThreatModel, grey_levels
from catwalk.errors import CatwalkError
from catwalk.networks.classifier import load_classifier
from catwalk.perceptual.foreign_images import JudgedImage, judge_images, write_judged
from catwalk.perceptual.lpips_distance import LPIPS
from catwalk.perceptual.trunks import TrunkName
from catwalk.shop.catalogue import Catalogue

SHOWN = 20
"""Images of which a row is printed; the CSV file has all."""


def verify(
    folder: Path,
    dataset: Path,
    norm: Distance = "linf",
    epsilon: GreyLevels | None = 8.0,
    mask: Mask | None = None,
    classifier: Path | None = None,
    source: str | None = None,
    target: str | None = None,
    image_size: int | None = None,
    csv: Path | None = None,
    lpips: TrunkName | None = None,
    backbone: str | None = None,
    backbone_args: dict[str, Any] | None = None,
) -> bool:
    """Judge a folder of attacked images against the clean catalogue: budget, success and distances.

    Args:
        folder: PNG files, named by their item's id or as the catalogue names its images, or what `catwalk attack`
            wrote.
        dataset: The dataset folder with the clean images.
        norm: Distance that the budget bounds: linf, l2 or l0 (pixels).
        epsilon: The budget in grey levels, or pixels for l0; null for none.
        mask: Where alone the images may have changed, such as catwalk.attacks.masks.Background.
        classifier: Checkpoint of a network that says what is seen in the images.
        source: Category that success leads away from, where there is no target; by default what the network sees in the
            clean image.
        target: Category that the network shall see.
        image_size: Side in pixels to which the clean images were brought first; by default what the classifier was
            trained on, or each image's own size.
        csv: File for a row of each image; without it none is written.
        lpips: Measure LPIPS by this network, too: vgg, alex or squeeze.
        backbone: Import path of the classifier's backbone, where it is your own.
        backbone_args: Its arguments, if there were any.

    Returns:
        Whether all images keep to the budget and the mask.

    Raises:
        CatwalkError: If a file is of no item of the catalogue, or of another size or kind, or an argument does not fit.
    """
    catalogue = Catalogue.read(dataset)
    threat_model = ThreatModel(norm, None if epsilon is None else grey_levels(epsilon), mask=mask)
    network = None if classifier is None else load_classifier(classifier, backbone, backbone_args)
    if image_size is not None and image_size < 1:
        raise CatwalkError(f"image_size: must be at least 1 pixel, got {image_size}")
    rows = judge_images(
        folder,
        catalogue,
        threat_model,
        classifier=network,
        source=source,
        target=target,
        image_size=None if image_size is None else (image_size, image_size),
        lpips=None if lpips is None else LPIPS(lpips),
    )
    if csv is not None:
        write_judged(csv, rows)
    _print(rows, threat_model, csv)
    return all(row.is_allowed for row in rows)


def _print(rows: list[JudgedImage], threat_model: ThreatModel, path: Path | None) -> None:
    """Print those that are not allowed, then the others, up to a number, and what all come to."""
    columns = ["item_id", "is_allowed", "pixels", "l2_levels", "linf_levels", "psnr", "ssim"]
    columns += ["lpips"] * (rows[0].lpips is not None)
    columns += ["category_before", "category_after", "success"] * (rows[0].success is not None)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        is_text = column.startswith(("item", "category"))
        table.add_column(column.replace("_", " "), justify="left" if is_text else "right", overflow="fold")
    for row in sorted(rows, key=lambda row: row.is_allowed)[:SHOWN]:
        table.add_row(*(_cell(getattr(row, column)) for column in columns))
    console = Console()
    console.print(table, markup=False, highlight=False)
    allowed, ball = sum(row.is_allowed for row in rows), threat_model
    unit = "pixels" if ball.norm == "l0" else "grey levels"
    budget = "no budget" if ball.epsilon is None else f"{ball.norm}, {ball.epsilon:g} {unit}"
    limits = f"{budget}{f', {ball.mask.name}' if ball.mask is not None else ''}"
    lines = [f"{allowed:,} of {len(rows):,} images keep to {limits}"]
    if rows[0].success is not None:
        lines.append(f"success in {sum(bool(row.success) for row in rows) / len(rows):.1%}")
    means = {name: [float(getattr(row, name)) for row in rows] for name in ("pixels", "l2_levels")}
    lines.append(
        f"changed on average {fmean(means['pixels']):.4g} pixels and {fmean(means['l2_levels']):.4g} grey levels in "
        f"L2; {max(row.linf_levels for row in rows)} at most in a value"
    )
    if len(rows) > SHOWN:
        lines.append(f"{len(rows) - SHOWN:,} rows are not shown" + ("; --csv FILE writes all" if path is None else ""))
    if path is not None:
        lines.append(f"all rows are in {path}")
    for line in lines:
        console.print(f"• {line}", markup=False, highlight=False, soft_wrap=True)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return "" if isnan(value) else f"{value:.4g}"
    return str(value)
