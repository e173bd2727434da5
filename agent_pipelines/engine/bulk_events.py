"""Dagster's SQLite event log in one file, which also stores many asset events at once."""

from collections.abc import Sequence

from dagster import EventLogEntry
from dagster._core.events import DagsterEventType
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage, SqlEventLogStorageTable

_TOGETHER = {DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_OBSERVATION}


class BulkSqliteEventLogStorage(ConsolidatedSqliteEventLogStorage):
    """Dagster's storage, except that a batch of materializations or observations is one transaction and not three for each.

    The file and its tables are the same: a deployment may change between the two at any time.
    """

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events in their order. Those of other kinds are stored one by one."""
        types = {event.get_dagster_event().event_type for event in events if event.is_dagster_event}
        if not events or not types <= _TOGETHER or not all(event.is_dagster_event for event in events):
            super().store_event_batch(events)
            return
        insert = SqlEventLogStorageTable.insert().returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
        with self._connect() as connection:
            ids = list(connection.execute(insert, [self._event_to_row(event) for event in events]).scalars())
            self._store_asset_event_tags(connection, events, ids)
            # The row of an asset has its last event only; observations say less than materializations, and go over none.
            last = {
                (event.get_dagster_event().asset_key, event.dagster_event_type): (event, event_id)
                for event, event_id in zip(events, ids, strict=True)
            }
            for event, event_id in last.values():
                self._store_asset_event(connection, event, event_id)
