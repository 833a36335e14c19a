"""What a study says of how it was run: versions, hardware, data, and where its results are."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from catwalk import __version__
from catwalk.perceptual import LPIPS
from catwalk.study.effects import Statistics
from catwalk.study.grid import Grid
from catwalk.study.plan import Plan
from catwalk.study.shop import Shop


def manifest_of(
    folder: Path,
    shop: Shop,
    grid: Grid,
    plan: Plan,
    statistics: Statistics,
    lpips: LPIPS | None,
    why_no_lpips: str | None,
) -> dict[str, Any]:
    """Return what is needed to repeat a study, and where its results are in the cache, as JSON has it.

    Args:
        folder: The study's folder.
        shop: The dataset.
        grid: The study's.
        plan: Its stages, all of them done.
        statistics: How effects are judged.
        lpips: What measured LPIPS; None where nothing did.
        why_no_lpips: Why nothing did.

    Returns:
        The manifest; ``shams`` and ``notes`` are empty until the study is written.
    """
    return {
        "study": folder.name,
        "catwalk": __version__,
        "python": platform.python_version(),
        "packages": {
            "torch": torch.__version__,  # with the build, such as +cpu
            **{name: version(name) for name in ("torchvision", "pytorch-lightning", "numpy", "pillow")},
        },
        "hardware": {
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        },
        "dataset": {
            "name": shop.catalogue.name,
            "folder": os.path.relpath(shop.catalogue.folder, folder),
            "catalogue": shop.items.fingerprint,
            "labelled images": shop.labelled_images.fingerprint,
            "interactions": shop.interactions.fingerprint if grid.recommenders else None,
            "split": None if shop.split is None else shop.split.settings,
        },
        "protocols": [vars(protocol) for protocol in grid.protocols],
        "source": grid.source,
        "target": grid.target,
        "top_k": grid.top_k,
        "seeds": grid.seeds,
        "undefended": grid.undefended,
        "controls": vars(grid.controls),
        "statistics": vars(statistics),
        "shams": [],
        "notes": [],
        "store": os.path.relpath(plan.stages[0].cache.folder, folder),
        "attacks": _attacks(plan),
        "stages": plan.places,
        "keys": plan.keys,
        "classifiers": {
            run.classifier.name: {
                "accuracy": run.classifier.record["accuracy"],
                "accuracy under attack": run.accuracy.record["accuracy"] if run.accuracy is not None else None,
            }
            for run in plan.networks
        },
        "lpips": {"missing": why_no_lpips}
        if lpips is None
        else {"net": lpips.net, "trunk_sha256": lpips.trunk_sha256, "trunk": lpips.trunk_origin},
    }


def _attacks(plan: Plan) -> list[dict[str, str | int | None]]:
    """Return where in the cache every attack's images are, and what they look like; with whom the attacker knows."""
    found: dict[str, dict[str, str | int | None]] = {}
    for run in plan.runs:
        if run.attack is not None:
            # Images that are shown to one recommender alone: by an attacker who knows that very one.
            own = run.recommender if run.attack.known and not run.attack.surrogates else None
            found.setdefault(
                f"{run.protocol.name}\n{run.row}\n{run.attack.place}",
                {
                    "protocol": run.protocol.name,
                    "extractor": run.classifier.name,
                    "attack": run.row,
                    "recommender": None if own is None else own.name,
                    "seed": None if own is None else own.seed,
                    "images": run.attack.place,
                    "looks": None if run.perceptual is None else run.perceptual.place,
                },
            )
    return list(found.values())
