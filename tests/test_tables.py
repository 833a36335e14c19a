"""Tables whose cells are text, whatever they look like."""

import pyarrow as pa
import pyarrow.parquet
import pytest

from catwalk.errors import CatwalkError
from catwalk.tables import find_table, read_table


def read_csv(tmp_path, content, columns=("id", "name"), optional=()):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, columns, optional).to_pydict()


@pytest.mark.parametrize(
    "cell", ["007", "1.50", "1e3", "true", "NA", "null", "NaN", "2020-01-01", " x ", "Größe", "0x1F", "-0"]
)
def test_cells_stay_as_they_are(tmp_path, cell):
    assert read_csv(tmp_path, f"id,name\n{cell},a\n") == {"id": [cell], "name": ["a"]}


@pytest.mark.parametrize(
    "content",
    [
        "id,name\n1,a\n2,b\n",
        "id,name\r\n1,a\r\n2,b\r\n",
        "id,name\n1,a\n2,b",
        "\ufeffid,name\n1,a\n2,b\n",
        "id,name\n1,a\n\n2,b\n\n",
        'title,name,id\n"x, ""y""\nand z",a,1\n,b,2\n',
        '"id","name"\n"1","a"\n"2","b"\n',
    ],
)
def test_forms_of_csv(tmp_path, content):
    assert read_csv(tmp_path, content) == {"id": ["1", "2"], "name": ["a", "b"]}


def test_optional_columns_are_read_where_they_are_there_and_may_be_empty(tmp_path):
    found = read_csv(tmp_path, "title,id,name,more\n,1,a,x\nT,2,b,y\n", optional=("title", "colour"))
    assert found == {"id": ["1", "2"], "name": ["a", "b"], "title": ["", "T"]}
    assert list(found) == ["id", "name", "title"]


def test_many_rows_keep_their_order(tmp_path):
    """More than pyarrow reads at a time."""
    names = [f"{number:07d}" for number in range(200_000)]
    assert read_csv(tmp_path, "id,name\n" + "".join(f"{name},x\n" for name in names))["id"] == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "table.csv cannot be read: Empty CSV file"),
        ("id,name\n", "table.csv has a header and no rows"),
        ("id,title\n1,a\n", "table.csv lacks the column 'name'; it has id, title"),
        ("id,name\n1,a\n2\n", "table.csv cannot be read: CSV parse error: Row #3: Expected 2 columns, got 1"),
        ("id,name\n1,a,x\n", "table.csv cannot be read: CSV parse error: Row #2: Expected 2 columns, got 3"),
        ("id,name\n1,a\n,b\n", "table.csv, row 2: 'id' is empty"),
        ("id,name\n1,a\n2,\n", "table.csv, row 2: 'name' is empty"),
        ("id,name,id\n1,a,2\n", "table.csv has the column 'id' 2 times"),
        ("id,name\n1,Gr\u00f6\u00dfe\n".encode("latin-1"), "table.csv cannot be read: .*invalid UTF8 data"),
        ("id,name,Gr\u00f6\u00dfe\n1,a,b\n".encode("latin-1"), "table.csv cannot be read: 'utf-8' codec"),
        ("id,name\n1,a\n".encode("utf-16"), "table.csv cannot be read"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "table.csv"),
        ('id,name\n"1,a\n2,b\n', "table.csv"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, content, message):
    with pytest.raises(CatwalkError, match=message) as caught:
        read_csv(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(CatwalkError, match=r"absent\.csv does not exist"):
        read_table(tmp_path / "absent.csv", ["id"])


class TestParquet:
    def write(self, folder, **columns):
        path = folder / "table.parquet"
        pa.parquet.write_table(pa.table(columns), path)
        return path

    def test_values_become_text(self, tmp_path):
        path = self.write(
            tmp_path,
            id=pa.array([7, 8]),
            name=pa.array(["a", "b"]).dictionary_encode(),
            score=pa.array([0.5, 2.0]),
        )
        assert read_table(path, ["id", "name"]).to_pydict() == {"id": ["7", "8"], "name": ["a", "b"]}

    def test_the_folder_is_no_column(self, tmp_path):
        (tmp_path / "season=summer").mkdir()
        path = self.write(tmp_path / "season=summer", id=["1"])
        with pytest.raises(CatwalkError, match="lacks the column 'season'"):
            read_table(path, ["season"])

    def test_what_is_wrong_is_said(self, tmp_path):
        with pytest.raises(CatwalkError, match=r"table\.parquet, row 2: 'id' is empty"):
            read_table(self.write(tmp_path, id=["1", None]), ["id"])
        with pytest.raises(CatwalkError, match=r"table\.parquet holds what is no text"):
            read_table(self.write(tmp_path, id=[[1], [2]]), ["id"])
        with pytest.raises(CatwalkError, match=r"table\.parquet has a header and no rows"):
            read_table(self.write(tmp_path, id=pa.array([], pa.string())), ["id"])
        (tmp_path / "table.parquet").write_bytes(b"no parquet at all")
        with pytest.raises(CatwalkError, match=r"table\.parquet cannot be read"):
            read_table(tmp_path / "table.parquet", ["id"])


def test_a_table_is_found_in_either_form_but_not_in_both(tmp_path):
    assert find_table(tmp_path, "items") is None
    (tmp_path / "items.parquet").touch()
    assert find_table(tmp_path, "items") == tmp_path / "items.parquet"
    (tmp_path / "items.csv").touch()
    with pytest.raises(CatwalkError, match=r"both items\.csv and items\.parquet: keep one"):
        find_table(tmp_path, "items")
    (tmp_path / "items.parquet").unlink()
    assert find_table(tmp_path, "items") == tmp_path / "items.csv"
