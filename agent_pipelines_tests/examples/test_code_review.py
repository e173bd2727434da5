from pathlib import Path
from typing import Any

import pytest

from examples.agents.code_review import CodeReview, CodeReviewFacts
from examples.agents.facts import BadFactsError
from examples.agents.toolbox import Toolbox
from examples.code_review.backlog import backlog
from examples.code_review.make_repository import CHANGES, make_repository
from examples.code_review.repository import repository

# File, line and code of everything that is found, by title; all other commits are clean.
EXPECTED = {
    "Read price overrides from a file": [("parcels/overrides.py", 4, "F401")],
    "Collect surcharges of a shipment": [("parcels/pricing.py", 13, "B006")],
    "Print labels": [("parcels/labels.py", 8, "F841"), ("parcels/labels.py", 9, "F821")],
    "Go on when tracking is down": [("parcels/tracking.py", 10, "F841"), ("parcels/tracking.py", 12, "E722")],
    "Let a shipment have no overrides": [("parcels/overrides.py", 9, "E711")],
}


def review(commit: str, told: list[str] | None = None) -> dict[str, Any]:
    agent = CodeReview(Path("unused"))
    tools = Toolbox(agent.tools(), tell=[].append if told is None else told.append)
    return agent.work(CodeReviewFacts(commit=commit), tools)


def test_the_bundle_is_what_the_script_makes(tmp_path: Path) -> None:
    assert make_repository(tmp_path) == [commit.sha for commit in repository().commits()]


def test_each_commit_has_exactly_the_findings_on_the_lines_that_it_wrote() -> None:
    reviews = [review(commit.sha) for commit in repository().commits()]

    assert [answer["title"] for answer in reviews] == [change.title for change in CHANGES]
    found = {
        answer["title"]: [(finding["file"], finding["line"], finding["code"]) for finding in answer["findings"]]
        for answer in reviews
        if answer["findings"]
    }
    assert found == EXPECTED
    assert all((answer["verdict"] == "request_changes") == bool(answer["findings"]) for answer in reviews)


def test_an_old_defect_in_a_touched_file_is_not_held_against_the_commit() -> None:
    (commit,) = (known for known in repository().commits() if known.title == "Round weights up")

    # The mutable default of an earlier commit is still in the file.
    assert "surcharges: list[int] = []" in repository().text(commit.sha, "parcels/pricing.py")
    assert review(commit.sha)["findings"] == []


def test_a_finding_says_what_and_how_bad() -> None:
    (commit,) = (known for known in repository().commits() if known.title == "Print labels")
    told: list[str] = []
    answer = review(commit.sha[:8], told)

    assert answer["commit"] == commit.sha
    assert answer["size"] == {"files": 1, "added": 9, "removed": 0}
    assert answer["findings"][1]["severity"] == "error"
    assert answer["findings"][1]["message"] == "Undefined name `zone_name`"
    assert "zone_name.upper()" in answer["findings"][1]["source"]
    assert [line.split("(")[0] for line in told] == ["show_commit", "lint_commit"]


@pytest.mark.parametrize("name", ["0000000", "main~1x", "--output=x"])
def test_an_unknown_commit_is_refused_in_words(name: str) -> None:
    with pytest.raises(BadFactsError, match="no commit"):
        review(name)


def test_the_backlog_lists_the_commits_oldest_first() -> None:
    assert [commit.title for commit in backlog()] == [change.title for change in CHANGES]
    assert backlog(2) == backlog()[-2:]
    with pytest.raises(ValueError, match="variable `limit` is 0"):
        backlog(0)
