"""The witness at work in Dagster: a sensor that tells of gaps, and an asset check that shows how the books stand."""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from agent_pipelines.components.deployment import hub_of, instance_of
from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.core.execution import Verdict
from agent_pipelines.hub import Hub
from agent_pipelines.insight.books import Books, Gap

WITNESS = "agent_pipelines__witness"
TICKS = dg.AssetKey(["agent_pipelines", "ticks"])
CHECK = "every_due_tick_accounted_for"
GAP = "tick.gap"
"""Kind of the outbox rows that tell of a gap."""

NOBODY = "no daemon of agent-pipelines keeps the time; nothing to audit"

_SECOND = 1_000_000
_HOUR = 3_600 * _SECOND
_DAY = 24 * _HOUR
_SETTLING = 30 * _SECOND  # what was due later than this is left to the next look
_CATCHING_UP = 60 * _SECOND  # after its start a daemon writes down what it has missed
_TOLD_AT_ONCE = 500

HubOf = Callable[[dg.DagsterInstance], Hub]


class WitnessCursor(BaseModel):
    """What the sensor remembers: how far it has audited, the end of the last gap of each trigger that it has told of, and what it
    has said last and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    audited_until: Microseconds | None = None
    told: dict[str, Microseconds] = {}
    said: str | None = None
    said_at: Microseconds = 0

    @classmethod
    def read(cls, text: str | None) -> "WitnessCursor":
        """Read what was written; nothing, or something that somebody typed, is a fresh start."""
        try:
            return cls.model_validate_json(text) if text else cls()
        except ValidationError:
            return cls()


def ticks_asset() -> dg.AssetsDefinition:
    """The record of ticks as an asset, for its check to hang on; nobody materializes it."""
    described = "What was due in this deployment, and what became of it: `agent-pipelines tick list`."
    return dg.AssetsDefinition(specs=[dg.AssetSpec(TICKS, group_name="agent_pipelines", description=described)])


def ticks_check(*, hub_of: HubOf = hub_of) -> dg.AssetChecksDefinition:
    """The check of the books. The sensor reports it; executed by hand it audits the last day."""

    @dg.asset_check(asset=TICKS, name=CHECK, description="Everything that was due has its tick, and every tick its verdict.")
    def every_due_tick_accounted_for(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        hub = hub_of(context.instance)
        now = hub.clock.now()
        return dg.AssetCheckResult(**_standing(hub, hub.witness.books(now - _DAY, now)))

    return every_due_tick_accounted_for


def witness_sensor(*, hub_of: HubOf = hub_of) -> dg.SensorDefinition:
    """The sensor that audits what was due since its last look, and the hour before that, every 60 s. It starts no runs.

    Each new gap becomes a row of the outbox and an error in the log of the sensor. The check is reported when it changes, when a
    gap is new, and otherwise once an hour.
    """

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        hub = hub_of(instance_of(context))
        now = hub.clock.now()
        cursor = WitnessCursor.read(context.cursor)
        if _catches_up(hub, now):
            return dg.SkipReason("the daemon has just begun and catches up; the next look will see more")
        until = now - _SETTLING
        since = max((until if cursor.audited_until is None else min(cursor.audited_until, until)) - _HOUR, until - _DAY)
        books = hub.witness.books(since, until)
        new, told = _new_gaps(cursor, books.gaps)
        _tell(hub, new)
        for gap in new:
            context.log.error(_words(gap))
        standing = _standing(hub, books)
        said = str(standing["passed"]) if books.watched else NOBODY
        is_news = bool(new) or said != cursor.said or now - cursor.said_at >= _HOUR
        following = WitnessCursor(
            audited_until=until,
            told={key: last for key, last in told.items() if last > until - 2 * _HOUR},
            said=said,
            said_at=now if is_news else cursor.said_at,
        )
        return dg.SensorResult(
            skip_reason=standing["description"],
            cursor=following.model_dump_json(exclude_defaults=True),
            asset_events=[dg.AssetCheckEvaluation(asset_key=TICKS, check_name=CHECK, **standing)] if is_news else [],
        )

    return dg.SensorDefinition(
        name=WITNESS,
        evaluation_fn=evaluate,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Expects the ticks of all triggers by a reading of its own, and tells of those that did not come.",
    )


def _catches_up(hub: Hub, now: Microseconds) -> bool:
    with hub.database.reading() as connection:
        leaders = [daemon for daemon in hub.daemons.alive(connection) if daemon.role == "leader"]
    return bool(leaders) and all(daemon.started_at > now - _CATCHING_UP for daemon in leaders)


def _new_gaps(cursor: WitnessCursor, gaps: Sequence[Gap]) -> tuple[list[Gap], dict[str, Microseconds]]:
    """The gaps that nobody was told of, and until when each trigger's are told once these are.

    A gap that goes on is the same one. If there are very many, some are left to the next look.
    """
    new: list[Gap] = []
    told = dict(cursor.told)
    for gap in gaps:
        key = f"{gap.task_key[0]}/{gap.path}:{gap.trigger}"
        if gap.first > told.get(key, -1):
            if len(new) == _TOLD_AT_ONCE:
                continue
            new.append(gap)
        told[key] = max(told.get(key, -1), gap.last)
    return new, told


def _tell(hub: Hub, gaps: Sequence[Gap]) -> None:
    if not gaps:
        return
    with hub.database.transaction() as connection:
        for gap in gaps:
            hub.ledger.outbox.put(
                connection,
                gap.task_key,
                GAP,
                {
                    "trigger": gap.trigger,
                    "silent_since": isoformat(gap.first),
                    "silent_until": isoformat(gap.last),
                    "instants": gap.instants,
                },
            )


def _standing(hub: Hub, books: Books) -> dict[str, Any]:
    """How the books stand, as the check says it."""
    total = books.total
    period = f"{isoformat(books.since)} to {isoformat(books.until)}"
    metadata: dict[str, Any] = {
        "period": period,
        "triggers": books.watched,
        "due": total.due,
        **{str(verdict): total.verdicts.get(str(verdict), 0) for verdict in Verdict},
        **{name: getattr(total, name) for name in ("open", "overdue", "not_yet", "gaps", "extras", "found")},
    }
    severity = dg.AssetCheckSeverity.ERROR
    if books.watched == 0:
        description, passed = _nothing_watched(hub)
        severity = dg.AssetCheckSeverity.WARN
    elif books.closes:
        description, passed = f"{total.due} due, all accounted for", True
    else:
        description, passed = f"of {total.due} due: {', '.join(books.problems)}", False
        metadata["first_gaps"] = dg.MetadataValue.md("\n".join(f"- {_words(gap)}" for gap in books.gaps[:20]))
    return {"passed": passed, "severity": severity, "description": description, "metadata": metadata}


def _nothing_watched(hub: Hub) -> tuple[str, bool]:
    with hub.database.reading() as connection:
        keeps_time = hub.daemons.keeps_time(connection)
    return ("no trigger was on; nothing to audit", True) if keeps_time else (NOBODY, False)


def _words(gap: Gap) -> str:
    when = isoformat(gap.first) if gap.first == gap.last else f"{isoformat(gap.first)} to {isoformat(gap.last)}"
    return f"{gap.path}, trigger {gap.trigger}: {gap.instants} due without a tick, {when}"
