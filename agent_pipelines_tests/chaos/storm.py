"""A storm: processes that carry executions are killed with -9 at random, while the network loses and delays what they say.

Nothing is mocked: the processes, the database and the world outside are real. What has happened is read from the world's own
record and from the ledger, and from nothing else.
"""

import asyncio
import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from agent_pipelines.core.effect import EffectStatus
from agent_pipelines.core.execution import Status
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.hub import Hub
from agent_pipelines.ledger.effects import Effect
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines_tests.chaos.worker import KINDS, SPEC
from agent_pipelines_tests.chaos.world import Record, calm, record_of


@dataclass
class Outcome:
    """What a storm came to; all counts but the first four should be 0."""

    executions: int = 0
    kills: int = 0
    asked_people: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    lost: int = 0
    doubled: int = 0
    without_verdict: int = 0
    repeated: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, repeated, or left without a verdict."""
        return (self.lost, self.doubled, self.without_verdict, self.repeated) == (0, 0, 0, 0)


class Storm:
    """Executions of one task that are carried to their end, however often their processes die."""

    def __init__(self, hub: Hub, world: str, *, seed: int, executions: int, workers: int, life: tuple[float, float]) -> None:
        self._hub = hub
        self._world = world
        self._random = random.Random(seed)
        self._workers = workers
        self._life = life
        self._requests = {request.occurrence: request for request in (self._request(n) for n in range(executions))}
        self._outcome = Outcome(executions=executions)

    def run(self, rounds: int) -> Outcome:
        """Let it rage for some rounds; then the world is calm, people answer, and everything comes to its end."""
        for _ in range(rounds):
            self._round(killing=True)
        calm(self._world)
        while self._left():
            self._answer()
            self._round(killing=False)
        return self._judge()

    def _request(self, number: int) -> Invocation:
        now = self._hub.clock.now()
        return Invocation(
            application="chaos",
            task="errand",
            spec_hash=SPEC.spec_hash,
            trigger="storm",
            origin=Origin.EVENT,
            occurrence=f"errand-{number}",
            due_at=now,
            logical_at=now,
            variables={"world": self._world},
        )

    def _round(self, *, killing: bool) -> None:
        """Give what is left to some processes; when they have ended, take back what they had not ended."""
        left = self._left()
        self._random.shuffle(left)
        processes = [self._start(left[number :: self._workers]) for number in range(min(self._workers, len(left)))]
        for process, _ in processes:
            if killing:
                try:
                    process.wait(self._random.uniform(*self._life))
                except subprocess.TimeoutExpired:
                    process.kill()
                    self._outcome.kills += 1
            assert process.wait() in (0, -9), "a worker failed by itself"
        for _, run_id in processes:
            self._take_back(run_id)

    def _start(self, requests: list[Invocation]) -> tuple[subprocess.Popen[str], str]:
        run_id = new_id()
        standing = self._standing()
        given: dict[str, Any] = {
            "url": self._hub.database.url.render_as_string(hide_password=False),
            "world": self._world,
            "run_id": run_id,
            "requests": [request.model_dump(mode="json") for request in requests],
            "resumes": [request.occurrence for request in requests if request.occurrence in standing],
        }
        command = [sys.executable, "-m", "agent_pipelines_tests.chaos.worker"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        return process, run_id

    def _take_back(self, run_id: str) -> None:
        """What the reconciler does about the executions of a run that is over, and the daemon about their continuations."""
        with self._hub.database.transaction() as connection:
            for execution in self._hub.executions.list(connection, application="chaos", run_id=run_id, limit=100_000):
                if execution.status is Status.RUNNING:
                    self._hub.executions.close_lost(connection, execution.id, "its process was lost")

    def _answer(self) -> None:
        """People look into the world, and say what they have found."""
        record = record_of(self._world)
        with self._hub.database.transaction() as connection:
            asked = self._hub.human_tasks.list(connection, application="chaos", is_open=True, limit=100_000)
            for task in asked:
                effect = self._hub.ledger.effects.get(connection, task.subject_id)
                assert effect is not None
                has_happened = record.performed[key_of(effect)] > 0
                answer = "done" if has_happened else "not_done"
                self._hub.answers.answer(connection, task.id, answer, actor="storm", data={"ticket": key_of(effect)})
                self._outcome.asked_people += 1
        asyncio.run(self._hub.poller({}).look())

    def _standing(self) -> dict[str, StoredExecution]:
        with self._hub.database.reading() as connection:
            found = self._hub.executions.list(connection, application="chaos", limit=100_000)
        return {each.occurrence: each for each in found}

    def _left(self) -> list[Invocation]:
        """What has not ended, and waits for nobody's answer."""
        standing = self._standing()
        with self._hub.database.reading() as connection:
            asked = {
                task.execution_id
                for task in self._hub.human_tasks.list(connection, application="chaos", is_open=True, limit=100_000)
            }
        left = [
            request
            for occurrence, request in self._requests.items()
            if occurrence not in standing or standing[occurrence].finished_at is None
        ]
        free = [each for each in left if each.occurrence not in standing or standing[each.occurrence].id not in asked]
        return free or left

    def _judge(self) -> Outcome:
        record, outcome, standing = record_of(self._world), self._outcome, self._standing()
        outcome.faults = record.faults
        with self._hub.database.reading() as connection:
            effects = list(self._hub.ledger.effects.list(connection, limit=1_000_000))
        by_execution: dict[str | None, dict[str, Effect]] = {}
        for effect in effects:
            by_execution.setdefault(effect.execution_id, {})[effect.name] = effect
        for occurrence in self._requests:
            execution = standing.get(occurrence)
            if execution is None or execution.status is not Status.SUCCEEDED:
                outcome.without_verdict += execution is None or execution.finished_at is None
                outcome.lost += 1
                continue
            own = by_execution.get(execution.id, {})
            for kind in KINDS:
                count = record.performed[key_of(own[kind])] if kind in own else 0
                outcome.lost += count == 0
                outcome.doubled += max(0, count - 1)
            outcome.repeated += _repeated(record, own.get("plan"), occurrence)
        return outcome


def key_of(effect: Effect) -> str:
    """The key that the receiver of an effect was told."""
    return hashlib.sha256(f"{effect.workspace}\0{effect.key}".encode()).hexdigest()


def _repeated(record: Record, step: Effect | None, name: str) -> int:
    """How often a step was asked for after its result was recorded."""
    if step is None or step.status is not EffectStatus.DONE or step.ended_at is None:
        return 0
    return sum(called > step.ended_at for called in record.calls.get(name, ()))
