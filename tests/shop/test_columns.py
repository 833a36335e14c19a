"""Tables whose cells are text, whatever they look like."""

import contextlib
import gzip
import threading

import pyarrow as pa
import pyarrow.parquet
import pytest

from catwalk.errors import CatwalkError
from catwalk.shop import columns as tables
from catwalk.shop.columns import find_table, read_table, scan_table


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
        '\ufeff"id","name"\n"1","a"\n"2","b"\n',
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
        ("id,name\n1,a\n2\n", "table.csv, line 3 has 1 cells and the header 2"),
        ("id,name\n1,a,x\n", "table.csv, line 2 has 3 cells and the header 2"),
        ("id,name\n1,a\n,b\n", "table.csv, row 2: 'id' is empty"),
        ("id,name\n1,a\n2,\n", "table.csv, row 2: 'name' is empty"),
        ("id,name,id\n1,a,2\n", "table.csv has the column 'id' 2 times"),
        ("id,name\n1,Gr\u00f6\u00dfe\n".encode("latin-1"), "table.csv, line 2 is not UTF-8"),
        ("id,name,Gr\u00f6\u00dfe\n1,a,b\n".encode("latin-1"), "table.csv, line 1 is not UTF-8"),
        ("id,name\n1,a\n".encode("utf-16"), "table.csv, line 1 is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "table.csv, line 1 is not UTF-8"),
        (b"id,name\n1,a\n2,b\0\n", "table.csv, line 3 holds a NUL byte"),
        ('id,name\n1,a\n"1,a\n2,b\n', "table.csv, line 3: a quotation mark is opened and not closed"),
        ('id,name\n1,a 5" heel\n', "table.csv, line 2 has a quotation mark inside a cell"),
        ('id,name\n1,"a"b\n', "table.csv, line 2 has a quotation mark inside a cell"),
        ('id,name\n"1\n",a\n2\n', "table.csv, line 4 has 1 cells"),
        ('id,name\n1,"a\n2,"b"\n', "table.csv, line 2: a quotation mark is not closed, or is to be doubled"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, content, message):
    with pytest.raises(CatwalkError, match=message) as caught:
        read_csv(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(CatwalkError, match=r"absent\.csv does not exist"):
        read_table(tmp_path / "absent.csv", ["id"])
    with pytest.raises(CatwalkError, match=r"is no file"):
        read_table(tmp_path, ["id"])


def test_one_column_may_serve_two_purposes(tmp_path):
    assert read_csv(tmp_path, "id,name\n1,a\n", ("id", "id"), ("name", "id")) == {"id": ["1"], "name": ["a"]}


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
        ends, content = pa.array([0, 4], pa.int32()).buffers()[1], pa.py_buffer(b"caf\xe9")
        with pytest.raises(CatwalkError, match=r"table\.parquet holds what is no text: .*UTF8"):
            read_table(self.write(tmp_path, id=pa.StringArray.from_buffers(1, ends, content)), ["id"])
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


class TestScanning:
    def test_a_header_is_given_for_a_file_without_one_and_tsv_knows_no_quotes(self, tmp_path):
        path = tmp_path / "table.tsv"
        path.write_text('1\t"a\n2\tb"c"\n')
        [batch] = scan_table(path, ["name"], header=["id", "name"])
        assert batch.to_pydict() == {"name": ['"a', 'b"c"']}
        path.write_text("1\ta\n2\n")
        with pytest.raises(CatwalkError, match=r"table\.tsv, line 2 has 1 cells and the header 2"):
            list(scan_table(path, ["name"], header=["id", "name"]))

    def test_a_gzipped_file_is_read_as_its_content_and_a_cut_one_refused(self, tmp_path):
        path = tmp_path / "table.csv.gz"
        packed = gzip.compress(b"id\n" + b"\n".join(b"%d" % number for number in range(5000)))
        path.write_bytes(packed)
        assert read_table(path, ["id"]).column("id").to_pylist() == [str(number) for number in range(5000)]
        path.write_bytes(packed[: len(packed) // 2])
        with pytest.raises(CatwalkError, match=r"table\.csv\.gz cannot be read: .*(end|ended)"):
            read_table(path, ["id"])

    @pytest.mark.parametrize("block", [64, 65, 66, 67])
    def test_where_blocks_end_changes_nothing(self, tmp_path, monkeypatch, block):
        """Letters of several bytes, doubled quotation marks and line breaks in cells lie across the ends of blocks."""
        monkeypatch.setattr(tables, "BLOCK", block)
        path = tmp_path / "table.csv"
        cells = [f'ä"{number}\n,€' for number in range(60)]
        rows = "".join('{},"{}"\n'.format(number, cell.replace('"', '""')) for number, cell in enumerate(cells))
        path.write_text("id,name\n" + rows, encoding="utf-8", newline="")
        batches = list(scan_table(path, ["id", "name"]))
        assert len(batches) > 5
        assert pa.Table.from_batches(batches).column("name").to_pylist() == cells
        for trouble, message in ((b"\xff", "is not UTF-8"), (b"\0", "holds a NUL byte")):
            path.write_bytes(("id,name\n" + rows).encode() + b"60,a" + trouble + b"\n")
            with pytest.raises(CatwalkError, match=f"line 122 {message}"):
                list(scan_table(path, ["id", "name"]))
        path.write_text("id,name\n" + rows + "60,\n", encoding="utf-8", newline="")
        with pytest.raises(CatwalkError, match=r"row 61: 'name' is empty"):
            list(scan_table(path, ["id", "name"]))

    def test_old_line_ends_and_cells_of_many_lines_may_lie_across_blocks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tables, "BLOCK", 16)
        path = tmp_path / "table.csv"
        path.write_bytes(b"id,name\r" + b"\r".join(b"%d,a" % number for number in range(50)))
        assert read_table(path, ["id"]).column("id").to_pylist() == [str(number) for number in range(50)]
        cell = "x\n" * 100 + '"'
        path.write_text('id,name\n1,"' + cell.replace('"', '""') + '"\n2,b\n', newline="")
        assert read_table(path, ["id", "name"]).column("name").to_pylist() == [cell, "b"]

    def test_a_byte_order_mark_within_a_file_is_part_of_a_cell_wherever_blocks_end(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tables, "BLOCK", 8)
        path = tmp_path / "table.csv"
        path.write_text("\ufeffid\n" + "\ufeffa\nb\n" * 40, encoding="utf-8", newline="")
        assert read_table(path, ["id"]).column("id").to_pylist() == ["\ufeffa", "b"] * 40

    def test_a_row_without_end_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tables, "BLOCK", 16)
        monkeypatch.setattr(tables, "LONGEST_ROW", 40)
        (tmp_path / "table.tsv").write_text("id\n" + "x" * 100)
        with pytest.raises(CatwalkError, match=r"table\.tsv cannot be read: a row is longer than 40 bytes"):
            read_table(tmp_path / "table.tsv", ["id"])

    @pytest.mark.parametrize("trouble", ["1,a\n,b\n", "1,a\n2,b,c\n", "1,a\n2,\0\n", '1,a\n2,"b\n', "1,a\n2,b\n"])
    def test_only_this_thread_reads(self, tmp_path, monkeypatch, trouble):
        """A thread of pyarrow that still reads when the interpreter ends aborts the process."""
        monkeypatch.setattr(tables, "BLOCK", 8)
        readers, read = [], tables._CheckedText.read

        def watched_read(file, size):
            readers.append(threading.get_ident())
            return read(file, size)

        monkeypatch.setattr(tables._CheckedText, "read", watched_read)
        path = tmp_path / "table.csv"
        path.write_text("id,name\n" + trouble + "3,c\n" * 100)
        with contextlib.suppress(CatwalkError):
            for number, _ in enumerate(scan_table(path, ["id", "name"])):
                if number == 20:
                    break
        assert set(readers) == {threading.get_ident()}


class TestDelimiters:
    @pytest.mark.parametrize("mark", [";", "\t", "|"])
    @pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
    def test_the_first_line_tells_the_mark(self, tmp_path, mark, name):
        content = f'id{mark}"na,me;\t|"{mark}name\n007{mark}1,5{mark}"a{mark} ""b"""\n8{mark}x{mark}c\n'.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        found = read_table(tmp_path / name, ["id", "name"]).to_pydict()
        assert found == {"id": ["007", "8"], "name": [f'a{mark} "b"', "c"]}

    @pytest.mark.parametrize("mark", [",", ";"])
    def test_a_tsv_file_without_tabs(self, tmp_path, mark):
        (tmp_path / "table.tsv").write_text(f"id{mark}name\n1{mark}a\n")
        assert read_table(tmp_path / "table.tsv", ["id", "name"]).to_pydict() == {"id": ["1"], "name": ["a"]}

    @pytest.mark.parametrize(
        ("name", "header", "mark"),
        [
            ("k4.tsv", ["item_id", "image", "category", "a, b, c, d, e, f"], "\t"),
            ("k4.csv", ["item_id", "image", "category", "a|b|c|d|e"], ","),
            ("k4.csv", ["item_id", "image\ufeff", " category", "a, b, c, d, e, f"], ";"),
            ("k4.csv", ['"item_id"', '"image"', '"category"', "a;b;c;d;e"], "|"),
            ("k4.tsv", ["item_id", "image", "category", "a\tb\tc\td\te"], ","),
        ],
    )
    def test_the_wanted_columns_tell_more_than_frequent_marks(self, tmp_path, name, header, mark):
        (tmp_path / name).write_text(f"{mark.join(header)}\n{mark.join('1234')}\n".replace("4", header[-1]))
        found = read_table(tmp_path / name, ["item_id", "image", "category"]).to_pydict()
        assert found == {"item_id": ["1"], "image": ["2"], "category": ["3"]}

    def test_where_the_header_is_given_the_name_of_the_file_tells(self, tmp_path):
        (tmp_path / "table.tsv").write_text("Smith, J., Dr.\t0\n")
        [batch] = scan_table(tmp_path / "table.tsv", ["user"], header=["user", "item"])
        assert batch.to_pydict() == {"user": ["Smith, J., Dr."]}

    def test_commas_win_in_doubt(self, tmp_path):
        assert read_csv(tmp_path, "id,na;me\n1,a;b\n", ["id", "na;me"]) == {"id": ["1"], "na;me": ["a;b"]}
        assert read_csv(tmp_path, "id\n1;2\n", ["id"]) == {"id": ["1;2"]}

    def test_what_is_wrong_is_said(self, tmp_path):
        with pytest.raises(
            CatwalkError, match=r"table\.csv, line 3 has 1 cells and the header 2, separated by semicolons$"
        ):
            read_csv(tmp_path, "id;name\n1;a\n2\n")
        with pytest.raises(CatwalkError, match=r"table\.csv, line 2 has a quotation mark inside a cell"):
            read_csv(tmp_path, 'id;name\n1;a 5" heel\n')
        with pytest.raises(CatwalkError, match=r"table\.csv, line 1 is 'sep=;', as Excel writes it: remove it"):
            read_csv(tmp_path, "sep=;\nid;name\n1;a\n")


def test_names_of_columns_are_compared_without_blanks_and_what_is_invisible(tmp_path):
    assert read_csv(tmp_path, "id , name,\u200bcolour\n1,a,x\n", optional=("colour",)) == {
        "id": ["1"],
        "name": ["a"],
        "colour": ["x"],
    }
    with pytest.raises(CatwalkError, match="lacks the column 'id'"):
        read_csv(tmp_path, "id , id,name\n1,2,a\n")
