"""The cells of a study: what each is and what was measured of it, as columns of ``cells.csv``."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from catwalk.files.atomic import open_text, write_bytes
from catwalk.files.csv_text import to_cell
from catwalk.metrics.share_interval import share_interval
from catwalk.study.decomposition import Decomposition
from catwalk.study.grid import Grid
from catwalk.study.image_intervals import mean_interval
from catwalk.study.plan import Run
from catwalk.study.shop import Shop
from catwalk.study.stages.recommendations import RecommendationsStage

USERS_FOLDER = "users"
"""Folder, in a study's own, with the rows of every cell's users."""

COSTS = ("seconds", "memory_mib", "gpu_memory_mib")
"""What the record of a stage says of what it took; one from before they were measured has not all of them."""

OF_ATTACK = (
    *("epsilon", "target", "n_attacked", "sr_float", "sr", "sr_clean", "sr_net", "feature_loss"),
    *("linf_levels", "l2_levels", "forwards", "backwards", "queries"),
)
"""What the summary of an attack says, under the names of the columns."""


def _setting(meaning: str, default: Any = MISSING) -> Any:
    """Return a field that says what a cell is."""
    return field(default=default, metadata={"meaning": meaning, "is_setting": True})


def _measured(meaning: str, name: str | None = None) -> Any:
    """Return a field with what was measured; ``name`` is that of its column, where it has the K of the study in it."""
    return field(default=None, metadata={"meaning": meaning, "is_setting": False, "name": name})


@dataclass(frozen=True)
class Cell:
    """One row of ``cells.csv``. The fields are the columns, in their order, with what they mean.

    Attributes:
        decomposition: What the effect consists of, whose fields are columns as well; None where there is no effect.
        metrics: What else the study was asked to measure, by name: the last columns.
    """

    dataset: str = _setting("Name of the dataset.")
    protocol: str = _setting("Name of the protocol.")
    differences: str = _setting("Fields in which the protocol differs from `corrected`, such as `clip=False`.")
    extractor: str = _setting("Name of the network.")
    attack: str = _setting("Name of the attack, or `No attack`, `No attack, other seeds` or `Sham`.")
    scenario: str | None = _setting(
        "`poisoning`: the recommender was trained on the attacked images; `evasion`: on clean ones, and is shown the "
        "attacked ones; empty where nothing is attacked."
    )
    control: str | None = _setting("What the row is if it is no attack: `noise`, `sham` or `other seeds`.")
    epsilon: float | None = _setting("Budget of the attack in grey levels; empty where it has none.")
    recommender: str | None = _setting("Name of the recommender; empty in a study without any.")
    seed: int | None = _setting("Seed of the recommender's weights and batches.")
    source: str = _setting("Category whose images are attacked.")
    target: str | None = _setting("Category that the network shall see in them; empty for an untargeted attack.")
    known_recommender: str | None = _setting(
        "Recommenders that the attacker knows, such as `VBPR, seed 0`; empty for an attack that knows none.", None
    )
    defence: str | None = _setting("Name of the input defence in front of the network; empty without one.", None)
    pipeline: str | None = _setting("Name of the shop's processing in front of the network; empty without one.", None)
    crafted_on: str | None = _setting(
        "Network on which the attack was crafted, where it is not the one under attack: a surrogate, or the network "
        "without what stands in front of it.",
        None,
    )
    n_attacked: int | None = _measured("Number of attacked items.")
    chr: float | None = _measured("CHR@K of the source category: mean number of its items in a list.", "chr@{k}")
    ncdcg: float | None = _measured("nCDCG@K of the source category.", "ncdcg@{k}")
    hr: float | None = _measured("HR@K: hit rate of held-out items.", "hr@{k}")
    ndcg: float | None = _measured("nDCG@K of held-out items.", "ndcg@{k}")
    auc: float | None = _measured("AUC of held-out items.")
    sr_float: float | None = _measured("Success rate before the images are rounded to 8 bits, in [0, 1].")
    sr: float | None = _measured("Success rate by the files read back, in [0, 1].")
    sr_clean: float | None = _measured("Share that was there before any attack, in [0, 1].")
    sr_net: float | None = _measured("Share moved there by the attack, of those that were not there before.")
    sr_low: float | None = _measured("Lower end of the interval of `sr` over the images (Wilson).")
    sr_high: float | None = _measured("Upper end of it.")
    feature_loss: float | None = _measured("Mean squared error of the attacked items' features.")
    feature_loss_low: float | None = _measured("Lower end of the interval of `feature_loss` over the images (Student).")
    feature_loss_high: float | None = _measured("Upper end of it.")
    lpips: float | None = _measured("Mean LPIPS distance of the attacked images.")
    lpips_low: float | None = _measured("Lower end of the interval of `lpips` over the images (Student).")
    lpips_high: float | None = _measured("Upper end of it.")
    ssim: float | None = _measured("Mean structural similarity of the attacked images and the clean ones.")
    psnr: float | None = _measured("Mean peak signal-to-noise ratio of the attacked images in dB.")
    linf_levels: int | None = _measured("Largest change of any pixel in grey levels.")
    l2_levels: float | None = _measured("Mean Euclidean distance of the attacked images in grey levels.")
    seconds: float | None = _measured("Seconds that the recommender's training and test took; in evasion the test.")
    memory_mib: float | None = _measured(
        "Peak memory of the process during both, in MiB; what it held before included."
    )
    gpu_memory_mib: float | None = _measured(
        "Peak of what PyTorch allocated on the GPU during both, in MiB; empty without one."
    )
    forwards: float | None = _measured(
        "Forward passes of the attack, mean per image; empty for an attack from before they were counted."
    )
    backwards: float | None = _measured("Backward passes of the attack, mean per image.")
    queries: float | None = _measured(
        "Questions that the attack put to the system, mean per image; empty for an attack by gradients."
    )
    attack_seconds: float | None = _measured(
        "Seconds that the attack took, with writing its images and reading them back."
    )
    attack_memory_mib: float | None = _measured(
        "Peak memory of the process during the attack, in MiB; what it held before included."
    )
    attack_gpu_memory_mib: float | None = _measured(
        "Peak of what PyTorch allocated on the GPU during the attack, in MiB; empty without one."
    )
    users: str | None = _measured("File with a row for each test user, in the study's folder.")
    decomposition: Decomposition | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls, shop: Shop, grid: Grid, run: Run, confidence: float, clean: RecommendationsStage | None = None
    ) -> "Cell":
        """Return a cell whose stages are done.

        Args:
            shop: The study's.
            grid: The study's.
            run: The stages.
            confidence: Of intervals over images.
            clean: The lists of the same recommender and seed without attack, to which those of the cell are compared.
        """
        values: dict[str, Any] = {"target": grid.target}
        if run.attack is not None:
            summary = run.attack.summary
            values |= {name: getattr(summary, name) for name in OF_ATTACK}
            values["known_recommender"] = run.attack.known_recommender
            values |= {f"attack_{name}": run.attack.record.get(name) for name in COSTS}
            items = run.attack.items
            successes = sum(item.success for item in items)
            values |= _bounds("sr", share_interval(successes, len(items), confidence))
            values |= _bounds("feature_loss", mean_interval([item.feature_loss for item in items], confidence))
        if run.perceptual is not None:
            values |= {name: run.perceptual.value(name) for name in ("lpips", "ssim", "psnr")}
            values |= _bounds("lpips", mean_interval(run.perceptual.of_images("lpips"), confidence))
        if run.recommendations is not None and run.recommender is not None:
            record = run.recommendations.record
            values |= {name: record.get(name) for name in ("hr", "ndcg", "auc")}
            values |= {name: record[name][grid.source] for name in ("chr", "ncdcg")}
            values["metrics"] = run.recommendations.further
            values["users"] = users_file(run.recommendations)
            if run.control == "sham":
                values["n_attacked"] = record["n_attacked"]
            if clean is not None:
                values["decomposition"] = run.recommendations.beside(clean)
            made = [run.recommendations.record] + [run.recommender.record] * (run.scenario != "evasion")
            values |= _costs(made)
        derived = run.derived
        values |= {"crafted_on": run.crafted_on, "defence": derived and derived.defence}
        values["pipeline"] = derived and derived.pipeline
        about = {"dataset": shop.catalogue.name, "source": grid.source, "differences": run.protocol.short_differences}
        return cls(**{"epsilon": None} | about | run.labels | values)

    def row(self, top_k: int) -> dict[str, Any]:
        """Return the values by column; None where there is none.

        Args:
            top_k: K of the study.
        """
        values = vars(self) | ({} if self.decomposition is None else vars(self.decomposition))
        return {column_name(each, top_k): values.get(each.name) for each in COLUMNS} | dict(self.metrics)


def users_file(recommendations: RecommendationsStage) -> str:
    """Return where a study's folder has the users of a cell, of whom cells may have the same."""
    return f"{USERS_FOLDER}/{recommendations.stored.key}.parquet"


def _bounds(name: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    """Return the columns of an interval."""
    low, high = (None, None) if interval is None else interval
    return {f"{name}_low": low, f"{name}_high": high}


def _costs(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the seconds of several stages together, and the largest of their peaks of memory."""
    costs: dict[str, float | None] = {}
    for name in COSTS:
        known = [record[name] for record in records if record.get(name) is not None]
        total = sum if name == "seconds" else max
        costs[name] = round(total(known), 3) if known else None
    return costs


COLUMNS = (*(each for each in fields(Cell) if each.metadata), *fields(Decomposition))
"""Those fields of a cell, and of its decomposition, that are a column."""

SETTINGS = tuple(each.name for each in COLUMNS if each.metadata.get("is_setting"))
"""Those columns that say what a cell is; the others are what was measured."""


def column_name(column: Any, top_k: int) -> str:
    """Return what ``cells.csv`` calls one of :data:`COLUMNS`, such as ``chr@20``."""
    return (column.metadata.get("name") or column.name).format(k=top_k)


def write_cells(cells: Iterable[Cell], top_k: int, path: Path) -> None:
    """Write a row for each cell, of which there is one at least; what a cell does not have is empty."""
    rows = [cell.row(top_k) for cell in cells]
    with open_text(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: "" if value is None else to_cell(value) for name, value in row.items()})


def write_users(folder: Path, files: Mapping[str, Path]) -> None:
    """Copy the rows of users into a study's folder, and remove those of an earlier study of its name.

    Args:
        folder: The study's folder.
        files: Where they are, by where they are to be in the folder.
    """
    for path in (folder / USERS_FOLDER).glob("*.parquet"):
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()
    if not files and (folder / USERS_FOLDER).is_dir() and not any((folder / USERS_FOLDER).iterdir()):
        (folder / USERS_FOLDER).rmdir()
    for name, source in files.items():
        content = source.read_bytes()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content:
            (folder / name).parent.mkdir(exist_ok=True)
            write_bytes(folder / name, content)


def distinct(cells: Sequence[Cell], column: str) -> list[Any]:
    """Return a column's values in the order of their first appearance."""
    return list(dict.fromkeys(getattr(cell, column) for cell in cells))


def where(cells: Sequence[Cell], **values: Any) -> list[Cell]:
    """Return the cells with these values."""
    return [cell for cell in cells if all(getattr(cell, name) == value for name, value in values.items())]
