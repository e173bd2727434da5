"""Removing what is older than anybody needs: our record and Dagster's runs, once a day."""

from collections.abc import Callable

import dagster as dg

from agent_pipelines.components.deployment import hub_of
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Connection

RETENTION = "agent_pipelines__retention"
KEPT_DAYS = 60
"""How long the record is kept unless the project says otherwise."""

_BATCH = 500  # rows a transaction, so that nobody waits long for its lock
_DAY = 86_400_000_000


class RetentionConfig(dg.Config):
    """How many days are kept. Prompts, sessions, state and the audit log are kept for ever."""

    record_days: int = KEPT_DAYS
    dagster_run_days: int = KEPT_DAYS


def forget(hub: Hub, gateway: DagsterGateway, *, record_days: int, dagster_run_days: int) -> dict[str, int]:
    """Remove what is older; returns how many rows of each kind. What still runs or waits stays, whatever its age."""
    now = hub.clock.now()
    before, runs_before = now - record_days * _DAY, now - dagster_run_days * _DAY
    removals: dict[str, Callable[[Connection], int]] = {
        "cached_results": lambda c: hub.ledger.results.forget(c, expired_before=now, limit=_BATCH),
        "executions": lambda c: hub.executions.forget(c, created_before=before, limit=_BATCH),
        "ticks": lambda c: hub.ticks.forget(c, due_before=before, limit=_BATCH),
        "events": lambda c: hub.inbox.forget(c, received_before=before, limit=_BATCH),
        "effects": lambda c: hub.ledger.effects.forget(c, ended_before=before, limit=_BATCH),
        "bursts": lambda c: hub.bursts.forget(c, launched_before=before, limit=_BATCH),
        "batches": lambda c: hub.ledger.batches.forget(c, created_before=before, limit=_BATCH),
        "outbox": lambda c: hub.ledger.outbox.forget(c, created_before=before, limit=_BATCH),
    }
    removed = {kind: _in_batches(hub, removal) for kind, removal in removals.items()}
    removed["dagster_runs"] = _runs(gateway, runs_before)
    return removed


def retention_job() -> dg.JobDefinition:
    """The job that removes what is too old; `record_days` and `dagster_run_days` are its config."""

    @dg.op(name="forget")
    def forget_op(context: dg.OpExecutionContext, config: RetentionConfig) -> None:
        removed = forget(
            hub_of(context.instance),
            DagsterGateway(context.instance),
            record_days=config.record_days,
            dagster_run_days=config.dagster_run_days,
        )
        context.add_output_metadata(removed)

    @dg.job(name=RETENTION, executor_def=dg.in_process_executor, description="Removes records and runs that are too old.")
    def retention() -> None:
        forget_op()

    return retention


def retention_schedule(job: dg.JobDefinition, *, kept_days: int) -> dg.ScheduleDefinition:
    """The schedule of the job, at 03:40 UTC every day."""
    config = {"ops": {"forget": {"config": {"record_days": kept_days, "dagster_run_days": kept_days}}}}
    return dg.ScheduleDefinition(
        name=f"{RETENTION}__daily",
        job=job,
        cron_schedule="40 3 * * *",
        execution_timezone="UTC",
        run_config=config,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Removes what is older than {kept_days} days.",
    )


def _in_batches(hub: Hub, removal: Callable[[Connection], int]) -> int:
    total = 0
    while True:
        with hub.database.transaction() as connection:
            removed = removal(connection)
        total += removed
        if removed < _BATCH:
            return total


def _runs(gateway: DagsterGateway, before: Microseconds) -> int:
    total = 0
    while removed := gateway.forget_runs(created_before=before, limit=_BATCH):
        total += removed
    return total
