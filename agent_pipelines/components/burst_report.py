"""What a burst tells Dagster, behind its executions and at its own pace."""

import hashlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Self

import dagster as dg

from agent_pipelines.components import outcome
from agent_pipelines.components.asset import asset_key
from agent_pipelines.components.registered_tasks import CHECK, failing_words, partitions_name, registered_key
from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.task import canonical_json
from agent_pipelines.engine.materializations import AssetEvent, Materializations, Occurrence
from agent_pipelines.execution.burst import Ended
from agent_pipelines.hub import Hub

_FLUSH = 1.0  # seconds between two writings
_PERIOD = 60.0  # seconds that a line of the log and an evaluation of the check stand for
_BEHIND = 5_000  # occurrences; if more wait to be written, only the last one of each task is

Log = Callable[[str], None]


class BurstReport:
    """Collects what ends in a burst, and writes it as events of assets in a thread of its own.

    The record is the truth and this its view: what a killed burst leaves unwritten, the next one writes (`LostReports`).
    Closing it writes the rest, evaluates the check a last time, and raises what keeps it from that.
    """

    def __init__(self, hub: Hub, workspace: str, materializations: Materializations, info: Log, warning: Log) -> None:
        self.verdicts: Counter[str] = Counter()
        self._hub = hub
        self._workspace = workspace
        self._materializations = materializations
        self._info = info
        self._warning = warning
        self._told: deque[tuple[Microseconds, Ended]] = deque()
        self._unwritten: list[Occurrence] = []
        self._not_begun: dict[str, str] = {}
        self._in_period: Counter[str] = Counter()
        self._error: Exception | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="agent-pipelines-report", daemon=True)

    def tell(self, ended: Ended) -> None:
        """Take note of what ended; returns at once."""
        self._told.append((self._hub.clock.now(), ended))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _write_on(self) -> None:
        period_began = self._hub.clock.now()
        is_over = False
        while not is_over:
            is_over = self._over.wait(_FLUSH)
            now = self._hub.clock.now()
            try:
                self._flush()
                if is_over or now - period_began >= _PERIOD * 1_000_000:
                    self._close_period()
                    period_began = now
                self._error = None
            except Exception as error:  # whatever Dagster's storage raises: the executions go on
                if str(error) != str(self._error):
                    self._warning(f"not reported yet: {type(error).__name__}: {error}")
                self._error = error

    def _flush(self) -> None:
        while self._told:
            at, ended = self._told.popleft()
            word = verdict_of(ended)
            self.verdicts[word] += 1
            self._in_period[word] += 1
            if ended.result is None:
                self._not_begun[ended.tick.path] = ended.reason or "unknown"
            else:
                self._not_begun.pop(ended.tick.path, None)
            self._unwritten += [(at, event) for event in events_of(ended, self._workspace)]
        if len(self._unwritten) > _BEHIND:
            self._unwritten = list({_of_task(event): (at, event) for at, event in self._unwritten}.values())
        if self._unwritten:
            write(self._materializations, self._workspace, self._unwritten)
            self._unwritten = []

    def _close_period(self) -> None:
        if not self._in_period:
            return
        passed, words = failing_words(self._hub, self._workspace)
        if self._not_begun:
            passed = False
            words = "\n".join([words, *(f"- `{path}` cannot begin: {why}" for path, why in list(self._not_begun.items())[:20])])
        evaluation = dg.AssetCheckEvaluation(
            asset_key=registered_key(self._workspace), check_name=CHECK, passed=passed, description=words, metadata={}
        )
        self._materializations.write([(self._hub.clock.now(), evaluation)])
        counted = ", ".join(f"{count} {word}" for word, count in self._in_period.most_common())
        self._info(f"{self._in_period.total()} ticks: {counted}")
        self._in_period.clear()


def write(materializations: Materializations, workspace: str, occurrences: Sequence[Occurrence]) -> None:
    """Write events, and before them the partitions that they are about."""
    keys = {event.partition for _, event in occurrences if event.partition is not None}
    materializations.add_partitions(partitions_name(workspace), keys)
    materializations.write(occurrences)


def verdict_of(ended: Ended) -> str:
    """What became of a tick, in a word."""
    return str(Verdict.LAUNCH_FAILED) if ended.result is None else outcome.verdict(ended.result)


def events_of(ended: Ended, workspace: str) -> list[AssetEvent]:
    """What Dagster is told: a success is a materialization, a failure an observation, and the checks that either came to."""
    result, spec = ended.result, ended.spec
    if result is None or spec is None:
        return []
    is_registered = ended.tick.spec_hash is not None
    key = registered_key(workspace) if is_registered else asset_key(spec)
    given: dict[str, Any] = {
        "asset_key": key,
        "partition": ended.tick.path if is_registered else None,
        "metadata": outcome.metadata(result),
    }
    checks = [] if is_registered else [_evaluation(key, each) for each in outcome.check_results(key, spec, result)]
    match verdict_of(ended):
        case "ran" | "degraded":
            content = result.text if result.output is None else canonical_json(result.output)
            # As Dagster tags what a step of its own materializes.
            tags = {
                "dagster/data_version": hashlib.sha256(content.encode()).hexdigest()[:32],
                "dagster/data_version_is_user_provided": "true",
                "dagster/code_version": spec.spec_hash[:16],
            }
            return [dg.AssetMaterialization(**given, tags=None if is_registered else tags), *checks]
        case "failed":
            words = f"{result.error_class or result.status}: {result.error_message or 'no message'}"
            return [dg.AssetObservation(**given, description=words), *checks]
        case _:
            return []


def _evaluation(key: dg.AssetKey, check: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    assert check.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check.check_name,
        passed=check.passed,
        severity=check.severity,
        description=check.description,
        metadata=check.metadata or {},
    )


def _of_task(event: AssetEvent) -> tuple[object, ...]:
    name = event.check_name if isinstance(event, dg.AssetCheckEvaluation) else type(event)
    return (event.asset_key, event.partition, name)
