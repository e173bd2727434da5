"""The commits that wait for a review."""

from typing import Any

from pydantic import JsonValue

from agent_pipelines.core.invocation import Invocation
from agent_pipelines.engine.home import instance_of_home
from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import Hub, open_hub
from examples.code_review.repository import Commit, repository

EVENT = "commit.pushed"
REPOSITORY = "parcels"


def backlog(limit: object = None) -> list[Commit]:
    """The commits of the bundled history, oldest first; with a limit the newest ones only."""
    known = repository().commits()
    if limit is None:
        return known
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ValueError(f"variable `limit` is {limit!r}; write a number of commits, 1 or more")
    return known[-limit:]


def send(invocation: Invocation) -> dict[str, Any]:
    """Send an event for each commit of the backlog that the deployment of DAGSTER_HOME has not heard of."""
    return send_commits(open_hub(database_url(instance_of_home())), invocation)


def send_commits(hub: Hub, invocation: Invocation) -> dict[str, Any]:
    """Send one event a commit, oldest first; the variable `limit` keeps the newest commits only.

    A second event for a commit is none. A commit that came in another way is reviewed once all the same: the review is
    deduplicated by commit.
    """
    sender = f"task:{invocation.application}/{invocation.task}"
    commits = backlog(invocation.variables.get("limit"))
    new: list[str] = []
    with hub.database.transaction() as connection:
        for commit in commits:
            payload: dict[str, JsonValue] = {"repository": REPOSITORY, "commit": commit.sha, "title": commit.title}
            key = f"{REPOSITORY}@{commit.sha}"
            _, is_new = hub.inbox.put(
                connection, EVENT, payload, workspace=invocation.workspace, source=sender, key=key, actor=sender
            )
            if is_new:
                new.append(commit.sha)
    return {
        "repository": REPOSITORY,
        "commits": len(commits),
        "sent": new,
        "summary": f"{len(commits)} commits, {len(new)} of them not heard of before.",
    }
