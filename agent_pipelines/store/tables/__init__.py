"""The tables, one file for each noun that owns some. Instants are UTC microseconds."""

from agent_pipelines.store.tables.audit import audit
from agent_pipelines.store.tables.base import metadata
from agent_pipelines.store.tables.batches import batch_shards, batches, item_versions
from agent_pipelines.store.tables.bursts import bursts, daemons
from agent_pipelines.store.tables.executions import attempts, events, execution_texts, executions, outbox, spans, task_specs
from agent_pipelines.store.tables.prompts import prompt_moves, prompt_versions
from agent_pipelines.store.tables.registered import registered_task_versions, registered_tasks
from agent_pipelines.store.tables.run_claims import run_claims, workers
from agent_pipelines.store.tables.sessions import session_turns, sessions, task_state
from agent_pipelines.store.tables.ticks import inbox, ticks
from agent_pipelines.store.tables.triggers import trigger_history, triggers

__all__ = [
    "attempts",
    "audit",
    "batch_shards",
    "batches",
    "bursts",
    "daemons",
    "events",
    "execution_texts",
    "executions",
    "inbox",
    "item_versions",
    "metadata",
    "outbox",
    "prompt_moves",
    "prompt_versions",
    "registered_task_versions",
    "registered_tasks",
    "run_claims",
    "session_turns",
    "sessions",
    "spans",
    "task_specs",
    "task_state",
    "ticks",
    "trigger_history",
    "triggers",
    "workers",
]
