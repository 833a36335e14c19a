"""An import that fails ends with exit code 2, whatever it was reading: never with an abort, and it never hangs."""

import gzip
import subprocess
import sys
from collections import Counter

import pytest


@pytest.mark.slow
def test_many_failing_imports_all_end_with_code_2(tmp_path):
    """The rows behind the wrong one were still being read when the interpreter ended, which aborted one in three."""
    (tmp_path / "images").mkdir()
    with gzip.open(tmp_path / "items.csv.gz", "wt", compresslevel=1) as file:
        file.write("item_id,image,category\n,x.png,Shoes\n")
        file.writelines(f"i{number},x.png,Shoes\n" for number in range(2_000_000))
    command = [sys.executable, "-m", "catwalk.cli.main", "data", "folder", f"{tmp_path}/images", f"{tmp_path}/shop"]
    command += ["--items", f"{tmp_path}/items.csv.gz"]
    ends = Counter(subprocess.run(command, capture_output=True, timeout=60).returncode for _ in range(25))
    assert ends == {2: 25}
