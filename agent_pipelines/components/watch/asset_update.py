"""Watching the materializations of an asset."""

import dagster as dg

from agent_pipelines.components.watch.cursor import TriggerCursor
from agent_pipelines.components.watch.sight import Due, Look, Sight, marked
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.trigger import AssetUpdate, trigger_name

# Concurrent writers of Dagster's event log may make an earlier number visible after a later one.
_OVERLAP = 500


def watch_asset(look: Look, trigger: AssetUpdate, cursor: TriggerCursor) -> Sight:
    """Due for each materialization since the trigger was first watched; its occurrence is Dagster's storage id."""
    key = dg.AssetKey.from_user_string(trigger.asset)
    if "first" not in cursor.marks:
        first = _last_before(look, key, cursor.first)
        cursor = marked(cursor, first=first, last=first)
    first, last = cursor.marks["first"], cursor.marks["last"]
    records = look.instance.fetch_materializations(
        dg.AssetRecordsFilter(key, after_storage_id=max(first, last - _OVERLAP)), limit=_OVERLAP + look.limit, ascending=True
    ).records
    due: list[Due] = []
    with look.hub.database.reading() as connection:
        for record in records:
            occurrence = str(record.storage_id)
            if look.hub.ticks.find(connection, look.task, trigger_name(trigger), occurrence) is None:
                due_at = round(record.timestamp * 1_000_000)
                inputs = {
                    "asset": trigger.asset,
                    "storage_id": record.storage_id,
                    "run_id": record.run_id,
                    "partition": record.partition_key,
                }
                due.append(Due(Origin.ASSET, occurrence, due_at, trigger.logical_at(due_at), inputs))
            if len(due) == look.limit:
                break
    taken = due[: look.limit]
    read_all = len(due) < look.limit
    last = max([last, *(record.storage_id for record in records)]) if read_all else max(last, int(taken[-1].occurrence))
    return Sight(marked(cursor, first=first, last=last), due=taken, more=not read_all)


def _last_before(look: Look, key: dg.AssetKey, first: Microseconds) -> int:
    """The storage id of the newest materialization that is nothing to a trigger first watched at an instant, 0 if there is none.

    Whoever looks at that very instant need not compare Dagster's clock with ours.
    """
    before = None if first >= look.now else first / 1_000_000
    records = look.instance.fetch_materializations(dg.AssetRecordsFilter(key, before_timestamp=before), limit=1).records
    return records[0].storage_id if records else 0
