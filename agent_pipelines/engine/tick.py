"""A tick: one due instant or event of one trigger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import JsonValue

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.execution import Verdict
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Origin
from agent_pipelines.core.of_task import OfTask
from agent_pipelines.core.task import TaskKey

REPAIR = "repair"
"""Trigger name of the ticks that run a failed execution once more; no declared trigger may have it.

Their occurrence is the id of that execution, or of the tick whose launch failed.
"""

CONTINUATION = "continuation"
"""Trigger name of the ticks that go on with an execution that has waited; no declared trigger may have it.

Their occurrence is the id of the wait and the number of the request.
"""

AGAIN = frozenset({REPAIR, CONTINUATION})
"""Triggers whose ticks ask for an invocation of before; nothing follows these ticks, and nothing else expects them."""

SHARD, MERGE = "shard", "merge"
"""Trigger names of the ticks that carry a batch on: its shards, and their merge; no declared trigger may have them.

Their occurrence begins with the id of the batch. Their inputs name the job that is to run, and the tags of its run.
"""

CARRY_ON = AGAIN | {SHARD, MERGE}
"""Trigger names of the ticks that carry on the work of another tick, and so make nothing due that comes after a task."""


Lane = Literal["run", "burst"]
"""Whether a tick gets a run of its own or shares one with others."""


class Tick(OfTask):
    """One due instant or event of one trigger.

    `begins_at` is when it is to begin, which jitter and spread move behind `due_at`. `waits_for` is the id of the tick that it is
    queued behind. Without a `run_id` it waits for a run.
    """

    seq: int
    id: str
    trigger: str
    trigger_revision: str | None = None
    origin: Origin
    occurrence: str
    due_at: Microseconds
    logical_at: Microseconds
    begins_at: Microseconds
    actor: str
    inputs: dict[str, JsonValue]
    lane: Lane = "run"
    priority: int = 0
    spec_hash: str | None = None
    waits_for: str | None = None
    claimed_at: Microseconds
    run_id: str | None
    verdict: Verdict | None
    reason: str | None
    execution_id: str | None
    decided_at: Microseconds | None


@dataclass(frozen=True)
class NewTick:
    """A due instant on its way into the ledger; with a verdict if it is not to run."""

    task: TaskKey
    trigger: str
    revision: str
    due_at: Microseconds
    logical_at: Microseconds
    begins_at: Microseconds
    lane: Lane
    priority: int
    spec_hash: str | None
    inputs: Mapping[str, JsonValue]
    verdict: Verdict | None = None
    reason: str | None = None
    waits_for: str | None = None
    id: str = field(default_factory=new_id)


class DueTick(NamedTuple):
    """What the books need to know of a tick, and no more: they read very many."""

    seq: int
    due_at: Microseconds
    workspace: str
    application: str
    task: str
    trigger: str
    origin: str
    begins_at: Microseconds
    claimed_at: Microseconds
    waits_for: str | None
    verdict: str | None
