"""Finding executions among millions: by words, and by the time at which they were created."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from agent_pipelines.core.clock import Microseconds
from agent_pipelines.core.execution import FINAL, Status
from agent_pipelines.core.invocation import Origin
from agent_pipelines.ledger.stored import StoredExecution
from agent_pipelines.store.tables import execution_texts, executions

_SEARCHED = 200_000  # characters of an answer that the search reads
_SKEW = 3_600_000_000  # clocks of hosts that write to one record differ by less than this, in microseconds
_NEAR = 10_000  # executions that PostgreSQL looks through before it asks its index of words


@dataclass(frozen=True)
class Facets:
    """Conditions that stand in the index of words as words of their own; None sets none."""

    workspace: str
    application: str | None
    task: str | None
    status: Status | None
    origin: Origin | None

    @property
    def is_indexed(self) -> bool:
        """Whether the index knows the state asked for: it learns of an execution when that ends."""
        return self.status is None or self.status in FINAL

    def words(self) -> list[str]:
        """One word a condition."""
        values = {"w": self.workspace, "a": self.application, "t": self.task, "s": self.status, "o": self.origin}
        return [f"{letter}_{value}" for letter, value in values.items() if value is not None]


def searchable(execution: StoredExecution) -> dict[str, str]:
    """What the search knows of an execution: its words, and the conditions that it meets."""
    facets = Facets(execution.workspace, execution.application, execution.task, execution.status, execution.origin)
    return words_of(facets, execution.error_message, execution.reason, execution.text)


def words_of(facets: Facets, error_message: str | None, reason: str | None, text: str | None) -> dict[str, str]:
    """What the search knows of an execution of a task with these conditions; facets name its application and task."""
    name = f"{facets.application}/{facets.task} {facets.application} {facets.task}"
    parts = (name, error_message, reason, text)
    return {"facets": " ".join(facets.words()), "body": "\n".join(part for part in parts if part)[:_SEARCHED]}


def bounds(
    connection: sa.Connection, since: Microseconds | None, until: Microseconds | None, before: int | None
) -> tuple[int | None, int | None]:
    """Numbers between which all executions of a stretch of time lie, both excluded; None where there is no bound.

    Numbers follow the instants, but for the differences between clocks: what lies near the ends is still to be judged.
    """
    after: int | None = None
    created = executions.c.created_at
    if since is not None:
        earlier = sa.select(executions.c.seq).where(created < since - _SKEW).order_by(created.desc()).limit(1)
        after = connection.execute(earlier).scalar()
    if until is not None:
        later = sa.select(executions.c.seq).where(created >= until + _SKEW).order_by(created).limit(1)
        end = connection.execute(later).scalar()
        before = end if before is None or (end is not None and end < before) else before
    return after, before


def with_words(
    connection: sa.Connection,
    query: sa.Select[Any],
    text: str,
    facets: Facets,
    after: int | None,
    before: int | None,
    limit: int,
) -> Iterator[sa.Select[Any]]:
    """Queries for those executions of a query that hold all words of a text; their results follow each other.

    The query has all other conditions already, and the order by number, the highest first. No more than `limit` are wanted.
    """
    if connection.dialect.name == "sqlite":
        yield _in_sqlite(query, text, facets, after, before)
    else:
        yield from _in_postgresql(connection, query, text, facets, after, before, limit)


def _in_sqlite(query: sa.Select[Any], text: str, facets: Facets, after: int | None, before: int | None) -> sa.Select[Any]:
    index = sa.table("execution_search", sa.column("rowid"))
    words = " ".join('"' + word.replace('"', '""') + '"' for word in text.split())
    match = sa.text("execution_search MATCH :words")
    if not facets.is_indexed:  # they are few
        return query.where(sa.exists().where(match.bindparams(words=f"body : ({words})"), index.c.rowid == executions.c.seq))
    conditions = " ".join(f'"{word}"' for word in facets.words())
    # The index intersects its lists fast and hands them out by number, so the query follows it. The plus keeps SQLite from
    # asking the index about each execution instead.
    followed = sa.join(index, executions, executions.c.seq == sa.literal_column("+execution_search.rowid"))
    query = query.select_from(followed).where(match.bindparams(words=f"facets : ({conditions}) AND body : ({words})"))
    return _between(query, index.c.rowid, after, before).order_by(None).order_by(index.c.rowid.desc())


def _in_postgresql(
    connection: sa.Connection,
    query: sa.Select[Any],
    text: str,
    facets: Facets,
    after: int | None,
    before: int | None,
    limit: int,
) -> Iterator[sa.Select[Any]]:
    # Its index of words has no order: to collect all executions with a common word takes long, and to look through all for
    # a rare one as well. If the newest do not fill a page, the words are not common.
    number = execution_texts.c.seq
    newest = before or (connection.execute(sa.select(sa.func.max(executions.c.seq))).scalar() or 0) + 1
    near = newest - _NEAR if after is None else max(newest - _NEAR, after)
    held = sa.text("execution_texts.words @@ plainto_tsquery('simple', :words)").bindparams(words=text)
    joined = query.join(execution_texts, number == executions.c.seq).where(held)
    yield _between(_between(joined, number, near, before), executions.c.seq, near, before)
    if near == after:
        return
    conditions = " & ".join(f"'{word}'" for word in facets.words() if facets.is_indexed or not word.startswith("s_"))
    combined = "execution_texts.words @@ (plainto_tsquery('simple', :words) && CAST(:facets AS tsquery))"
    found = _between(
        sa.select(number).where(sa.text(combined).bindparams(words=text, facets=conditions)), number, after, near + 1
    )
    # The planner takes rare words for common ones and would look through all executions, but for the fences that
    # MATERIALIZED and OFFSET are.
    collected = found.cte("found").prefix_with("MATERIALIZED", dialect="postgresql")
    each = query.with_only_columns(executions.c.seq).where(executions.c.seq == collected.c.seq).correlate(collected)
    fenced = each.order_by(None).offset(0).lateral("each_found")
    page = sa.select(fenced.c.seq).select_from(sa.join(collected, fenced, sa.true())).order_by(fenced.c.seq.desc()).limit(limit)
    chosen = page.subquery("page")
    yield sa.select(executions).join(chosen, chosen.c.seq == executions.c.seq).order_by(executions.c.seq.desc())


def _between(query: sa.Select[Any], number: sa.ColumnElement[int], after: int | None, before: int | None) -> sa.Select[Any]:
    if after is not None:
        query = query.where(number > after)
    return query if before is None else query.where(number < before)
