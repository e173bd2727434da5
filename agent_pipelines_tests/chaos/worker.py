"""A process that carries executions, until it is killed: python -m agent_pipelines_tests.chaos.worker

Reads {"url", "world", "run_id", "requests": [...], "resumes": [...]} on standard input. Each agent makes a plan, a step without
an effect, and then has three effects at receivers of the world: one that acts once on a repeated key, one that can be asked
whether it has acted, and one that is neither.
"""

import asyncio
import json
import sys
from typing import Any

import aiohttp

from agent_pipelines import effects
from agent_pipelines.core.execution import RunRef
from agent_pipelines.core.invocation import Invocation
from agent_pipelines.core.task import TaskSpec
from agent_pipelines.hub import Hub, open_hub
from agent_pipelines.runtimes.fleet import Agent, Node
from agent_pipelines.runtimes.python import PythonRuntime

PATIENCE = aiohttp.ClientTimeout(total=1.0)
AT_ONCE = 8
KINDS = ("keyed", "probed", "blind")

SPEC = TaskSpec.model_validate(
    {
        "name": "errand",
        "application": "chaos",
        "intent": "Run an errand",
        "agent": "errand",
        "retry": {"max_attempts": 8, "delay": 0.05, "factor": 1.5, "resumes": 1_000},
    }
)


async def errand(request: Invocation) -> str:
    """Plan, then act three times."""
    world = str(request.variables["world"])
    async with aiohttp.ClientSession(timeout=PATIENCE) as session:

        async def ask(method: str, path: str) -> Any:
            async with session.request(method, f"{world}{path}") as answer:
                answer.raise_for_status()
                return await answer.json()

        async def plan() -> Any:
            return await ask("POST", f"/steps/{request.occurrence}")

        await effects.step("plan", plan)
        for kind in KINDS:

            async def act(key: str, kind: str = kind) -> Any:
                return await ask("POST", f"/effects/{kind}/{key}")

            async def probe(key: str) -> Any:
                return await ask("GET", f"/effects/probed/{key}")

            await effects.once(kind, act, idempotent=kind == "keyed", probe=probe if kind == "probed" else None)
    return "done"


async def work(hub: Hub, requests: list[Invocation], run_id: str, resumes: set[str]) -> None:
    agent = Agent("errand", [Node("main", PythonRuntime.of(errand))])
    places = asyncio.Semaphore(AT_ONCE)

    async def carry(request: Invocation) -> None:
        async with places:
            run = RunRef(run_id=run_id, resumes=request.occurrence in resumes)
            await hub.runner.run(request, SPEC, agent, run=run)

    await asyncio.gather(*map(carry, requests))


def main() -> None:
    given = json.load(sys.stdin)
    hub = open_hub(given["url"])
    requests = [Invocation.model_validate(each) for each in given["requests"]]
    asyncio.run(work(hub, requests, given["run_id"], set(given["resumes"])))


if __name__ == "__main__":
    main()
