import pytest
import sqlalchemy as sa

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.core.secrets import redactor
from agent_pipelines.governance.audit import Audit
from agent_pipelines.store.database import Database
from agent_pipelines.store.tables import audit


def test_entries_are_listed_newest_first_by_key(database: Database, clock: ManualClock) -> None:
    log = Audit(clock)
    with database.transaction() as connection:
        for number in range(5):
            clock.time += 1
            log.record(connection, actor="kim", action="task.pause", object=f"app/t{number % 2}", details={"n": number})
        log.record(connection, actor="ana", action="task.pause", object="app/t0", workspace="other")
    with database.reading() as connection:
        first = log.list(connection, limit=2)
        second = log.list(connection, limit=2, before=first[-1].seq)
        assert [entry.details["n"] for entry in [*first, *second]] == [4, 3, 2, 1]
        assert [entry.details["n"] for entry in log.list(connection, object="app/t0", actor="kim")] == [4, 2, 0]
        assert log.list(connection, action="task.resume") == []
        assert [entry.actor for entry in log.list(connection, workspace="other")] == ["ana"]
        assert first[0].at == clock.now()


def test_details_hold_no_secret(database: Database, clock: ManualClock) -> None:
    redactor.register("correct-horse-battery")
    with database.transaction() as connection:
        Audit(clock).record(connection, actor="kim", action="a", object="o", details={"key": ["is correct-horse-battery"]})
        assert Audit(clock).list(connection)[0].details == {"key": ["is [secret]"]}


@pytest.mark.parametrize("change", [audit.update().values(actor="nobody"), audit.delete()])
def test_entries_cannot_be_changed(database: Database, clock: ManualClock, change: sa.Update | sa.Delete) -> None:
    with database.transaction() as connection:
        Audit(clock).record(connection, actor="kim", action="a", object="o")
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), database.transaction() as connection:
        connection.execute(change)
