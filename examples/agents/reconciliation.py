"""The hourly matching of a bank feed to a ledger."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import AwareDatetime, Field

from examples.agents.agent import Agent
from examples.agents.facts import Facts
from examples.agents.hour import HourFacts, written
from examples.agents.matching import Matching, Row
from examples.agents.records import Records
from examples.agents.toolbox import Json, Toolbox, ToolError, WorkCancelledError


class ReconciliationFacts(HourFacts):
    """What the matching is told."""

    pause_seconds: float = Field(default=0.0, ge=0, le=60)
    """A wait after each page, to give a watcher time to look (or to kill the program in the middle)."""


class Reconciliation(Agent[ReconciliationFacts]):
    """Matches by reference, then by counterparty, amount and date, and opens a case for an hour that does not balance."""

    name: ClassVar[str] = "reconciliation"
    facts_type: ClassVar[type[Facts]] = ReconciliationFacts
    instructions: ClassVar[str] = (
        "You reconcile one hour of bank payments with the ledger. Call match_next until it says that it is done, then "
        "unmatched_rows; look up the nearest candidates of each row without a counterpart. If there is any difference, "
        "open one case for the hour with all of them, of kind missing_in_ledger, missing_in_feed or amount_differs; otherwise "
        "the hour is balanced."
    )

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._progress = Records(home / "progress")
        self._cases = Records(home / "cases")

    def tools(self) -> Sequence[Callable[..., Json]]:
        return (self.match_next, self.unmatched_rows, self.nearest_candidates, self.open_case)

    def match_next(self, hour: AwareDatetime) -> Json:
        """Match the next page of the hour's feed to the ledger, going on where it was left off."""
        matching = self._matching(hour)
        begun_at = matching.next
        found = 0 if matching.done else matching.advance()
        return {"from": begun_at, "to": matching.next, "of": len(matching.feed), "found": found, "done": matching.done}

    def unmatched_rows(self, hour: AwareDatetime) -> Json:
        """What is left after matching: rows without counterpart, pairs whose amounts differ, and totals."""
        matching = self._matching(hour)
        if not matching.done:
            raise ToolError(f"unmatched_rows: the matching of {written(hour)} is not done; call match_next first")
        feed, booked = matching.unmatched()
        return {
            "matched": len(matching.pairs),
            "by": {how: sum(pair["by"] == how for pair in matching.pairs) for how in ("reference", "amount_and_date")},
            "feed_total_cents": int(matching.feed["amount_cents"].sum()),
            "ledger_total_cents": int(matching.ledger["amount_cents"].sum()),
            "feed": feed,
            "ledger": booked,
            "amount_differs": [
                {
                    "feed": matching.feed_row(pair["feed"]),
                    "ledger": matching.ledger_row(pair["ledger"]),
                    "difference_cents": pair["difference_cents"],
                }
                for pair in matching.pairs
                if pair["difference_cents"]
            ],
        }

    def nearest_candidates(self, hour: AwareDatetime, row: str) -> Json:
        """Rows of the other side that come nearest to a row, with the row that each is matched to."""
        matching = self._matching(hour)
        if (known := matching.feed_row(row)) is not None:
            return matching.nearest(known, "ledger")
        if (known := matching.ledger_row(row)) is not None:
            return matching.nearest(known, "feed")
        raise ToolError(f"nearest_candidates: {written(hour)} has no row {row!r}")

    def open_case(self, hour: AwareDatetime, mismatches: list[dict[str, Any]]) -> Json:
        """Open the case of an hour for a person, with the rows of both sides and the nearest candidates; once an hour."""
        key = f"reconciliation {written(hour)}"
        case = self._cases.path(key).stem
        new = self._cases.create(key, {"case": case, "status": "open", "hour": written(hour), "mismatches": mismatches})
        return {"case": case, "new": new}

    def work(self, facts: ReconciliationFacts, tools: Toolbox) -> dict[str, Any]:
        hour = facts.end()
        page = tools.call("match_next", hour=written(hour))
        if page["from"]:
            tools.tell(f"resumed at row {page['from']} of {page['of']}: the rows before were matched earlier")
        while not page["done"]:
            if tools.cancelled.wait(facts.pause_seconds):
                raise WorkCancelledError("cancelled between two pages")
            page = tools.call("match_next", hour=written(hour))
        left = tools.call("unmatched_rows", hour=written(hour))
        mismatches = [
            *(_mismatch("missing_in_ledger", row, None) for row in left["feed"]),
            *(_mismatch("missing_in_feed", None, row) for row in left["ledger"]),
            *(_mismatch("amount_differs", pair["feed"], pair["ledger"]) for pair in left["amount_differs"]),
        ]
        for mismatch in mismatches:
            row = (mismatch["feed"] or mismatch["ledger"])["row"]
            one_sided = mismatch["kind"] != "amount_differs"
            mismatch["candidates"] = tools.call("nearest_candidates", hour=written(hour), row=row) if one_sided else []
        case = tools.call("open_case", hour=written(hour), mismatches=mismatches)["case"] if mismatches else None
        return {
            "hour": written(hour),
            "matched": left["matched"],
            "matched_by": left["by"],
            "unmatched_feed": [row["row"] for row in left["feed"]],
            "unmatched_ledger": [row["row"] for row in left["ledger"]],
            "mismatches": mismatches,
            "case": case,
            "feed_total_cents": left["feed_total_cents"],
            "total_cents": left["ledger_total_cents"],
            "balanced": not mismatches,
            "summary": _summary(written(hour), left["matched"], mismatches),
        }

    def _matching(self, hour: AwareDatetime) -> Matching:
        try:
            return Matching(self._progress, hour)
        except ValueError as error:
            raise ToolError(str(error)) from None


def _mismatch(kind: str, feed: Row | None, ledger: Row | None) -> dict[str, Any]:
    difference = (feed["amount_cents"] if feed else 0) - (ledger["amount_cents"] if ledger else 0)
    row = feed or ledger or {}
    name = f"{row['reference'] or 'a payment without reference'} ({row['counterparty']})"
    explanations = {
        "missing_in_ledger": f"The bank reports {_euros(difference)} for {name}; the ledger has no such payment.",
        "missing_in_feed": f"The ledger holds {_euros(-difference)} for {name}; the bank does not report it.",
        "amount_differs": f"The bank and the ledger differ by {_euros(difference)} on {name}"
        + ("; two digits may have changed places." if difference % 9 == 0 else "."),
    }
    return {
        "kind": kind,
        "reference": row["reference"],
        "counterparty": row["counterparty"],
        "feed": feed,
        "ledger": ledger,
        "difference_cents": difference,
        "explanation": explanations[kind],
    }


def _euros(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100:,}.{abs(cents) % 100:02d} EUR"


def _summary(hour: str, matched: int, mismatches: list[dict[str, Any]]) -> str:
    if not mismatches:
        return f"{hour}: {matched} payments matched, the hour is balanced."
    return f"{hour}: {matched} payments matched, {len(mismatches)} difference(s); a case is open."
