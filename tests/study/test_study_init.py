"""``catwalk study init``: a study's configuration for a shop."""

import functools
import inspect
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import catwalk.study
from catwalk.cli.main import main
from catwalk.configuration.specification import Specification
from catwalk.errors import CatwalkError
from catwalk.importers.synthetic import synthetic
from catwalk.overview import Overview, look
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.interactions import Interactions
from catwalk.shop.splits import SplitRule, read_split
from catwalk.study.init import configuration, init_study
from datamodules import ProductImages
from lightning_modules import ProductClassifier, Recommender


@pytest.fixture(scope="module")
def larger_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a shop whose categories are large enough to be attacked."""
    folder = tmp_path_factory.mktemp("larger") / "my shop"
    synthetic(folder, items=240, users=200, image_size=16, train_images=20, test_images=5)
    return folder


@pytest.fixture(scope="module")
def overview(larger_shop: Path) -> Overview:
    return look(larger_shop).overview


def with_photographs(overview: Overview, own_labels: bool = True, sizes: int = 1) -> Overview:
    """Return what a shop with large photographs would be."""
    images = replace(overview.images, sizes=((400, 600, 240),), different_sizes=sizes)
    labels = replace(overview.labels, own_file=own_labels, files=images if own_labels else None)
    return replace(overview, images=images, labels=labels)


def arguments_of(path: Path) -> dict[str, Any]:
    """Return what ``catwalk study`` is called with, for a configuration that its parser accepts."""
    given: dict[str, Any] = {}

    @functools.wraps(catwalk.study.run_study)
    def remember(**arguments: Any) -> None:
        given.update(arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catwalk.study.run_study", remember)
        main(["study", "--config", str(path), "--workers", "1"])
    return given


def test_the_file_is_accepted_as_it_stands(larger_shop: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    main(["study", "init", str(larger_shop)])
    assert capsys.readouterr().out.endswith("catwalk study --config my_shop.yaml\n")
    given = arguments_of(tmp_path / "my_shop.yaml")
    assert given["name"] == "my_shop"
    assert given["dataset"] == larger_shop
    best = look(larger_shop).overview.pairs[0]
    assert (given["source"], given["target"]) == (best.source.name, best.target.name)
    assert set(given["extractors"]) == {"T", "AT"}
    assert set(given["recommenders"]) == {"BPR-MF", "VBPR", "AMR"}


def test_what_it_names_can_be_made(overview: Overview, tmp_path: Path) -> None:
    for shop in (
        overview,
        with_photographs(overview),
        with_photographs(overview, own_labels=False, sizes=3),
        replace(overview, purchases=None, split=None, pairs=()),
    ):
        settings = yaml.safe_load(configuration("mine", Path("data/mine"), shop))
        for training in settings["extractors"].values():
            Specification.of(training["model"], ProductClassifier, "model").instantiate()
            ProductImages("data/mine", **training["data"])
        for training in settings.get("recommenders", {}).values():
            Specification.of(training["model"], Recommender, "model").instantiate()
        assert ("recommenders" in settings) == (shop.purchases is not None)


def test_what_stands_as_a_comment_can_be_uncommented(overview: Overview) -> None:
    text = configuration("mine", Path("data/mine"), with_photographs(overview))
    parameters = inspect.signature(catwalk.study.run_study).parameters
    text = re.sub(rf"^# (?=({'|'.join(parameters)}): )", "", text, flags=re.MULTILINE)
    settings = yaml.safe_load(re.sub(r"^  # (?=AT:|  )", "  ", text, flags=re.MULTILINE))
    assert set(settings) == set(parameters)
    defended = settings["extractors"]["AT"]
    assert defended["model"]["class_path"] == "lightning_modules.AdversarialClassifier"
    Specification.of(defended["model"], ProductClassifier, "model").instantiate()


def test_the_split_by_date_tests_about_a_fifth(larger_shop: Path, overview: Overview) -> None:
    text = configuration("mine", larger_shop, overview)
    (line,) = re.findall(r"^# split: (.*)", text, re.MULTILINE)
    rule = Specification.of(yaml.safe_load(line), SplitRule, "split").instantiate()
    catalogue = Catalogue.read(larger_shop)
    held_out, all_of_them = read_split(catalogue, rule=rule), read_split(catalogue)
    assert held_out.num_seen_future == 0
    moments = Interactions.read(catalogue).timestamps
    assert 0.2 <= (moments >= rule.test_from).mean() < 0.4
    assert all_of_them.num_seen_future > 0


def test_networks_go_by_what_there_is(overview: Overview) -> None:
    def network(shop: Overview) -> tuple[Any, Any, Any]:
        training = yaml.safe_load(configuration("mine", Path("data/mine"), shop))["extractors"]["T"]
        model = training["model"]["init_args"]
        return model["backbone"], model.get("backbone_args"), training["data"].get("image_size")

    assert network(overview) == ("catwalk.networks.compact_cnn", None, None)
    several = replace(overview, images=replace(overview.images, different_sizes=2))
    assert network(several) == ("catwalk.networks.compact_cnn", None, [16, 16])
    assert network(with_photographs(overview)) == ("torchvision.models.resnet18", None, [224, 149])
    tuned = ("torchvision.models.resnet50", {"weights": "IMAGENET1K_V2"}, [224, 149])
    assert network(with_photographs(overview, own_labels=False)) == tuned


def test_every_argument_of_a_study_is_explained_once(overview: Overview) -> None:
    lines = configuration("mine", Path("data/mine"), overview).splitlines()
    for name in inspect.signature(catwalk.study.run_study).parameters:
        (place,) = [number for number, line in enumerate(lines) if re.match(rf"(# )?{name}:", line)]
        assert lines[place - 1].startswith("# ")
    for line in lines:
        if re.match(r"  \S+:", line):
            assert " # " in line, line


def test_without_a_promising_pair_the_largest_categories_are_taken(shop: Path, overview: Overview) -> None:
    few = look(shop).overview  # 15 items in each category
    assert few.pairs == ()
    settings = yaml.safe_load(configuration("mine", shop, few))
    per_item = {one.name: one.per_item for one in few.categories}
    assert per_item[settings["source"]] <= per_item[settings["target"]]
    assert settings["source"] != settings["target"]
    only_one = replace(few, categories=few.categories[:1])
    with pytest.raises(CatwalkError, match="Synthetic has 1 category with items, and a study needs two"):
        configuration("mine", shop, only_one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "dataset is missing: catwalk study init DATASET"),
        (["nowhere"], "nowhere"),
        (["{shop}", "--output", "there.yaml"], "output: there.yaml exists already: give another name with --output"),
        (["{shop}", "--output", "no/there.yaml"], "output: there is no folder no"),
        (["{shop}", "--outptu", "x.yaml"], "there is no option --outptu; did you mean --output?"),
    ],
)
def test_what_it_refuses_is_one_line(
    shop: Path, tmp_path: Path, monkeypatch, capsys, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("mine")
    with pytest.raises(SystemExit) as info:
        main(["study", "init", *(argument.format(shop=shop) for argument in arguments)])
    error = capsys.readouterr().err
    assert info.value.code == 2
    assert error.startswith("catwalk: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "mine"


def test_names_that_mean_something_in_yaml_are_quoted(shop: Path, tmp_path: Path) -> None:
    names = {"Sandal": "no", "Sneaker": "Shoes: # 1"}
    folder = tmp_path / "folder"
    shutil.copytree(shop, folder, ignore=shutil.ignore_patterns(".cache"))
    for path in [*folder.glob("*.csv"), folder / "dataset.json"]:
        text = path.read_text()
        for old, new in names.items():
            text = text.replace(old, new)
        path.write_text(text)
    init_study(folder, tmp_path / "study.yaml")
    settings = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert {settings["source"], settings["target"]} <= set(Catalogue.read(folder).category_names)


@pytest.mark.slow
def test_the_study_runs(larger_shop: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    init_study(larger_shop, Path("study.yaml"))
    text = re.sub(r"max_epochs: \d+", "max_epochs: 2", Path("study.yaml").read_text())
    text = text.replace("seeds: [0, 1, 2]", "seeds: [0]") + "protocol: {source_items: dataset}\n"
    Path("study.yaml").write_text(text)
    main(["study", "--config", "study.yaml", "--workers", "1"])
    assert len(Path("runs/my_shop/cells.csv").read_text().splitlines()) == 1 + 2 * 3 * 3
