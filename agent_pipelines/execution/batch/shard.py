"""Working on a shard: many items at once on one event loop, written in groups."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.execution.checks import Check
from agent_pipelines.ledger.batches import Shard, Tally
from agent_pipelines.runtimes.fleet import Agent


@dataclass(frozen=True)
class ShardOutcome:
    """What a run did of a shard: the shard as it stands then, None if another run is at work or there is nothing to do."""

    shard: Shard | None


class ShardWorker:
    """Works on shards of one task in one Dagster run.

    `agent` is the task's; a broadcast looks up the others in `agents`. `tell` is called on the event loop with the tally of the
    shard after each group of writes; it must return at once.
    """

    def __init__(
        self,
        nouns: BatchNouns,
        run: RunRef,
        spec: TaskSpec,
        agent: Agent,
        *,
        agents: Mapping[str, Agent] | None = None,
        checks: Sequence[Check] = (),
        tell: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        self._nouns = nouns
        self._run = run
        self._spec = spec
        self._agent = agent
        self._agents = {agent.name: agent, **(agents or {})}
        self._checks = checks
        self._tell = tell

    async def work(self, batch_id: str, number: int) -> ShardOutcome:
        """Work on a shard until all its items are final.

        What an earlier run has finished is not done again; what it was doing when it died goes on as a further attempt.
        Cancelling it cancels what is in flight, records that, and gives the shard back. Raises StorageError if the database
        fails for a minute.
        """
        raise NotImplementedError
