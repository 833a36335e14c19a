"""The shipped configuration that shows what an attack did, read back from what the loggers were given."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import offline_runs
import pytest
import torch
import torchvision
import wandb
from PIL import Image

import callbacks.perceptual_distance
from catwalk.perceptual import LPIPS

STACK = ["recommender/vbpr", "data/synthetic", "attack/mi_fgsm8", "attack/observed"]
SHORT = ["--trainer.max_epochs=1", "--data.validation=true", "--trainer.enable_progress_bar=false"]
LOGGERS = """
trainer:
  logger:
    - class_path: pytorch_lightning.loggers.CSVLogger
      init_args: {save_dir: runs, name: csv}
    - class_path: pytorch_lightning.loggers.WandbLogger
      init_args: {save_dir: runs, offline: true}
"""


@pytest.mark.filterwarnings("ignore:images whose shorter side")
def test_pictures_and_metrics_reach_the_loggers(work, run, own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), "squeeze.pth")
    lpips = LPIPS("squeeze", "squeeze.pth"), None
    monkeypatch.setattr(callbacks.perceptual_distance, "load_lpips", lambda *_: lpips)
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONSOLE", "off"), ("DATA_DIR", str(work))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    summaries, finish = [], wandb.finish

    def finish_and_tell() -> None:
        summaries.append(dict(wandb.run.summary))
        finish()

    monkeypatch.setattr(wandb, "finish", finish_and_tell)
    Path("loggers.yaml").write_text(LOGGERS)
    stack = [argument for name in STACK for argument in ("--config", f"configs/{name}.yaml")]
    outcome = run("fit", *stack, "--config", "loggers.yaml", *SHORT)
    assert outcome.code == 0, outcome.err

    (folder,) = (own_store / "attack").iterdir()
    with (folder / "attacked_items.csv").open() as file:
        attacked = list(csv.DictReader(file))
    assert {path.name for path in folder.glob("*.png")} == {"gallery.png", "category_bars.png", "confusion.png"}
    names = {f"val/attacked/{name}@20" for name in ("exposure", "discounted_exposure", "users_reached")}
    names |= {"val/attacked/mean_rank", "attack/lpips", "attack/sr"}
    (logged,) = Path("runs/csv").glob("*/metrics.csv")
    assert names <= set(logged.read_text().splitlines()[0].split(","))

    (summary,) = summaries
    assert names <= set(summary)
    pictures = {f"attack/{name}" for name in ("gallery", "category_bars", "confusion")}
    assert {"attack/items", *pictures} <= set(summary)
    (of_file,) = offline_runs.read_runs(Path("runs"))
    assert names <= set(of_file.summary)
    assert {name: of_file.summary[name]["_type"] for name in pictures} == dict.fromkeys(pictures, "images/separated")
    assert of_file.summary["attack/items"]["_type"] == "table-file"
    assert of_file.config["lpips"] == {"net": "vgg", "trunk_sha256": lpips[0].trunk_sha256, "left_out": None}
    staged = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in Path("artifacts/staging").iterdir()}
    (table,) = (json.loads(path.read_bytes()) for path in staged.values() if path.read_bytes().startswith(b'{"_type"'))
    assert table["columns"] == [
        *("item", "before", "after", "difference × 16", "predicted before", "probability before", "predicted after"),
        *("probability after", "LPIPS", "SSIM", "mean rank before", "mean rank after"),
    ]
    assert len(table["data"]) == min(16, len(attacked))
    by_id = {row["item_id"]: row for row in attacked}
    for row in table["data"]:
        cells = dict(zip(table["columns"], row, strict=True))
        item = by_id[cells["item"]]
        assert cells["predicted after"] == item["category_after"]
        assert cells["probability after"] == pytest.approx(float(item["probability_after"]))
        assert 0 < cells["SSIM"] < 1
        assert 1 <= cells["mean rank before"] <= 90
        before, after, change = (
            np.asarray(Image.open(staged[cells[name]["sha256"]])).astype(int)
            for name in ("before", "after", "difference × 16")
        )
        assert np.array_equal(after, np.asarray(Image.open(folder / item["image"]).convert("RGB")))
        assert np.array_equal(change, np.clip(128 + 16 * (after - before), 0, 255))
