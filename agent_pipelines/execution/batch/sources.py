"""Where items come from: one class a kind, each read as a stream."""

import csv
import hashlib
import importlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pydantic import JsonValue
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agent_pipelines.core.batch import BatchSpec
from agent_pipelines.core.errors import DefinitionError, MissingExtraError
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.batch.item import Item
from agent_pipelines.execution.function import load_function
from agent_pipelines.runtimes.fleet import Agent
from agent_pipelines.store.query import rows_of

_LONGEST_FIELD = 16 * 1_024 * 1_024  # characters; a quote that is never closed must not take in the rest of a large file

Fingerprint = dict[str, JsonValue]
"""What tells one content of a source from another."""


class Source(ABC):
    """A stream of items.

    Shards read a source that `is_seekable` themselves, from their first item on; what another one yields is kept when the batch
    is split, because nobody knows what it would yield a second time.
    """

    is_seekable: ClassVar[bool] = False

    @abstractmethod
    def read(self) -> Generator[Item]:
        """All items in order. Raises DefinitionError for one that cannot be read."""

    def read_from(self, position: int, hint: int | None) -> Generator[Item]:
        """The items from a position on; `hint` is the offset of the first. For sources that are seekable."""
        raise NotImplementedError(f"{type(self).__name__} is not seekable")

    def fingerprint(self) -> Fingerprint:
        """What the source is like, after it was read to its end."""
        return {}

    def verify(self, fingerprint: Mapping[str, JsonValue]) -> None:
        """Raises DefinitionError if the source is another one than when the batch was split."""
        return


class FileSource(Source):
    """Items of a file."""

    is_seekable = True

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DefinitionError("there is no such file", field="batch.items.file", file=path, fix="Name an existing file")

    def fingerprint(self) -> Fingerprint:
        return {**self._look(), "sha256": self._digest()}

    def verify(self, fingerprint: Mapping[str, JsonValue]) -> None:
        # A file that was copied or touched is still the same one: only then is it read as a whole.
        if self._look() == {name: fingerprint.get(name) for name in ("size", "modified_ns")}:
            return
        if self.path.stat().st_size != fingerprint.get("size") or self._digest() != fingerprint.get("sha256"):
            fix = "Put the file back, or cancel the batch and start another"
            raise DefinitionError("the file has changed since the batch was split", file=self.path, fix=fix)

    def _look(self) -> Fingerprint:
        found = self.path.stat()
        return {"size": found.st_size, "modified_ns": found.st_mtime_ns}

    def _digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class _Lines:
    """The lines of a file as text, and the byte that the next one begins at."""

    def __init__(self, file: BinaryIO, path: Path, offset: int = 0) -> None:
        self._file = file
        self._path = path
        self.offset = offset
        file.seek(offset)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        try:
            text = line.decode("utf-8" if self.offset else "utf-8-sig")
        except UnicodeDecodeError as error:
            at = self.offset + error.start
            raise DefinitionError(f"byte {at} is not UTF-8", file=self._path, fix="Convert the file to UTF-8") from None
        self.offset += len(line)
        return text


class CsvSource(FileSource):
    """Rows of a CSV file with a header, as mappings of text; a field may hold line breaks."""

    def __init__(self, path: Path, delimiter: str = ",") -> None:
        super().__init__(path)
        self._delimiter = delimiter

    def read(self) -> Generator[Item]:
        return self.read_from(0, None)

    def read_from(self, position: int, hint: int | None) -> Generator[Item]:
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
        with self.path.open("rb") as file:
            lines = _Lines(file, self.path)
            header = self._header(lines)
            if hint is not None:
                lines = _Lines(file, self.path, hint)
            rows = csv.reader(lines, delimiter=self._delimiter, strict=True)
            while True:
                offset = lines.offset
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    raise self._error(position, f"is not CSV: {error}") from None
                if not row:  # an empty line
                    continue
                if len(row) != len(header):
                    raise self._error(position, f"has {len(row)} fields, the header has {len(header)}")
                yield Item(position, dict(zip(header, row, strict=True)), offset)
                position += 1

    def _header(self, lines: _Lines) -> Sequence[str]:
        try:
            header = next(csv.reader(lines, delimiter=self._delimiter, strict=True), list[str]())
        except csv.Error as error:
            raise DefinitionError(f"its header is not CSV: {error}", file=self.path) from None
        if not header or len(set(header)) != len(header) or not all(header):
            fix = "Begin the file with a line that names each column, each with a name of its own"
            raise DefinitionError("the first line is no header", field="batch.items.file", file=self.path, fix=fix)
        return header

    def _error(self, position: int, problem: str) -> DefinitionError:
        return DefinitionError(
            f"item {position} {problem}", file=self.path, fix="Correct that row; quote fields with line breaks"
        )


class JsonLinesSource(FileSource):
    """Lines of a file, each a JSON value."""

    def read(self) -> Generator[Item]:
        return self.read_from(0, None)

    def read_from(self, position: int, hint: int | None) -> Generator[Item]:
        with self.path.open("rb") as file:
            lines = _Lines(file, self.path, hint or 0)
            offset = lines.offset
            for line in lines:
                if line.strip():
                    try:
                        value = json.loads(line)
                    except ValueError as error:
                        fix = "Write one JSON value on each line"
                        raise DefinitionError(f"item {position} is not JSON: {error}", file=self.path, fix=fix) from None
                    yield Item(position, value, offset)
                    position += 1
                offset = lines.offset


class ParquetSource(FileSource):
    """Rows of a Parquet file as mappings, read a row group at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise MissingExtraError("pyarrow", "parquet", f"reading {path.name}") from None

    def read(self) -> Generator[Item]:
        return self.read_from(0, None)

    def read_from(self, position: int, hint: int | None) -> Generator[Item]:
        with self._parquet.ParquetFile(self.path) as file:
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first + rows > position:
                    for at, value in enumerate(self._rows(file, group), start=first):
                        if at >= position:
                            yield Item(at, _plain(value, at, self.path))
                first += rows

    def _rows(self, file: Any, group: int) -> Iterator[Any]:
        for some in file.iter_batches(batch_size=1_000, row_groups=[group]):
            yield from some.to_pylist()


class QuerySource(Source):
    """Rows of a query as mappings."""

    def __init__(self, query: str, url_env: str) -> None:
        self._query = query
        self._url_env = url_env

    def read(self) -> Generator[Item]:
        url = os.environ.get(self._url_env)
        if not url:
            fix = "Set it to the SQLAlchemy URL of the database that is asked"
            raise DefinitionError(f"environment variable {self._url_env} is not set", field="batch.items.url_env", fix=fix)
        for position, row in enumerate(rows_of(url, self._query)):
            yield Item(position, _plain(row, position, "batch.items.query"))


class PythonSource(Source):
    """What a function yields."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._function = load_function(reference, "batch.items.python")

    def read(self) -> Generator[Item]:
        for position, value in enumerate(self._function()):
            yield Item(position, _plain(value, position, self._reference))


class ListSource(Source):
    """The elements of a list, as of the output of another task."""

    def __init__(self, values: Sequence[JsonValue]) -> None:
        self._values = values

    def read(self) -> Generator[Item]:
        for position, value in enumerate(self._values):
            yield Item(position, value)


def open_source(spec: TaskSpec, base: Invocation, agents: Sequence[Agent], directory: Path) -> Source:
    """The source that a task declares. `base` has the outputs of its dependencies, `agents` are those that a broadcast is for.

    Raises DefinitionError that names the field if it cannot be opened.
    """
    batch = spec.batch
    assert batch is not None
    if batch.items is None:
        return ListSource([{"agent": agent.name, "node": node.name} for agent in agents for node in agent.nodes])
    items = batch.items
    if items.file is not None:
        return _file(directory / items.file)
    if items.query is not None and items.url_env is not None:
        return QuerySource(items.query, items.url_env)
    if items.python is not None:
        return PythonSource(items.python)
    assert items.asset is not None
    path = spec.resolve(items.asset)
    values = base.upstream.get(path)
    if not isinstance(values, list):
        found = "has no result" if path not in base.upstream else f"is {type(values).__name__}"
        fix = "Have that task give back a JSON list"
        raise DefinitionError(f"the output of {path} {found}, and no list of items", field="batch.items.asset", fix=fix)
    return ListSource(values)


def key_of(batch: BatchSpec) -> str | None:
    """The field or template that names the items of a batch."""
    return "{{ item.agent }}/{{ item.node }}" if batch.form == "broadcast" else batch.key


def _file(path: Path) -> FileSource:
    match path.suffix.lower():
        case ".csv":
            return CsvSource(path)
        case ".tsv":
            return CsvSource(path, "\t")
        case ".parquet":
            return ParquetSource(path)
        case _:
            return JsonLinesSource(path)


def _plain(value: object, position: int, where: Path | str) -> JsonValue:
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError as error:
        fix = "Yield what JSON has: objects, lists, texts, numbers, dates"
        raise DefinitionError(f"item {position} has no JSON form: {error}", file=where, fix=fix) from None
