"""Holding the triggers of declared tasks, without a change of the project."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from agent_pipelines.core.task import TaskSpec
from agent_pipelines.core.trigger import Trigger, trigger_name
from agent_pipelines.engine.triggers import Triggers, Wanted
from agent_pipelines.governance.audit import Audit
from agent_pipelines.registry.registry import NotInState
from agent_pipelines.store.database import Connection, Database


class Pauses:
    """Pauses and resumes the triggers of a declared task. The daemon keeps a pause until it is ended here."""

    def __init__(self, database: Database, triggers: Triggers, audit: Audit) -> None:
        self._database = database
        self._triggers = triggers
        self._audit = audit

    def pause(self, spec: TaskSpec, reason: str, *, switched_on: Mapping[str, bool], actor: str) -> Sequence[str]:
        """Hold the triggers of a task that are on, and return their names.

        `switched_on` says of each by its name whether Dagster has it switched on. Raises NotInState if none is on.
        """
        held = [trigger for trigger in spec.triggers if switched_on.get(trigger_name(trigger), trigger.enabled)]
        if not held:
            raise NotInState(f"task {spec.path} has no trigger that is on")
        wanted = [
            Wanted(spec.key, trigger, "declared", "paused", spec.lane, spec.precedence, spec.spec_hash, reason)
            for trigger in held
        ]
        with self._database.transaction() as connection:
            self._triggers.put_many(connection, wanted, actor=actor)
            return self._note(connection, spec, "task.pause", [each.trigger for each in wanted], actor, reason)

    def resume(self, spec: TaskSpec, *, switched_on: Mapping[str, bool], actor: str) -> Sequence[str]:
        """End the pause of a task's triggers, and return their names; those that are switched off in Dagster are off then.

        What was due meanwhile is not caught up. Raises NotInState if none is paused.
        """
        with self._database.transaction() as connection:
            paused = {each.trigger for each in self._triggers.list(connection, task=spec.key) if each.state == "paused"}
            wanted = [
                Wanted(
                    spec.key,
                    trigger,
                    "declared",
                    "on" if switched_on.get(trigger_name(trigger), trigger.enabled) else "off",
                    spec.lane,
                    spec.precedence,
                    spec.spec_hash,
                )
                for trigger in spec.triggers
                if trigger_name(trigger) in paused
            ]
            if not wanted:
                raise NotInState(f"task {spec.path} is not paused")
            self._triggers.put_many(connection, wanted, actor=actor)
            return self._note(connection, spec, "task.resume", [each.trigger for each in wanted], actor, None)

    def _note(
        self, connection: Connection, spec: TaskSpec, action: str, triggers: Sequence[Trigger], actor: str, reason: str | None
    ) -> Sequence[str]:
        names = [trigger_name(trigger) for trigger in triggers]
        details: dict[str, JsonValue] = {"triggers": [*names], **({} if reason is None else {"reason": reason})}
        self._audit.record(connection, actor=actor, action=action, object=spec.path, details=details, workspace=spec.workspace)
        return names
