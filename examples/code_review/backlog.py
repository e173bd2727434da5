"""The commits that wait for a review."""

from typing import Any

from agent_pipelines.core.invocation import Invocation
from examples.code_review.repository import repository


def commits(invocation: Invocation) -> dict[str, Any]:
    """All commits of the bundled history, oldest first, each as the payload of an event.

    `limit` among the variables keeps the newest ones only. A commit that was reviewed before is no matter: its event
    ends deduplicated.
    """
    known = repository().commits()
    limit = invocation.variables.get("limit")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"variable `limit` is {limit!r}; write a number of commits, 1 or more")
    return {"repository": "parcels", "commits": known if limit is None else known[-limit:]}
