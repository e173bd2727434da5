"""What an execution's result is in Dagster's words."""

import hashlib
from typing import Any

import dagster as dg

from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.execution import CheckResult, ExecutionResult, Status, Verdict
from agent_pipelines.core.task import TaskSpec, canonical_json

SCHEMA_CHECK = "output_schema"
"""Name of the check that a declared JSON Schema becomes."""

DEGRADED_CHECK = "not_degraded"
"""Name of the check that a task with `degrade` has: a result that is not what was asked for warns."""

_SHOWN = 10_000  # characters of an answer in the metadata; the ledger holds all of it


def verdict(result: ExecutionResult) -> str:
    """What became of the request: `ran`, `degraded`, `failed`, `deduplicated`, `skipped` or `waiting`.

    What was deduplicated into a failure has failed: a green run would say that the work is done.
    """
    if result.deduplicated_into is not None and result.status not in (Status.FAILED, Status.CANCELLED):
        return str(Verdict.DEDUPLICATED)
    match result.status:
        case Status.SUCCEEDED:
            return str(Verdict.RAN) if result.degraded is None else "degraded"
        case Status.SKIPPED | Status.WAITING:
            return str(result.status)
        case _:
            return "failed"


def metadata(result: ExecutionResult) -> dict[str, Any]:
    """The result for Dagster's pages: numbers, which it plots over time, names, and the answer itself."""
    found = result.metadata()
    if result.trimmed:
        found["left_out"] = "; ".join(result.trimmed)
    if result.error_class is not None:
        found["error_class"] = str(result.error_class)
        found["error_stage"] = str(result.error_stage)
    if isinstance(result.output, list | dict) and len(canonical_json(result.output)) <= _SHOWN:
        found["output"] = dg.MetadataValue.json(result.output)
    elif isinstance(result.output, int | float):
        found["output"] = result.output
    elif result.text:
        cut = "" if len(result.text) <= _SHOWN else f"\n\n… {len(result.text) - _SHOWN:,} more characters in the record"
        found["output"] = dg.MetadataValue.md(result.text[:_SHOWN] + cut)
    return found


def materialization(key: dg.AssetKey, spec: TaskSpec, result: ExecutionResult) -> dg.MaterializeResult[Any]:
    """The success of a task."""
    content = result.text if result.output is None else canonical_json(result.output)
    return dg.MaterializeResult(
        asset_key=key,
        metadata=metadata(result),
        check_results=check_results(key, spec, result),
        data_version=dg.DataVersion(hashlib.sha256(content.encode()).hexdigest()[:32]),
    )


def check_results(key: dg.AssetKey, spec: TaskSpec, result: ExecutionResult) -> list[dg.AssetCheckResult]:
    """The checks that an execution came to, the schema's among them."""
    found = list(result.checks)
    if spec.output.schema_ is not None:
        if result.status is Status.SUCCEEDED or found:
            found.append(CheckResult(name=SCHEMA_CHECK, passed=True))
        elif result.error_class is ErrorClass.OUTPUT:
            found.append(CheckResult(name=SCHEMA_CHECK, passed=False, message=result.error_message))
    if spec.degrade and result.status is Status.SUCCEEDED:
        passed = result.degraded is None
        found.append(CheckResult(name=DEGRADED_CHECK, passed=passed, blocking=False, message=None if passed else result.reason))
    return [
        dg.AssetCheckResult(
            asset_key=key,
            check_name=check.name,
            passed=check.passed,
            severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
            description=check.message,
            metadata={} if check.score is None else {"score": check.score},
        )
        for check in found
    ]


def failure(result: ExecutionResult) -> dg.Failure:
    """The failure of a task; Dagster does not repeat it, the attempts were the runner's to repeat."""
    return dg.Failure(
        description=f"{result.error_class or result.status}: {result.error_message or 'no message'}",
        metadata=metadata(result),
        allow_retries=False,
    )
