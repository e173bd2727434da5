"""Setting limits at run time, and how all limits stand."""

from collections import defaultdict
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.limit import LimitSpec, Scope
from agent_pipelines.flow.limits import Limits, StoredLimit, in_force
from agent_pipelines.flow.permits import Permits, Waiting, ceiling
from agent_pipelines.governance.audit import Audit
from agent_pipelines.registry.registry import NotInState
from agent_pipelines.store.database import Connection, Database

BUILT_IN = "built-in"
"""Origin of the limit of a resource that nobody has written one for."""


class LimitStanding(BaseModel):
    """A limit, where it comes from, what it overrides, and what runs and waits under it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: str
    concurrency: int | None
    requests: str | None
    requests_burst: int | None
    tokens: str | None
    tokens_burst: int | None
    origin: str
    place: str | None
    actor: str | None
    changed_at: Microseconds | None
    overrides: tuple[str, ...]
    """Origins of the limits of this scope that do not hold."""
    held: int
    """Permits that processes have, used or at hand."""
    running: int
    waiting: int
    waited_us: Microseconds
    """How long the first one has waited."""


class Limiting:
    """Sets and clears limits, each time with an entry in the audit; and tells how they stand."""

    def __init__(self, database: Database, limits: Limits, permits: Permits, audit: Audit, clock: Clock) -> None:
        self._database = database
        self._limits = limits
        self._permits = permits
        self._audit = audit
        self._clock = clock

    def set(self, spec: LimitSpec, *, actor: str) -> LimitStanding:
        """Set a limit; it is in force within a second, for everything that has not begun."""
        with self._database.transaction() as connection:
            self._limits.set(connection, spec, actor=actor)
            details: dict[str, JsonValue] = spec.model_dump(mode="json", exclude={"scope"}, exclude_none=True)
            self._audit.record(connection, actor=actor, action="limit.set", object=spec.scope, details=details)
            return next(each for each in self._standing(connection) if each.scope == spec.scope)

    def clear(self, scope: str, *, actor: str) -> LimitStanding | None:
        """Take back what was set for a scope; returns what is declared for it, which holds again.

        Raises NotInState if nothing was set.
        """
        name = str(Scope.parse(scope))
        with self._database.transaction() as connection:
            if not self._limits.clear(connection, name):
                raise NotInState(f"no limit of {name} was set; one that a project declares is changed there, or overridden")
            self._audit.record(connection, actor=actor, action="limit.clear", object=name)
            return next((each for each in self._standing(connection) if each.scope == name), None)

    def standing(self) -> Sequence[LimitStanding]:
        """All limits by their scopes, and the resources that are in use."""
        with self._database.reading() as connection:
            return self._standing(connection)

    def queue(self) -> Sequence[Waiting]:
        """What waits and runs under limits, by process and kind, in the order in which it goes on."""
        with self._database.reading() as connection:
            return self._permits.waiting(connection)

    def _standing(self, connection: Connection) -> Sequence[LimitStanding]:
        now = self._clock.now()
        held = self._permits.held(connection)
        of_scope: dict[str, list[Waiting]] = defaultdict(list)
        for each in self._permits.waiting(connection):
            for scope in each.scopes:
                of_scope[scope].append(each)
        limits = in_force(self._limits.stored(connection))
        implied = {scope for scope in of_scope if ceiling(scope, None) is not None}
        return [
            _told(scope, limits.get(scope, ()), of_scope.get(scope, ()), held.get(scope, 0), now)
            for scope in sorted({*limits, *implied})
        ]


def _told(scope: str, stored: Sequence[StoredLimit], demands: Sequence[Waiting], held: int, now: Microseconds) -> LimitStanding:
    limit = stored[0] if stored else None
    spec = None if limit is None else limit.spec
    first = min((each.waits_since for each in demands if each.waits_since is not None), default=now)
    return LimitStanding(
        scope=scope,
        concurrency=ceiling(scope, spec),
        requests=None if spec is None else spec.requests,
        requests_burst=None if spec is None else spec.requests_burst,
        tokens=None if spec is None else spec.tokens,
        tokens_burst=None if spec is None else spec.tokens_burst,
        origin=BUILT_IN if limit is None else limit.origin,
        place=None if limit is None else limit.place,
        actor=None if limit is None else limit.actor,
        changed_at=None if limit is None else limit.changed_at,
        overrides=tuple(sorted({each.origin for each in stored[1:]} - {stored[0].origin})) if stored else (),
        held=held,
        running=sum(each.running for each in demands),
        waiting=sum(each.waiting for each in demands),
        waited_us=max(0, now - first),
    )
