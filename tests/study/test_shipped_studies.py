"""The studies that come with Catwalk."""

from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from catwalk.cli.main import main
from catwalk.networks.imagenet import imagenet_categories
from catwalk.poisoning.protocol import Protocol
from catwalk.results.store import StageCache
from catwalk.study import ACCURACY_ATTACK, Grid, Training
from catwalk.study.controls import Controls
from catwalk.study.derived import Defence, Pipeline
from catwalk.study.detectors import StudyDetectors
from catwalk.study.metrics import Metrics
from catwalk.study.paper import Paper
from catwalk.study.plan import Plan
from catwalk.study.shop import Shop
from catwalk.study.specifications import accuracy_attack_of, classifier_of
from catwalk.study.stages.detection import DetectionSettings
from catwalk.study.variants import varied

STUDIES = sorted({path.name for path in Path(str(files("configs"))).glob("study/*.yaml")} - {"board.yaml"})


SHOPS = {"ablation": "demo", "hm_women": "hm", "hm_imagenet": "hm", "robust_recommender": "demo"}
"""Dataset folders of the studies that are not called like theirs."""


@pytest.mark.parametrize("name", STUDIES)
def test_their_settings_are_accepted(shop: Path, tmp_path: Path, name: str) -> None:
    settings = yaml.safe_load(Path(str(files("configs")), "study", name).read_text("utf-8"))
    name = name.removesuffix(".yaml")
    assert settings.pop("name") == name
    assert settings.pop("dataset") == f"data/{SHOPS.get(name, name)}"
    if name == "hm_women":  # the tiny shop has other categories
        settings |= {"source": "Sandal", "target": "Sneaker"}
    if (paper := settings.pop("paper", None)) is not None:
        assert Paper(paper).chr("VBPR", "PGD (ε = 8)", "FAT") is not None
        for extractor, training in settings["extractors"].items():
            weights = classifier_of(training["model"], extractor).settings["init_args"]["weights"]
            assert weights is None or weights.startswith("weights/")
            training["model"]["init_args"] |= {"backbone_args": None, "weights": None}  # nobody has the files here
            training["model"]["init_args"] |= {"backbone": "catwalk.networks.compact_cnn", "categories": "dataset"}
        numbers = [imagenet_categories().index(settings[argument]) for argument in ("source", "target")]
        assert numbers == {"amazon_men": [774, 770], "amazon_women": [610, 459]}[name]
        settings |= {"source": "Sandal", "target": "Sneaker"}
    settings |= {
        kind: {key: Training(**value) for key, value in settings[kind].items()}
        for kind in ("extractors", "recommenders")
    }
    protocols = varied(Protocol(**settings.pop("protocol", {})), settings.pop("vary", {}))
    controls = Controls(**settings.pop("controls", {"noise": [], "other_seeds": False, "evasion": False}))
    grid = Grid(dataset=shop, **{"seeds": [0], "top_k": 20} | settings, protocols=protocols, controls=controls)
    under, nothing = accuracy_attack_of(ACCURACY_ATTACK), Metrics((), grid.source)
    plan = Plan.of(grid, Shop.read(shop), StageCache(tmp_path), under, None, nothing)
    rows = 1 + (1 + controls.evasion) * len(grid.attacks) + controls.other_seeds + controls.sham
    assert len(plan.runs) == (len(protocols) * len(grid.extractors) * rows * len(grid.recommenders) * len(grid.seeds))
    assert list(tmp_path.iterdir()) == []


def test_the_board_has_every_attack_on_every_network(shop: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(Path(str(files("configs")), "study", "board.yaml").read_text("utf-8"))
    assert (settings.pop("name"), settings.pop("dataset")) == ("board", "data/demo")
    kinds = {"extractors": Training, "defences": Defence, "pipelines": Pipeline, "detectors": Training}
    settings |= {kind: {name: make(**value) for name, value in settings[kind].items()} for kind, make in kinds.items()}
    detectors, under = settings.pop("detectors"), accuracy_attack_of(settings.pop("accuracy_attack"))
    grid = Grid(dataset=shop, **settings, recommenders={}, seeds=[0], top_k=20)
    judged, nothing = StudyDetectors.of(detectors, grid, DetectionSettings(), 0.95), Metrics((), grid.source)
    plan = Plan.of(grid, Shop.read(shop), StageCache(tmp_path), under, None, nothing, judged)
    names = [attack.name for attack in grid.named_attacks]
    transferable = [attack.name for attack in grid.named_attacks if attack.is_transferable]
    rows: dict[str, list[str]] = {}
    for run in plan.runs:
        rows.setdefault(run.classifier.name, []).append(run.row)
    assert set(rows) == {*grid.extractors, *(each.name for each in grid.derived)}
    for network, found in rows.items():
        others = [f"from {each}" for each in grid.transfers.get(network, [])] or ["plain"]
        assert sorted(found) == sorted(
            ["No attack", *names, *(f"{name}, {o}" for name in transferable for o in others)]
        )
    assert len(plan.detections) == len(detectors) * len(grid.extractors) * len(names)


def test_the_ablation_has_all_eight_and_few_stages(shop: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(Path(str(files("configs")), "study", "ablation.yaml").read_text("utf-8"))
    for protocol in varied(Protocol(**settings["protocol"]), settings["vary"]):
        assert protocol.feature_scale == "clean"
    names = {protocol.name for protocol in varied(Protocol(), settings["vary"])}
    assert len(names) == 8
    assert "source_items undefended, background_features undefended, chr_categories network" in names


@pytest.mark.slow
def test_the_synthetic_study_runs_as_a_new_user_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["data", "synthetic", "data/synthetic"])
    main(["study", "--config", "configs/study/synthetic.yaml", "--workers", "1"])
    written = {path.name for path in Path("runs/synthetic").iterdir()}
    tables = {f"{stem}.{kind}" for stem in ("table1", "evasion", "table2", "networks") for kind in ("csv", "md", "tex")}
    others = {"cells.csv", "effects.csv", "findings.json", "manifest.json", "study.yaml", "users", "plots", "report"}
    assert written == others | tables
