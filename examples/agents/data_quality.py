"""The nightly check of one day of flights against what earlier nights looked like."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pandas as pd
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from examples.agents.agent import Agent
from examples.agents.facts import BadFactsError, Facts
from examples.agents.tickets import Tickets
from examples.agents.toolbox import Json, Toolbox, ToolError
from examples.data.flights import flights_of

BASELINE_NIGHTS = 14
"""A baseline is the mean of about this many nights; older ones fade."""

IDENTITY = ["carrier", "flight", "origin", "sched_dep_time"]
"""Columns that tell two flights of a day apart."""


class Profile(BaseModel):
    """The numbers of one night, or their mean over several. Shares lie between 0 and 1, delays are minutes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: float
    cancelled_share: float
    mean_dep_delay: float
    mean_arr_delay: float
    missing: dict[str, float]


class Baseline(Profile):
    """What nights usually look like."""

    nights: int = Field(ge=1)
    last_night: date


class KnownFalsePositive(BaseModel):
    """Values that are missing for a known reason: in these columns, where that column is missing as well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: list[str]
    missing_with: str
    because: str


class AllowedDrift(BaseModel):
    """How far a night may lie from the baseline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: float = 0.4  # share of the baseline, up or down
    cancelled_share: float = 0.1
    mean_dep_delay: float = 30.0
    mean_arr_delay: float = 30.0


class DataQualityFacts(Facts):
    """What the check is told."""

    night: date | None = None
    logical_time: AwareDatetime | None = None
    timezone: str = "America/New_York"
    replay_year: int | None = None
    """The same day of this year is inspected in place of the night."""
    baseline: Baseline | None = None
    known_false_positives: list[KnownFalsePositive] = []
    required_columns: list[str] = []
    """Columns in which a single missing value counts."""
    tolerated_share: float = Field(default=0.005, ge=0, le=1)
    escalate_above: float = Field(default=0.05, gt=0, le=1)
    allowed_drift: AllowedDrift = AllowedDrift()


class DataQuality(Agent[DataQualityFacts]):
    """Profiles a night, leaves out what is known to be harmless, files tickets and escalates what is out of bounds."""

    name: ClassVar[str] = "data-quality"
    facts_type: ClassVar[type[Facts]] = DataQualityFacts
    instructions: ClassVar[str] = (
        "You check the quality of one day of flight data. Profile the night, look at the values that are missing for no known "
        "reason, compare with the baseline. File a ticket for every finding under the key `flights.<column>.missing`, "
        "`flights.duplicates` or `flights.<metric>.drift`; escalate a ticket whose share is above `escalate_above`. The new "
        "baseline comes from roll_baseline; a night that escalates leaves the baseline as it is."
    )

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._tickets = Tickets(home / "tickets")

    def tools(self) -> Sequence[Callable[..., Json]]:
        return (profile_night, missing_values, roll_baseline, self.list_tickets, self.file_ticket, self.escalate_ticket)

    def list_tickets(self) -> Json:
        """All tickets that were filed so far."""
        return [{name: ticket[name] for name in ("id", "key", "severity", "filed_for")} for ticket in self._tickets.all()]

    def file_ticket(self, key: str, title: str, severity: str, night: str, details: str) -> Json:
        """File a ticket. If there is one with this key already, that one is kept and notes that it was seen again."""
        ticket = self._tickets.file(key, title, severity, night, details)
        return {"ticket": ticket["id"], "filed_for": ticket["filed_for"], "new": ticket["filed_for"] == night}

    def escalate_ticket(self, key: str, night: str, reason: str) -> Json:
        """Call a person to the ticket with this key, once for a night."""
        try:
            ticket = self._tickets.escalate(key, night, reason)
        except KeyError:
            raise ToolError(f"escalate_ticket: there is no ticket with key {key!r}; file it first") from None
        return {"ticket": ticket["id"], "escalations": len(ticket["escalations"])}

    def work(self, facts: DataQualityFacts, tools: Toolbox) -> dict[str, Any]:
        night = _night(facts)
        try:
            measured = tools.call("profile_night", night=night)
            unexplained = tools.call(
                "missing_values",
                night=night,
                known_false_positives=[known.model_dump() for known in facts.known_false_positives],
            )
        except ToolError as error:
            raise BadFactsError(str(error)) from None
        profile = Profile.model_validate(measured["profile"])
        findings = [
            *_missing(facts, unexplained["columns"], measured["rows"]),
            *_duplicates(measured),
            *_drift(facts, profile),
        ]
        for finding in findings:
            answer = tools.call(
                "file_ticket",
                key=finding["key"],
                title=f"flights: {finding['column']} is out of bounds",
                severity=finding["severity"],
                night=night,
                details=finding["explanation"],
            )
            finding["ticket"] = answer["ticket"]
            finding["new_ticket"] = answer["new"]
        critical = [finding for finding in findings if finding["severity"] == "critical"]
        for finding in critical:
            tools.call("escalate_ticket", key=finding["key"], night=night, reason=finding["explanation"])
        if critical:
            # A night that is wrong must not teach the next one that this is normal.
            tools.tell("the baseline stays as it is: this night is out of bounds")
            baseline = facts.baseline.model_dump(mode="json") if facts.baseline else None
        else:
            baseline = tools.call(
                "roll_baseline",
                night=night,
                profile=profile.model_dump(),
                baseline=facts.baseline.model_dump(mode="json") if facts.baseline else None,
            )
        return {
            "night": night,
            "rows": measured["rows"],
            "metrics": {**profile.model_dump(), "duplicates": measured["duplicates"]},
            "baseline": baseline,
            "findings": findings,
            "known_false_positives": unexplained["explained"],
            "filed": sorted(finding["ticket"] for finding in findings if finding["new_ticket"]),
            "open_tickets": sorted(ticket["key"] for ticket in tools.call("list_tickets")),
            "escalate": bool(critical),
            "summary": _summary(night, measured["rows"], findings, critical),
        }


def profile_night(night: date) -> Json:
    """Measure one night: rows, duplicates, cancelled flights, mean delays, share of missing values by column."""
    frame = _flights(night)
    return {
        "night": night.isoformat(),
        "rows": len(frame),
        "duplicates": int(frame.duplicated(IDENTITY).sum()),
        "profile": {
            "rows": len(frame),
            "cancelled_share": round(float(frame["dep_time"].isna().mean()), 6),
            "mean_dep_delay": round(float(frame["dep_delay"].mean()), 3),
            "mean_arr_delay": round(float(frame["arr_delay"].mean()), 3),
            "missing": {str(name): round(float(share), 6) for name, share in frame.isna().mean().items() if share > 0},
        },
    }


def missing_values(night: date, known_false_positives: list[KnownFalsePositive]) -> Json:
    """Count missing values by column, apart for those that a known false positive explains."""
    frame = _flights(night)
    columns: dict[str, Json] = {}
    explained: list[Json] = []
    for column in map(str, frame.columns):
        missing = frame[column].isna()
        for known in known_false_positives:
            if known.missing_with not in frame:
                raise ToolError(f"missing_values: known false positive: there is no column {known.missing_with!r}")
            if column in known.columns:
                harmless = missing & frame[known.missing_with].isna()
                if harmless.any():
                    explained.append({"column": column, "rows": int(harmless.sum()), "because": known.because})
                missing &= ~harmless
        if missing.any():
            rows = frame[missing]
            carriers = rows["carrier"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
            columns[column] = {
                "rows": int(missing.sum()),
                "share": round(float(missing.mean()), 6),
                "cancelled": int(rows["dep_time"].isna().sum()),
                "carriers": {str(name): int(count) for name, count in carriers.items()},
            }
    return {"columns": columns, "explained": explained}


def roll_baseline(night: date, profile: Profile, baseline: Baseline | None) -> Json:
    """Take a night into the baseline; a night that is in it already changes nothing."""
    if baseline is None:
        return Baseline(**profile.model_dump(), nights=1, last_night=night).model_dump(mode="json")
    if night <= baseline.last_night:
        return baseline.model_dump(mode="json")
    weight = 1 / min(baseline.nights + 1, BASELINE_NIGHTS)

    def mean(old: float, new: float) -> float:
        return round(old + (new - old) * weight, 6)

    columns = sorted(baseline.missing.keys() | profile.missing.keys())
    return Baseline(
        rows=mean(baseline.rows, profile.rows),
        cancelled_share=mean(baseline.cancelled_share, profile.cancelled_share),
        mean_dep_delay=mean(baseline.mean_dep_delay, profile.mean_dep_delay),
        mean_arr_delay=mean(baseline.mean_arr_delay, profile.mean_arr_delay),
        missing={name: mean(baseline.missing.get(name, 0.0), profile.missing.get(name, 0.0)) for name in columns},
        nights=baseline.nights + 1,
        last_night=night,
    ).model_dump(mode="json")


def _flights(night: date) -> pd.DataFrame:
    try:
        return flights_of(night)
    except LookupError as error:
        raise ToolError(str(error.args[0])) from None


def _night(facts: DataQualityFacts) -> str:
    if facts.night is not None:
        night = facts.night
    elif facts.logical_time is not None:
        night = facts.logical_time.astimezone(ZoneInfo(facts.timezone)).date()
    else:
        raise BadFactsError("the facts name no night; give `night: 2013-02-06`, or `logical_time` with `timezone`")
    if facts.replay_year is not None:
        # 29 February of a leap year is replayed as the 28th.
        day = min(night.day, 28) if night.month == 2 else night.day
        night = night.replace(year=facts.replay_year, day=day)
    return night.isoformat()


def _finding(key: str, column: str, severity: str, value: float, expected: float, explanation: str) -> dict[str, Any]:
    return {
        "key": f"flights.{key}",
        "column": column,
        "severity": severity,
        "value": value,
        "expected": expected,
        "explanation": explanation,
    }


def _missing(facts: DataQualityFacts, columns: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = []
    for column, found in columns.items():
        share = found["share"]
        if share <= (0.0 if column in facts.required_columns else facts.tolerated_share):
            continue
        usual = facts.baseline.missing.get(column, 0.0) if facts.baseline else 0.0
        severity = "critical" if share > facts.escalate_above else "medium" if share > facts.tolerated_share else "low"
        carriers = ", ".join(f"{carrier} {count}" for carrier, count in list(found["carriers"].items())[:4])
        usually = f", usually {usual:.2%}" if facts.baseline else ""
        explanation = (
            f"{found['rows']} of {rows} flights have no {column} ({share:.2%}{usually}). "
            f"Cancelled among them: {found['cancelled']}. By carrier: {carriers}."
        )
        findings.append(_finding(f"{column}.missing", column, severity, share, usual, explanation))
    return findings


def _duplicates(measured: dict[str, Any]) -> list[dict[str, Any]]:
    count = measured["duplicates"]
    if not count:
        return []
    explanation = f"{count} flights repeat the carrier, number, origin and time of another."
    return [_finding("duplicates", ", ".join(IDENTITY), "medium", count, 0, explanation)]


def _drift(facts: DataQualityFacts, profile: Profile) -> list[dict[str, Any]]:
    if facts.baseline is None:
        return []
    findings: list[dict[str, Any]] = []
    for metric, allowed in facts.allowed_drift:
        value, usual = float(getattr(profile, metric)), float(getattr(facts.baseline, metric))
        distance = abs(value - usual) / usual if metric == "rows" and usual else abs(value - usual)
        if distance > allowed:
            severity = "critical" if distance > 2 * allowed else "high"
            form = ".1%" if metric == "cancelled_share" else ".1f"
            explanation = (
                f"{metric} is {value:{form}}, on average of {facts.baseline.nights} night(s) {usual:{form}}; "
                f"allowed is a distance of {allowed:{'.0%' if metric in ('rows', 'cancelled_share') else '.0f'}}."
            )
            findings.append(_finding(f"{metric}.drift", metric, severity, value, usual, explanation))
    return findings


def _summary(night: str, rows: int, findings: list[dict[str, Any]], critical: list[dict[str, Any]]) -> str:
    if not findings:
        return f"{night}: {rows} flights, nothing to report."
    new = sum(finding["new_ticket"] for finding in findings)
    verdict = f"escalated {len(critical)} of them" if critical else "none is urgent"
    return f"{night}: {rows} flights, {len(findings)} finding(s), {new} new ticket(s); {verdict}."
