"""A side effect: something that an execution does to the world."""

from collections.abc import Mapping
from enum import StrEnum


class EffectStatus(StrEnum):
    """What is known of an effect."""

    INTENDED = "intended"  # about to happen, or happening
    DONE = "done"  # it has happened, and there is a receipt
    FAILED = "failed"  # it has certainly not happened; it may be tried again
    UNKNOWN = "unknown"  # it may have happened
    ABANDONED = "abandoned"  # a person decided that it is not to happen


EFFECT_TRANSITIONS: Mapping[EffectStatus, frozenset[EffectStatus]] = {
    EffectStatus.INTENDED: frozenset({EffectStatus.DONE, EffectStatus.FAILED, EffectStatus.UNKNOWN}),
    EffectStatus.UNKNOWN: frozenset({EffectStatus.INTENDED, EffectStatus.DONE, EffectStatus.FAILED, EffectStatus.ABANDONED}),
    EffectStatus.FAILED: frozenset({EffectStatus.INTENDED, EffectStatus.ABANDONED}),
    EffectStatus.DONE: frozenset(),
    EffectStatus.ABANDONED: frozenset(),
}
"""The legal changes; the database refuses all others. What is done is never undone in the record."""
