"""Conversations: which one an execution belongs to, and what was said in it."""

from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.clock import Clock, Microseconds
from agent_pipelines.core.ids import new_id
from agent_pipelines.core.invocation import Message
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.task import SessionSpec, TaskKey
from agent_pipelines.store.conditions import equal, within
from agent_pipelines.store.insertion import insert_new
from agent_pipelines.store.storable import storable_text
from agent_pipelines.store.tables import session_turns, sessions

_PAGE = 32  # turns read at a time

# Statements of every execution, made once: to put one together takes SQLAlchemy longer than to run it.
_KEY = ("workspace", "mode", "name", "agent")
_FIND = sa.select(sessions).where(*(sessions.c[name] == sa.bindparam(name) for name in _KEY))
_CHANGE = sessions.update().where(sessions.c.id == sa.bindparam("of"))
_APPEND = sa.text(
    "INSERT INTO session_turns (session_id, execution_id, role, content, created_at) VALUES "
    "(:session_id, :execution_id, 'user', :user, :now), (:session_id, :execution_id, 'assistant', :assistant, :now) "
    "ON CONFLICT DO NOTHING"
)


class Session(BaseModel):
    """One conversation with one agent; `remote_id` is the runtime's own name of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    id: str
    workspace: str
    mode: Literal["named", "task", "fresh"]
    name: str
    agent: str
    remote_id: str | None
    created_at: Microseconds
    updated_at: Microseconds


class Turn(BaseModel):
    """What was asked and answered in one execution."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    execution_id: str
    user: str
    assistant: str
    created_at: Microseconds


class Sessions:
    """Writes and reads the conversations. All methods take part in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def open(self, connection: sa.Connection, spec: SessionSpec, task: TaskKey, agent: str, execution_id: str) -> Session:
        """The conversation that an execution belongs to, begun if there is none.

        A named one is shared by all tasks of the workspace that use the name with the same agent.
        """
        workspace, application, name = task
        now = self._clock.now()
        key = {
            "workspace": workspace,
            "mode": spec.mode,
            "name": {"named": spec.name or "", "task": f"{application}/{name}", "fresh": execution_id}[spec.mode],
            "agent": agent,
        }
        # One of its own is as good as always new, one that is shared as good as always there.
        row = None if spec.mode == "fresh" else connection.execute(_FIND, key).mappings().first()
        if row is None:
            new = {"id": new_id(), "created_at": now, "updated_at": now, **key}
            seq = insert_new(connection, sessions, new)
            if seq is not None:
                return Session.model_validate({"seq": seq, "remote_id": None, **new})
            row = connection.execute(_FIND, key).mappings().one()
        return Session.model_validate(row)

    def get(self, connection: sa.Connection, session_id: str) -> Session | None:
        """A conversation by its id."""
        row = connection.execute(sa.select(sessions).where(sessions.c.id == session_id)).mappings().first()
        return None if row is None else Session.model_validate(row)

    def list(
        self,
        connection: sa.Connection,
        *,
        workspace: str = "default",
        mode: str | None = None,
        name: str | None = None,
        agent: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[Session]:
        """Conversations, the one begun last first, a page at a time: `before` is the `seq` of the last one."""
        query = sa.select(sessions).where(sessions.c.workspace == workspace)
        query = query.where(
            *equal({sessions.c.mode: mode, sessions.c.name: name, sessions.c.agent: agent}), *within(sessions.c.seq, None, before)
        )
        rows = connection.execute(query.order_by(sessions.c.seq.desc()).limit(limit)).mappings()
        return [Session.model_validate(row) for row in rows]

    def turns(self, connection: sa.Connection, session_id: str, *, before: int | None = None, limit: int = 50) -> Sequence[Turn]:
        """Turns of a conversation, newest first, a page at a time: `before` is the `seq` of the last one."""
        # Paired by execution: turns of two processes may be numbered crosswise.
        user, assistant = session_turns.alias("user"), session_turns.alias("assistant")
        answer = sa.select(assistant.c.content).where(
            assistant.c.session_id == user.c.session_id,
            assistant.c.execution_id == user.c.execution_id,
            assistant.c.role == "assistant",
        )
        query = sa.select(
            user.c.seq,
            user.c.execution_id,
            user.c.content.label("user"),
            answer.scalar_subquery().label("assistant"),
            user.c.created_at,
        ).where(user.c.session_id == session_id, user.c.role == "user", *within(user.c.seq, None, before))
        rows = connection.execute(query.order_by(user.c.seq.desc()).limit(limit)).mappings()
        return [Turn.model_validate(row) for row in rows]

    def count(self, connection: sa.Connection, session_id: str) -> int:
        """How many turns a conversation has."""
        query = sa.select(sa.func.count()).select_from(session_turns).where(session_turns.c.session_id == session_id)
        return connection.execute(query).scalar_one() // 2

    def history(
        self, connection: sa.Connection, session_id: str, *, limit: int, characters: int | None = None
    ) -> Sequence[Message]:
        """The newest turns, at most `limit`, as messages in the order in which they were said.

        With `characters`, no turns are read beyond those that fill so many.
        """
        found: list[Turn] = []
        length = 0
        while len(found) < limit and (characters is None or length <= characters):
            page = self.turns(
                connection, session_id, before=found[-1].seq if found else None, limit=min(_PAGE, limit - len(found))
            )
            found.extend(page)
            length += sum(len(turn.user) + len(turn.assistant) for turn in page)
            if len(page) < _PAGE:
                break
        messages: list[Message] = []
        for turn in reversed(found):
            messages += [Message(role="user", content=turn.user), Message(role="assistant", content=turn.assistant)]
        return messages

    def append(
        self,
        connection: sa.Connection,
        session_id: str,
        execution_id: str,
        *,
        user: str,
        assistant: str,
        remote_id: str | None = None,
    ) -> bool:
        """Add the turn of an execution, and remember the runtime's own session; without secrets.

        False, and nothing is changed, if the execution has its turn already.
        """
        now = self._clock.now()
        turn = {
            "session_id": session_id,
            "execution_id": execution_id,
            "user": redactor.text(storable_text(user)),
            "assistant": redactor.text(storable_text(assistant)),
            "now": now,
        }
        if connection.execute(_APPEND, turn).rowcount == 0:
            return False
        changes = {"updated_at": now} if remote_id is None else {"updated_at": now, "remote_id": remote_id}
        connection.execute(_CHANGE, {"of": session_id, **changes})
        return True

    def forget_remote(self, connection: sa.Connection, session_id: str) -> None:
        """Give up the runtime's own session, as when it no longer knows it: the next execution resends the history."""
        connection.execute(_CHANGE, {"of": session_id, "remote_id": None, "updated_at": self._clock.now()})
