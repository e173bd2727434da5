"""What the items of a task were when they were last done."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from agent_pipelines.core.clock import Clock
from agent_pipelines.core.task import TaskKey
from agent_pipelines.store.bulk import upsert_rows
from agent_pipelines.store.tables import item_versions

_KEYS = ("workspace", "application", "task", "item")
_AT_ONCE = 500  # keys of one question


class ItemVersions:
    """Writes and reads the contents that were done last. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def put_many(self, connection: sa.Connection, task: TaskKey, done: Sequence[tuple[str, str, str]]) -> None:
        """Remember items that were done: key, hash of the content, execution."""
        workspace, application, name = task
        now = self._clock.now()
        rows = {
            item: {
                "workspace": workspace,
                "application": application,
                "task": name,
                "item": item,
                "content_hash": content_hash,
                "execution_id": execution_id,
                "done_at": now,
            }
            for item, content_hash, execution_id in done
        }
        upsert_rows(connection, item_versions, list(rows.values()), keys=_KEYS)

    def hashes(self, connection: sa.Connection, task: TaskKey, items: Sequence[str]) -> Mapping[str, str]:
        """The hash of the content that each item was last done with; those that never were are left out."""
        c = item_versions.c
        of_task = [c[name] == value for name, value in zip(_KEYS, task, strict=False)]
        found: dict[str, str] = {}
        for start in range(0, len(items), _AT_ONCE):
            query = sa.select(c.item, c.content_hash).where(*of_task, c.item.in_(items[start : start + _AT_ONCE]))
            found.update(connection.execute(query).tuples().all())
        return found
