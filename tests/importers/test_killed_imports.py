"""An import that is killed leaves nothing that looks complete; run again, it ends as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from amazon_files import write_release
from import_and_die import COMPLETE, IMPORTS, POINTS
from publishers import tree_of, write_hm, write_shop

from catwalk.errors import CatwalkError
from catwalk.shop.catalogue import Catalogue

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which imports were killed at every point, beside the same imports that were not."""
    folder = tmp_path_factory.mktemp("killed")
    write_hm(folder / "hm")
    write_shop(folder / "own")
    write_release(folder / "release", range(4), [("u", 0), ("u", 1), ("v", 2)], [("v", 3)])
    script = Path(__file__).with_name("import_and_die.py")
    command = [sys.executable, str(script), str(folder)]
    subprocess.run(
        command, check=True, env=os.environ | {"PYTHONPATH": str(PROJECT)}, stderr=subprocess.PIPE, timeout=120
    )
    for importer, run in IMPORTS.items():
        run(folder / importer, folder / f"{importer} whole")
    return folder


LOCK = ".shop.lock"
"""What a killed process no longer holds, whether its file is there or not; the next one removes it."""


@pytest.mark.parametrize("importer", IMPORTS)
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_import_is_finished_by_the_next_one(work, importer, point):
    place, whole = work / f"{importer} {point}", tree_of(work / f"{importer} whole")
    if point in COMPLETE:
        assert set(os.listdir(place)) - {LOCK} == {"shop"}
        assert tree_of(place / "shop") == whole
        with pytest.raises(CatwalkError, match="is not empty"):
            IMPORTS[importer](work / importer, place / "shop")
    else:
        assert set(os.listdir(place)) - {LOCK} == {".shop.partial"}
        with pytest.raises(CatwalkError, match="is not a dataset folder"):
            Catalogue.read(place / "shop")
        IMPORTS[importer](work / importer, place / "shop")
        assert tree_of(place / "shop") == whole
        assert os.listdir(place) == ["shop"]
