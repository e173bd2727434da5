"""Which worker has claimed which run: the fence against a run that is executed twice."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import run_claims

_KEPT = 7 * 86_400_000_000  # microseconds that a claim is kept after its end

_UNCLAIMED = {"told_at": None, "worker": None, "host": None, "pid": None, "claimed_at": None, "beat_at": None}
_FRESH = {**_UNCLAIMED, "cancel_asked_at": None, "ended_at": None, "ending": None}


class RunClaim(BaseModel):
    """A run that was sent to workers. Instants are UTC microseconds, by the clock of who wrote them.

    `attempt` is the fence: of a run that was sent again under a higher one, the lower one is nobody's any more.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: str
    attempt: int
    queue: str
    queued_at: Microseconds
    sent_at: Microseconds
    told_at: Microseconds | None
    """When it was said in the run's events that no worker serves the queue."""
    worker: str | None
    host: str | None
    pid: int | None
    claimed_at: Microseconds | None
    beat_at: Microseconds | None
    cancel_asked_at: Microseconds | None
    ended_at: Microseconds | None
    ending: str | None


class RunClaims:
    """Writes and reads the claims. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def issue(self, connection: sa.Connection, run_id: str, queue: str) -> RunClaim:
        """Let one worker claim a run: from now on nobody holds it. Claims that ended a week ago are forgotten on the way."""
        now = self._clock.now()
        row = {"run_id": run_id, "attempt": 1, "queue": queue, "queued_at": now, "sent_at": now}
        if insert_new(connection, run_claims, row) is None:
            again = run_claims.update().where(run_claims.c.run_id == run_id)
            connection.execute(again.values(**_FRESH, attempt=run_claims.c.attempt + 1, queue=queue, queued_at=now, sent_at=now))
        connection.execute(sa.delete(run_claims).where(run_claims.c.ended_at < now - _KEPT))
        claim = self.get(connection, run_id)
        assert claim is not None
        return claim

    def take(self, connection: sa.Connection, run_id: str, attempt: int, *, worker: str, host: str, pid: int) -> RunClaim | None:
        """Claim a run for a worker. None if somebody has claimed it, or a later attempt was sent, or it has ended."""
        now = self._clock.now()
        taken = _one(run_id, attempt).where(run_claims.c.claimed_at.is_(None), run_claims.c.ended_at.is_(None))
        values = {"worker": worker, "host": host, "pid": pid, "claimed_at": now, "beat_at": now}
        row = connection.execute(taken.values(**values).returning(*run_claims.c)).mappings().one_or_none()
        return None if row is None else RunClaim.model_validate(row)

    def beat(self, connection: sa.Connection, worker: str, held: Mapping[str, int]) -> Mapping[str, RunClaim]:
        """Note that a worker lives, with the runs that it believes to hold and their attempts; returns those that it holds."""
        if not held:
            return {}
        mine = run_claims.update().where(
            run_claims.c.worker == worker, run_claims.c.ended_at.is_(None), run_claims.c.run_id.in_(list(held))
        )
        rows = connection.execute(mine.values(beat_at=self._clock.now()).returning(*run_claims.c)).mappings()
        claims = [RunClaim.model_validate(row) for row in rows]
        return {claim.run_id: claim for claim in claims if claim.attempt == held[claim.run_id]}

    def end(self, connection: sa.Connection, claim: RunClaim, words: str) -> bool:
        """Note that nobody executes a run any more. False if that was noted already, or a later attempt was sent."""
        ended = _one(claim.run_id, claim.attempt).where(run_claims.c.ended_at.is_(None))
        return connection.execute(ended.values(ended_at=self._clock.now(), ending=words)).rowcount == 1

    def end_if_silent(self, connection: sa.Connection, claim: RunClaim, words: str) -> bool:
        """The same, unless its worker has said meanwhile that it lives."""
        silent = _one(claim.run_id, claim.attempt).where(run_claims.c.beat_at == claim.beat_at, run_claims.c.ended_at.is_(None))
        return connection.execute(silent.values(ended_at=self._clock.now(), ending=words)).rowcount == 1

    def cancel(self, connection: sa.Connection, run_id: str) -> bool:
        """Ask the worker of a run to end it. False if no worker has it: then nobody will take it either."""
        now = self._clock.now()
        unclaimed = run_claims.update().where(run_claims.c.run_id == run_id, run_claims.c.claimed_at.is_(None))
        unclaimed = unclaimed.where(run_claims.c.ended_at.is_(None))
        connection.execute(unclaimed.values(cancel_asked_at=now, ended_at=now, ending="cancelled before a worker had it"))
        held = run_claims.update().where(run_claims.c.run_id == run_id, run_claims.c.ended_at.is_(None))
        return connection.execute(held.values(cancel_asked_at=now)).rowcount == 1

    def sent(self, connection: sa.Connection, claim: RunClaim) -> bool:
        """Note before a message is sent again that it is. False if somebody else does, or a worker has claimed the run."""
        waiting = _one(claim.run_id, claim.attempt).where(
            run_claims.c.sent_at == claim.sent_at, run_claims.c.claimed_at.is_(None), run_claims.c.ended_at.is_(None)
        )
        return connection.execute(waiting.values(sent_at=self._clock.now())).rowcount == 1

    def told(self, connection: sa.Connection, claim: RunClaim) -> bool:
        """Note that the run's events say that no worker serves its queue. False if that was noted."""
        untold = _one(claim.run_id, claim.attempt).where(run_claims.c.told_at.is_(None))
        return connection.execute(untold.values(told_at=self._clock.now())).rowcount == 1

    def get(self, connection: sa.Connection, run_id: str) -> RunClaim | None:
        """The claim of a run; None if it was not sent to workers."""
        row = connection.execute(sa.select(run_claims).where(run_claims.c.run_id == run_id)).mappings().one_or_none()
        return None if row is None else RunClaim.model_validate(row)

    def open(self, connection: sa.Connection) -> Sequence[RunClaim]:
        """Claims that have not ended, first queued first."""
        query = sa.select(run_claims).where(run_claims.c.ended_at.is_(None)).order_by(run_claims.c.queued_at)
        return [RunClaim.model_validate(row) for row in connection.execute(query).mappings()]


def _one(run_id: str, attempt: int) -> sa.Update:
    return run_claims.update().where(run_claims.c.run_id == run_id, run_claims.c.attempt == attempt)
