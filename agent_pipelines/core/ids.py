"""Sortable identifiers."""

import os
import threading
import time

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """Return a new 128-bit identifier in UUIDv7 text form (RFC 9562, section 5.7).

    Identifiers made by one process sort in the order in which they were made, also as text.
    """
    global _last
    with _lock:
        # 48 bits of milliseconds, then 12 bits of sub-millisecond fraction (RFC 9562, 6.2 method 3).
        nanoseconds = time.time_ns()
        stamp = (nanoseconds // 1_000_000 << 12) | (nanoseconds % 1_000_000 * 4096 // 1_000_000)
        _last = stamp = max(stamp, _last + 1)
    random = int.from_bytes(os.urandom(8), "big") & (2**62 - 1)
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | random
    return dashed(f"{value:032x}")


def dashed(digits: str) -> str:
    """Write 32 hexadecimal digits in UUID text form."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def ids_beginning(prefix: str) -> tuple[str, str] | None:
    """The first and the last id that begins so, with or without its dashes; None if no id can.

    A range of whole ids is what an index answers, whatever the collation of the database.
    """
    digits = prefix.replace("-", "").lower()
    if not 0 < len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        return None
    return dashed(digits.ljust(32, "0")), dashed(digits.ljust(32, "f"))
