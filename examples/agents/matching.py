"""Which row of the bank's feed belongs to which row of the ledger."""

from datetime import datetime
from typing import Any

import pandas as pd

from examples.agents.records import Records
from examples.data.bank import bank_feed, ledger

PAGE = 25
"""Rows of the feed that are matched before progress is saved."""

Row = dict[str, Any]


class Matching:
    """The matching of one hour, page by page; what is done is on disk and is not done again after a crash."""

    def __init__(self, progress: Records, hour: datetime) -> None:
        self._progress = progress
        self._key = f"reconciliation {hour.isoformat()}"
        self.feed, self.ledger = bank_feed(hour), ledger(hour)
        saved = progress.read(self._key) or {"next": 0, "pairs": []}
        self.next: int = saved["next"]
        self.pairs: list[Row] = saved["pairs"]

    @property
    def done(self) -> bool:
        """Whether every row of the feed was looked at."""
        return self.next >= len(self.feed)

    def advance(self) -> int:
        """Match the next page and save; returns how many rows found their counterpart."""
        page = self.feed.iloc[self.next : self.next + PAGE]
        named = page[page["reference"] != ""].merge(self.ledger, on="reference", suffixes=("", "_ledger"))
        found: list[Row] = [
            {
                "feed": str(row["row"]),
                "ledger": str(row["row_ledger"]),
                "by": "reference",
                "difference_cents": int(row["amount_cents"]) - int(row["amount_cents_ledger"]),
            }
            for row in named.to_dict("records")
        ]
        found += [pair for pair in self._by_amount_and_date() if pair["feed"] in set(page["row"])]
        self.pairs.extend(found)
        self.next += len(page)
        self._progress.replace(self._key, {"next": self.next, "pairs": self.pairs})
        return len(found)

    def _by_amount_and_date(self) -> list[Row]:
        # A ledger row whose reference the bank does quote is never given away to a row without one.
        free = self.ledger[~self.ledger["reference"].isin(self.feed["reference"])]
        nameless = self.feed[self.feed["reference"] == ""]
        keys = ["counterparty", "amount_cents", "date"]
        left, right = (frame.assign(date=frame["booked_at"].str[:10]) for frame in (nameless, free))
        candidates = left.merge(right, on=keys, suffixes=("", "_ledger"))
        # Two that look alike are left to a person.
        unique = ~candidates.duplicated("row", keep=False) & ~candidates.duplicated("row_ledger", keep=False)
        return [
            {"feed": str(row["row"]), "ledger": str(row["row_ledger"]), "by": "amount_and_date", "difference_cents": 0}
            for row in candidates[unique].to_dict("records")
        ]

    def feed_row(self, row: str) -> Row | None:
        """A row of the feed by its name."""
        return _row(self.feed, row)

    def ledger_row(self, row: str) -> Row | None:
        """A row of the ledger by its name."""
        return _row(self.ledger, row)

    def unmatched(self) -> tuple[list[Row], list[Row]]:
        """Rows of the feed and of the ledger that have no counterpart."""
        feed = self.feed[~self.feed["row"].isin([pair["feed"] for pair in self.pairs])]
        booked = self.ledger[~self.ledger["row"].isin([pair["ledger"] for pair in self.pairs])]
        return [_plain(row) for row in feed.to_dict("records")], [_plain(row) for row in booked.to_dict("records")]

    def nearest(self, row: Row, side: str, count: int = 3) -> list[Row]:
        """Rows of the other side (`feed` or `ledger`) with the same counterparty, nearest in amount, and whom they match."""
        frame = self.ledger if side == "ledger" else self.feed
        same = frame[frame["counterparty"] == row["counterparty"]]
        same = same.assign(distance_cents=(same["amount_cents"] - row["amount_cents"]).abs())
        other = "feed" if side == "ledger" else "ledger"
        partner = {pair[side]: pair[other] for pair in self.pairs}
        nearest = same.sort_values(["distance_cents", "row"]).head(count).to_dict("records")
        return [{**_plain(near), "matched_to": partner.get(str(near["row"]))} for near in nearest]


def _row(frame: pd.DataFrame, name: str) -> Row | None:
    rows = frame[frame["row"] == name].to_dict("records")
    return _plain(rows[0]) if rows else None


def _plain(row: dict[Any, Any]) -> Row:
    return {str(name): int(value) if str(name).endswith("_cents") else str(value) for name, value in row.items()}
