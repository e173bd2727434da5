"""What the run of a shard tells Dagster while it works."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import dagster as dg

from agent_pipelines.core.clock import Clock
from agent_pipelines.engine.materializations import Materializations
from agent_pipelines.ledger.batches import Tally

_PERIOD = 3.0  # seconds between two observations


class ShardReport:
    """Writes how far a shard is as observations of its partition, in a thread of its own and only if something has changed.

    `look` tells how far it is, `words` what that is for Dagster; both are called in that thread. What cannot be written is left
    out: the record has it.
    """

    def __init__(
        self,
        materializations: Materializations,
        key: dg.AssetKey,
        partition: str,
        look: Callable[[], Tally],
        words: Callable[[Tally], Mapping[str, Any]],
        clock: Clock,
        warning: Callable[[str], None],
    ) -> None:
        self._materializations = materializations
        self._key = key
        self._partition = partition
        self._look = look
        self._words = words
        self._clock = clock
        self._warning = warning
        self._last = look()
        self._failure: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="agent-pipelines-shard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _write_on(self) -> None:
        while not self._over.wait(_PERIOD):
            told = self._look()
            if told == self._last:
                continue
            self._last = told
            observation = dg.AssetObservation(self._key, partition=self._partition, metadata=self._words(told))
            try:
                self._materializations.write([(self._clock.now(), observation)])
                self._failure = None
            except Exception as error:  # whatever Dagster's storage raises: the items go on
                if str(error) != self._failure:
                    self._warning(f"not reported: {type(error).__name__}: {error}")
                self._failure = str(error)
