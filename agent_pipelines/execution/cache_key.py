"""What makes two calls identical."""

import hashlib

from pydantic import JsonValue

from agent_pipelines.context.composer import rendered_cache_key
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import CacheSpec, TaskSpec, canonical_json
from agent_pipelines.runtimes.fleet import Agent


def cache_key(invocation: Invocation, spec: TaskSpec, cache: CacheSpec, agent: Agent) -> str:
    """The key of a composed call: SHA-256, in hexadecimal, over all that its result depends on.

    That is the task with its checks, the prompt version, the agent with the settings of its nodes, parameters and schema, and the
    input: what `cache.key` says, else messages, variables, event, item and upstream results. A task without a prompt sees the
    time and the state besides. Raises ExecutionFailed (context) if the declared key cannot be rendered.
    """
    given: JsonValue
    if cache.key is not None:
        given = rendered_cache_key(cache.key, invocation, spec)
    else:
        seen = {"messages", "variables", "event", "item", "upstream"}
        if spec.prompt is None:
            seen |= {"state", "logical_at", "due_at"}
        given = invocation.model_dump(mode="json", include=seen)
    nodes = sorted(
        canonical_json([node.runtime.kind, node.name, node.runtime.config.model_dump(mode="json")]) for node in agent.nodes
    )
    parts = {
        "task": list(spec.key),
        "checks": [check.model_dump(mode="json") for check in spec.checks],
        "version": cache.version,
        "prompt": invocation.prompt_version,
        "agent": [agent.name, nodes],
        "parameters": invocation.parameters,
        "output": spec.output.model_dump(mode="json", by_alias=True),
        "remember": list(spec.remember),
        "given": given,
    }
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()
