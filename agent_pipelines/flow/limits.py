"""The limits: what projects declare, and what was set at run time, which wins."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.limit import LimitSpec
from agent_pipelines.core.rate import Rate
from agent_pipelines.store.tables import flow_turn, limits

SET = "set"
"""Origin of a limit that was set at run time; one that a project declares has `declared:` and the name of the project."""

_FIELDS = tuple(LimitSpec.model_fields)


class StoredLimit(BaseModel):
    """A limit as it stands: what it says, where it comes from, who wrote it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    spec: LimitSpec
    origin: str
    place: str | None
    """The file of a declaration."""
    actor: str
    changed_at: Microseconds


class Limits:
    """Writes and reads the limits. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def set(self, connection: sa.Connection, spec: LimitSpec, *, actor: str) -> None:
        """Set the limit of a scope at run time, over any that is declared."""
        self._remove(connection, limits.c.scope == spec.scope, limits.c.origin == SET)
        connection.execute(limits.insert(), self._row(spec, SET, actor, None))
        changed(connection)

    def clear(self, connection: sa.Connection, scope: str) -> bool:
        """Take back what was set at run time; a declared limit is in force again. False if nothing was set."""
        was_set = self._remove(connection, limits.c.scope == scope, limits.c.origin == SET) > 0
        if was_set:
            changed(connection)
        return was_set

    def declare(
        self, connection: sa.Connection, project: str, declared: Mapping[str, tuple[LimitSpec, str | None]], *, actor: str
    ) -> bool:
        """Note all that a project declares, each by its scope with its place; returns whether anything is new."""
        if not self.differs(connection, project, declared):
            return False
        origin = f"declared:{project}"
        self._remove(connection, limits.c.origin == origin)
        rows = [self._row(spec, origin, actor, place) for spec, place in declared.values()]
        if rows:
            connection.execute(limits.insert(), rows)
        changed(connection)
        return True

    def differs(self, connection: sa.Connection, project: str, declared: Mapping[str, tuple[LimitSpec, str | None]]) -> bool:
        """Whether a project declares something else than is noted."""
        origin = f"declared:{project}"
        return dict(declared) != {
            each.spec.scope: (each.spec, each.place) for each in self.stored(connection) if each.origin == origin
        }

    def stored(self, connection: sa.Connection) -> Sequence[StoredLimit]:
        """All limits by their scopes, those that others override among them."""
        rows = connection.execute(_STORED).mappings()
        return [StoredLimit(spec=LimitSpec.model_validate({name: row[name] for name in _FIELDS}), **row) for row in rows]

    def in_force(self, connection: sa.Connection) -> Mapping[str, LimitSpec]:
        """What holds for each scope that is limited."""
        return {scope: found[0].spec for scope, found in in_force(self.stored(connection)).items()}

    def _remove(self, connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> int:
        return connection.execute(sa.delete(limits).where(*conditions)).rowcount

    def _row(self, spec: LimitSpec, origin: str, actor: str, place: str | None) -> dict[str, Any]:
        values = {name: None if value is None else str(value) if isinstance(value, Rate) else value for name, value in spec}
        return {**values, "origin": origin, "actor": actor, "place": place, "changed_at": self._clock.now()}


def changed(connection: sa.Connection) -> None:
    """Have every process look again at how permits are shared."""
    connection.execute(_CHANGED)


def in_force(stored: Sequence[StoredLimit]) -> Mapping[str, Sequence[StoredLimit]]:
    """The limits of each scope, the one that holds first. Of several that are declared the strictest of each kind holds."""
    of_scope: dict[str, list[StoredLimit]] = defaultdict(list)
    for each in stored:
        of_scope[each.spec.scope].append(each)
    found: dict[str, Sequence[StoredLimit]] = {}
    for scope, several in of_scope.items():
        several.sort(key=lambda each: (each.origin != SET, each.origin))
        if several[0].origin != SET and len(several) > 1:
            first = several[0].model_copy(update={"spec": _strictest([each.spec for each in several])})
            several = [first, *several]
        found[scope] = several
    return found


def _strictest(specs: Sequence[LimitSpec]) -> LimitSpec:
    values: dict[str, Any] = {"scope": specs[0].scope}
    values["concurrency"] = min((each.concurrency for each in specs if each.concurrency is not None), default=None)
    for unit in ("requests", "tokens"):
        limited = [each for each in specs if getattr(each, unit) is not None]
        if limited:
            slowest = min(limited, key=lambda each: getattr(each, unit).amount / getattr(each, unit).period)
            values[unit], values[f"{unit}_burst"] = getattr(slowest, unit), getattr(slowest, f"{unit}_burst")
    return LimitSpec.model_validate(values)


_STORED = sa.select(limits).order_by(limits.c.scope, limits.c.origin)
_CHANGED = flow_turn.update().values(version=flow_turn.c.version + 1)
