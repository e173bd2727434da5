from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.calendar import Calendar


def calendar(**values: Any) -> Calendar:
    return Calendar.model_validate({"country": "DE", **values})


@pytest.mark.parametrize(
    ("values", "day", "reason"),
    [
        ({}, "2026-10-02", None),
        ({}, "2026-10-03", "2026-10-03 is a holiday in DE: "),  # and a Saturday
        ({}, "2026-10-04", "2026-10-04 is a weekend day in DE"),
        ({"days": "not_holidays"}, "2026-10-04", None),
        ({"days": "not_holidays"}, "2026-12-25", "2026-12-25 is a holiday in DE: "),
        ({"days": "holidays"}, "2026-12-25", None),
        ({"days": "holidays"}, "2026-12-28", "2026-12-28 is no holiday in DE"),
        ({}, "2026-01-06", None),
        ({"subdivision": "BY"}, "2026-01-06", "2026-01-06 is a holiday in DE-BY: Epiphany"),
        ({"closed": ["2026-12-28"]}, "2026-12-28", "2026-12-28 is a holiday in DE: closed"),
        ({"closed": ["2026-12-28"], "days": "holidays"}, "2026-12-28", None),
        ({"country": "CN"}, "2026-02-14", None),  # a Saturday of work, in exchange for a day of the New Year
        ({"country": "CN"}, "2026-02-07", "2026-02-07 is a weekend day in CN"),
        ({"country": "IL"}, "2026-10-09", "2026-10-09 is a weekend day in IL"),  # a Friday
        ({"country": "IL"}, "2026-10-11", None),  # a Sunday
    ],
)
def test_which_days_are_meant(values: dict[str, Any], day: str, reason: str | None) -> None:
    found = calendar(**values).reason_not_to_run(date.fromisoformat(day))
    assert found is None if reason is None else (found or "").startswith(reason)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"country": "XX"}, "country: 'XX' has no calendar"),
        ({"country": "de"}, "country: 'de' has no calendar; did you mean DE?"),
        ({"subdivision": "XY"}, "subdivision: 'XY' is not one of DE; there is: BB, BE"),
        ({"days": "weekdays"}, "days"),
        ({"closed": ["next monday"]}, "closed"),
    ],
)
def test_a_wrong_calendar_is_refused_in_words(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        calendar(**values)
    assert words in str(caught.value)


def test_in_words() -> None:
    assert calendar().words == "business days of DE"
    assert calendar(subdivision="BY", days="not_holidays").words == "not holidays of DE-BY"
