"""The items of a batch that failed, in words."""

from agent_pipelines.core.execution import Status
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.batches import Batch, Shard

_NAMED = 20  # items


def poison(hub: Hub, batch: Batch, *, shard: Shard | None = None) -> str:
    """The first items that failed, of a batch or of a shard of it, as a list in Markdown."""
    after = -1 if shard is None else shard.first_position - 1
    with hub.database.reading() as connection:
        failed = hub.batch_results.page(connection, batch.id, status=Status.FAILED, after=after, limit=_NAMED)
    if shard is not None:
        failed = [item for item in failed if item.position <= shard.last_position]
    lines = [f"- `{each.item}`: {each.error_class}: {each.error_message}, execution {each.execution_id}" for each in failed]
    count = batch.failed if shard is None else shard.failed
    if count > len(lines):
        lines.append(f"- and {count - len(lines)} more: `{where_to_see(batch)}`")
    return "\n".join(lines)


def where_to_see(batch: Batch) -> str:
    """The command that lists all of them."""
    return f"agent-pipelines batch items {batch.id} --status failed"
