"""What an answer to a human task changes besides the task itself."""

from dataclasses import dataclass

from pydantic import JsonValue

from agent_pipelines.core.effect import EffectStatus
from agent_pipelines.execution.effects import SUBJECT
from agent_pipelines.governance.human_tasks import HumanTask, HumanTasks
from agent_pipelines.ledger.effects import Effects
from agent_pipelines.store.database import Connection


@dataclass(frozen=True)
class Answers:
    """Takes the answers of people: what they have found out about an effect settles it in the same transaction."""

    human_tasks: HumanTasks
    effects: Effects

    def answer(
        self,
        connection: Connection,
        id: str,
        answer: str,
        *,
        actor: str,
        data: JsonValue = None,
        comment: str | None = None,
    ) -> HumanTask:
        """Give the answer to a human task. The data of an effect that is done is its receipt. Raises as `HumanTasks.answer`."""
        task = self.human_tasks.answer(connection, id, answer, actor=actor, data=data, comment=comment)
        if task.subject == SUBJECT:
            self._settle(connection, task)
        return task

    def _settle(self, connection: Connection, task: HumanTask) -> None:
        effect = self.effects.get(connection, task.subject_id, lock=True)
        if effect is None or effect.status is not EffectStatus.UNKNOWN or task.answered_by is None:
            return  # its receipt has come after all
        match task.answer:
            case "done":
                self.effects.done(connection, effect, task.answer_data, by=task.answered_by)
            case "abandon":
                self.effects.abandoned(connection, effect, by=task.answered_by)
            case _:
                self.effects.failed(connection, effect, f"{task.answered_by} says that it has not happened")
