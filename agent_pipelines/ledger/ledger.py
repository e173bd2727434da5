"""The nouns of the record, together."""

from dataclasses import dataclass

from agent_pipelines.core.clock import Clock
from agent_pipelines.ledger.batch_results import BatchResults
from agent_pipelines.ledger.batches import Batches
from agent_pipelines.ledger.effects import Effects
from agent_pipelines.ledger.executions import Executions
from agent_pipelines.ledger.item_versions import ItemVersions
from agent_pipelines.ledger.journal import Journal
from agent_pipelines.ledger.outbox import Outbox
from agent_pipelines.ledger.result_cache import ResultCache
from agent_pipelines.ledger.spans import Spans
from agent_pipelines.ledger.specs import TaskSpecs


@dataclass(frozen=True)
class Ledger:
    """What happened, for those who need more than one noun of it. It has no methods: each noun has its own."""

    specs: TaskSpecs
    executions: Executions
    journal: Journal
    spans: Spans
    outbox: Outbox
    effects: Effects
    results: ResultCache
    batches: Batches
    batch_results: BatchResults
    item_versions: ItemVersions

    @classmethod
    def of(cls, clock: Clock) -> "Ledger":
        """The nouns over one clock."""
        return cls(
            TaskSpecs(clock),
            Executions(clock),
            Journal(),
            Spans(),
            Outbox(clock),
            Effects(clock),
            ResultCache(clock),
            Batches(clock),
            BatchResults(),
            ItemVersions(clock),
        )
