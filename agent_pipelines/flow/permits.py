"""Who holds permits of limits, who waits for some, and the one place where they change hands."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.limit import LimitSpec, PriorityClass
from agent_pipelines.flow.limits import Limits
from agent_pipelines.flow.pace import Pace, Unit, paces
from agent_pipelines.flow.sharing import STARVED, Want, share
from agent_pipelines.store.insertion import insert_all, insert_new
from agent_pipelines.store.tables import flow_rates, flow_turn, permit_demands, permit_holders, permits

AHEAD = 150_000
"""Microseconds ahead for which what a rate limits is given out, so that not each request is a transaction."""


class Demand(NamedTuple):
    """What a holder has running and waiting of one kind; all of its scopes must have a permit for each one that runs.

    `wanted` are the permits that it could use, `tokens` what one of them costs about. `waits_since` is that of the first one.
    """

    workspace: str
    application: str
    priority_class: PriorityClass
    priority: int
    scopes: tuple[str, ...]
    running: int
    waiting: int
    wanted: int
    tokens: int
    waits_since: Microseconds | None
    served_at: Microseconds


@dataclass(frozen=True)
class Report:
    """What a holder tells: what it wants, what it must keep of each scope, and what rates are to be corrected by.

    `costs` are for each demand the tokens of those that wait and have no start yet, the first one first. `sent_at` is read
    before anything else, because the lease counts from there.
    """

    holder: str
    host: str
    pid: int
    sent_at: Microseconds
    lease: Microseconds
    demands: Sequence[Demand] = ()
    costs: Sequence[Sequence[int]] = ()
    keep: Mapping[str, int] = field(default_factory=dict[str, int])
    corrections: Mapping[tuple[str, Unit], int] = field(default_factory=dict[tuple[str, Unit], int])


class Start(NamedTuple):
    """An instant at which rates let something begin; it is not to begin later than `until`. `tokens` are paid for."""

    at: Microseconds
    until: Microseconds
    tokens: int


@dataclass(frozen=True)
class Answer:
    """What a holder is given.

    `held` are its permits, `target` those that it should come down to, `allowed` how many of each of its demands are to run.
    `lost` says that its lease had ended: what it held before is no longer its own.
    """

    lost: bool
    version: int
    limits: Mapping[str, LimitSpec]
    held: Mapping[str, int]
    target: Mapping[str, int]
    allowed: Sequence[int]
    starved: Sequence[bool]
    starts: Sequence[Sequence[Start]]
    next_start_at: Microseconds | None
    others_wait: bool
    is_alone: bool


class Holder(BaseModel):
    """A process that holds permits."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    host: str
    pid: int
    beat_at: Microseconds
    expires_at: Microseconds


class Waiting(BaseModel):
    """What runs and waits in one process of one kind."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    holder: str
    host: str
    pid: int
    workspace: str
    application: str
    priority_class: PriorityClass
    priority: int
    scopes: tuple[str, ...]
    running: int
    waiting: int
    waits_since: Microseconds | None


class Permits:
    """Writes and reads permits, demands and rates. All methods take part in the caller's transaction.

    The sum of the permits of a scope never exceeds its limit: they change hands one transaction after the other.
    """

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits

    def version(self, connection: sa.Connection) -> int:
        """Changes whenever there is something new to share."""
        return connection.execute(_VERSION).scalar_one()

    def exchange(self, connection: sa.Connection, report: Report) -> Answer:
        """Take in what a holder wants and gives back, and give it what it may have now. Dead holders lose theirs."""
        version = connection.execute(_TURN).scalar_one()
        now = self._clock.now()
        is_news = connection.execute(_EXPIRED, {"now": now}).rowcount > 0
        beat = {"beat_at": report.sent_at, "expires_at": report.sent_at + report.lease}
        was_known = connection.execute(_BEAT, {"of": report.holder, **beat}).rowcount == 1
        if not was_known:
            insert_new(connection, permit_holders, {"id": report.holder, "host": report.host, "pid": report.pid, **beat})
        others, known = self._demands(connection, report.holder)
        if list(report.demands) != known:
            is_news |= [_essence(each) for each in report.demands] != [_essence(each) for each in known]
            self._write_demands(connection, report)
        limits = self._limits.in_force(connection)
        held_by_others, held = self._held(connection, report.holder)
        own = [(report.holder, each) for each in report.demands]
        everyone = [*others, *own]
        rooms = _rooms(limits, [each for _, each in everyone])
        wants = [_want(holder, each, each.wanted, now) for holder, each in everyone]
        allowed = share(rooms, wants)
        target: dict[str, int] = defaultdict(int)
        for (_, demand), number in zip(own, allowed[len(others) :], strict=True):
            for scope in demand.scopes:
                target[scope] += number
        keep = report.keep if was_known else {}
        given: dict[str, int] = {}
        for scope, room in rooms.items():
            free = room - held_by_others.get(scope, 0)
            given[scope] = max(keep.get(scope, 0), min(target[scope], free))
        given = {scope: number for scope, number in given.items() if number > 0}
        is_news |= self._write_held(connection, report.holder, held, given)
        starts, next_start_at = self._starts(connection, report, limits, others, allowed, now)
        if is_news:
            version += 1
            connection.execute(_NEWS)
        return Answer(
            lost=not was_known and bool(report.keep),
            version=version,
            limits=limits,
            held=given,
            target={scope: target[scope] for scope in rooms},
            allowed=allowed[len(others) :],
            starved=[want.is_starved for want in wants[len(others) :]],
            starts=starts,
            next_start_at=next_start_at,
            others_wait=any(each.waiting for _, each in others),
            is_alone=not others,
        )

    def leave(self, connection: sa.Connection, report: Report) -> None:
        """Give back all that a holder has."""
        connection.execute(_TURN)
        if report.corrections:
            self._correct(connection, report.corrections, self._limits.in_force(connection))
        if connection.execute(_GONE, {"of": report.holder}).rowcount:
            connection.execute(_NEWS)

    def held(self, connection: sa.Connection) -> Mapping[str, int]:
        """How many permits of each scope are held by processes that are alive."""
        live = sa.select(permit_holders.c.id).where(permit_holders.c.expires_at >= self._clock.now())
        query = (
            sa.select(permits.c.scope, sa.func.sum(permits.c.held)).where(permits.c.holder.in_(live)).group_by(permits.c.scope)
        )
        return {scope: int(number) for scope, number in connection.execute(query)}

    def waiting(self, connection: sa.Connection) -> Sequence[Waiting]:
        """What runs and waits in processes that are alive, in the order of their classes, the longest wait first."""
        query = sa.select(permit_demands, permit_holders.c.host, permit_holders.c.pid).join(permit_holders)
        query = query.where(permit_holders.c.expires_at >= self._clock.now())
        found = [Waiting.model_validate(row) for row in connection.execute(query).mappings()]
        return sorted(found, key=lambda each: (_RANK[each.priority_class], each.waits_since or 1 << 62, each.application))

    def holders(self, connection: sa.Connection) -> Sequence[Holder]:
        """The processes that hold or want permits, alive or not yet missed."""
        query = sa.select(permit_holders).order_by(permit_holders.c.host, permit_holders.c.pid)
        return [Holder.model_validate(row) for row in connection.execute(query).mappings()]

    def _demands(self, connection: sa.Connection, holder: str) -> tuple[list[tuple[str, Demand]], list[Demand]]:
        others: list[tuple[str, Demand]] = []
        known: list[Demand] = []
        for row in connection.execute(_DEMANDS):
            demand = Demand._make((*row[1:5], tuple(row[5]), *row[6:]))
            if row[0] == holder:
                known.append(demand)
            else:
                others.append((row[0], demand))
        return others, known

    def _write_demands(self, connection: sa.Connection, report: Report) -> None:
        connection.execute(_FORGET_DEMANDS, {"of": report.holder})
        rows = [
            {"holder": report.holder, "number": number, **each._asdict(), "scopes": list(each.scopes)}
            for number, each in enumerate(report.demands)
        ]
        if rows:
            insert_all(connection, permit_demands, rows)

    def _held(self, connection: sa.Connection, holder: str) -> tuple[dict[str, int], dict[str, int]]:
        others: dict[str, int] = defaultdict(int)
        own: dict[str, int] = {}
        for of, scope, number in connection.execute(_HELD):
            if of == holder:
                own[scope] = number
            else:
                others[scope] += number
        return others, own

    def _write_held(self, connection: sa.Connection, holder: str, before: Mapping[str, int], after: Mapping[str, int]) -> bool:
        gone = [scope for scope in before if scope not in after]
        if gone:
            connection.execute(_FORGET_HELD, [{"of": holder, "of_scope": scope} for scope in gone])
        edited = [scope for scope in after if scope in before and before[scope] != after[scope]]
        if edited:
            connection.execute(_SET_HELD, [{"of": holder, "of_scope": scope, "held": after[scope]} for scope in edited])
        new = [{"holder": holder, "scope": scope, "held": number} for scope, number in after.items() if scope not in before]
        if new:
            insert_all(connection, permits, new)
        # What was taken is no news to those who wait; what became free is.
        return any(after.get(scope, 0) < number for scope, number in before.items())

    def _starts(
        self,
        connection: sa.Connection,
        report: Report,
        limits: Mapping[str, LimitSpec],
        others: Sequence[tuple[str, Demand]],
        allowed: Sequence[int],
        now: Microseconds,
    ) -> tuple[Sequence[Sequence[Start]], Microseconds | None]:
        """Starts within the next moments for what waits, this holder's part of them, and when else the next one is."""
        starts: list[list[Start]] = [[] for _ in report.demands]
        limited = {scope: found for scope, limit in limits.items() if (found := paces(limit))}
        if not limited:
            return starts, None
        empty_at = self._correct(connection, report.corrections, limits)
        waiting = [(holder, each, each.waiting) for holder, each in others]
        waiting += [(report.holder, each, len(costs)) for each, costs in zip(report.demands, report.costs, strict=True)]
        wants: list[Want] = []
        for (holder, demand, number), may_run in zip(waiting, allowed, strict=True):
            is_capped = any(ceiling(scope, limits.get(scope)) is not None for scope in demand.scopes)
            ready = min(number, max(0, may_run - demand.running)) if is_capped else number
            if not any(scope in limited for scope in demand.scopes):
                ready = 0
            wants.append(_want(holder, demand, ready, now))
        rooms: dict[str, int] = {}
        for scope, found in limited.items():
            costs = [demand.tokens for _, demand, number in waiting if number and scope in demand.scopes]
            cost = {"requests": 1, "tokens": max(1, sum(costs) // max(1, len(costs)))}
            rooms[scope] = min(
                pace.room(empty_at.get((scope, unit), 0), now, now + AHEAD, cost[unit]) for unit, pace in found.items()
            )
        shares = share(rooms, wants)[len(others) :]
        next_start_at: Microseconds | None = None
        changed: set[tuple[str, Unit]] = set()
        for index in sorted(range(len(report.demands)), key=lambda i: (_RANK[report.demands[i].priority_class], i)):
            demand, costs = report.demands[index], report.costs[index]
            buckets: list[tuple[str, Unit, Pace]] = [
                (scope, unit, pace) for scope in demand.scopes for unit, pace in limited.get(scope, {}).items()
            ]
            if not buckets:
                continue
            for number, tokens in enumerate(costs):
                at = max(
                    pace.earliest(empty_at.get((scope, unit), 0), now, 1 if unit == "requests" else tokens)
                    for scope, unit, pace in buckets
                )
                if number >= shares[index] or at > now + AHEAD:
                    next_start_at = at if next_start_at is None else min(at, next_start_at)
                    break
                for scope, unit, pace in buckets:
                    cost = 1 if unit == "requests" else tokens
                    empty_at[scope, unit] = pace.after(empty_at.get((scope, unit), 0), at, cost)
                    changed.add((scope, unit))
                starts[index].append(Start(at, at + min(pace.tolerance for _, _, pace in buckets), tokens))
        self._write_rates(connection, empty_at, changed)
        return starts, next_start_at

    def _correct(
        self, connection: sa.Connection, corrections: Mapping[tuple[str, Unit], int], limits: Mapping[str, LimitSpec]
    ) -> dict[tuple[str, Unit], Microseconds]:
        empty_at: dict[tuple[str, Unit], Microseconds] = {(row[0], row[1]): row[2] for row in connection.execute(_RATES)}
        corrected: set[tuple[str, Unit]] = set()
        for (scope, unit), difference in corrections.items():
            pace: Pace | None = paces(limits[scope]).get(unit) if scope in limits else None
            if pace is not None and (scope, unit) in empty_at and difference:
                empty_at[scope, unit] = pace.corrected(empty_at[scope, unit], difference)
                corrected.add((scope, unit))
        self._write_rates(connection, empty_at, corrected)
        return empty_at

    def _write_rates(
        self, connection: sa.Connection, empty_at: Mapping[tuple[str, Unit], Microseconds], changed: set[tuple[str, Unit]]
    ) -> None:
        for scope, unit in sorted(changed):
            values = {"of": scope, "of_unit": unit, "empty_at": empty_at[scope, unit]}
            if connection.execute(_SET_RATE, values).rowcount == 0:
                insert_new(connection, flow_rates, {"scope": scope, "unit": unit, "empty_at": empty_at[scope, unit]})


def ceiling(scope: str, limit: LimitSpec | None) -> int | None:
    """How many may run at once in a scope; None if it is not limited. What shares a resource is serialised."""
    if limit is not None and limit.concurrency is not None:
        return limit.concurrency
    return 1 if scope.startswith("resource/") else None


def _rooms(limits: Mapping[str, LimitSpec], demands: Sequence[Demand]) -> dict[str, int]:
    scopes = {scope for demand in demands for scope in demand.scopes}
    found = {scope: ceiling(scope, limits.get(scope)) for scope in sorted(scopes)}
    return {scope: number for scope, number in found.items() if number is not None}


def _want(holder: str, demand: Demand, amount: int, now: Microseconds) -> Want:
    since = demand.waits_since
    return Want(
        holder,
        f"{demand.workspace}/{demand.application}",
        demand.priority_class,
        demand.priority,
        demand.scopes,
        amount,
        demand.served_at,
        since=now if since is None else since,
        is_starved=since is not None and demand.running == 0 and now - max(since, demand.served_at) > STARVED,
    )


def _essence(demand: Demand) -> tuple[Any, ...]:
    """What others must know of a demand at once; how many wait can wait."""
    return (*demand[:5], demand.wanted, demand.waiting > 0)


_RANK = {"interactive": 0, "normal": 1, "batch": 2}

# Made once: to put a statement together takes SQLAlchemy longer than to run it.
_OF = sa.bindparam("of", type_=sa.Text)
_VERSION = sa.select(flow_turn.c.version)
_TURN = flow_turn.update().values(turn=flow_turn.c.turn + 1).returning(flow_turn.c.version)
_NEWS = flow_turn.update().values(version=flow_turn.c.version + 1)
_EXPIRED = sa.delete(permit_holders).where(permit_holders.c.expires_at < sa.bindparam("now", type_=sa.BigInteger))
_GONE = sa.delete(permit_holders).where(permit_holders.c.id == _OF)
_BEAT = (
    permit_holders.update()
    .where(permit_holders.c.id == _OF)
    .values(beat_at=sa.bindparam("beat_at"), expires_at=sa.bindparam("expires_at"))
)
_DEMANDS = sa.select(permit_demands.c.holder, *(permit_demands.c[name] for name in Demand._fields)).order_by(
    permit_demands.c.holder, permit_demands.c.number
)
_FORGET_DEMANDS = sa.delete(permit_demands).where(permit_demands.c.holder == _OF)
_HELD = sa.select(permits.c.holder, permits.c.scope, permits.c.held)
_IS_HELD = sa.and_(permits.c.holder == _OF, permits.c.scope == sa.bindparam("of_scope", type_=sa.Text))
_FORGET_HELD = sa.delete(permits).where(_IS_HELD)
_SET_HELD = permits.update().where(_IS_HELD).values(held=sa.bindparam("held"))
_RATES = sa.select(flow_rates.c.scope, flow_rates.c.unit, flow_rates.c.empty_at)
_SET_RATE = (
    flow_rates.update()
    .where(flow_rates.c.scope == _OF, flow_rates.c.unit == sa.bindparam("of_unit", type_=sa.Text))
    .values(empty_at=sa.bindparam("empty_at"))
)
