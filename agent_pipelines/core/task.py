"""What shall be done, declared."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator
from referencing.jsonschema import EMPTY_REGISTRY

from agent_pipelines.core.batch import BatchSpec
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import ErrorClass
from agent_pipelines.core.limit import PriorityClass
from agent_pipelines.core.trigger import NAME_PATTERN, After, AssetUpdate, Trigger, trigger_name

_PRECEDENCE: dict[PriorityClass, int] = {"interactive": 1_000, "normal": 0, "batch": -1_000}

INTERACTIVE = 900
"""Precedence from which on a task is interactive, whatever its priority."""

TaskKey = tuple[str, str, str]
"""Workspace, application and name: what identifies a task everywhere."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SessionSpec(_Part):
    """Which conversation the executions of a task belong to.

    `fresh`: each execution its own; `task`: one for all executions of the task; `named`: one shared by name.
    """

    mode: Literal["named", "task", "fresh"] = Field(default="fresh", description="`named`, `task` or `fresh`.")
    name: str | None = Field(default=None, description="Name of the session, with mode `named` only.", examples=["support-desk"])

    @model_validator(mode="after")
    def _name_with_named(self) -> "SessionSpec":
        if (self.mode == "named") != (self.name is not None):
            raise ValueError("`name` goes with mode `named`, and mode `named` needs it")
        return self


class WindowSpec(_Part):
    """How much an agent is given to read, and what is left out first when it is too much."""

    max_tokens: int = Field(default=16_000, ge=64, description="Upper bound of the composed prompt, in estimated tokens.")
    keep: tuple[Literal["variables", "event", "state", "upstream", "history"], ...] = Field(
        default=("variables", "event", "state", "upstream", "history"),
        description="What fills the prompt, by priority: the last are cut first, history from its oldest turn. "
        "`system` and the text of the prompt itself are never cut.",
    )


class ClassRetrySpec(_Part):
    """What is different for one error class; what is left out is as the policy of the task says."""

    max_attempts: int | None = Field(default=None, ge=1, description="Attempts in all that may end with this class.")
    delay: Duration | None = Field(default=None, description="Wait before the second attempt.", examples=["5s"])
    factor: float | None = Field(default=None, ge=1, description="Growth of the wait from one attempt to the next.")
    max_delay: Duration | None = Field(default=None, description="Longest wait, unless the runtime asks for more.")
    jitter: float | None = Field(default=None, ge=0, le=1, description="Share of the wait that is drawn at random, up and down.")


class RetrySpec(_Part):
    """When a failed attempt is followed by another."""

    max_attempts: int = Field(default=3, ge=1, description="Attempts in all, the first included.")
    delay: Duration = Field(default=Duration(1), description="Wait before the second attempt.", examples=["2s"])
    factor: float = Field(default=2.0, ge=1, description="Growth of the wait from one attempt to the next.")
    max_delay: Duration = Field(
        default=Duration(60), description="Longest wait, unless the runtime asks for more.", examples=["5m"]
    )
    jitter: float = Field(default=0.1, ge=0, le=1, description="Share of the wait that is drawn at random, up and down.")
    # Not `on`: YAML 1.1 reads that key as true.
    errors: tuple[ErrorClass, ...] = Field(
        default=(
            ErrorClass.RATE_LIMIT,
            ErrorClass.OVERLOADED,
            ErrorClass.SERVER,
            ErrorClass.CONNECTION,
            ErrorClass.TIMEOUT,
            ErrorClass.PROTOCOL,
            ErrorClass.AGENT,
            ErrorClass.OUTPUT,
        ),
        description="Error classes that are tried again.",
    )
    idempotent: bool = Field(
        default=False,
        description="Whether repeating a request whose outcome is unknown does no harm (`unknown_outcome`, `timeout`).",
    )
    resumes: int | None = Field(
        default=None,
        ge=0,
        description="How often an execution whose process was lost goes on by itself, from its last boundary: what has a receipt "
        "is not repeated, all else may be. By default 3 times if its agent had not been asked, otherwise only if it is "
        "`idempotent`, as often as `max_attempts`.",
    )
    classes: dict[ErrorClass, ClassRetrySpec] = Field(
        default_factory=dict,
        description="Policies of single error classes, over this one; a class that is named here is tried again.",
        examples=[{"rate_limit": {"max_attempts": 6, "delay": "5s"}}],
    )

    def resumptions(self, *, at_work: bool) -> int:
        """How often an execution goes on by itself that was lost, while its agent was at work or before."""
        if self.resumes is not None:
            return self.resumes
        return (self.max_attempts if self.idempotent else 0) if at_work else 3

    def of(self, error_class: ErrorClass) -> "RetrySpec":
        """The policy for an error class; it never says that a request is idempotent which the task does not call so."""
        own = self.classes.get(error_class)
        if own is None:
            return self
        return self.model_copy(update={**own.model_dump(exclude_none=True), "errors": (*self.errors, error_class)})


class FallbackSpec(_Part):
    """Who is asked instead when an agent cannot help: another agent, the same with other parameters, or both."""

    agent: str | None = Field(
        default=None, pattern=NAME_PATTERN, description="Name of a declared agent; without it the one before.", examples=["spare"]
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="Settings passed to the model, over those of the task.", examples=[{"temperature": 0}]
    )
    # Not `on`: YAML 1.1 reads that key as true.
    errors: tuple[ErrorClass, ...] = Field(
        default=(
            ErrorClass.AUTHENTICATION,
            ErrorClass.PERMISSION,
            ErrorClass.QUOTA,
            ErrorClass.RATE_LIMIT,
            ErrorClass.NOT_FOUND,
            ErrorClass.NO_AGENT,
            ErrorClass.CONNECTION,
            ErrorClass.TIMEOUT,
            ErrorClass.SERVER,
            ErrorClass.OVERLOADED,
            ErrorClass.PROTOCOL,
            ErrorClass.AGENT,
            ErrorClass.REFUSED,
            ErrorClass.OUTPUT,
        ),
        description="Error classes after which this one is asked, once no further attempt of the one before is due.",
    )

    @model_validator(mode="after")
    def _is_different(self) -> "FallbackSpec":
        if self.agent is None and not self.parameters:
            raise ValueError("is the same again; name an `agent`, `parameters`, or both")
        return self


class DegradeSpec(_Part):
    """What is better than a failure. `cached`: the newest result; `partial`: what was said so far; `human`: people are asked;
    `task`: another task is requested.
    """

    to: Literal["cached", "partial", "human", "task"] = Field(description="`cached`, `partial`, `human` or `task`.")
    max_age: Duration | None = Field(
        default=None, description="How old the newest result may be, with `cached` only, which needs it.", examples=["1d"]
    )
    task: str | None = Field(
        default=None,
        description="Declared task that is requested with the same variables, with `task` only, which needs it.",
        examples=["reports/short_digest"],
    )
    errors: tuple[ErrorClass, ...] = Field(
        default=tuple(
            each
            for each in ErrorClass
            if each not in (ErrorClass.CONTEXT, ErrorClass.COMPENSATED, ErrorClass.CANCELLED, ErrorClass.INTERNAL)
        ),
        description="Error classes of an execution for which this holds.",
    )

    @model_validator(mode="after")
    def _complete(self) -> "DegradeSpec":
        if (self.to == "cached") != (self.max_age is not None):
            raise ValueError("`max_age` goes with `to: cached`, and `to: cached` needs it")
        if (self.to == "task") != (self.task is not None):
            raise ValueError("`task` goes with `to: task`, and `to: task` needs it")
        return self


class CacheSpec(_Part):
    """Sharing the result of identical calls; what identifies a call is all that the agent is given, unless `key` says it."""

    ttl: Duration = Field(description="How long a result is used again.", examples=["1d"])
    key: str | None = Field(
        default=None,
        description="Template of what identifies the input, in place of messages, variables and upstream results.",
        examples=["{{ document_hash }}"],
    )
    version: str | None = Field(
        default=None, description="Any text; a change makes all results of before unused, as after new code.", examples=["2"]
    )


class TimeoutSpec(_Part):
    """How long an execution may take."""

    attempt: Duration = Field(default=Duration(300), description="Limit of one attempt.", examples=["5m"])
    total: Duration = Field(default=Duration(1_800), description="Limit of all attempts and waits together.", examples=["30m"])


class PlacementSpec(_Part):
    """Which nodes of its agent a task may run on."""

    labels: dict[str, str] = Field(
        default_factory=dict, description="Labels that a node must have, with these values.", examples=[{"gpu": "yes"}]
    )
    wait: Duration = Field(
        default=Duration(30), description="How long to wait for a node while none is available.", examples=["2m"]
    )


class OutputSpec(_Part):
    """What an execution must give back."""

    format: Literal["text", "json"] = Field(default="text", description="`json` parses the answer; a schema implies it.")
    schema_: dict[str, JsonValue] | None = Field(
        default=None, alias="schema", description="JSON Schema that the answer must satisfy."
    )
    schema_file: str | None = Field(
        default=None, description="File with the JSON Schema, beside the task.", examples=["schema.json"]
    )

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @property
    def is_json(self) -> bool:
        """Whether the answer is parsed."""
        return self.format == "json" or self.schema_ is not None

    @field_validator("schema_")
    @classmethod
    def _valid_schema(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if value is not None:
            try:
                schema_validator(value)
            except jsonschema.SchemaError as error:
                raise ValueError(f"not a JSON Schema at {error.json_path}: {error.message}") from None
            if (outside := _reference_outside(value)) is not None:
                raise ValueError(
                    f"`$ref` to {outside!r} leaves the schema; write that part below `$defs`, and `#/$defs/NAME` here"
                )
        return value


def schema_validator(schema: dict[str, JsonValue]) -> Validator:
    """Return a validator for a JSON Schema. Raises jsonschema.SchemaError if it is none."""
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    # A registry of its own: the default one opens whatever address a `$ref` names, files of this machine among them.
    return kind(schema, registry=EMPTY_REGISTRY)


def _reference_outside(schema: JsonValue) -> str | None:
    """The first reference of a schema to something that is not in it, None if there is none."""
    if isinstance(schema, list):
        return next((found for part in schema if (found := _reference_outside(part)) is not None), None)
    if not isinstance(schema, dict):
        return None
    for name in ("$ref", "$dynamicRef"):
        if isinstance(target := schema.get(name), str) and not target.startswith("#"):
            return target
    return _reference_outside(list(schema.values()))


class CheckSpec(_Part):
    """A test of an execution's result, written in Python; shown as a Dagster asset check."""

    name: str = Field(pattern=NAME_PATTERN, description="Name of the check.", examples=["totals_add_up"])
    python: str = Field(
        pattern=r"^[\w.]+:\w+$",
        description="`module:function`; called with (output, invocation), returns a bool, a problem as text, or None.",
        examples=["acme.checks:totals_add_up"],
    )
    blocking: bool = Field(
        default=True, description="Whether a failure fails the execution and keeps downstream tasks from running."
    )


class Budget(_Part):
    """An amount of tokens and money."""

    tokens: int | None = Field(default=None, ge=1, description="Input plus output tokens.")
    usd: float | None = Field(default=None, gt=0, description="Money, in US dollars.")


class ServiceLevel(_Part):
    """What the owner promises about a task."""

    start_within: Duration | None = Field(default=None, description="Longest wait from due to start.", examples=["1m"])
    finish_within: Duration | None = Field(default=None, description="Longest time from due to result.", examples=["30m"])


class TaskSpec(BaseModel):
    """What shall be done: the one declaration of a task, in YAML or in Python."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    spec_version: Literal[1] = Field(default=1, description="Version of this format.")
    name: str = Field(pattern=NAME_PATTERN, description="Name of the task, unique in its application.", examples=["daily_digest"])
    application: str = Field(
        default="default", pattern=NAME_PATTERN, description="Application that the task belongs to; its asset group."
    )
    workspace: str = Field(default="default", pattern=NAME_PATTERN, description="Workspace that the application belongs to.")
    intent: str = Field(min_length=1, description="What the task is for, in a sentence; shown wherever the task is.")
    agent: str = Field(pattern=NAME_PATTERN, description="Name of a declared agent.", examples=["writer"])

    prompt: str | None = Field(
        default=None, description="What the agent is asked, a Jinja template; defaults to the file prompt.md beside the task."
    )
    system: str | None = Field(default=None, description="Standing instructions for the agent, a Jinja template.")
    variables: dict[str, JsonValue] = Field(
        default_factory=dict, description="Context for the prompt: names and values it may use."
    )
    parameters: dict[str, JsonValue] = Field(
        default_factory=dict, description="Settings passed to the model.", examples=[{"temperature": 0.2}]
    )
    session: SessionSpec = Field(default=SessionSpec(), description="Which conversation executions belong to.")
    window: WindowSpec = Field(default=WindowSpec(), description="Bound of the composed prompt.")

    triggers: tuple[Annotated[Trigger, Field(discriminator="kind")], ...] = Field(
        default=(), description="What makes the task due besides a launch on demand."
    )
    dependencies: tuple[str, ...] = Field(
        default=(), description="Tasks (`application/task` or a name in this application) and assets whose results this one uses."
    )
    deduplicate_by: str | None = Field(
        default=None,
        description="Template of a key; a second execution with the key of one that runs or succeeded is deduplicated into it.",
        examples=["{{ commit }}"],
    )
    gate: str | None = Field(
        default=None,
        pattern=r"^[\w.]+:\w+$",
        description="`module:function` called with the invocation first; a returned text skips the execution for that reason.",
    )

    output: OutputSpec = Field(default=OutputSpec(), description="What must come back.")
    checks: tuple[CheckSpec, ...] = Field(default=(), description="Tests of the result.")
    remember: tuple[str, ...] = Field(
        default=(),
        description="Output fields that become the task's state when an execution succeeds; the next reads `state.<field>`.",
        examples=[["baseline"]],
    )
    emits: str | None = Field(
        default=None,
        min_length=1,
        description="Type of an event sent when the task succeeds, with its output.",
        examples=["report.ready"],
    )

    timeout: TimeoutSpec = Field(default=TimeoutSpec(), description="Limits of time.")
    retry: RetrySpec = Field(default=RetrySpec(), description="When an attempt is tried again.")
    fallback: tuple[FallbackSpec, ...] = Field(
        default=(),
        description="Who is asked, in this order, when the agent cannot help.",
        examples=[[{"agent": "spare"}]],
    )
    degrade: tuple[DegradeSpec, ...] = Field(
        default=(),
        description="What happens, the first that can be done, where the execution would fail.",
        examples=[[{"to": "cached", "max_age": "1d"}, {"to": "human"}]],
    )
    cache: CacheSpec | None = Field(
        default=None,
        description="Identical calls share a result; only for fresh sessions and risk `low`.",
        examples=[{"ttl": "1d"}],
    )
    placement: PlacementSpec = Field(default=PlacementSpec(), description="Which nodes of the agent are meant.")
    budget: Budget = Field(default=Budget(), description="What one execution may spend; kept with the task, not enforced yet.")
    cost_estimate: Budget = Field(default=Budget(), description="What one execution is expected to cost.")
    service_level: ServiceLevel = Field(default=ServiceLevel(), description="What the owner promises.")
    risk: Literal["low", "medium", "high"] = Field(
        default="low", description="Risk class: what an execution can do to the world."
    )
    lane: Literal["run", "burst"] = Field(
        default="run",
        description="`run`: each tick is a Dagster run of its own. `burst`: ticks share runs, for short and frequent tasks.",
    )
    priority: int = Field(
        default=0, ge=-100, le=100, description="Higher goes first, among Dagster's runs and among the ticks of a burst."
    )
    priority_class: PriorityClass | None = Field(
        default=None,
        description="Whose turn it is when a limit is full: `interactive` before `normal` before `batch`, then by `priority`. "
        "If it is not said: `batch` for a batch, otherwise `normal`.",
    )
    resource_keys: tuple[str, ...] = Field(
        default=(),
        description="What executions of this task must not share with others: of all that name the same key, one runs at a time, "
        "or as many as the limit of `resource/KEY` allows.",
        examples=[["repository"]],
    )
    batch: BatchSpec | None = Field(
        default=None,
        description="Run the task over many items, each an execution of its own.",
        examples=[{"items": {"file": "invoices.csv"}, "key": "invoice_id"}],
    )
    pool: str | None = Field(default=None, description="Dagster concurrency pool that executions of this task take a slot of.")

    owners: tuple[str, ...] = Field(default=(), description="E-mail addresses or `team:name`.", examples=[["team:data"]])
    tags: dict[str, str] = Field(default_factory=dict, description="Dagster tags of the asset and its runs.")
    notifications: tuple[str, ...] = Field(default=(), description="Names of contacts to tell about failures.")

    @property
    def key(self) -> TaskKey:
        """Workspace, application, name."""
        return (self.workspace, self.application, self.name)

    @property
    def path(self) -> str:
        """`application/name`, as people write it and as Dagster shows it."""
        return f"{self.application}/{self.name}"

    @property
    def waits_as(self) -> PriorityClass:
        """The priority class in force."""
        return self.priority_class or ("normal" if self.batch is None else "batch")

    @property
    def precedence(self) -> int:
        """Priority class and priority in one number, for Dagster's queue and for ticks: higher goes first."""
        return _PRECEDENCE[self.waits_as] + self.priority

    @property
    def dependency_paths(self) -> tuple[str, ...]:
        """The dependencies as paths; a bare name means this application."""
        return tuple(self.resolve(path) for path in self.dependencies)

    def resolve(self, path: str) -> str:
        """Complete a reference to a task: a bare name means this application."""
        return path if "/" in path else f"{self.application}/{path}"

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that may be asked, the task's own first."""
        return tuple(dict.fromkeys([self.agent, *(each.agent for each in self.fallback if each.agent is not None)]))

    def upstream(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What comes before this task: the field that says so, and the path or asset key that it names."""
        for index, path in enumerate(self.dependency_paths):
            yield ("dependencies", index), path
        for index, trigger in enumerate(self.triggers):
            if isinstance(trigger, After):
                yield ("triggers", index, "task"), self.resolve(trigger.task)
            elif isinstance(trigger, AssetUpdate):
                yield ("triggers", index, "asset"), trigger.asset

    @model_validator(mode="after")
    def _consistent(self) -> "TaskSpec":
        seen: set[str] = set()
        for trigger in self.triggers:
            if trigger_name(trigger) in seen:
                raise ValueError(f"triggers: two are named {trigger_name(trigger)!r}; give each a `name` of its own")
            seen.add(trigger_name(trigger))
            if isinstance(trigger, After) and self.resolve(trigger.task) == self.path:
                raise ValueError(f"triggers: {trigger_name(trigger)!r} comes after the task itself; name another task")
            if isinstance(trigger, AssetUpdate) and trigger.asset == self.path:
                raise ValueError(f"triggers: {trigger_name(trigger)!r} waits for the task's own asset; name another one")
        names = [check.name for check in self.checks]
        if len(set(names)) != len(names):
            raise ValueError("checks: two have the same name; give each its own")
        if self.remember and not (self.output.is_json or self.output.schema_file):
            raise ValueError("remember: only a JSON output has fields; declare `output: {format: json}`")
        if self.lane == "burst" and self.pool is not None:
            raise ValueError("pool: Dagster's pools limit runs, and a burst is one run for many; use `lane: run`")
        for key in self.resource_keys:
            if not re.fullmatch(r"[^\s/@]+", key):
                raise ValueError(f"resource_keys: {key!r} has a space, a slash or an @; leave them out")
        if self.cache is not None and self.session.mode != "fresh":
            raise ValueError(
                f"cache: with session mode `{self.session.mode}` every call is a new turn of a conversation; use `fresh`"
            )
        if self.cache is not None and self.risk != "low":
            raise ValueError(
                f"cache: a task of risk `{self.risk}` does something, and a used result would do nothing; leave it out"
            )
        for index, each in enumerate(self.degrade):
            if each.task is not None and self.resolve(each.task) == self.path:
                raise ValueError(f"degrade: entry {index + 1} requests the task itself; name another task")
        if self.batch is not None:
            self._fit_for_a_batch(self.batch)
        if self.timeout.attempt > self.timeout.total:
            raise ValueError("timeout: `attempt` is longer than `total`; make it at most as long")
        return self

    def _fit_for_a_batch(self, batch: BatchSpec) -> None:
        if self.session.mode != "fresh":
            raise ValueError(
                "session: the items of a batch are worked on at once and cannot share a conversation; use mode `fresh`"
            )
        if self.remember:
            raise ValueError("remember: the items of a batch have no order in which one could remember for the next; remove it")
        if self.deduplicate_by is not None:
            raise ValueError("deduplicate_by: items are told apart by `batch.key`; use that")
        if self.lane == "burst":
            raise ValueError("lane: a batch has runs of its own; use `lane: run`")
        for name in ("fallback", "degrade", "cache"):
            if getattr(self, name):
                raise ValueError(f"{name}: an item of a batch has only its own agent and its own attempts; remove `{name}`")
        asset = None if batch.items is None else batch.items.asset
        if asset is not None and self.resolve(asset) not in self.dependency_paths:
            raise ValueError(f"batch: its items come from {asset!r}, which is no dependency; add it to `dependencies`")

    def canonical(self) -> dict[str, Any]:
        """The declaration as plain JSON with defaults filled in, for storage and hashing."""
        names = set(TaskSpec.model_fields)
        return json.loads(self.model_dump_json(by_alias=True, include=names))

    @property
    def spec_hash(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal."""
        return hashlib.sha256(canonical_json(self.canonical()).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Write JSON in the one form that is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
