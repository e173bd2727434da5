"""What the parts of a batch need of a deployment."""

from dataclasses import dataclass
from pathlib import Path

from agent_pipelines.context.composer import Composer
from agent_pipelines.core.clock import Clock
from agent_pipelines.engine.inbox import Inbox
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.execution.attempt import Attempting
from agent_pipelines.execution.route import Router
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.store.database import Database


@dataclass(frozen=True)
class BatchNouns:
    """What splitting, working and merging have in common; `directory` is the one that file names are relative to."""

    database: Database
    clock: Clock
    ledger: Ledger
    ticks: Ticks
    inbox: Inbox
    composer: Composer
    router: Router
    attempting: Attempting
    directory: Path = Path()
