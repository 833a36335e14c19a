"""Files that only grow: what was written is read, and what was torn or changed is not."""

from catwalk.files.append_only import append_lines, read_lines

ROWS = [{"name": "é", "number": -3}, {"name": "b c", "number": 2**62}, {}]


def test_rows_come_back_in_order(tmp_path):
    path = tmp_path / "a" / "rows.jsonl"
    assert list(read_lines(path)) == []
    append_lines(path, ROWS[:1])
    append_lines(path, ROWS[1:])
    assert list(read_lines(path)) == ROWS


def test_a_torn_line_costs_itself_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_lines(path, ROWS)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = whole[:size].count(b"\n") + (whole[size : size + 1] == b"\n")
        assert list(read_lines(path)) == ROWS[:kept]
        append_lines(path, [{"last": 1}])
        assert list(read_lines(path)) == [*ROWS[:kept], {"last": 1}]


def test_a_changed_line_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_lines(path, ROWS)
    path.write_bytes(path.read_bytes().replace(b"-3", b"+3"))
    assert list(read_lines(path)) == ROWS[1:]
