"""Who sees the attacked items: CHR@20 by what a user has bought, from the results that a study left in its cache.

Run it after `make demo`: `.venv/bin/python docs/exposure_by_users.py runs/demo data/demo`. It prints, and writes to
`exposure.csv` in the study's folder, for every CNN, no attack and every attack, the mean over the study's seeds of the
attacked items' places in the top-20 lists of three groups of users (those who bought an item of the source category in
training, of the others those who bought one of the target category, and the rest), and the mean rank of the attacked
items among what a user has not bought.
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from catwalk.files.csv_text import from_cell
from datamodules import InteractionTriplets
from lightning_modules import VBPR


def main(study: Path, dataset: Path, k: int = 20) -> None:
    cache = study.parent / "cache"
    stages = json.loads((study / "manifest.json").read_text())["stages"]
    with (study / "cells.csv").open() as file:
        cell = next(csv.DictReader(file))
    exposures = defaultdict(list)
    for description, place in stages.items():
        if not (place.startswith("recommender/") and description.startswith("VBPR on ")):
            continue
        extractor, attack, _ = description.removeprefix("VBPR on ").rsplit(", ", 2)
        features = json.loads((cache / place / "stage.json").read_text())["settings"]["features"]
        (folder,) = cache.glob(f"*/{features}")
        data = InteractionTriplets(dataset, folder)
        data.setup("test")
        model = VBPR.load_from_checkpoint(cache / place / "recommender.ckpt", map_location="cpu")
        exposures[extractor, attack].append(
            exposure(model, data, from_cell(cell["source"]), from_cell(cell["target"]), k)
        )
    headings = ("CNN", "Attack", "source buyers", "target buyers", "others", "all", "mean rank")
    means = {names: torch.tensor(rows).mean(dim=0).tolist() for names, rows in exposures.items()}
    with (study / "exposure.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([headings, *((*names, *row) for names, row in means.items())])
    shown = Table(*headings, title=f"CHR@{k} by users")
    for names, row in means.items():
        shown.add_row(*names, *(f"{mean:.3f}" for mean in row[:4]), f"{row[4]:.1f}")
    Console().print(shown)


@torch.inference_mode()
def exposure(model: VBPR, data: InteractionTriplets, source: str, target: str, k: int) -> list[float]:
    """Return CHR@k among source buyers, target buyers, others and all, and the attacked items' mean rank."""
    categories = torch.from_numpy(data.feature_table.categories)
    attacked, wanted = (categories == data.feature_table.category_names.index(name) for name in (source, target))
    buyers = [torch.zeros(data.num_users, dtype=torch.bool) for _ in range(2)]
    users, items = torch.from_numpy(data.split.users), torch.from_numpy(data.split.items)
    for bought, category in zip(buyers, (attacked, wanted), strict=True):
        bought[users[category[items]]] = True
    everyone = torch.arange(data.num_users)
    ranking, _ = model.recommend(everyone, data.num_items, data)  # -1 at the end, in the places of what was bought
    is_attacked = attacked[ranking.clamp(min=0)] & (ranking >= 0)
    places = is_attacked[:, :k].sum(dim=1).double()
    of_source, of_target = buyers[0], buyers[1] & ~buyers[0]
    groups = [of_source, of_target, ~of_source & ~of_target, torch.ones_like(of_source)]
    mean_rank = float(is_attacked.nonzero()[:, 1].double().mean()) + 1
    return [*(float(places[group].mean()) for group in groups), mean_rank]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
