import random

import pytest

from agent_pipelines.core.rate import Rate
from agent_pipelines.flow.pace import Pace
from agent_pipelines_tests.flow.serving import most_in_any_window


def begins(pace: Pace, costs: list[int], *, pauses: random.Random) -> list[int]:
    """When works of these costs begin that ask one after the other, some after a while, and begin as late as they may."""
    now, empty_at, found = 1_000_000_000, 0, list[int]()
    for cost in costs:
        now += pauses.choice((0, 0, 0, 3_000_000))
        at = pace.earliest(empty_at, now, cost)
        empty_at = pace.after(empty_at, at, cost)
        found.append(at + pauses.choice((0, pace.tolerance)))
        now = max(now, at)
    return found


@pytest.mark.parametrize("rate", ["1/s", "10/s", "19/s", "20/s", "30/s", "1000/s", "5/10s", "90/m"])
def test_no_window_of_a_period_has_more_than_the_rate(rate: str) -> None:
    parsed = Rate.parse(rate)
    starts = begins(Pace.of(parsed, None), [1] * 3_000, pauses=random.Random(1))
    assert most_in_any_window(starts, parsed.period) <= parsed.amount
    in_a_row = begins(Pace.of(parsed, None), [1] * 1_000, pauses=random.Random(2))
    assert in_a_row[-1] > in_a_row[0]


def test_a_declared_burst_goes_on_top() -> None:
    parsed = Rate.parse("10/s")
    starts = begins(Pace.of(parsed, 5), [1] * 1_000, pauses=random.Random(1))
    assert 10 < most_in_any_window(starts, parsed.period) <= 15


def test_tokens_of_any_window_stay_below_the_rate() -> None:
    chance, parsed = random.Random(3), Rate.parse("100000/m")
    costs = [chance.randint(10, 5_000) for _ in range(2_000)]
    starts = begins(Pace.of(parsed, None), costs, pauses=random.Random(1))
    for index, start in enumerate(starts):
        window = [cost for at, cost in zip(starts[index:], costs[index:], strict=True) if at - start < parsed.period]
        assert sum(window) <= parsed.amount


def test_what_was_used_beyond_the_estimate_is_paid_afterwards() -> None:
    pace = Pace.of(Rate.parse("60/m"), 10)
    empty_at = pace.after(0, 1_000_000_000, 10)
    first = pace.earliest(empty_at, 1_000_000_000, 1)
    assert pace.earliest(pace.corrected(empty_at, 5), 1_000_000_000, 1) == pytest.approx(first + 5 * pace.step, abs=2)
    assert pace.earliest(pace.corrected(empty_at, -10), 1_000_000_000, 1) == 1_000_000_000
