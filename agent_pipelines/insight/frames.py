"""The record as pandas tables, one row for each thing that happened.

Instants are `datetime64[us, UTC]`, durations seconds, tokens whole numbers, money US dollars. What is not known is missing
(`<NA>`, `NaT`), never zero. An empty table has the same columns and dtypes as a full one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from agent_pipelines.context.prompts import Prompts
from agent_pipelines.core.clock import Microseconds, SystemClock, to_microseconds
from agent_pipelines.engine.gateway import DagsterGateway, StoredRun
from agent_pipelines.engine.launch import tag
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.store.database import Database
from agent_pipelines.store.window import Window

Frame = pd.DataFrame
"""A pandas table."""

Moment = datetime | str | None
"""An aware datetime, or ISO 8601 text with a UTC offset; None sets no bound."""

_TEXT, _WHOLE, _REAL, _ANY, _INSTANT = "string", "Int64", "Float64", "object", "datetime64[us, UTC]"
_PAGE = 500
_NEVER = np.iinfo(np.int64).min  # numpy's "not a time"
_Derived = Mapping[str, Callable[[Frame], pd.Series]]


def executions(
    database: Database,
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    workspace: str = "default",
) -> Frame:
    """One row for each execution that was admitted from `since` to before `until`, oldest first.

    Columns:
        seq: number in the record, in the order of admission
        id: the execution's id
        application: application of the task
        task: name of the task
        trigger: name of the trigger
        origin: what asked for it: schedule, event, asset, after, on_demand, backfill
        item: item of a batch
        actor: who asked for it
        due_at: instant at which it was due
        logical_at: instant that the work is about
        created_at: instant of admission
        finished_at: instant of its end
        wait_seconds: seconds from due to admission
        duration_seconds: seconds from admission to the end
        status: running, waiting, succeeded, failed, cancelled, skipped
        reason: why it was skipped
        attempts: number of attempts
        resumptions: how often a later run went on with it
        run_id: the Dagster run that worked on it last
        job: job of that run
        step: step of that run
        partition: partition of that run
        agent: the agent
        node: the node of the last attempt
        model: the model that answered
        prompt_version: hash of the prompt version
        session_id: the conversation
        trace_id: W3C trace id
        input_tokens: tokens read, cached ones included
        cached_input_tokens: tokens read from a cache
        output_tokens: tokens written, reasoning included
        reasoning_tokens: tokens written while reasoning
        total_tokens: tokens read and written
        requests: requests to the model
        cost_usd: US dollars; missing if the price of any part is unknown
        error_class: why it failed
        error_stage: where it failed: admit, compose, invoke, settle
        error_message: how it failed, in words
        spec_hash: hash of the specification that it ran with
    """
    kinds = {
        "seq": _WHOLE,
        **_all(_TEXT, "id", "application", "task", "trigger", "origin", "item", "actor"),
        **_all(_INSTANT, "due_at", "logical_at", "created_at", "finished_at"),
        **_all(_REAL, "wait_seconds", "duration_seconds"),
        **_all(_TEXT, "status", "reason"),
        **_all(_WHOLE, "attempts", "resumptions"),
        **_all(_TEXT, "run_id", "job", "step", "partition", "agent", "node", "model"),
        **_all(_TEXT, "prompt_version", "session_id", "trace_id"),
        **_all(_WHOLE, "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "total_tokens", "requests"),
        "cost_usd": _REAL,
        **_all(_TEXT, "error_class", "error_stage", "error_message", "spec_hash"),
    }
    derived: _Derived = {
        "wait_seconds": lambda frame: _seconds(frame["due_at"], frame["created_at"]),
        "duration_seconds": lambda frame: _seconds(frame["created_at"], frame["finished_at"]),
        "total_tokens": _total_tokens,
    }
    rows = Ledger.of(SystemClock()).executions.rows
    return _read(database, rows, kinds, derived, _window(since, until, application, task, workspace))


def attempts(
    database: Database,
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    workspace: str = "default",
) -> Frame:
    """One row for each attempt that began from `since` to before `until`, by execution and in order.

    Columns:
        execution_id: the execution
        application: application of the task
        task: name of the task
        number: counts within the execution, from 1
        run_id: the Dagster run
        agent: the agent
        node: the node that was asked
        model: the model that answered
        status: running, succeeded, failed, cancelled, lost
        started_at: instant of its begin
        finished_at: instant of its end
        duration_seconds: seconds from begin to end
        error_class: why it failed
        error_stage: where it failed
        error_message: how it failed, in words
        error_status: HTTP status or exit code
        retry_decision: what followed, and why
        retry_delay_seconds: seconds until the next attempt
        handle: the runtime's own name of the work
        input_tokens: tokens read, cached ones included
        cached_input_tokens: tokens read from a cache
        output_tokens: tokens written, reasoning included
        reasoning_tokens: tokens written while reasoning
        total_tokens: tokens read and written
        requests: requests to the model
        cost_usd: US dollars; missing if the price is unknown
    """
    kinds = {
        **_all(_TEXT, "execution_id", "application", "task"),
        "number": _WHOLE,
        **_all(_TEXT, "run_id", "agent", "node", "model", "status"),
        **_all(_INSTANT, "started_at", "finished_at"),
        "duration_seconds": _REAL,
        **_all(_TEXT, "error_class", "error_stage", "error_message"),
        "error_status": _WHOLE,
        "retry_decision": _TEXT,
        "retry_delay_seconds": _REAL,
        "handle": _TEXT,
        **_all(_WHOLE, "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "total_tokens", "requests"),
        "cost_usd": _REAL,
    }
    derived: _Derived = {
        "duration_seconds": lambda frame: _seconds(frame["started_at"], frame["finished_at"]),
        "retry_delay_seconds": lambda frame: frame["retry_delay_us"] / 1_000_000,
        "total_tokens": _total_tokens,
    }
    rows = Ledger.of(SystemClock()).executions.attempts.rows
    window = _window(since, until, application, task, workspace)
    return _read(database, rows, kinds, derived, window, besides={"retry_delay_us": _WHOLE})


def events(
    database: Database,
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    workspace: str = "default",
) -> Frame:
    """One row for each event of an agent from `since` to before `until`, by execution and in order.

    Columns:
        execution_id: the execution
        application: application of the task
        task: name of the task
        attempt: number of the attempt
        seq: counts within the execution, from 1
        at: instant of the record
        kind: text, reasoning, tool_call, tool_result, usage, checkpoint, handle, final
        text: what was said, of text and reasoning
        tool: name of the tool, of tool_call and tool_result
        body: the whole event, a dict
    """
    kinds = {
        **_all(_TEXT, "execution_id", "application", "task"),
        **_all(_WHOLE, "attempt", "seq"),
        "at": _INSTANT,
        **_all(_TEXT, "kind", "text", "tool"),
        "body": _ANY,
    }
    derived: _Derived = {
        "text": lambda frame: _field(frame, "text", "text", "reasoning"),
        "tool": lambda frame: _field(frame, "name", "tool_call", "tool_result"),
    }
    rows = Ledger.of(SystemClock()).journal.rows
    return _read(database, rows, kinds, derived, _window(since, until, application, task, workspace))


def ticks(
    database: Database,
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    workspace: str = "default",
) -> Frame:
    """One row for each tick that was due from `since` to before `until`, in the order in which they were claimed.

    Columns:
        seq: number in the record
        id: the tick's id
        application: application of the task
        task: name of the task
        trigger: name of the trigger
        origin: kind of the trigger: schedule, event, asset, after, on_demand, backfill
        occurrence: the due instant in microseconds, the event's id or the run's id
        actor: who asked for it
        due_at: instant at which it was due
        logical_at: instant that the work is about
        claimed_at: instant at which it was taken up
        decided_at: instant of the verdict
        delay_seconds: seconds from due to claimed
        verdict: ran, deduplicated, skipped, missed, launch_failed; missing while it is open
        reason: why, if it did not run
        run_id: the Dagster run
        execution_id: the execution that it led to, or was deduplicated into
    """
    kinds = {
        "seq": _WHOLE,
        **_all(_TEXT, "id", "application", "task", "trigger", "origin", "occurrence", "actor"),
        **_all(_INSTANT, "due_at", "logical_at", "claimed_at", "decided_at"),
        "delay_seconds": _REAL,
        **_all(_TEXT, "verdict", "reason", "run_id", "execution_id"),
    }
    derived: _Derived = {"delay_seconds": lambda frame: _seconds(frame["due_at"], frame["claimed_at"])}
    rows = Ticks(SystemClock()).rows
    return _read(database, rows, kinds, derived, _window(since, until, application, task, workspace))


def prompt_versions(
    database: Database,
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    workspace: str = "default",
) -> Frame:
    """One row for each prompt version that was made from `since` to before `until`, oldest first.

    Columns:
        application: application of the task
        task: name of the task
        version: hash of the content
        system: standing instructions, a template
        prompt: the prompt, a template
        parameters: settings passed to the model, a dict
        actor: who made it, `git` for a changed file
        created_at: instant at which it was first seen
    """
    kinds = {
        **_all(_TEXT, "application", "task", "version", "system", "prompt"),
        "parameters": _ANY,
        "actor": _TEXT,
        "created_at": _INSTANT,
    }
    rows = Prompts(SystemClock()).rows
    return _read(database, rows, kinds, {}, _window(since, until, application, task, workspace))


def dagster_runs(
    gateway: DagsterGateway,
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
) -> Frame:
    """One row for each Dagster run that was created from `since` to before `until`, newest first.

    Columns:
        run_id: the run's id
        job: name of the job
        application: application of the task that it executes; missing for other runs, as after a click on Materialize
        task: name of that task
        trigger: name of the trigger that it was launched for
        origin: kind of that trigger
        status: Dagster's word: QUEUED, STARTED, SUCCESS, FAILURE, CANCELED and others
        created_at: instant at which it was requested
        started_at: instant of its begin
        finished_at: instant of its end
        queue_seconds: seconds from request to begin
        duration_seconds: seconds from begin to end
        parent_run_id: the run that it re-executes
        tags: Dagster tags, a dict
    """
    frame = _of_runs(_pages(gateway, _microseconds(since), _microseconds(until)))
    for name, value in (("application", application), ("task", task)):
        if value is not None:
            frame = frame[frame[name] == value]
    return frame.reset_index(drop=True)


def runs(
    database: Database,
    gateway: DagsterGateway,
    *,
    since: Moment = None,
    until: Moment = None,
    application: str | None = None,
    task: str | None = None,
    workspace: str = "default",
) -> Frame:
    """The table of executions, each with the Dagster run that worked on it last.

    Columns, after those of executions:
        dagster_status: Dagster's word for the state of the run; missing if Dagster no longer has it
        dagster_created_at: instant at which the run was requested
        dagster_started_at: instant of its begin
        dagster_finished_at: instant of its end
        dagster_queue_seconds: seconds from request to begin
        dagster_duration_seconds: seconds from begin to end
        dagster_parent_run_id: the run that it re-executes
    """
    left = executions(database, since=since, until=until, application=application, task=task, workspace=workspace)
    wanted = set(left["run_id"].dropna())
    found = {run.run_id: run for run in _pages(gateway, _earliest(left), None) if run.run_id in wanted}
    # A run is requested before it executes anything: some are older than the window.
    for run_id in sorted(wanted - set(found)):
        if (run := gateway.run(run_id)) is not None:
            found[run_id] = run
    right = _of_runs(found.values())
    names = ("status", "created_at", "started_at", "finished_at", "queue_seconds", "duration_seconds", "parent_run_id")
    right = right[["run_id", *names]].rename(columns={name: f"dagster_{name}" for name in names})
    return left.merge(right, how="left", on="run_id", validate="many_to_one")


def _all(kind: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, kind)


def _window(since: Moment, until: Moment, application: str | None, task: str | None, workspace: str) -> Window:
    return Window(workspace, application, task, _microseconds(since), _microseconds(until))


def _microseconds(moment: Moment) -> Microseconds | None:
    if moment is None:
        return None
    return to_microseconds(datetime.fromisoformat(moment) if isinstance(moment, str) else moment)


def _read(
    database: Database,
    rows: Callable[..., Sequence[Sequence[Any]]],
    kinds: Mapping[str, str],
    derived: _Derived,
    window: Window,
    *,
    besides: Mapping[str, str] | None = None,
) -> Frame:
    stored = {**{name: kind for name, kind in kinds.items() if name not in derived}, **(besides or {})}
    with database.reading() as connection:
        found = rows(connection, list(stored), window)
    frame = _frame(found, stored)
    for name, derive in derived.items():
        frame[name] = derive(frame).astype(kinds[name])  # pyright: ignore[reportArgumentType, reportCallIssue]
    return frame[list(kinds)]


def _frame(rows: Sequence[Sequence[Any]], kinds: Mapping[str, str]) -> Frame:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(kinds)
    pairs = zip(kinds.items(), columns, strict=True)
    return pd.DataFrame({name: _series(values, kind) for (name, kind), values in pairs})


def _series(values: Sequence[Any], kind: str) -> pd.Series:
    if kind != _INSTANT:
        return pd.Series(list(values), dtype=kind)  # pyright: ignore[reportArgumentType, reportCallIssue]
    whole = np.array([_NEVER if value is None else value for value in values], dtype="int64")
    return pd.Series(pd.DatetimeIndex(whole.view("datetime64[us]")).tz_localize("UTC"))


def _seconds(start: pd.Series, end: pd.Series) -> pd.Series:
    return (end - start).dt.total_seconds().astype(_REAL)


def _total_tokens(frame: Frame) -> pd.Series:
    known = frame["input_tokens"].notna() | frame["output_tokens"].notna()
    return (frame["input_tokens"].fillna(0) + frame["output_tokens"].fillna(0)).where(known)


def _field(frame: Frame, field: str, *kinds: str) -> pd.Series:
    pairs = zip(frame["kind"], frame["body"], strict=True)
    return pd.Series([body.get(field) if kind in kinds else None for kind, body in pairs], index=frame.index, dtype=_TEXT)


def _pages(gateway: DagsterGateway, start: Microseconds | None, end: Microseconds | None) -> Iterator[StoredRun]:
    last: str | None = None
    while True:
        page = gateway.runs(created_from=start, created_to=end, before=last, limit=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1].run_id


def _of_runs(stored: Any) -> Frame:
    kinds = {
        **_all(_TEXT, "run_id", "job", "application", "task", "trigger", "origin", "status"),
        **_all(_INSTANT, "created_at", "started_at", "finished_at"),
        **_all(_REAL, "queue_seconds", "duration_seconds"),
        "parent_run_id": _TEXT,
        "tags": _ANY,
    }
    known = [name for name in kinds if not name.endswith("_seconds")]
    frame = _frame([_values(run) for run in stored], {name: kinds[name] for name in known})
    frame["queue_seconds"] = _seconds(frame["created_at"], frame["started_at"])
    frame["duration_seconds"] = _seconds(frame["started_at"], frame["finished_at"])
    return frame[list(kinds)]


def _values(run: StoredRun) -> Sequence[Any]:
    application, _, task = run.tags.get(tag("task"), "").partition("/")
    if not task and (application := run.tags.get(tag("application"), "")):  # the task's job, launched by hand
        task = run.job.removeprefix(f"{application}__")
    trigger, origin = (run.tags.get(tag(name)) for name in ("trigger", "origin"))
    instants = (run.created_at, run.started_at, run.finished_at)
    return (
        run.run_id,
        run.job,
        application or None,
        task or None,
        trigger,
        origin,
        run.status,
        *instants,
        run.parent_run_id,
        run.tags,
    )


def _earliest(frame: Frame) -> Microseconds | None:
    return None if frame.empty else to_microseconds(frame["created_at"].min().to_pydatetime())
