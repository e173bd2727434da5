from typing import Any

import pytest
from pydantic import ValidationError

from agent_pipelines.core.batch import BatchSpec
from agent_pipelines.core.task import TaskSpec

ITEMS = {"items": {"file": "items.csv"}}


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({}, "needs to know where its items come from"),
        ({"items": {}}, "none is given; name exactly one"),
        ({"items": {"file": "a.csv", "asset": "b"}}, "file and asset are given; name exactly one"),
        ({"items": {"file": "a.xls"}}, r"'a.xls' is of no known kind; give it one of the suffixes .csv"),
        ({"items": {"query": "SELECT 1"}}, "`query` needs `url_env`"),
        ({"form": "broadcast", **ITEMS}, "`broadcast` asks nodes and has no `items`"),
        ({"form": "map_reduce", **ITEMS}, "declare both or none"),
        ({"reduce": "a.b:c", **ITEMS}, "declare both or none"),
        ({"max_failed": 3, **ITEMS}, "goes with `failed_items: allow`"),
        ({"changed_only": True, **ITEMS}, "needs names by which items are known again"),
        ({"to": ["other"], **ITEMS}, "only form `broadcast`"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(batch: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        BatchSpec.model_validate(batch)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"session": {"mode": "task"}}, "cannot share a conversation"),
        ({"remember": ["a"], "output": {"format": "json"}}, "have no order in which one could remember"),
        ({"deduplicate_by": "{{ item }}"}, "told apart by `batch.key`"),
        ({"lane": "burst"}, "a batch has runs of its own"),
        ({"batch": {"items": {"asset": "other"}}}, "is no dependency; add it to `dependencies`"),
    ],
)
def test_what_items_cannot_have_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TaskSpec.model_validate({"name": "job", "intent": "Work", "agent": "worker", "batch": ITEMS, **changes})


@pytest.mark.parametrize(
    ("failed_items", "max_failed", "failed", "is_allowed"),
    [
        ("fail", None, 0, True),
        ("fail", None, 1, False),
        ("allow", None, 100, True),
        ("allow", 5, 5, True),
        ("allow", 5, 6, False),
        ("allow", 0.05, 5, True),
        ("allow", 0.05, 6, False),
    ],
)
def test_failures_that_a_batch_may_have(failed_items: str, max_failed: float | None, failed: int, is_allowed: bool) -> None:
    spec = BatchSpec.model_validate({**ITEMS, "failed_items": failed_items, "max_failed": max_failed})
    assert spec.allows(failed, 100) is is_allowed
