"""What one execution is given, put together; and what it leaves for the next."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from pydantic import JsonValue

from agent_pipelines.context.prompts import Prompts, PromptVersion
from agent_pipelines.context.sessions import Sessions
from agent_pipelines.context.state import TaskState
from agent_pipelines.context.templates import MAX_OUTPUT, TEMPLATE_NAMES, check_template, render, render_value
from agent_pipelines.context.window import Parts, fit
from agent_pipelines.core.clock import Microseconds, isoformat
from agent_pipelines.core.errors import DefinitionError, ErrorClass, ExecutionFailed, Stage
from agent_pipelines.core.invocation import Invocation, Message
from agent_pipelines.core.task import TaskSpec, canonical_json
from agent_pipelines.core.trigger import At, Cron, Interval, Trigger, trigger_name

_TIMES = frozenset({"logical_time", "due_at"})


@dataclass(frozen=True)
class Composed:
    """An invocation with all that the agent is given, and what was left out to keep it within its window."""

    invocation: Invocation
    trimmed: tuple[str, ...] = ()


class Composer:
    """Puts prompt, conversation and state together. `compose` and `remember` take part in the caller's transaction."""

    def __init__(self, prompts: Prompts, sessions: Sessions, state: TaskState) -> None:
        self._prompts = prompts
        self._sessions = sessions
        self._state = state

    def compose(
        self,
        connection: sa.Connection,
        invocation: Invocation,
        spec: TaskSpec,
        *,
        agent: str,
        keeps_sessions: bool,
        execution_id: str,
        upstream: Mapping[str, JsonValue],
    ) -> Composed:
        """Fill in what the agent is given.

        An agent that keeps its own sessions gets only what is new, once it has told its name of the session; any other gets
        the history again. An invocation that names a prompt version keeps it. A task without a prompt has no conversation.
        Raises ExecutionFailed (context, compose) if the prompt cannot be rendered or is too long.
        """
        remembered = self._state.read(connection, invocation.task_key, spec.remember)
        filled: dict[str, object] = {
            "state": {name: remembered.get(name) for name in spec.remember},
            "upstream": dict(upstream),
            "output_schema": spec.output.schema_,
            "parameters": spec.parameters,
        }
        if spec.prompt is None:
            return Composed(invocation.model_copy(update=filled))
        version = self._version(connection, invocation, spec, spec.prompt)
        session = self._sessions.open(connection, spec.session, invocation.task_key, agent, execution_id)
        filled |= {
            "parameters": version.parameters,
            "prompt_version": version.version,
            "session_id": session.id,
            "remote_session_id": session.remote_id if keeps_sessions else None,
        }
        composed = invocation.model_copy(update=filled)
        # A fresh one has its only turn when its execution has ended.
        if session.mode == "fresh" or composed.remote_session_id is not None:
            return self._fit(composed, spec, version)
        limit = spec.window.max_tokens
        history = self._sessions.history(connection, session.id, limit=limit, characters=4 * limit)
        turns = self._sessions.count(connection, session.id)
        return self._fit(composed, spec, version, history, unread_turns=turns - len(history) // 2)

    def version(self, connection: sa.Connection, invocation: Invocation, spec: TaskSpec) -> PromptVersion | None:
        """The prompt version that an invocation gets, None for a task without a prompt."""
        return None if spec.prompt is None else self._version(connection, invocation, spec, spec.prompt)

    def pinned(self, connection: sa.Connection, invocation: Invocation, spec: TaskSpec) -> PromptVersion | None:
        """The prompt version that an invocation names, None if its task had no prompt."""
        return None if invocation.prompt_version is None else self._version(connection, invocation, spec, "")

    def compose_item(self, invocation: Invocation, spec: TaskSpec, version: PromptVersion | None) -> Composed:
        """Fill in what the agent is given for one item of a batch, which has no conversation; asks no database.

        `version` is the one that the whole batch has, and `invocation` names it. Raises ExecutionFailed, as `compose`.
        """
        return Composed(invocation) if version is None else self._fit(invocation, spec, version)

    def _version(self, connection: sa.Connection, invocation: Invocation, spec: TaskSpec, prompt: str) -> PromptVersion:
        if invocation.prompt_version is not None:
            return self._prompts.get(connection, invocation.task_key, invocation.prompt_version)
        return self._prompts.ensure(
            connection, invocation.task_key, system=spec.system, prompt=prompt, parameters=spec.parameters
        )

    def _fit(
        self,
        invocation: Invocation,
        spec: TaskSpec,
        version: PromptVersion,
        history: Sequence[Message] = (),
        unread_turns: int = 0,
    ) -> Composed:
        parts: Parts = {
            "variables": {**spec.variables, **invocation.variables},
            "event": invocation.event,
            "state": invocation.state,
            "upstream": invocation.upstream,
        }
        longest = max(MAX_OUTPUT, 4 * spec.window.max_tokens)

        def render_parts(parts: Parts) -> tuple[str | None, str]:
            values = _values(invocation, parts)
            system = None
            if version.system is not None:
                system = render(version.system, values, name=f"system of {spec.path}", limit=longest)
            return system, render(version.prompt, values, name=f"prompt of {spec.path}", limit=longest)

        fitted = fit(spec.window, parts, history, render_parts, unread_turns=unread_turns)
        return Composed(invocation.model_copy(update={"messages": fitted.messages}), fitted.trimmed)

    def remember(
        self,
        connection: sa.Connection,
        invocation: Invocation,
        spec: TaskSpec,
        *,
        execution_id: str,
        text: str,
        output: JsonValue,
        remote_session_id: str | None,
        by_fallback: bool = False,
    ) -> None:
        """Keep what a success leaves: the turn of the conversation and the declared fields of the output.

        `invocation` is the composed one. What a fallback has answered the agent of the task does not know in its own session, so
        that it is given up and the history is sent the next time. A second time for the same execution changes nothing.
        Raises ExecutionFailed (output, settle) if the output lacks a declared field.
        """
        values = {name: _field(output, name) for name in spec.remember}
        if invocation.session_id is not None:
            asked = "\n".join(message.content for message in invocation.messages[-1:] if message.role == "user")
            self._sessions.append(
                connection,
                invocation.session_id,
                execution_id,
                user=asked,
                assistant=text,
                remote_id=None if by_fallback else remote_session_id,
            )
            if by_fallback:
                self._sessions.forget_remote(connection, invocation.session_id)
        self._state.commit(connection, invocation.task_key, execution_id, values)

    @classmethod
    def check(cls, spec: TaskSpec, *, file: Path | str | None = None) -> None:
        """Check all templates of a task when it is loaded. Raises DefinitionError for the first that cannot work."""
        for problem in cls.problems(spec, file=file):
            raise problem

    @staticmethod
    def problems(spec: TaskSpec, *, file: Path | str | None = None) -> Iterator[DefinitionError]:
        """What is wrong with the templates of a task, the first problem of each."""
        variables = set(spec.variables).union(*(trigger.variables for trigger in spec.triggers))
        checks: list[Callable[[], None]] = [partial(_check_names, spec.variables, "variables", file)]
        checks += [
            partial(
                check_template,
                text,
                names=TEMPLATE_NAMES | variables,
                state_names=spec.remember,
                upstream_paths=spec.dependency_paths,
                field=field,
                file=file,
            )
            for field, text in (("prompt", spec.prompt), ("system", spec.system))
            if text is not None
        ]
        for trigger in spec.triggers:
            field = f"triggers.{trigger_name(trigger)}.variables"
            names = _TIMES if isinstance(trigger, Cron | Interval | At) else _TIMES | {"event"}
            checks.append(partial(_check_names, trigger.variables, field, file))
            checks.append(partial(_check_texts, trigger.variables, names, field, file))
        if spec.deduplicate_by is not None:
            names = TEMPLATE_NAMES - {"state", "upstream"} | variables
            checks.append(partial(check_template, spec.deduplicate_by, names=names, field="deduplicate_by", file=file))
        if spec.cache is not None and spec.cache.key is not None:
            names = TEMPLATE_NAMES | variables
            checks.append(
                partial(
                    check_template,
                    spec.cache.key,
                    names=names,
                    state_names=spec.remember,
                    upstream_paths=spec.dependency_paths,
                    field="cache.key",
                    file=file,
                )
            )
        for check in checks:
            try:
                check()
            except DefinitionError as problem:
                yield problem


def trigger_variables(
    trigger: Trigger, *, event: Mapping[str, JsonValue] | None, due_at: Microseconds, logical_at: Microseconds
) -> dict[str, JsonValue]:
    """The variables that a tick of a trigger brings, rendered; they go into `Invocation.variables`, over those of the task.

    Raises ExecutionFailed (context, compose) if the event lacks what they name.
    """
    values = {"event": event, "logical_time": isoformat(logical_at), "due_at": isoformat(due_at)}
    name = f"triggers.{trigger_name(trigger)}.variables"
    return {key: render_value(value, values, name=f"{name}.{key}") for key, value in trigger.variables.items()}


def deduplication_key(spec: TaskSpec, invocation: Invocation) -> str | None:
    """The key that `deduplicate_by` gives an invocation; None if it declares none, or if the key is empty or null.

    Raises ExecutionFailed (context, compose) if it cannot be rendered.
    """
    if spec.deduplicate_by is None:
        return None
    parts: Parts = {"variables": {**spec.variables, **invocation.variables}, "event": invocation.event}
    key = render_value(spec.deduplicate_by, _values(invocation, parts), name=f"deduplicate_by of {spec.path}")
    if key is None or isinstance(key, str):
        return key or None
    return canonical_json(key)


def rendered_cache_key(template: str, invocation: Invocation, spec: TaskSpec) -> JsonValue:
    """What `cache.key` gives for a composed invocation. Raises ExecutionFailed (context, compose) if it cannot be rendered."""
    parts: Parts = {
        "variables": {**spec.variables, **invocation.variables},
        "event": invocation.event,
        "state": invocation.state,
        "upstream": invocation.upstream,
    }
    return render_value(template, _values(invocation, parts), name=f"cache.key of {spec.path}")


def _values(invocation: Invocation, parts: Parts) -> dict[str, JsonValue]:
    variables = parts["variables"]
    return {
        **(variables if isinstance(variables, dict) else {}),
        "logical_time": isoformat(invocation.logical_at),
        "due_at": isoformat(invocation.due_at),
        "task": invocation.task,
        "application": invocation.application,
        "item": invocation.item if invocation.item_value is None else invocation.item_value,
        "event": parts["event"],
        "state": parts.get("state"),
        "upstream": parts.get("upstream"),
    }


def _field(output: JsonValue, name: str) -> JsonValue:
    problem = None
    if not isinstance(output, dict):
        problem = "the output is not an object"
    elif name not in output:
        problem = f"the output has no field `{name}`"
    else:
        try:
            json.dumps(output[name], allow_nan=False)
            return output[name]
        except ValueError:
            problem = f"the field `{name}` of the output holds a number that is none"
    raise ExecutionFailed(ErrorClass.OUTPUT, Stage.SETTLE, f"remember: {problem}; `{name}` is declared as the task's state")


def _check_names(variables: Mapping[str, JsonValue], field: str, file: Path | str | None) -> None:
    for name in variables:
        if name in TEMPLATE_NAMES:
            raise DefinitionError(f"`{name}` is a name that every prompt has", field=field, file=file, fix="Choose another")
        if not name.isidentifier():
            fix = "Write letters, digits and underscores"
            raise DefinitionError(f"{name!r} is not a name that a template can use", field=field, file=file, fix=fix)


def _check_texts(value: JsonValue, names: frozenset[str], field: str, file: Path | str | None) -> None:
    if isinstance(value, str):
        check_template(value, names=names, field=field, file=file)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_texts(item, names, f"{field}.{key}", file)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_texts(item, names, f"{field}[{index}]", file)
