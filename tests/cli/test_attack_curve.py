"""``catwalk attack curve``, on the folders that attacks write."""

import re

import pytest

from catwalk.attacks import DDN, FMN
from catwalk.cli.main import main
from catwalk.poisoning.poison import poison
from catwalk.poisoning.success_curve import read_success_curve


@pytest.fixture(scope="module")
def folders(trained, tmp_path_factory):
    """Folders of two attacks in L2 and one in L-infinity."""
    place = tmp_path_factory.mktemp("attacks")
    attacks = {"few": DDN(iterations=5), "many": DDN(iterations=30), "linf": FMN("linf", iterations=5)}
    goal = {"source": "Sandal", "target": "Sneaker"}
    for name, attack in attacks.items():
        poison(trained.classifier, attack, trained.catalogue, trained.table, place / name, **goal)
    return place


def test_prints_which_epsilon_suffices_and_draws_it(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    plot = tmp_path / "curve.svg"
    main(["attack", "curve", str(folders / "many"), "--beside", f"[{folders / 'few'}]", "--output", str(plot)])
    shown = capsys.readouterr().out
    half = read_success_curve(folders / "many").epsilon_for(0.5)
    assert f"{half:.4g}" in shown
    assert "L2" in shown
    assert "DDN (5)" in shown
    assert "DDN (30)" in shown
    assert plot.read_text("utf-8").startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "folder is missing: catwalk attack curve FOLDER"),
        (["{}/many", "--beside", "[{}/linf]"], "beside: .*linf is measured in L∞, and .*many in L2"),
        (["{}/many", "--output", "curve.txt"], r"output: must end in \.svg, \.png, \.pdf, got 'curve\.txt'"),
        (["{}"], r"holds no attack\.json: give the folder"),
    ],
)
def test_what_a_user_can_mend_is_said_in_a_line(folders, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["attack", "curve", *(argument.format(folders) for argument in arguments)])
    assert stopped.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error
