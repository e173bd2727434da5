"""An hour of payments as a bank reports them and as a company's ledger holds them. Generated, not real.

An hour is named by its end: the one of 14:00 holds what was booked from 13:00 to before 14:00. The same hour gives the same
rows on every machine. Mismatches are planted in the hours of `PLANTED`; all others agree.
"""

import random
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pandas as pd

COUNTERPARTIES = ("Aldgate Foods", "Brenner Logistik", "Cassis Media", "Duero Energia", "Elbe Papier", "Fjord Shipping")

Plant = Literal["missing_in_ledger", "missing_in_feed", "amount_differs"]

PLANTED: dict[int, tuple[Plant, ...]] = {14: ("missing_in_ledger", "amount_differs"), 20: ("missing_in_feed",)}
"""What is wrong, by hour of the day in UTC."""

COLUMNS = ["row", "reference", "counterparty", "amount_cents", "booked_at"]


Row = dict[str, Any]


def bank_feed(hour: datetime) -> pd.DataFrame:
    """The bank's rows; money in is positive. Some arrive without the reference, as on real statements."""
    return _frame("B", _both_sides(hour)[0])


def ledger(hour: datetime) -> pd.DataFrame:
    """The ledger's rows, in the order of booking."""
    return _frame("L", _both_sides(hour)[1])


def _both_sides(hour: datetime) -> tuple[list[Row], list[Row]]:
    if hour.tzinfo is None or hour != hour.replace(minute=0, second=0, microsecond=0):
        raise ValueError(f"{hour.isoformat()} is not a full hour with a UTC offset")
    hour = hour.astimezone(UTC)
    source = random.Random(f"bank {hour:%Y-%m-%dT%H}")
    payments = sorted((_payment(hour, source) for _ in range(source.randint(90, 140))), key=lambda row: row["booked_at"])
    for number, payment in enumerate(payments, start=1):
        payment["reference"] = f"PAY-{hour:%Y%m%d%H}-{number:04d}"
    feed, booked = [dict(payment) for payment in payments], [dict(payment) for payment in payments]
    planted = source.sample(range(len(payments)), k=3)
    for kind, index in zip(PLANTED.get(hour.hour, ()), planted, strict=False):
        if kind == "amount_differs":
            booked[index]["amount_cents"] = _swapped(booked[index]["amount_cents"])
        else:
            (booked if kind == "missing_in_ledger" else feed)[index].clear()
    for index in source.sample(sorted(set(range(len(payments))) - set(planted)), k=len(payments) // 12):
        feed[index]["reference"] = ""
    feed, booked = [row for row in feed if row], [row for row in booked if row]
    source.shuffle(feed)
    return feed, booked


def _payment(hour: datetime, source: random.Random) -> Row:
    # The tens and units of a euro differ, so that swapping them always changes the amount.
    tens, units = source.sample(range(1, 10), k=2)
    cents = source.randint(0, 99) * 10_000 + tens * 1_000 + units * 100 + source.randint(0, 99)
    return {
        "counterparty": source.choice(COUNTERPARTIES),
        "amount_cents": source.choice((1, 1, -1)) * cents,
        "booked_at": (hour - timedelta(seconds=source.randint(1, 3_600))).isoformat().replace("+00:00", "Z"),
    }


def _swapped(cents: int) -> int:
    """Two digits changed places: the commonest slip of a typist; the difference is divisible by nine."""
    euros, rest = divmod(abs(cents), 100)
    swapped = (euros // 100 * 100 + euros % 10 * 10 + euros // 10 % 10) * 100 + rest
    return swapped if cents > 0 else -swapped


def _frame(prefix: str, rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame([{"row": f"{prefix}{number:04d}", **row} for number, row in enumerate(rows, start=1)], columns=COLUMNS)
