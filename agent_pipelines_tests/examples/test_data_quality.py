import json
from pathlib import Path
from typing import Any

import pytest

from examples.agents.data_quality import DataQuality, DataQualityFacts
from examples.agents.facts import BadFactsError
from examples.agents.toolbox import Toolbox

KNOWN = {
    "columns": ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"],
    "missing_with": "dep_time",
    "because": "a cancelled flight neither departs nor arrives",
}


def check(home: Path, night: str, baseline: Any = None, **facts: Any) -> dict[str, Any]:
    agent = DataQuality(home)
    given = {"night": night, "baseline": baseline, "required_columns": ["tailnum"], "known_false_positives": [KNOWN], **facts}
    return agent.work(DataQualityFacts.model_validate(given), Toolbox(agent.tools()))


def three_nights(home: Path) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for night in ("2013-02-06", "2013-02-07", "2013-02-08"):
        answers.append(check(home, night, answers[-1]["baseline"] if answers else None))
    return answers


def test_the_first_night_files_the_second_repeats_nothing_and_the_third_escalates(tmp_path: Path) -> None:
    first, second, third = three_nights(tmp_path)

    assert [finding["key"] for finding in first["findings"]] == ["flights.tailnum.missing"]
    assert len(first["filed"]) == 1
    assert not first["escalate"]

    assert [finding["key"] for finding in second["findings"]] == ["flights.tailnum.missing"]
    assert second["filed"] == []
    assert not second["escalate"]

    assert third["escalate"]
    assert {finding["key"]: finding["severity"] for finding in third["findings"]} == {
        "flights.tailnum.missing": "critical",
        "flights.cancelled_share.drift": "critical",
    }
    assert third["open_tickets"] == ["flights.cancelled_share.drift", "flights.tailnum.missing"]
    tickets = [json.loads(path.read_text()) for path in (tmp_path / "tickets").glob("*.json")]
    assert len(tickets) == 2
    (tail,) = (ticket for ticket in tickets if ticket["key"] == "flights.tailnum.missing")
    assert tail["seen_on"] == ["2013-02-06", "2013-02-07", "2013-02-08"]
    assert [escalation["night"] for escalation in tail["escalations"]] == ["2013-02-08"]


def test_the_numbers_are_those_of_the_data_set(tmp_path: Path) -> None:
    storm = check(tmp_path, "2013-02-08")

    assert storm["rows"] == 930
    assert round(storm["metrics"]["cancelled_share"] * 930) == 472
    assert storm["findings"][0]["explanation"].startswith("161 of 930 flights have no tailnum (17.31%)")
    assert "UA 76, 9E 43, US 24, AA 16" in storm["findings"][0]["explanation"]


def test_known_false_positives_are_skipped_and_listed(tmp_path: Path) -> None:
    with_rule = check(tmp_path / "a", "2013-02-08")
    without = check(tmp_path / "b", "2013-02-08", known_false_positives=[])

    assert {finding["column"] for finding in with_rule["findings"]} == {"tailnum"}
    assert {entry["column"]: entry["rows"] for entry in with_rule["known_false_positives"]} == dict.fromkeys(
        KNOWN["columns"], 472
    )
    assert {"arr_time", "dep_time"} < {finding["column"] for finding in without["findings"]}


def test_a_night_that_escalates_does_not_move_the_baseline(tmp_path: Path) -> None:
    _, second, third = three_nights(tmp_path)

    assert second["baseline"]["nights"] == 2
    assert second["baseline"]["rows"] == (901 + 932) / 2
    assert third["baseline"] == second["baseline"]


def test_the_same_night_again_gives_the_same_answer_and_the_same_files(tmp_path: Path) -> None:
    *_, second, third = three_nights(tmp_path)
    before = {path: path.read_text() for path in (tmp_path / "tickets").iterdir()}

    assert check(tmp_path, "2013-02-08", second["baseline"]) == third
    assert {path: path.read_text() for path in (tmp_path / "tickets").iterdir()} == before


def test_a_night_that_is_in_the_baseline_is_not_counted_twice(tmp_path: Path) -> None:
    first = check(tmp_path, "2013-02-06")

    assert check(tmp_path, "2013-02-06", first["baseline"])["baseline"] == first["baseline"]


def test_the_night_follows_from_the_instant_and_the_zone(tmp_path: Path) -> None:
    # 23:30 in New York is the next day in UTC.
    assert check(tmp_path, None, logical_time="2013-02-09T04:30:00Z")["night"] == "2013-02-08"  # type: ignore[arg-type]
    assert check(tmp_path, None, logical_time="2028-02-29T12:00:00Z", replay_year=2013)["night"] == "2013-02-28"  # type: ignore[arg-type]


def test_a_night_outside_the_data_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadFactsError, match=r"no flights for 2014-02-08; the data set covers 2013-01-01 to 2013-12-31"):
        check(tmp_path, "2014-02-08")
    with pytest.raises(BadFactsError, match="no column 'no_such'"):
        check(tmp_path, "2013-02-08", known_false_positives=[{**KNOWN, "missing_with": "no_such"}])
    with pytest.raises(BadFactsError, match="name no night"):
        check(tmp_path, None)  # type: ignore[arg-type]
