"""The items of a shard that are to be worked on, in order, a few at a time."""

import asyncio
import json
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

from pydantic import JsonValue

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.execution import FINAL, Status
from agent_pipelines.core.task import TaskSpec, canonical_json
from agent_pipelines.execution.batch.item import Item, keys_by
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.execution.batch.sources import Source, key_of
from agent_pipelines.ledger.batches import Batch, Shard
from agent_pipelines.ledger.items import Standing

_AT_ONCE = 200  # items that are read, looked up and handed out together


@dataclass(frozen=True, slots=True)
class Fed:
    """An item to be worked on: its key, where its execution stands if it has one, and the hash of its content."""

    item: Item
    key: str
    standing: Standing | None
    content_hash: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Items to be worked on, and how many besides were skipped because they are unchanged."""

    items: Sequence[Fed]
    skipped: int


class Feed:
    """Reads the items of a shard. Those that are final are left out."""

    def __init__(
        self,
        nouns: BatchNouns,
        spec: TaskSpec,
        batch: Batch,
        shard: Shard,
        standings: Sequence[Standing],
        source: Callable[[], Source],
    ) -> None:
        assert spec.batch is not None
        self._nouns = nouns
        self._spec = spec
        self._batch = batch
        self._shard = shard
        self._standings = {each.position: each for each in standings}
        self._source = source
        self._name = keys_by(key_of(spec.batch))
        self._changed_only = spec.batch.changed_only
        # What besides the item decides what the agent is asked.
        base = batch.invocation
        around = [base.prompt_version, base.variables, spec.agent, spec.prompt if base.prompt_version is None else None]
        self._around = canonical_json(around)

    async def pages(self) -> "AsyncPages":
        """The items to be worked on, some at a time. Raises DefinitionError if they cannot be read."""
        return AsyncPages(self, await asyncio.to_thread(self._read))

    def page(self, items: Iterator[Item]) -> Page | None:
        """The next items to be worked on, None after the last; for plain code."""
        some = list(islice(items, _AT_ONCE))
        if not some:
            return None
        fed = [self._fed(item) for item in some if not self._is_final(item.position)]
        changed = self._changed(fed) if self._changed_only else fed
        return Page(changed, len(fed) - len(changed))

    def _read(self) -> Iterator[Item]:
        packed = self._packed()
        if packed is not None:
            return _unpacked(packed, self._shard.first_position)
        source = self._source()
        source.verify(self._batch.fingerprint or {})
        items = source.read_from(self._shard.first_position, self._shard.seek_hint)
        return islice(items, self._shard.item_count)

    def _packed(self) -> bytes | None:
        with self._nouns.database.reading() as connection:
            return self._nouns.ledger.batches.items(connection, self._shard.batch_id, self._shard.number)

    def _is_final(self, position: int) -> bool:
        standing = self._standings.get(position)
        return standing is not None and is_final(standing, self._batch.reopened_at)

    def _fed(self, item: Item) -> Fed:
        return Fed(
            item, self._name(item), self._standings.get(item.position), self._hash(item.value) if self._changed_only else None
        )

    def _hash(self, value: JsonValue) -> str:
        return sha256(f"{self._around}\n{canonical_json(value)}".encode()).hexdigest()

    def _changed(self, fed: Sequence[Fed]) -> list[Fed]:
        fresh = [each.key for each in fed if each.standing is None]
        versions = self._nouns.ledger.item_versions
        with self._nouns.database.reading() as connection:
            known: Mapping[str, str] = versions.hashes(connection, self._spec.key, fresh)
        return [each for each in fed if each.standing is not None or known.get(each.key) != each.content_hash]


class AsyncPages:
    """Reads pages of a feed outside the event loop."""

    def __init__(self, feed: Feed, items: Iterator[Item]) -> None:
        self._feed = feed
        self._items = items

    def __aiter__(self) -> "AsyncPages":
        return self

    async def __anext__(self) -> Page:
        page = await asyncio.to_thread(self._feed.page, self._items)
        if page is None:
            raise StopAsyncIteration
        return page


def is_final(standing: Standing, reopened_at: Microseconds | None) -> bool:
    """Whether nothing is to be done any more about an item.

    A failure before the batch was reopened is not final, and what was cancelled never is: it was not the item's fault.
    """
    if standing.status not in FINAL or standing.status is Status.CANCELLED:
        return False
    failed_before = reopened_at is not None and (standing.finished_at or 0) <= reopened_at
    return standing.status is not Status.FAILED or not failed_before


def _unpacked(packed: bytes, first: int) -> Generator[Item]:
    for number, line in enumerate(zlib.decompress(packed).splitlines()):
        yield Item(first + number, json.loads(line))
