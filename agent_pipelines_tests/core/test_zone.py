from datetime import UTC, datetime
from itertools import islice, pairwise

import pytest

from agent_pipelines.core.zone import Stretch, stretches_back_from, stretches_from


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def test_a_stretch_ends_where_clocks_are_set() -> None:
    march, october = seconds("2026-03-29T01:00Z"), seconds("2026-10-25T01:00Z")
    summer = [stretch for stretch in islice(stretches_from("Europe/Berlin", march), 3) if stretch.offset == 7_200]
    assert summer[0].start == march
    assert summer[-1].end == october
    (before,) = islice(stretches_back_from("Europe/Berlin", march - 1), 1)
    assert (before.end, before.offset) == (march, 3_600)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Apia", "Africa/Monrovia"])
def test_stretches_lie_one_after_the_other(zone: str) -> None:
    instant = seconds("1960-01-01T00:00Z")
    forwards = list(islice(stretches_from(zone, instant), 100))
    assert forwards[0].start <= instant < forwards[0].end
    assert all(left.end == right.start for left, right in pairwise(forwards))
    assert list(islice(stretches_back_from(zone, forwards[-1].start), 100)) == forwards[::-1]


def test_time_has_two_ends() -> None:
    last = list(stretches_from("Pacific/Kiritimati", seconds("9999-12-01T00:00Z")))[-1]
    assert last.end == int(datetime(9999, 12, 30, tzinfo=UTC).timestamp())
    assert list(stretches_from("UTC", last.end)) == []
    assert next(stretches_back_from("UTC", last.end + 1)) == Stretch(last.start, last.end, 0)
    assert next(stretches_from("Asia/Tokyo", seconds("0001-01-05T00:00Z"))).offset > 0
