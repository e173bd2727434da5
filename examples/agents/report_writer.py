"""The morning report: what the agents did since yesterday, from the product's own record."""

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pandas as pd
from pydantic import AwareDatetime, BaseModel, ConfigDict

from examples.agents.agent import Agent
from examples.agents.facts import BadFactsError, Facts
from examples.agents.toolbox import Json, Toolbox

SLOWEST = 5


class Row(BaseModel):
    """One execution as the record has it; fields that the report does not use are left aside."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: str
    status: str
    duration_seconds: float | None = None
    total_tokens: int | None = None
    cost_usd: float | None = None
    attempts: int | None = None
    error_class: str | None = None
    error_message: str | None = None
    summary: str | None = None
    """What the agent said it found, in a sentence."""


class ReportFacts(Facts):
    """What the report is told."""

    executions: list[Row]
    day: date | None = None
    logical_time: AwareDatetime | None = None
    timezone: str = "UTC"
    hours: float = 24.0
    until: str | None = None
    """The instant up to which the executions were read."""
    left_out: int = 0
    """Executions that there are besides."""

    def dated(self) -> str:
        """The day that the report is dated. Raises BadFactsError if the facts name none."""
        if self.day is not None:
            return self.day.isoformat()
        if self.logical_time is None:
            raise BadFactsError("the facts name no day; give `day: 2026-03-05`, or `logical_time` with `timezone`")
        return self.logical_time.astimezone(ZoneInfo(self.timezone)).date().isoformat()


class ReportWriter(Agent[ReportFacts]):
    """Adds up executions by task and status and writes tables and sentences in Markdown."""

    name: ClassVar[str] = "report-writer"
    facts_type: ClassVar[type[Facts]] = ReportFacts
    instructions: ClassVar[str] = (
        "You write the morning report about the work of agents, in Markdown, with the heading `# Morning report, <day>`. Take "
        "all numbers from summarise_executions; begin with two or three sentences, then a table by task, then the failures and "
        "what the agents found. Invent nothing."
    )

    def tools(self) -> Sequence[Callable[..., Json]]:
        return (summarise_executions,)

    def work(self, facts: ReportFacts, tools: Toolbox) -> str:
        day = facts.dated()
        rows = [row.model_dump() for row in facts.executions]
        numbers = tools.call("summarise_executions", executions=rows)
        return (
            "\n\n".join([f"# Morning report, {day}", _opening(numbers, facts), *_tasks(numbers), *_failures(rows), *_found(rows)])
            + "\n"
        )


def summarise_executions(executions: list[Row]) -> Json:
    """Count executions by task and status; add up tokens and cost; find the slowest."""
    frame = pd.DataFrame([row.model_dump() for row in executions], columns=list(Row.model_fields))
    if frame.empty:
        return {"executions": 0, "statuses": {}, "tasks": [], "slowest": [], "tokens": 0, "cost_usd": 0.0}
    for column in ("duration_seconds", "total_tokens", "cost_usd", "attempts"):
        frame[column] = pd.to_numeric(frame[column])
    tasks = [
        {
            "task": str(task),
            "statuses": _counts(group["status"]),
            "median_seconds": _number(group["duration_seconds"].median()),
            "longest_seconds": _number(group["duration_seconds"].max()),
            "tokens": int(group["total_tokens"].sum()),
            "cost_usd": round(float(group["cost_usd"].sum()), 4),
            "retried": int((group["attempts"].fillna(1) > 1).sum()),
        }
        for task, group in frame.groupby("task")
    ]
    slowest = frame.dropna(subset=["duration_seconds"]).sort_values(["duration_seconds", "task"], ascending=[False, True])
    return {
        "executions": len(frame),
        "statuses": _counts(frame["status"]),
        "tasks": tasks,
        "slowest": [
            {"task": str(row["task"]), "seconds": _number(row["duration_seconds"])}
            for row in slowest.head(SLOWEST).to_dict("records")
        ],
        "tokens": int(frame["total_tokens"].sum()),
        "cost_usd": round(float(frame["cost_usd"].sum()), 4),
    }


def _counts(statuses: "pd.Series[str]") -> dict[str, int]:
    return {str(status): int(count) for status, count in statuses.value_counts().sort_index().items()}


def _number(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 3)


def _opening(numbers: dict[str, Any], facts: ReportFacts) -> str:
    when = f"In the {facts.hours:g} hours before {facts.until}" if facts.until else f"In the last {facts.hours:g} hours"
    if not numbers["executions"]:
        return f"{when} nothing ran."
    statuses = ", ".join(f"{count} {status}" for status, count in numbers["statuses"].items())
    ended = sum(numbers["statuses"].get(status, 0) for status in ("succeeded", "failed"))
    share = f" {numbers['statuses'].get('succeeded', 0) / ended:.1%} of those that ended did so well." if ended else ""
    slowest = numbers["slowest"]
    longest = f" The longest took {_seconds(slowest[0]['seconds'])} ({slowest[0]['task']})." if slowest else ""
    more = f" At least {facts.left_out} older ones are not in this report." if facts.left_out else ""
    money = f" and {numbers['cost_usd']:.4f} USD" if numbers["cost_usd"] else ""
    return (
        f"{when} {_many(numbers['executions'], 'execution')} of {_many(len(numbers['tasks']), 'task')} "
        f"in the record: {statuses}.{share} They used {_many(numbers['tokens'], 'token')}{money}.{longest}{more}"
    )


def _tasks(numbers: dict[str, Any]) -> list[str]:
    if not numbers["tasks"]:
        return []
    rows = [
        (
            task["task"],
            task["statuses"].get("succeeded", 0),
            task["statuses"].get("failed", 0),
            sum(count for status, count in task["statuses"].items() if status not in ("succeeded", "failed")),
            task["retried"],
            _seconds(task["median_seconds"]),
            _seconds(task["longest_seconds"]),
            f"{task['tokens']:,}",
        )
        for task in numbers["tasks"]
    ]
    head = ("Task", "Succeeded", "Failed", "Other", "Retried", "Median", "Longest", "Tokens")
    return ["## By task", _table(head, rows)]


def _failures(rows: list[dict[str, Any]]) -> list[str]:
    failed = [row for row in rows if row["status"] == "failed"]
    if not failed:
        return []
    lines = [
        f"- {row['task']}: {row['error_class'] or 'unknown'}, {_line(row['error_message'] or 'no message')}" for row in failed
    ]
    return ["## Failures", "\n".join(lines)]


def _found(rows: list[dict[str, Any]]) -> list[str]:
    lines = list(dict.fromkeys(f"- {row['task']}: {_line(row['summary'])}" for row in rows if row["summary"]))
    return ["## What the agents found", "\n".join(lines)] if lines else []


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    ruler = ["---", *("---:" for _ in head[1:])]
    return "\n".join(
        "| " + " | ".join(_line(str(cell)).replace("|", "\\|") for cell in row) + " |" for row in [head, ruler, *rows]
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
