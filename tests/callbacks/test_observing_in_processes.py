"""Two processes log, draw and write what one does."""

import csv
from pathlib import Path

import offline_runs
import pytest
from pytorch_lightning import seed_everything

from catwalk.results.record import RECORD_FILE
from datamodules import InteractionTriplets
from lightning_modules import VBPR

pytestmark = pytest.mark.slow  # what every process collects is gathered as in test_recommenders_in_processes.py


@pytest.fixture(scope="module")
def by_processes(
    forked, shop, features, trained, trunk, make_trainer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return what one process left, and what two processes left."""
    recommender = tmp_path_factory.mktemp("recommender") / "recommender.ckpt"
    seed_everything(0, verbose=False)
    trainer = make_trainer(max_epochs=3)
    data = InteractionTriplets(shop, features, batch_size=64, validation=True)
    trainer.fit(VBPR(factors=4, visual_factors=4, top_k=[5]), data)
    trainer.save_checkpoint(recommender)
    outputs = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("observe_in_processes.py")
    quiet = {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_DATA_DIR": str(recommender.parent)}
    for processes, output in enumerate(outputs, start=1):
        arguments = shop, features, trained.checkpoint, recommender, trunk, output
        forked.check(script, recommender.parent / str(processes), *arguments, processes=processes, **quiet)
    return outputs


def logged(folder: Path) -> list[dict[str, str]]:
    """Return what callbacks have logged, row by row."""
    of_model = ("train/",)  # a process's own loss
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if value and not name.startswith(of_model)} for row in rows]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("recommender fit", {"val/attacked/mean_rank", "val/chr@8/Sandal", "val/gini@3", "attack/lpips", "attack/sr"}),
        ("recommender test", {"test/attacked/mean_rank", "test/chr@8/Sandal", "test/gini@3", "attack/lpips"}),
        ("classifier fit", {"val/pgd_accuracy", "replays"}),
        ("classifier test", {"test/pgd_accuracy"}),
    ],
)
def test_the_same_metrics(by_processes, name: str, names: set[str]) -> None:
    one, two = (logged(folder / name) for folder in by_processes)
    assert names <= {name for row in one for name in row}
    # A loss is a mean in float32, which rounds as its batches fall to processes; all else is counted exactly.
    losses = [
        [float(row.pop(name)) for row in rows for name in sorted(row) if name.endswith("/loss")] for rows in (one, two)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert one == two


def test_the_same_files(by_processes) -> None:
    """All but checkpoints and verdicts, of which each process has its own, and the record of what the attack took."""
    one, two = (
        {path.relative_to(folder / part): path.read_bytes() for part in PARTS for path in files(folder / part)}
        for folder in by_processes
    )
    names = {"gallery.png", "category_bars.png", "confusion.png", "perceptual_distances.csv", "users.csv"}
    names |= {"recommendations.csv", "features.safetensors", "predictions.csv"}
    assert names <= {path.name for path in one}
    assert one.keys() == two.keys()
    for path, content in one.items():
        assert content == two[path], path


PARTS = ("recommender", "classifier")


def files(folder: Path) -> list[Path]:
    kept = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".ckpt"]
    return [path for path in kept if path.name != RECORD_FILE and not path.name.startswith("verdicts-")]


def test_the_same_run_on_the_dashboard(by_processes) -> None:
    for part in PARTS:
        (one,), (two,) = (offline_runs.read_runs(folder / f"{part} fit") for folder in by_processes)
        assert one.axes == two.axes != {}
        highest = [{key: run.summary[key] for key in run.summary if key.startswith("max/")} for run in (one, two)]
        assert highest[0] == highest[1] != {}
