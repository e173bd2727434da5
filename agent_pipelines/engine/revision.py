"""Telling one declaration of a trigger from the next."""

import hashlib

from agent_pipelines.core.task import canonical_json
from agent_pipelines.core.trigger import Trigger

# What changes without making anything else due.
_NOT_OF_TIME = {
    "name",
    "enabled",
    "variables",
    "logical_time",
    "wait_at_most",
    "repair",
    "if_upstream_fails",
    "catch_up",
    "catch_up_within",
    "overlap",
    "queue_limit",
    "jitter",
    "spread",
    "calendar",
}


def revision_of(trigger: Trigger) -> str:
    """A short name of when a trigger is due: the same as long as the declaration makes the same things due.

    An edited trigger has another one; it looks ahead from the moment of the edit, so editing never fires the past.
    """
    # What is not written leaves no trace, so that a field which a later version adds makes no new revision.
    declared = trigger.model_dump(mode="json", exclude=_NOT_OF_TIME, exclude_none=True)
    return hashlib.sha256(canonical_json(declared).encode()).hexdigest()[:12]
