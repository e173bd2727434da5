"""How long nothing was heard of somebody, by the clock of who listens."""

import threading
import time
from collections.abc import Callable, Collection

_LONGEST_GAP = 3.0  # seconds that one look may add: who could not look heard nothing from those that live either


class Silence:
    """Measures how long a mark has stayed the same. The clocks of other hosts, which may be wrong, play no part.

    Any thread may look.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[object, float, float]] = {}

    def seconds(self, key: str, mark: object) -> float:
        """Look at a mark: how long it has been the same, as far as somebody was looking."""
        with self._lock:
            now = self._monotonic()
            before, looked_at, silent = self._heard.get(key, (None, now, 0.0))
            silent = 0.0 if before != mark else silent + min(now - looked_at, _LONGEST_GAP)
            self._heard[key] = mark, now, silent
            return silent

    def keep(self, keys: Collection[str]) -> None:
        """Forget all others."""
        with self._lock:
            self._heard = {key: heard for key, heard in self._heard.items() if key in keys}
