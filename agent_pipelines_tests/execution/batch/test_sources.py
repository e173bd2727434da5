import csv
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent_pipelines.core.errors import DefinitionError, StorageError
from agent_pipelines.execution.batch.item import Item, keys_by
from agent_pipelines.execution.batch.sources import (
    CsvSource,
    FileSource,
    JsonLinesSource,
    ParquetSource,
    PythonSource,
    QuerySource,
)
from agent_pipelines.execution.batch.unique import UniqueKeys
from agent_pipelines.store.database import Database

ROWS = [
    {"id": "1", "text": "plain"},
    {"id": "2", "text": 'says "so", twice'},
    {"id": "3", "text": "two\nlines"},
    {"id": "4", "text": "three\r\nof,them\n"},
    {"id": "5", "text": "grüße, 世界"},
    {"id": "6", "text": ""},
]


def _csv(directory: Path, **form: Any) -> CsvSource:
    path = directory / "items.csv"
    with path.open("w", encoding=form.pop("encoding", "utf-8"), newline="") as file:
        writer = csv.DictWriter(file, ["id", "text"], **form)
        writer.writeheader()
        writer.writerows(ROWS)
    return CsvSource(path)


@pytest.mark.parametrize("form", [{}, {"lineterminator": "\n"}, {"quoting": csv.QUOTE_ALL}, {"encoding": "utf-8-sig"}])
def test_each_row_is_found_again_by_its_offset(tmp_path: Path, form: dict[str, Any]) -> None:
    source = _csv(tmp_path, **form)
    items = list(source.read())
    assert [item.value for item in items] == ROWS
    for item in items:
        assert list(source.read_from(item.position, item.offset)) == items[item.position :]


def test_a_shard_reads_nothing_of_what_comes_before_it(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text("this is not JSON\n" + "\n" + '{"a": 1}\n' + "\n" + '"text"\n' + "3")
    items = list(JsonLinesSource(path).read_from(7, 18))
    assert [(item.position, item.value) for item in items] == [(7, {"a": 1}), (8, "text"), (9, 3)]
    with pytest.raises(DefinitionError, match=r"items.jsonl: item 0 is not JSON.*Write one JSON value on each line"):
        list(JsonLinesSource(path).read())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id,text\n1,a\n2\n", "item 1 has 1 fields, the header has 2"),
        ("id,text\n1,a,b\n", "item 0 has 3 fields, the header has 2"),
        ('id,text\n1,"never closed\n2,b\n', "item 0 is not CSV"),
        ("id,id\n1,2\n", "the first line is no header"),
        ("", "the first line is no header"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(DefinitionError, match=problem):
        list(CsvSource(path).read())


def test_what_is_not_utf8_is_named_by_its_byte(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b"id,text\n1,gr\xfc\xdfe\n")
    with pytest.raises(DefinitionError, match="byte 12 is not UTF-8"):
        list(CsvSource(path).read())


def test_a_changed_file_is_refused_and_a_touched_one_is_not(tmp_path: Path) -> None:
    source = _csv(tmp_path)
    known = source.fingerprint()
    source.verify(known)
    text = source.path.read_text(encoding="utf-8")
    source.path.write_text(text, encoding="utf-8")
    source.verify({**known, "modified_ns": 0, "size": source.path.stat().st_size, "sha256": source.fingerprint()["sha256"]})
    source.path.write_text(text.replace("plain", "PLAIN"), encoding="utf-8")
    with pytest.raises(DefinitionError, match="has changed since the batch was split"):
        source.verify({**known, "modified_ns": 0})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"none.csv, field `batch.items.file`: there is no such file"):
        FileSource.__init__(CsvSource.__new__(CsvSource), tmp_path / "none.csv")


def test_rows_of_a_query_are_items(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("CREATE TABLE things (id INTEGER, name TEXT)")
        connection.execute(sa.text("INSERT INTO things VALUES (1, :first), (2, :second)"), {"first": "a:b", "second": "100%"})
    monkeypatch.setenv("THINGS_URL", database.url.render_as_string(hide_password=False))
    schema = "" if database.is_sqlite else "agent_pipelines."
    source = QuerySource(f"SELECT id, name FROM {schema}things WHERE name LIKE '%' AND ':x' <> '' ORDER BY id", "THINGS_URL")
    assert [item.value for item in source.read()] == [{"id": 1, "name": "a:b"}, {"id": 2, "name": "100%"}]
    with pytest.raises(StorageError, match=r"the query failed: .*nothing"):
        list(QuerySource("SELECT * FROM nothing", "THINGS_URL").read())


def yields() -> Iterator[object]:
    yield {"when": __import__("datetime").date(2026, 1, 2)}
    yield ("a", 1)


def test_what_a_function_yields_are_items() -> None:
    source = PythonSource(f"{__name__}:yields")
    assert [item.value for item in source.read()] == [{"when": "2026-01-02"}, ["a", 1]]
    with pytest.raises(DefinitionError, match="cannot be imported"):
        PythonSource(f"{__name__}:nothing")


def test_items_are_named_by_field_template_or_position() -> None:
    item = Item(3, {"a": 1, "b": "x"})
    assert keys_by(None)(item) == "3"
    assert keys_by("a")(item) == "1"
    assert keys_by("{{ item.b }}/{{ item.a }}")(item) == "x/1"
    with pytest.raises(DefinitionError, match=r"item 3 has no field `c`\. Name one of its fields: a, b"):
        keys_by("c")(item)
    with pytest.raises(DefinitionError, match=r"item 3 has no field `c`\. Leave `key` out"):
        keys_by("c")(Item(3, "text"))


def test_a_key_that_comes_twice_is_found_with_both_positions() -> None:
    with UniqueKeys() as keys:
        assert keys.add([("a", 0), ("b", 1)]) is None
        assert keys.add([("c", 2), ("b", 3)]) == ("b", 1, 3)


def test_a_parquet_file_is_read_by_row_groups(tmp_path: Path) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    path = tmp_path / "items.parquet"
    parquet.write_table(arrow.table({"id": list(range(10))}), path, row_group_size=3)
    assert [item.value for item in ParquetSource(path).read_from(4, None)] == [{"id": number} for number in range(4, 10)]


def test_values_of_a_file_are_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    values = [{"deep": [1, {"b": None}]}, "line\u2028separator", 1.5, False]
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in values), encoding="utf-8")
    assert [item.value for item in JsonLinesSource(path).read()] == values
