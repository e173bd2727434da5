"""The tables, one file for each noun that owns some. Instants are UTC microseconds."""

from agent_pipelines.store.tables.audit import audit
from agent_pipelines.store.tables.base import metadata
from agent_pipelines.store.tables.batches import batch_shards, batches, item_versions
from agent_pipelines.store.tables.bursts import bursts, daemons
from agent_pipelines.store.tables.effects import effects
from agent_pipelines.store.tables.executions import attempts, events, execution_texts, executions, outbox, spans, task_specs
from agent_pipelines.store.tables.fleet import (
    agent_outages,
    node_breakers,
    node_loads,
    node_sessions,
    nodes,
    order_events,
    work_orders,
)
from agent_pipelines.store.tables.human_tasks import human_tasks
from agent_pipelines.store.tables.limits import flow_rates, flow_turn, limits, permit_demands, permit_holders, permits
from agent_pipelines.store.tables.prompts import prompt_moves, prompt_versions
from agent_pipelines.store.tables.registered import registered_task_versions, registered_tasks
from agent_pipelines.store.tables.result_cache import result_cache
from agent_pipelines.store.tables.run_claims import run_claims, workers
from agent_pipelines.store.tables.sessions import session_turns, sessions, task_state
from agent_pipelines.store.tables.ticks import inbox, ticks
from agent_pipelines.store.tables.triggers import trigger_history, triggers
from agent_pipelines.store.tables.waits import waits

__all__ = [
    "agent_outages",
    "attempts",
    "audit",
    "batch_shards",
    "batches",
    "bursts",
    "daemons",
    "effects",
    "events",
    "execution_texts",
    "executions",
    "flow_rates",
    "flow_turn",
    "human_tasks",
    "inbox",
    "item_versions",
    "limits",
    "metadata",
    "node_breakers",
    "node_loads",
    "node_sessions",
    "nodes",
    "order_events",
    "outbox",
    "permit_demands",
    "permit_holders",
    "permits",
    "prompt_moves",
    "prompt_versions",
    "registered_task_versions",
    "registered_tasks",
    "result_cache",
    "run_claims",
    "session_turns",
    "sessions",
    "spans",
    "task_specs",
    "task_state",
    "ticks",
    "trigger_history",
    "triggers",
    "waits",
    "work_orders",
    "workers",
]
