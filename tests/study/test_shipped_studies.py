"""The studies that come with Catwalk."""

from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from catwalk.cli.main import main
from catwalk.poisoning.protocol import Protocol
from catwalk.results.store import StageCache
from catwalk.study import ACCURACY_ATTACK, Grid, Training
from catwalk.study.controls import Controls
from catwalk.study.metrics import Metrics
from catwalk.study.plan import Plan
from catwalk.study.shop import Shop
from catwalk.study.specifications import accuracy_attack_of
from catwalk.study.variants import varied

STUDIES = sorted(path.name for path in Path(str(files("configs"))).glob("study/*.yaml"))


@pytest.mark.parametrize("name", STUDIES)
def test_their_settings_are_accepted(shop: Path, tmp_path: Path, name: str) -> None:
    settings = yaml.safe_load(Path(str(files("configs")), "study", name).read_text())
    assert settings.pop("name") == name.removesuffix(".yaml")
    assert settings.pop("dataset") == f"data/{name.removesuffix('.yaml').removesuffix('_imagenet')}"
    if name == "hm.yaml":  # the tiny shop has other categories
        settings |= {"source": "Sandal", "target": "Sneaker"}
    settings |= {
        kind: {key: Training(**value) for key, value in settings[kind].items()}
        for kind in ("extractors", "recommenders")
    }
    settings["protocols"] = varied(Protocol(), settings.get("vary", {}))
    known = {each.name: settings[each.name] for each in fields(Grid) if each.name in settings}
    no_controls = Controls(noise=(), other_seeds=False, evasion=False)
    grid = Grid(dataset=shop, **{"seeds": [0], "top_k": 20} | known | {"controls": no_controls})
    under, nothing = accuracy_attack_of(ACCURACY_ATTACK), Metrics((), grid.source)
    plan = Plan.of(grid, Shop.read(shop), StageCache(tmp_path), under, None, nothing)
    cells = len(grid.extractors) * (1 + len(grid.attacks)) * len(grid.recommenders) * len(grid.seeds)
    cells *= len(grid.protocols)
    assert len(plan.runs) == cells
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_synthetic_study_runs_as_a_new_user_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["data", "synthetic", "data/synthetic"])
    main(["study", "--config", "configs/study/synthetic.yaml", "--workers", "1"])
    written = {path.name for path in Path("runs/synthetic").iterdir()}
    tables = {f"{stem}.{kind}" for stem in ("table1", "evasion", "table2", "networks") for kind in ("csv", "md", "tex")}
    others = {"cells.csv", "effects.csv", "manifest.json", "study.yaml", "users", "plots", "report"}
    assert written == others | tables
