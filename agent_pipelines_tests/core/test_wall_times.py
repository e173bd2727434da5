from itertools import islice, pairwise

import pytest
from cronsim import CronSimError

from agent_pipelines.core.wall_times import WallTimes

DAY = 86_400
FIRST_OF_2024 = 19_723 * DAY


def times_of(text: str) -> WallTimes:
    return WallTimes(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "* * * * * *",
        "0,7 * * * * *",
        "59,0 */20 * * * *",
        "10 58,59 3-5 * * *",
        "0,30 0,59 0,23 * * *",
        "5 0 6 * * *",
        "0 0 0,22 1,3 * *",
        "0 0 23,1 * * mon,tue",
        "0 0 6 * * mon",
        "0 0 6 1 * *",
    ],
)
def test_the_shortest_gap_is_that_of_the_times(text: str) -> None:
    times = times_of(text)
    found = list(islice(times.after(FIRST_OF_2024), 2_000 if "* * *" in text else 90_000))
    assert times.shortest_gap == min(right - left for left, right in pairwise(found))


@pytest.mark.parametrize("text", ["0 0 6 29 2 *", "0 30 6 * * *", "*/7 1,2 3 L * *", "0 0 0 1 1 *", "0 0 12 */28 2 mon#5"])
def test_the_latest_is_the_one_before_the_next(text: str) -> None:
    times = times_of(text)
    for before, time in pairwise(islice(times.after(FIRST_OF_2024), 20)):
        assert times.latest(time) == time
        assert times.latest(time - 1) == before
        assert next(times.after(before)) == time


def test_a_range_of_one_with_a_step_is_that_one() -> None:
    times = times_of("0 5-5/10 6 * * *")
    assert [time % DAY for time in islice(times.after(FIRST_OF_2024), 2)] == [6 * 3_600 + 300] * 2


def test_what_never_comes_ends() -> None:
    never = times_of("0 0 6 */29 2 mon#5")  # the first is no fifth Monday, and there is no 30 February
    assert next(never.after(FIRST_OF_2024), None) is None
    assert never.latest(FIRST_OF_2024) is None
    assert never.shortest_gap > 365 * DAY


def test_the_calendar_ends_with_the_year_9999() -> None:
    times = times_of("0 0 6 * * *")
    last = next(times.after(253_402_128_000))
    assert list(times.after(last + DAY)) == []


@pytest.mark.parametrize("text", ["60 * * * * *", "0 0 0 30 2 *", "x * * * * *", "* * * * *x *"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(CronSimError):
        times_of(text)
