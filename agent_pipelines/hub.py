"""Opens the database and hands out the nouns."""

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache

from agent_pipelines.context.composer import Composer
from agent_pipelines.context.prompts import Prompts
from agent_pipelines.context.sessions import Sessions
from agent_pipelines.context.state import TaskState
from agent_pipelines.core.acting import Acting
from agent_pipelines.core.clock import Clock, SystemClock
from agent_pipelines.engine.bursts import Bursts
from agent_pipelines.engine.celery.claims import RunClaims
from agent_pipelines.engine.celery.workers import Workers
from agent_pipelines.engine.daemons import Daemons
from agent_pipelines.engine.inbox import Inbox
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.execution.answers import Answers
from agent_pipelines.execution.batch.dispatch import Dispatcher
from agent_pipelines.execution.batch.nouns import BatchNouns
from agent_pipelines.execution.batch.verbs import BatchVerbs
from agent_pipelines.execution.burst import BurstNouns
from agent_pipelines.execution.continuations import Continuations
from agent_pipelines.execution.effects import Effects
from agent_pipelines.execution.fleet_watch import FleetAlerts, FleetWatch
from agent_pipelines.execution.flow import FlowControl
from agent_pipelines.execution.poller import Poller
from agent_pipelines.execution.runner import Runner
from agent_pipelines.fleet.nouns import Fleet
from agent_pipelines.flow.limits import Limits
from agent_pipelines.flow.permits import Permits
from agent_pipelines.governance.audit import Audit
from agent_pipelines.governance.human_tasks import HumanTasks
from agent_pipelines.insight.witness import Witness
from agent_pipelines.ledger.batch_results import BatchResults
from agent_pipelines.ledger.batches import Batches
from agent_pipelines.ledger.executions import Executions
from agent_pipelines.ledger.ledger import Ledger
from agent_pipelines.registry.limiting import Limiting
from agent_pipelines.registry.pauses import Pauses
from agent_pipelines.registry.registered import RegisteredTasks
from agent_pipelines.registry.registry import Registry
from agent_pipelines.runtimes.fleet import Agent
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import migrate


class Hub:
    """Every noun of one deployment, over one database."""

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self.database = database
        self.clock = clock or SystemClock()

    @cached_property
    def audit(self) -> Audit:
        return Audit(self.clock)

    @cached_property
    def human_tasks(self) -> HumanTasks:
        return HumanTasks(self.clock, self.audit)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger.of(self.clock)

    @cached_property
    def answers(self) -> Answers:
        return Answers(self.human_tasks, self.ledger.effects)

    def effects_of(self, whom: Acting, *, run_is_over: Callable[[str], bool] | None = None) -> Effects:
        """The effects of an execution or of a step."""
        return Effects(self.database, self.clock, self.ledger.effects, self.human_tasks, whom, run_is_over)

    @property
    def executions(self) -> Executions:
        return self.ledger.executions

    @cached_property
    def ticks(self) -> Ticks:
        return Ticks(self.clock)

    @cached_property
    def triggers(self) -> Triggers:
        return Triggers(self.clock, self.ticks)

    @cached_property
    def bursts(self) -> Bursts:
        return Bursts(self.clock)

    @cached_property
    def daemons(self) -> Daemons:
        return Daemons(self.clock)

    @cached_property
    def workers(self) -> Workers:
        return Workers(self.clock)

    @cached_property
    def run_claims(self) -> RunClaims:
        return RunClaims(self.clock)

    @cached_property
    def inbox(self) -> Inbox:
        return Inbox(self.clock)

    @cached_property
    def registered(self) -> RegisteredTasks:
        return RegisteredTasks(self.clock)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.database, self.ledger.specs, self.registered, self.triggers, self.ticks, self.audit, self.clock)

    @cached_property
    def pauses(self) -> Pauses:
        return Pauses(self.database, self.triggers, self.audit)

    @cached_property
    def witness(self) -> Witness:
        return Witness(self.database, self.triggers, self.ticks, self.inbox, self.executions, self.clock)

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(self.clock)

    @cached_property
    def sessions(self) -> Sessions:
        return Sessions(self.clock)

    @cached_property
    def state(self) -> TaskState:
        return TaskState(self.clock)

    @cached_property
    def composer(self) -> Composer:
        return Composer(self.prompts, self.sessions, self.state)

    @cached_property
    def fleet(self) -> Fleet:
        return Fleet.of(self.clock)

    @cached_property
    def fleet_watch(self) -> FleetWatch:
        return FleetWatch(self.database, self.clock, self.fleet, FleetAlerts(self.fleet, self.ledger.outbox))

    @cached_property
    def limits(self) -> Limits:
        return Limits(self.clock)

    @cached_property
    def permits(self) -> Permits:
        return Permits(self.clock, self.limits)

    @cached_property
    def flow(self) -> FlowControl:
        return FlowControl(self.database, self.clock, self.limits, self.permits)

    @cached_property
    def limiting(self) -> Limiting:
        return Limiting(self.database, self.limits, self.permits, self.audit, self.clock)

    @cached_property
    def runner(self) -> Runner:
        return Runner(
            self.database,
            self.clock,
            self.ledger,
            self.ticks,
            self.inbox,
            self.composer,
            self.effects_of,
            self.flow,
            self.fleet,
            self.human_tasks,
        )

    @cached_property
    def continuations(self) -> Continuations:
        return Continuations(self.clock, self.ledger, self.ticks, self.human_tasks)

    def poller(self, agents: Mapping[str, Callable[[], Agent]]) -> Poller:
        """Who looks after the executions that wait, for the agents that it can ask."""
        return Poller(self.database, self.clock, self.ledger, self.continuations, agents)

    @cached_property
    def batch_nouns(self) -> BatchNouns:
        return BatchNouns(
            self.database,
            self.clock,
            self.ledger,
            self.ticks,
            self.inbox,
            self.composer,
            self.runner.router,
            self.runner.attempting,
        )

    @property
    def batches(self) -> Batches:
        return self.ledger.batches

    @property
    def batch_results(self) -> BatchResults:
        return self.ledger.batch_results

    @cached_property
    def batch_dispatcher(self) -> Dispatcher:
        return Dispatcher(self.clock, self.ticks, self.ledger)

    @cached_property
    def batch_verbs(self) -> BatchVerbs:
        return BatchVerbs(self.database, self.ledger, self.batch_dispatcher, self.audit)

    @cached_property
    def burst_nouns(self) -> BurstNouns:
        return BurstNouns(self.database, self.clock, self.ledger, self.ticks, self.triggers, self.bursts, self.inbox, self.runner)


@lru_cache(maxsize=8)
def open_hub(url: str) -> Hub:
    """The hub of a database URL, made once a process; its tables are brought up to date on the way.

    Raises StorageError if the database cannot be used or is newer than this version.
    """
    database = Database(url)
    migrate(database)
    return Hub(database)
