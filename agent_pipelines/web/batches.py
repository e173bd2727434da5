"""What the HTTP interface tells of batches, and does with them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from agent_pipelines.core.plain import record
from agent_pipelines.execution.batch.verbs import NotPossible
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.batches import Batch, Progress
from agent_pipelines.web.asked import BatchPage, ItemPage, Nothing, Query
from agent_pipelines.web.call import Call
from agent_pipelines.web.operation import Answer, Operation
from agent_pipelines.web.problem import Refused

_BATCH = "/batches/{id}"

# What is left out: it can be large, and is of no use outside.
_LARGE = ("invocation", "fingerprint")


class BatchOperations:
    """Batches, their items, and the verbs on them."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def all(self) -> Sequence[Operation]:
        """The operations."""
        return (
            Operation("GET", "/batches", "Batches, newest first, and how far each is.", self.list, query=BatchPage),
            Operation("GET", _BATCH, "One batch with its shards, up to 1,000.", self.show),
            Operation("GET", f"{_BATCH}/items", "What became of its items, in order.", self.items, query=ItemPage),
            Operation("POST", f"{_BATCH}/cancel", "Cancel it; what is done stays done.", self.cancel, body=Nothing),
            Operation("POST", f"{_BATCH}/resume", "Carry it on after a failure or a cancellation.", self.resume, body=Nothing),
            Operation("POST", f"{_BATCH}/rerun", "Do its failed items again, and merge again.", self.rerun, body=Nothing),
        )

    def list(self, call: Call) -> Answer:
        asked = call.query(BatchPage)
        with self._hub.database.reading() as connection:
            page = self._hub.batches.list(connection, **asked.model_dump())
            told = [_told(batch, self._hub.batches.progress(connection, batch.id)) for batch in page]
        following = page[-1].seq if len(page) == asked.limit else None
        return HTTPStatus.OK, {"batches": told, "next_before": following}

    def show(self, call: Call) -> Answer:
        batch = self._find(call, call.query(Query))
        with self._hub.database.reading() as connection:
            progress = self._hub.batches.progress(connection, batch.id)
            shards = self._hub.batches.shards(connection, batch.id)
        return HTTPStatus.OK, {"batch": _told(batch, progress), "shards": [record(shard) for shard in shards]}

    def items(self, call: Call) -> Answer:
        asked = call.query(ItemPage)
        batch = self._find(call, asked)
        with self._hub.database.reading() as connection:
            page = self._hub.batch_results.page(connection, batch.id, status=asked.status, after=asked.after, limit=asked.limit)
        following = page[-1].position if len(page) == asked.limit else None
        return HTTPStatus.OK, {"items": [record(item) for item in page], "next_after": following}

    def cancel(self, call: Call) -> Answer:
        return self._done(call, lambda batch: {"runs": self._hub.batch_verbs.cancel(batch.id, actor=call.actor)})

    def resume(self, call: Call) -> Answer:
        return self._done(call, lambda batch: {"shards": self._hub.batch_verbs.resume(batch.id, actor=call.actor)})

    def rerun(self, call: Call) -> Answer:
        return self._done(call, lambda batch: {"shards": self._hub.batch_verbs.rerun_failed(batch.id, actor=call.actor)})

    def _done(self, call: Call, verb: Callable[[Batch], dict[str, Any]]) -> Answer:
        call.read(Nothing)
        batch = self._find(call, call.query(Query))
        try:
            return HTTPStatus.OK, {"batch": batch.id, **verb(batch)}
        except NotPossible as error:
            raise Refused(HTTPStatus.CONFLICT, str(error)) from None

    def _find(self, call: Call, asked: Query) -> Batch:
        workspace, batch_id = asked.workspace, call.path["id"]
        with self._hub.database.reading() as connection:
            found = self._hub.batches.get(connection, batch_id)
        if found is None or found.workspace != workspace:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no batch {batch_id}")
        return found


def _told(batch: Batch, progress: Progress | None) -> dict[str, Any]:
    whole = {name: value for name, value in record(batch).items() if name not in _LARGE}
    assert progress is not None
    shards = {str(status): count for status, count in progress.shards.items()}
    return whole | {"progress": {**asdict(progress), "shards": shards, "open": progress.open}}
