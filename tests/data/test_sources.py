"""Rows keep their line, and what is wrong with a file is said with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.data.sources import Row, nearest_data, read_rows
from llmtune.errors import DataError, Problem


def rows(path: Path, content: str | bytes) -> list[Row | Problem]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(path))


def values(found: list[Row | Problem]) -> list[tuple[str, dict[str, object]]]:
    return [(one.where, dict(one.values)) for one in found if isinstance(one, Row)]


def refused(path: Path, content: str | bytes) -> Problem:
    with pytest.raises(DataError) as caught:
        rows(path, content)
    (problem,) = caught.value.problems
    return problem


def test_json_lines_keep_their_line(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": "\u2028"}\r\n{"a": null}')
    assert values(found) == [("a.jsonl:1", {"a": 1}), ("a.jsonl:3", {"a": "\u2028"}), ("a.jsonl:4", {"a": None})]


def test_a_broken_line_is_named_and_does_not_hide_the_others(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 1\n{"a": 3}\n[1]\n{"a": NaN}\n')
    problems = [one for one in found if isinstance(one, Problem)]
    assert [problem.where for problem in problems] == ["a.jsonl:2", "a.jsonl:4", "a.jsonl:5"]
    assert problems[0].what == "not JSON: expecting ',' delimiter, found the end (column 8)"
    assert "a list, not an object" in problems[1].what
    assert "NaN is not JSON" in problems[2].what
    assert len(values(found)) == 2


def test_a_list_in_one_file_keeps_the_line_of_each_row(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.json", '[\n {"a": 1},\n\n {"a":\n 2}, {"a": 3}\n]\n')
    assert values(found) == [("a.json:2", {"a": 1}), ("a.json:4", {"a": 2}), ("a.json:5", {"a": 3})]


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ('[{"a": 1},\n{"a" 1}]', "a.json:2", "expecting ':' delimiter"),
        ('[{"a": 1}\n{"a": 1}]', "a.json:2", "expecting , or ] after a row, found '{'"),
        ('[{"a": 1},\n', "a.json:2", "expecting value, found the end"),
        ('[{"a": 1}]\n\n{"a": 1}', "a.json:3", "text after the end of the list"),
        ('[{"a": 1}', "a.json:1", "found the end of the file"),
        ("[]", "a.json", "the list in the file has no rows"),
        ('{"version": 1,\n"data": [{"a": 1}]}', "a.json:1", "a list of rows under 'data'"),
        ("[" * 100_000, "a.json:1", "recursion"),
        ('[{"a": ' + "1" * 5000 + "}]", "a.json:1", "digits"),
    ],
)
def test_a_broken_list_is_named_by_its_line(tmp_path: Path, content: str, where: str, what: str) -> None:
    problem = refused(tmp_path / "a.json", content)
    assert problem.where == where
    assert what in problem.what


def test_json_lines_under_the_name_json_are_read(tmp_path: Path) -> None:
    assert values(rows(tmp_path / "a.json", '{"a": 1}\n{\n"a": 2}\n')) == [
        ("a.json:1", {"a": 1}),
        ("a.json:2", {"a": 2}),
    ]


def test_csv_with_line_ends_and_quotes_inside_quotes(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", 'q,a\nx,"one\r\ntwo, ""three"""\r\n\r\ny,{{Name}}\n')
    assert values(found) == [
        ("a.csv:2", {"q": "x", "a": 'one\r\ntwo, "three"'}),
        ("a.csv:5", {"q": "y", "a": "{{Name}}"}),
    ]


def test_csv_with_semicolons_and_a_byte_order_mark(tmp_path: Path) -> None:
    assert values(rows(tmp_path / "a.csv", b"\xef\xbb\xbfq;a\n1,5;b\n")) == [("a.csv:2", {"q": "1,5", "a": "b"})]
    assert values(rows(tmp_path / "b.csv", "q,a\nü,b\n".encode("utf-16"))) == [("b.csv:2", {"q": "ü", "a": "b"})]


def test_csv_row_with_too_many_cells_is_named(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.csv", "q,a\nx,y,z\nx,y\n")
    assert found[0] == Problem(
        "a.csv:2", "3 cells where the first line names 2 columns", "look for a separator in a text without quotes"
    )
    assert len(values(found)) == 1


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ('q,a\nx,y\nx,"y\nz\n', "a.csv:3", "unexpected end of data"),
        ('q,a\nx,"y" z\n', "a.csv:2", "expected after"),
        ("q,q\nx,y\n", "a.csv:1", "two columns are named 'q'"),
        ("q,a\n", "a.csv", "no rows"),
        ("q,a\n,\n", "a.csv", "no rows"),
        (",\n", "a.csv", "no rows"),
    ],
)
def test_a_broken_csv_is_named_by_its_line(tmp_path: Path, content: str, where: str, what: str) -> None:
    problem = refused(tmp_path / "a.csv", content)
    assert problem.where == where
    assert what in problem.what


def test_tabs_with_loose_quotes_are_text_and_with_whole_ones_quoting(tmp_path: Path) -> None:
    loose = rows(tmp_path / "a.tsv", 'Q\tA\r\nsay it\t"Hello" he said\r\nx\t"\r\ny\tz\r\n')
    assert [row["A"] for _, row in values(loose)] == ['"Hello" he said', '"', "z"]
    whole = rows(tmp_path / "b.tsv", 'Q\tA\nx\t"two\nlines"\ny\tit\'s\n')
    assert [row["A"] for _, row in values(whole)] == ["two\nlines", "it's"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_pain_10_what_one_row_has_is_not_filled_into_another(tmp_path: Path, name: str) -> None:
    """The arguments of tool calls, say: of other names and types in every row."""
    arguments: list[dict[str, object]] = [
        {"call": {"name": "find", "arguments": {"city": "Ulm", "limit": 3}}},
        {"call": {"name": "sum", "arguments": {"limit": "three", "of": [1, 2.5, "x", None]}}},
        {"call": "none"},
        {},
    ]
    lines = [json.dumps(row) for row in arguments]
    content = "\n".join(lines) if name == "a.jsonl" else f"[{', '.join(lines)}]"
    assert [found for _, found in values(rows(tmp_path / name, content))] == arguments


def test_parquet_rows_are_read(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"q": ["a", None], "n": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = list(read_rows(tmp_path / "a.parquet"))
    assert values(found) == [("a.parquet:row 1", {"q": "a", "n": 1}), ("a.parquet:row 2", {"q": None, "n": 2})]
    assert "not a Parquet file" in refused(tmp_path / "b.parquet", b"PAR1 cut").what


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"])
@pytest.mark.parametrize("content", ["", " \n\t\n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    assert refused(tmp_path / name, content).what.startswith(("the file is empty", "the file holds", "not a Parquet"))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text("q,a\n1,2\n")
    with pytest.raises(DataError, match=r"there is no file .*tickts.csv \(did you mean tickets.csv\?\)"):
        list(read_rows(tmp_path / "tickts.csv"))
    with pytest.raises(DataError, match="a folder"):
        list(read_rows(tmp_path))
    with pytest.raises(DataError, match="no folder"):
        list(read_rows(tmp_path / "x" / "y.csv"))


def test_a_file_whose_name_only_ends_alike_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "bl.jsonl").write_text("{}")
    with pytest.raises(
        DataError, match=r"general.jsonl \(paths are as seen from the recipe; data files there: bl.jsonl\)"
    ):
        list(read_rows(tmp_path / "general.jsonl"))
    (tmp_path / "general.csv").write_text("q,a\n1,2\n")
    with pytest.raises(DataError, match=r"did you mean general.csv\?"):
        list(read_rows(tmp_path / "general.jsonl"))


def test_what_is_offered_can_be_written_in_its_place_and_a_full_folder_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in "abcdef":
        (tmp_path / "sub" / f"{name * 5}.csv").write_text("q,a\n1,2\n")
    assert nearest_data(tmp_path / "sub" / "aaaa.csv", "sub/aaaa.csv") == "did you mean sub/aaaaa.csv?"
    listed = "aaaaa.csv, bbbbb.csv, ccccc.csv, ddddd.csv, eeeee.csv, ..."
    assert nearest_data(tmp_path / "sub" / "zoo.csv", "sub/zoo.csv").endswith(f"; data files there: {listed}")


def test_another_form_of_file_is_refused(tmp_path: Path) -> None:
    spreadsheet = refused(tmp_path / "a.xlsx", b"PK")
    assert "not a form of data file" in spreadsheet.what
    assert spreadsheet.do.startswith("save it as CSV")
    assert refused(tmp_path / "a.jsonl.gz", b"PK").do == "unpack it first"


def test_text_that_is_not_utf_8_names_line_and_byte(tmp_path: Path) -> None:
    problem = refused(tmp_path / "a.csv", b"q,a\nx,y\ncaf\xe9,z\n")
    assert (problem.where, problem.what) == ("a.csv:3", "byte 0xe9 is not UTF-8 text")
