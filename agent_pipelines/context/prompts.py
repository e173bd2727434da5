"""What agents are asked: immutable versions, and channels that point at one of them."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, JsonValue

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.errors import AgentPipelinesError
from agent_pipelines.core.task import TaskKey, canonical_json
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.tables import prompt_moves, prompt_versions
from agent_pipelines.store.window import Window

Channel = Literal["stable", "canary", "holdback"]
"""Where a version is used: `stable` is what executions get."""

GIT = "git"
"""The actor of what a changed file does."""

# What every execution asks, made once: to put a statement together takes SQLAlchemy longer than to run it.
_TASK = ("workspace", "application", "task")


def _newest_move(*where: sa.ColumnElement[bool]) -> sa.ScalarSelect[str]:
    of_task = (prompt_moves.c[name] == sa.bindparam(name) for name in _TASK)
    query = sa.select(prompt_moves.c.version).where(*of_task, prompt_moves.c.channel == sa.bindparam("channel"), *where)
    return query.order_by(prompt_moves.c.seq.desc()).limit(1).scalar_subquery()


_CURRENT = sa.select(prompt_versions, _newest_move(prompt_moves.c.actor == GIT).label("from_file")).where(
    *(prompt_versions.c[name] == sa.bindparam(name) for name in _TASK), prompt_versions.c.version == _newest_move()
)


class PromptError(AgentPipelinesError):
    """A prompt version cannot be had or moved: unknown, ambiguous, none before, or the channel was moved meanwhile."""


class PromptVersion(BaseModel):
    """What an agent is asked, as it was written once; `version` is the SHA-256 of the content, in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str
    system: str | None
    prompt: str
    parameters: dict[str, JsonValue]
    actor: str
    created_at: Microseconds

    @property
    def short(self) -> str:
        """The first twelve digits, for people."""
        return self.version[:12]


class PromptMove(BaseModel):
    """One move of a channel; `previous` is the version that it pointed at before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int
    channel: Channel
    previous: str | None
    version: PromptVersion
    actor: str
    reason: str
    moved_at: Microseconds


class Prompts:
    """Writes and reads the versions and the moves. All methods take part in the caller's transaction.

    Whoever lets a person move a channel writes the audit row in that same transaction, from the returned move.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def ensure(
        self, connection: sa.Connection, task: TaskKey, *, system: str | None, prompt: str, parameters: Mapping[str, JsonValue]
    ) -> PromptVersion:
        """The version that `stable` points at, after the declared content was taken up if it has changed.

        It has changed if it differs from what the file last moved `stable` to: moves by others hold until the file changes.
        """
        declared = content_version(system, prompt, parameters)
        current, from_file = self._current(connection, task, "stable")
        if from_file != declared:
            _lock(connection, task)
            current, from_file = self._current(connection, task, "stable")
            if from_file != declared:
                current = self.add(connection, task, system=system, prompt=prompt, parameters=parameters, actor=GIT)
                self._insert_move(connection, task, "stable", declared, actor=GIT, reason="file changed")
        assert current is not None
        return current

    def add(
        self,
        connection: sa.Connection,
        task: TaskKey,
        *,
        system: str | None,
        prompt: str,
        parameters: Mapping[str, JsonValue],
        actor: str,
    ) -> PromptVersion:
        """Keep a content as a version, without pointing at it; the same content is the same version."""
        version = content_version(system, prompt, parameters)
        row: dict[str, Any] = {
            **_columns(task),
            "version": version,
            "system": system,
            "prompt": prompt,
            "parameters": dict(parameters),
            "actor": actor,
            "created_at": self._clock.now(),
        }
        is_new = insert_new(connection, prompt_versions, row) is not None
        return PromptVersion.model_validate(row) if is_new else self.get(connection, task, version)

    def current(self, connection: sa.Connection, task: TaskKey, channel: Channel = "stable") -> PromptVersion | None:
        """The version that a channel points at, None if it never pointed at any."""
        return self._current(connection, task, channel)[0]

    def get(self, connection: sa.Connection, task: TaskKey, version: str) -> PromptVersion:
        """A version by its hash or the first digits of it. Raises PromptError if there is none, or more than one."""
        query = sa.select(prompt_versions).where(*_is(prompt_versions, task), prompt_versions.c.version == version)
        rows = connection.execute(query).mappings().all()
        if not rows and version:
            starting = prompt_versions.c.version.startswith(version.lower(), autoescape=True)
            query = sa.select(prompt_versions).where(*_is(prompt_versions, task), starting)
            rows = connection.execute(query.order_by(prompt_versions.c.version).limit(5)).mappings().all()
        found = [PromptVersion.model_validate(row) for row in rows]
        if not found:
            raise PromptError(f"{_path(task)} has no prompt version {version!r}; its history names those that it has")
        if len(found) > 1:
            several = ", ".join(match.short for match in found)
            raise PromptError(f"{_path(task)}: {version!r} begins several prompt versions, {several}; give more digits")
        return found[0]

    def history(
        self,
        connection: sa.Connection,
        task: TaskKey,
        *,
        channel: Channel | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[PromptMove]:
        """Moves with their versions, newest first, a page at a time: `before` is the `seq` of the last one."""
        query = sa.select(prompt_moves).where(*_is(prompt_moves, task))
        query = query.where(*equal({prompt_moves.c.channel: channel}), *within(prompt_moves.c.seq, None, before))
        page = query.order_by(prompt_moves.c.seq.desc()).limit(limit).subquery()
        earlier = prompt_moves.alias("earlier")
        same_channel = (*_is(earlier, task), earlier.c.channel == page.c.channel, earlier.c.seq < page.c.seq)
        previous = sa.select(earlier.c.version).where(*same_channel).order_by(earlier.c.seq.desc()).limit(1).scalar_subquery()
        versions = prompt_versions.alias("versions")
        joined = sa.and_(*_is(versions, task), versions.c.version == page.c.version)
        of_move = [page.c[name] for name in ("seq", "channel", "reason", "moved_at")]
        of_version = [versions.c[name] for name in PromptVersion.model_fields]
        rows = connection.execute(
            sa.select(*of_move, page.c.actor.label("moved_by"), previous.label("previous"), *of_version)
            .join_from(page, versions, joined)
            .order_by(page.c.seq.desc())
        ).mappings()
        return [
            PromptMove(
                **{name: row[name] for name in ("seq", "channel", "previous", "reason", "moved_at")},
                version=PromptVersion.model_validate(row),
                actor=row["moved_by"],
            )
            for row in rows
        ]

    def versions(self, connection: sa.Connection, task: TaskKey) -> Sequence[PromptVersion]:
        """All versions of a task, newest first, those that no channel ever pointed at included."""
        query = sa.select(prompt_versions).where(*_is(prompt_versions, task))
        rows = connection.execute(query.order_by(prompt_versions.c.created_at.desc(), prompt_versions.c.version)).mappings()
        return [PromptVersion.model_validate(row) for row in rows]

    def rows(self, connection: sa.Connection, columns: Sequence[str], window: Window) -> Sequence[Sequence[Any]]:
        """Chosen columns of the versions made in a stretch of time, oldest first; for analysis of many at once."""
        query = sa.select(*(prompt_versions.c[name] for name in columns))
        query = query.where(*window.of(prompt_versions, prompt_versions.c.created_at))
        return connection.execute(query.order_by(prompt_versions.c.created_at, prompt_versions.c.version)).all()

    def move(
        self,
        connection: sa.Connection,
        task: TaskKey,
        channel: Channel,
        version: str,
        *,
        actor: str,
        reason: str,
        expected: str | None = None,
    ) -> PromptMove:
        """Point a channel at a version, named by its hash or the first digits of it.

        `expected` is the version that the caller saw there. Raises PromptError if the channel points elsewhere by now,
        or at that version already.
        """
        _lock(connection, task)
        return self._move(connection, task, channel, self.get(connection, task, version).version, actor, reason, expected)

    def rollback(
        self,
        connection: sa.Connection,
        task: TaskKey,
        *,
        actor: str,
        reason: str,
        channel: Channel = "stable",
        expected: str | None = None,
    ) -> PromptMove:
        """Point a channel at the version before the current one; repeated, it goes further back.

        Raises PromptError if there is none before, or if the channel points elsewhere than `expected` by now.
        """
        _lock(connection, task)
        way = self._way(connection, task, channel)
        if len(way) < 2:
            raise PromptError(f"{_path(task)}: {channel!r} has no version before the current one; move it to one by name")
        return self._move(connection, task, channel, way[-2], actor, reason, expected)

    def _move(
        self,
        connection: sa.Connection,
        task: TaskKey,
        channel: Channel,
        version: str,
        actor: str,
        reason: str,
        expected: str | None,
    ) -> PromptMove:
        current = self.current(connection, task, channel)
        if expected is not None and (current is None or current.version != expected):
            now = "nothing" if current is None else current.short
            raise PromptError(f"{_path(task)}: {channel!r} points at {now} by now, not at {expected[:12]}; look again")
        if current is not None and current.version == version:
            raise PromptError(f"{_path(task)}: {channel!r} points at {current.short} already")
        self._insert_move(connection, task, channel, version, actor=actor, reason=reason)
        return self.history(connection, task, channel=channel, limit=1)[0]

    def _insert_move(
        self, connection: sa.Connection, task: TaskKey, channel: Channel, version: str, *, actor: str, reason: str
    ) -> None:
        row = {"channel": channel, "version": version, "actor": actor, "reason": reason, "moved_at": self._clock.now()}
        connection.execute(prompt_moves.insert().values(**_columns(task), **row))

    def _way(self, connection: sa.Connection, task: TaskKey, channel: Channel) -> list[str]:
        """The versions that led to the current one: a move back to an earlier one takes away what came after it."""
        query = sa.select(prompt_moves.c.version).where(*_is(prompt_moves, task), prompt_moves.c.channel == channel)
        way: list[str] = []
        for version in connection.execute(query.order_by(prompt_moves.c.seq)).scalars():
            if version in way:
                del way[way.index(version) :]
            way.append(version)
        return way

    def _current(self, connection: sa.Connection, task: TaskKey, channel: Channel) -> tuple[PromptVersion | None, str | None]:
        """The version that a channel points at, and the one that the file last moved it to."""
        row = connection.execute(_CURRENT, {**_columns(task), "channel": channel}).mappings().first()
        return (None, None) if row is None else (PromptVersion.model_validate(row), row["from_file"])


def content_version(system: str | None, prompt: str, parameters: Mapping[str, JsonValue]) -> str:
    """The version that a content has: SHA-256 of its canonical JSON, in hexadecimal."""
    content = {"system": system, "prompt": prompt, "parameters": dict(parameters)}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def diff(old: PromptVersion, new: PromptVersion) -> str:
    """The unified diff of two versions, empty if their contents are the same."""
    return "\n".join(difflib.unified_diff(_lines(old), _lines(new), old.short, new.short, lineterm=""))


def _lines(version: PromptVersion) -> list[str]:
    system = [] if version.system is None else ["system:", *_indented(version.system)]
    parameters = json.dumps(version.parameters, indent=2, sort_keys=True, ensure_ascii=False)
    return [*system, "prompt:", *_indented(version.prompt), "parameters:", *_indented(parameters)]


def _indented(text: str) -> list[str]:
    # Split at "\n" only, and the end shown by an empty line: two contents that differ must never look the same.
    return [f"  {line}" for line in text.split("\n")]


def _lock(connection: sa.Connection, task: TaskKey) -> None:
    # What is moved depends on what was read: one transaction at a time. On SQLite a writing transaction is alone anyway.
    if connection.dialect.name == "postgresql":
        key = sa.func.hashtextextended("prompts/" + "/".join(task), 0)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def _columns(task: TaskKey) -> dict[str, str]:
    return dict(zip(_TASK, task, strict=True))


def _is(table: sa.FromClause, task: TaskKey) -> tuple[sa.ColumnElement[bool], ...]:
    return tuple(table.c[name] == value for name, value in _columns(task).items())


def _path(task: TaskKey) -> str:
    return f"{task[1]}/{task[2]}"
