"""A task over many items: where they come from, how they are split, and what their results become."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_REFERENCE = r"^[\w.]+:\w+$"

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Kinds of files that items are read from."""


class BatchStatus(StrEnum):
    """Where a batch stands."""

    SPLITTING = "splitting"
    RUNNING = "running"
    MERGING = "merging"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ShardStatus(StrEnum):
    """Where a shard of a batch stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # all its items are final, failed ones among them
    FAILED = "failed"  # it could not be worked on to its end
    CANCELLED = "cancelled"


ENDED_BATCH = frozenset({BatchStatus.SUCCEEDED, BatchStatus.FAILED, BatchStatus.CANCELLED})
ENDED_SHARD = frozenset({ShardStatus.SUCCEEDED, ShardStatus.FAILED, ShardStatus.CANCELLED})


BATCH_TRANSITIONS: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.SPLITTING: frozenset({BatchStatus.RUNNING, BatchStatus.FAILED, BatchStatus.CANCELLED}),
    BatchStatus.RUNNING: frozenset({BatchStatus.MERGING, BatchStatus.FAILED, BatchStatus.CANCELLED}),
    BatchStatus.MERGING: frozenset({BatchStatus.SUCCEEDED, BatchStatus.FAILED, BatchStatus.CANCELLED}),
    BatchStatus.FAILED: frozenset({BatchStatus.SPLITTING, BatchStatus.RUNNING}),
    BatchStatus.CANCELLED: frozenset({BatchStatus.SPLITTING, BatchStatus.RUNNING}),
    BatchStatus.SUCCEEDED: frozenset({BatchStatus.RUNNING}),
}
"""The legal changes of a batch; the database refuses all others. One that has ended can be reopened."""

SHARD_TRANSITIONS: Mapping[ShardStatus, frozenset[ShardStatus]] = {
    ShardStatus.PENDING: frozenset({ShardStatus.RUNNING, ShardStatus.FAILED, ShardStatus.CANCELLED}),
    ShardStatus.RUNNING: frozenset({ShardStatus.PENDING, *ENDED_SHARD}),
    **dict.fromkeys(sorted(ENDED_SHARD), frozenset({ShardStatus.PENDING})),
}
"""The legal changes of a shard; the database refuses all others."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ItemsSpec(_Part):
    """Where the items of a batch come from: exactly one of `file`, `query`, `python`, `asset`."""

    file: str | None = Field(
        default=None,
        description="File with the items, by suffix: CSV (.csv, .tsv), JSON lines (.jsonl, .ndjson) or Parquet (.parquet, with "
        "the extra `parquet`). Relative to the directory of the project.",
        examples=["invoices.csv"],
    )
    query: str | None = Field(
        default=None,
        min_length=1,
        description="SQL whose rows are the items; read once, when the batch is split.",
        examples=["SELECT id, body FROM tickets ORDER BY id"],
    )
    url_env: str | None = Field(
        default=None,
        description="With `query`: name of the environment variable that holds the SQLAlchemy URL of its database.",
        examples=["WAREHOUSE_URL"],
    )
    python: str | None = Field(
        default=None,
        pattern=_REFERENCE,
        description="`module:function`, called without arguments, that yields the items; read once, when the batch is split.",
        examples=["acme.tickets:open_ones"],
    )
    asset: str | None = Field(
        default=None,
        description="A dependency of the task (`application/task` or a name in this application) whose output is the list of "
        "items.",
        examples=["collect_links"],
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "ItemsSpec":
        given = [name for name in ("file", "query", "python", "asset") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"items come from one of `file`, `query`, `python`, `asset`, and {found}; name exactly one")
        if (self.query is None) != (self.url_env is None):
            raise ValueError(
                "`query` needs `url_env`, the name of the environment variable with its database's URL, and no other does"
            )
        if self.file is not None and PurePath(self.file).suffix.lower() not in SUFFIXES:
            raise ValueError(f"file: {self.file!r} is of no known kind; give it one of the suffixes {', '.join(SUFFIXES)}")
        return self


class BatchSpec(_Part):
    """A task over many items, each an execution of its own: split into shards, spread over nodes, merged in order."""

    form: Literal["map", "map_reduce", "broadcast"] = Field(
        default="map",
        description="`map`: the results in order are the output. `map_reduce`: `reduce` makes the output of them. `broadcast`: "
        "no items, every node of the agents is asked the same.",
    )
    items: ItemsSpec | None = Field(default=None, description="Where the items come from.", examples=[{"file": "invoices.csv"}])
    to: tuple[str, ...] = Field(
        default=(), description="With form `broadcast`: the agents whose nodes are asked; none means the task's agent."
    )
    key: str | None = Field(
        default=None,
        min_length=1,
        description="Field of an item, or a template, that names it: unique in the batch. By default its position, from 0.",
        examples=["invoice_id", "{{ item.customer }}/{{ item.month }}"],
    )
    shard_size: int = Field(default=500, ge=1, le=50_000, description="Items of a shard, which is one Dagster partition.")
    in_flight: int = Field(default=20, ge=1, le=1_000, description="Items of a shard that are worked on at once.")
    shards_per_run: int = Field(default=1, ge=1, description="Shards that one Dagster run works on, one after the other.")
    concurrency: int = Field(
        default=4,
        ge=1,
        le=1_000,
        description="Dagster runs that work on shards of one batch at once; further ones wait for these.",
    )
    failed_items: Literal["fail", "allow"] = Field(
        default="fail", description="`fail`: one failed item fails the batch, at its end. `allow`: up to `max_failed` may."
    )
    max_failed: float | None = Field(
        default=None,
        gt=0,
        description="With `failed_items: allow`: how many items may fail; below 1 a share of all. By default all.",
        examples=[0.05],
    )
    changed_only: bool = Field(
        default=False,
        description="Skip items that an earlier batch of the task has done with the same content and the same prompt version.",
    )
    reduce: str = Field(
        default="concat",
        pattern=r"^(concat|[\w.]+:\w+)$",
        description="`concat`, or `module:function` called with an iterator over the results in order; it returns the output.",
        examples=["acme.totals:add_up"],
    )

    @model_validator(mode="after")
    def _consistent(self) -> "BatchSpec":
        if self.form == "broadcast":
            if self.items is not None or self.key is not None or self.changed_only:
                raise ValueError("form: `broadcast` asks nodes and has no `items`, `key` or `changed_only`; remove them")
        elif self.items is None:
            raise ValueError(
                f"items: form `{self.form}` needs to know where its items come from; name a file, query, function or asset"
            )
        elif self.to:
            raise ValueError("to: only form `broadcast` is sent to all nodes of several agents; remove it")
        if (self.form == "map_reduce") != (self.reduce != "concat") and self.form != "broadcast":
            raise ValueError("reduce: form `map_reduce` and a `module:function` that reduces go together; declare both or none")
        if self.changed_only and self.key is None:
            raise ValueError("key: `changed_only` needs names by which items are known again; name a field")
        if self.max_failed is not None and self.failed_items == "fail":
            raise ValueError("max_failed: goes with `failed_items: allow`; with `fail` no item may")
        return self

    def allows(self, failed: int, items: int) -> bool:
        """Whether a batch of so many items succeeds with so many failed ones."""
        if not failed:
            return True
        if self.failed_items == "fail":
            return False
        if self.max_failed is None:
            return True
        return failed <= (self.max_failed * items if self.max_failed < 1 else self.max_failed)
