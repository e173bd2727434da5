from typing import Any

import pytest

from agent_pipelines.core.trigger import After, Cron
from agent_pipelines.engine.revision import revision_of

MAIL = After(task="report")


@pytest.mark.parametrize(
    "edit",
    [{"wait_at_most": "1h"}, {"repair": False}, {"if_upstream_fails": "run"}, {"variables": {"x": 1}}, {"enabled": False}],
)
def test_an_edit_that_makes_nothing_else_due_is_no_new_revision(edit: dict[str, Any]) -> None:
    """A new revision starts now: a mail that waits for its report would be forgotten."""
    assert revision_of(After(task="report", **edit)) == revision_of(MAIL)


@pytest.mark.parametrize("edit", [{"task": "other"}, {"offset": "15m"}])
def test_an_edit_that_makes_something_else_due_is_a_new_revision(edit: dict[str, Any]) -> None:
    assert revision_of(After.model_validate({"task": "report", **edit})) != revision_of(MAIL)


def test_a_cron_in_another_zone_is_a_new_revision() -> None:
    assert revision_of(Cron(cron="0 6 * * *")) != revision_of(Cron(cron="0 6 * * *", timezone="Europe/Berlin"))


@pytest.mark.parametrize("edit", [{"seconds": "last", "cron": "0 6 * * * 0"}, {"starts_at": "2027-01-01T00:00Z"}])
def test_other_instants_are_a_new_revision(edit: dict[str, Any]) -> None:
    assert revision_of(Cron.model_validate({"cron": "0 6 * * *", **edit})) != revision_of(Cron(cron="0 6 * * *"))


@pytest.mark.parametrize(
    "edit",
    [
        {"catch_up": "all"},
        {"overlap": "queue", "queue_limit": 3},
        {"jitter": "5s", "spread": "1m"},
        {"calendar": {"country": "DE"}},
    ],
)
def test_other_policies_are_not(edit: dict[str, Any]) -> None:
    assert revision_of(Cron.model_validate({"cron": "0 6 * * *", **edit})) == revision_of(Cron(cron="0 6 * * *"))


def test_a_field_that_is_not_written_leaves_no_trace() -> None:
    """So that a later version, with more fields, finds the triggers of an earlier one unchanged."""
    assert revision_of(Cron(cron="0 6 * * *")) == "5efe4a176458"
