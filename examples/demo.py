"""Runs the example pipelines for real and shows what happened: `python -m examples.demo`; `--stay` keeps everything running.

Starts the example agents, a mail server and the whole product on an empty home, then lets schedules, sensors and launches on
demand do their work. Nights and mornings are logical dates; the table says which.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from agent_pipelines.core.clock import from_microseconds, to_microseconds
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.execution import FINAL, Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.home import instance_of_home
from agent_pipelines.engine.launch import Launch
from agent_pipelines.engine.place import database_url
from agent_pipelines.engine.stack import Stack, prepare_home
from agent_pipelines.engine.tick import Tick
from agent_pipelines.engine.workspace import Workspace
from agent_pipelines.hub import Hub, open_hub
from agent_pipelines.ledger.stored import StoredExecution
from examples.code_review.backlog import backlog

ROOT = Path(__file__).resolve().parent.parent
NIGHTS = ("2013-02-06T02:00:00-05:00", "2013-02-07T02:00:00-05:00")  # the third comes by schedule
MORNING = "2027-01-05T05:55:00+00:00"
MISMATCHED_HOUR = "2027-01-04T14:00:00+00:00"
BACKLOG = 5  # commits, the newest
PATIENCE = 150.0  # seconds for all pipelines together

Outcome = tuple[Tick, StoredExecution | None]


class DemoFailed(AgentPipelinesError):
    """Something did not end as it should."""


class Services:
    """The programs beside the product: the example agents and a mail server."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, agents_port: int = 0) -> dict[str, str]:
        """Start them; returns the environment that the tasks find them by."""
        common = {"EXAMPLES_HOME": str(self._home / "examples")}
        mail = self._serve("examples.agents.mail_server", common)
        common |= {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(mail["port"])}
        agents = self._serve("examples.agents", common, agents_port)
        return common | {"EXAMPLE_AGENTS_URL": f"http://127.0.0.1:{agents['port']}/v1"}

    def stop(self) -> None:
        """Stop what was started."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def _serve(self, module: str, environment: dict[str, str], port: int = 0) -> dict[str, int]:
        ready = self._home / f"{module}.ready"
        ready.unlink(missing_ok=True)
        (self._home / "process_logs").mkdir(parents=True, exist_ok=True)
        log = (self._home / "process_logs" / f"{module}.log").open("ab")
        command = [sys.executable, "-m", module, "--port", str(port), "--ready-file", str(ready)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        self._processes.append(process)
        deadline = time.monotonic() + 60
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"{module} did not start; see {log.name}")
            time.sleep(0.05)
        return json.loads(ready.read_text())


class Demo:
    """The example pipelines, fired and watched."""

    def __init__(self, hub: Hub, gateway: DagsterGateway, home: Path, console: Console) -> None:
        self._hub = hub
        self._gateway = gateway
        self._home = home
        self._console = console
        self._deadline = time.monotonic() + PATIENCE
        self._told: set[str] = set()

    def run(self) -> None:
        """Fire everything; raises DemoFailed if it takes too long."""
        commits = backlog(BACKLOG)
        self._say("data quality: two nights on demand")
        for night in NIGHTS:
            self._launch("operations/data_quality", logical_time=night)
            self._wait_for("operations/data_quality", NIGHTS.index(night) + 1)
        rehearsals = ("operations/data_quality", "finance/reconciliation", "morning/morning_report")
        self._launch("morning/record", logical_time=MORNING)
        self._wait_for("morning/record", 1)
        self._say("switched on for one genuine tick each: the third night, an hour of reconciliation, the 06:00 report")
        for path in rehearsals:
            self._gateway.set_schedule(_schedule(path), on=True)
        self._say(f"code review: the backlog of {len(commits)} commits, then one of them again; an hour that does not balance")
        self._launch("code/code_review_backlog", variables={"limit": BACKLOG})
        self._launch("finance/reconciliation", logical_time=MISMATCHED_HOUR)
        pending = set(rehearsals)
        while pending:
            for path in sorted(pending):
                # Not at once: while Dagster finishes a tick it writes back the state it began with.
                if any(tick.trigger == "rehearsal" and tick.verdict is not None for tick, _ in self._outcomes(path)):
                    self._gateway.set_schedule(_schedule(path), on=False)
                    pending.discard(path)
            self._pause("a tick of " + ", ".join(sorted(pending)))
        self._wait_for("code/code_review", len(commits))
        self._launch("code/code_review", variables={"commit": commits[0].sha})
        for path, count in (
            ("operations/data_quality", 3),
            ("finance/reconciliation", 2),
            ("finance/settlement", 1),
            ("code/code_review_backlog", 1),
            ("code/code_review", len(commits) + 1),
            ("morning/morning_report", 1),
            ("morning/morning_mail", 1),
        ):
            self._wait_for(path, count)
        for tick, _ in self._all():
            while tick.run_id is not None and not self._gateway.is_over(tick.run_id):
                self._pause(f"run {tick.run_id} to end")

    def table(self) -> Table:
        """What happened, tick by tick."""
        table = Table(title="What the pipelines did", title_justify="left")
        for name in ("task", "trigger", "logical time", "verdict", "status", "attempts", "seconds"):
            table.add_column(name, no_wrap=True)
        for name in ("tokens", "cost", "prompt", "session", "run"):
            table.add_column(name, no_wrap=True, justify="right" if name in ("tokens", "cost") else "left")
        for tick, execution in self._all():
            done = execution if execution is not None and tick.verdict is not Verdict.DEDUPLICATED else None
            table.add_row(
                f"{tick.application}/{tick.task}",
                tick.trigger,
                from_microseconds(tick.logical_at).strftime("%Y-%m-%d %H:%M"),
                str(tick.verdict),
                "" if done is None else str(done.status),
                "" if done is None else str(done.attempts),
                "" if done is None or done.duration_seconds is None else f"{done.duration_seconds:.1f}",
                "" if done is None or done.usage.total_tokens is None else f"{done.usage.total_tokens:,}",
                "" if done is None else "unknown" if done.cost_usd is None else f"${done.cost_usd:.4f}",
                "" if done is None else (done.prompt_version or "")[:8],
                "" if done is None else (done.session_id or "")[-8:],
                (tick.run_id or "")[:8],
            )
        return table

    def problems(self) -> list[str]:
        """What did not end as it should; empty if all is well."""
        found = [
            f"{tick.application}/{tick.task}: {tick.verdict}, {execution.status if execution else 'no execution'}"
            f"{': ' + execution.error_message if execution and execution.error_message else ''}"
            for tick, execution in self._all()
            if tick.verdict not in (Verdict.RAN, Verdict.DEDUPLICATED) or execution is None or execution.status != "succeeded"
        ]
        runs = {tick.run_id: self._gateway.run_status(tick.run_id) for tick, _ in self._all() if tick.run_id is not None}
        found += [f"run {run_id}: {status} in Dagster" for run_id, status in runs.items() if status != "SUCCESS"]
        files = self._home / "examples"
        expected = {"mail": 1, "cases": 1, "settlements": 1}
        for folder, count in expected.items():
            held = len(list((files / folder).glob("*"))) if (files / folder).is_dir() else 0
            if held != count:
                found.append(f"{folder}: {held} files in {files / folder}, {count} expected")
        nights = [execution for tick, execution in self._outcomes("operations/data_quality") if execution is not None]
        outputs = [night.output for night in sorted(nights, key=lambda night: night.logical_at) if isinstance(night.output, dict)]
        escalated = [output.get("escalate") for output in outputs]
        if escalated != [False, False, True]:
            found.append(f"data quality: escalated {escalated}, the third night only was expected")
        repeats = [tick for tick, _ in self._outcomes("code/code_review") if tick.verdict is Verdict.DEDUPLICATED]
        if len(repeats) != 1:
            found.append(f"code review: {len(repeats)} deduplicated, one was expected")
        return found

    def _launch(self, path: str, *, logical_time: str | None = None, variables: dict[str, JsonValue] | None = None) -> None:
        now = self._hub.clock.now()
        launch = Launch(
            task=path,
            trigger="on_demand",
            origin=Origin.ON_DEMAND,
            occurrence=new_id(),
            due_at=now,
            logical_at=now if logical_time is None else to_microseconds(datetime.fromisoformat(logical_time)),
            actor="demo",
            variables=dict(variables or {}),
        )
        self._gateway.launch(path.replace("/", "__"), launch)

    def _wait_for(self, path: str, count: int) -> None:
        def done() -> int:
            return sum(
                tick.verdict is not None and (execution is None or execution.status in FINAL)
                for tick, execution in self._outcomes(path)
            )

        while done() < count:
            self._pause(f"{path}: {done()} of {count} done")

    def _outcomes(self, path: str) -> Sequence[Outcome]:
        application, task = path.split("/")
        with self._hub.database.reading() as connection:
            ticks = self._hub.ticks.list(connection, application=application, task=task, limit=100)
            return [
                (tick, self._hub.executions.get(connection, tick.execution_id) if tick.execution_id else None) for tick in ticks
            ]

    def _all(self) -> Sequence[Outcome]:
        with self._hub.database.reading() as connection:
            ticks = self._hub.ticks.list(connection, limit=500)
            return [
                (tick, self._hub.executions.get(connection, tick.execution_id) if tick.execution_id else None)
                for tick in reversed(ticks)
            ]

    def _pause(self, waiting_for: str) -> None:
        self._tell_news()
        if time.monotonic() > self._deadline:
            raise DemoFailed(f"after {PATIENCE:g} s still waiting for {waiting_for}")
        time.sleep(0.5)

    def _tell_news(self) -> None:
        for tick, execution in self._all():
            if tick.id in self._told or tick.verdict is None or (execution is not None and execution.status not in FINAL):
                continue
            self._told.add(tick.id)
            ending = "" if execution is None or tick.verdict is not Verdict.RAN else f", {execution.status}"
            self._say(f"  {tick.application}/{tick.task} by {tick.trigger}: {tick.verdict}{ending}")

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{datetime.now(UTC):%H:%M:%S}[/] {text}")


def _schedule(path: str) -> str:
    return f"{path.replace('/', '__')}__rehearsal"


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stay", action="store_true", help="start everything, fire nothing, and stay until Ctrl-C")
    parser.add_argument("--port", type=int, help="port of the web UI; 3000 with --stay, else a free one")
    parser.add_argument("--keep", action="store_true", help="keep the records of the demo")
    options = parser.parse_args()
    console = Console(width=max(170, Console().width))
    home = ROOT / ".dagster_home" if options.stay else Path(tempfile.mkdtemp(prefix="agent-pipelines-demo-"))
    home = prepare_home(ROOT, home)
    services = Services(home)
    stack: Stack | None = None
    stop: Callable[[int, object], None] = lambda *_: signal.raise_signal(signal.SIGINT)  # noqa: E731
    signal.signal(signal.SIGTERM, stop)
    try:
        os.environ |= services.start() | {"DAGSTER_HOME": str(home)}
        stack = Stack(ROOT, home, port=options.port if options.port is not None else 3000 if options.stay else 0)
        stack.start()
        stack.wait_until_ready()
        console.print(f"web UI on {stack.url}, records in {home}")
        if options.stay:
            return _stay(stack)
        with instance_of_home() as instance, Workspace.of_directory(instance, ROOT) as workspace:
            hub = open_hub(database_url(instance))
            demo = Demo(hub, DagsterGateway(instance, workspace.locations), home, console)
            try:
                demo.run()
            finally:
                console.print(demo.table())
            problems = demo.problems()
        for problem in problems:
            console.print(f"[red]{problem}[/]")
        console.print("[red]not as it should be[/]" if problems else "[green]all as it should be[/]")
        return 1 if problems else 0
    except AgentPipelinesError as error:
        console.print(f"[red]error: {error}[/]")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if stack is not None:
            stack.stop()
        services.stop()
        if not (options.stay or options.keep):
            shutil.rmtree(home, ignore_errors=True)


def _stay(stack: Stack) -> int:
    while (code := stack.poll()) is None:
        time.sleep(0.5)
    return code


if __name__ == "__main__":
    sys.exit(main())
