"""What makes a task due."""

import difflib
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSimError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from agent_pipelines.core.calendar import Calendar
from agent_pipelines.core.clock import Microseconds, isoformat, to_microseconds
from agent_pipelines.core.cron import CronTimes, cron_times
from agent_pipelines.core.duration import Duration

NAME_PATTERN = r"^[a-z][a-z0-9_]*$"

_SECOND = 1_000_000
_IN_2024 = 1_704_067_200 * _SECOND


class TriggerBase(BaseModel):
    """What all triggers share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        default="",
        pattern=r"^([a-z][a-z0-9_]*)?$",
        description="Unique within the task; defaults to its kind.",
        examples=["nightly"],
    )
    enabled: bool = Field(default=True, description="Whether a fresh deployment starts with this trigger switched on.")
    variables: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Prompt variables of this trigger, over those of the task; texts are templates that may use `event`.",
        examples=[{"commit": "{{ event.commit }}"}],
    )
    logical_time: str | None = Field(
        default=None,
        description="Instant that each tick works on in place of its due instant, with UTC offset; for rehearsals.",
        examples=["2013-02-08T02:00:00-05:00"],
    )

    @field_validator("logical_time")
    @classmethod
    def _has_offset(cls, value: str | None) -> str | None:
        if value is not None:
            _instant(value)
        return value

    def logical_at(self, due_at: Microseconds) -> Microseconds:
        """The instant that a tick due at `due_at` works on."""
        return due_at if self.logical_time is None else _instant(self.logical_time)


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(value, available_timezones(), n=1)
        advice = f"did you mean {near[0]}?" if near else "use an IANA name, as in Europe/Berlin"
        raise ValueError(f"{value!r} is not a time zone; {advice}") from None
    return value


@lru_cache(maxsize=4_096)
def _instant(text: str) -> Microseconds:
    """Read an ISO 8601 instant. Raises ValueError if it is none, or has no UTC offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an instant; write ISO 8601 with UTC offset, as in 2027-01-01T09:00:00+01:00") from None
    return to_microseconds(moment)


class TimeTrigger(TriggerBase):
    """What the triggers of time share: what happens to an instant that cannot be kept as it is."""

    catch_up: Literal["none", "latest", "all"] = Field(
        default="latest",
        description="Which of several instants that passed unseen still run: `none`, the `latest` one, or `all`; "
        "the others are `missed`.",
    )
    catch_up_within: Duration | None = Field(
        default=None, description="An instant that passed longer ago than this is never caught up.", examples=["6h"]
    )
    overlap: Literal["skip", "queue", "parallel", "replace"] = Field(
        default="skip",
        description="When the trigger's previous tick is still at work: `skip` this one, `queue` it, run both in `parallel`, "
        "or `replace` the old one, which is cancelled.",
    )
    queue_limit: int = Field(
        default=100, ge=1, description="Ticks that `overlap: queue` keeps waiting; further ones are skipped."
    )
    jitter: Duration = Field(
        default=Duration(0),
        description="Each tick begins up to so much later than it is due, by a hash of task and instant.",
        examples=["30s"],
    )
    spread: Duration = Field(
        default=Duration(0),
        description="All ticks begin later by one length below this, by a hash of the task: tasks due at once begin one by one.",
        examples=["5m"],
    )
    starts_at: str | None = Field(
        default=None,
        description="First instant that can be due, ISO 8601 with UTC offset.",
        examples=["2027-01-01T00:00:00+01:00"],
    )
    ends_at: str | None = Field(
        default=None,
        description="Last instant that can be due, ISO 8601 with UTC offset.",
        examples=["2027-12-31T23:59:59+01:00"],
    )
    calendar: Calendar | None = Field(
        default=None, description="Days on which the trigger runs; on all others its ticks are skipped."
    )

    @field_validator("starts_at", "ends_at")
    @classmethod
    def _is_bound(cls, value: str | None) -> str | None:
        if value is not None and _instant(value) < 0:
            raise ValueError(f"{value} lies before 1970; write a later instant, or leave it out")
        return value

    @property
    def bounds(self) -> tuple[Microseconds | None, Microseconds | None]:
        """`starts_at` and `ends_at`."""
        return (
            None if self.starts_at is None else _instant(self.starts_at),
            None if self.ends_at is None else _instant(self.ends_at),
        )

    @model_validator(mode="after")
    def _policies_fit(self) -> Self:
        first, last = self.bounds
        if first is not None and last is not None and last < first:
            raise ValueError("ends_at: lies before `starts_at`, so the trigger would never fire")
        if self.catch_up == "none" and self.catch_up_within is not None:
            raise ValueError(
                "catch_up_within: with `catch_up: none` nothing is caught up; leave it out, or write `catch_up: latest`"
            )
        if self.overlap != "queue" and self.queue_limit != TimeTrigger.model_fields["queue_limit"].default:
            raise ValueError(
                f"queue_limit: with `overlap: {self.overlap}` nothing is queued; leave it out, or write `overlap: queue`"
            )
        return self

    def _refuse_bounds_without(self, first_due: Microseconds) -> None:
        starts, ends = self.bounds
        if ends is not None and starts is not None and first_due > ends:
            due = isoformat(first_due)
            raise ValueError(f"ends_at: the first instant due from `starts_at` on is {due}, so the trigger would never fire")

    def _refuse_overtaking(self, period: float) -> None:
        if self.jitter > period:
            raise ValueError(
                f"jitter: {self.jitter:g} s is longer than the {period:g} s between two due instants, so ticks would overtake "
                f"each other; write {period:g}s or less, or use `spread`, which moves all ticks alike"
            )


class Cron(TimeTrigger):
    """Due at the instants of a cron expression of five fields, or of six with seconds, in a time zone."""

    kind: Literal["cron"] = "cron"
    cron: str = Field(
        description="Minute, hour, day of month, month, day of week; with `seconds` a sixth field at the end that it names.",
        examples=["0 6 * * mon-fri"],
    )
    seconds: Literal["first", "last"] | None = Field(
        default=None,
        description="Where the seconds of a six-field expression stand; systems differ, so it must be said.",
        examples=["first"],
    )
    timezone: str = Field(
        default="UTC", description="IANA name of the zone that the fields are read in.", examples=["Europe/Berlin"]
    )

    _valid_zone = field_validator("timezone")(_zone)

    @property
    def fields(self) -> tuple[str, ...]:
        """The six fields, seconds first; the seconds of a five-field expression are `0`."""
        written = self.cron.split()
        if self.seconds is None:
            return ("0", *written)
        return tuple(written) if self.seconds == "first" else (written[-1], *written[:-1])

    @property
    def times(self) -> CronTimes:
        """When the expression is due, within its bounds or not."""
        return cron_times(self.fields, self.timezone)

    @model_validator(mode="after")
    def _valid_cron(self) -> Self:
        count = len(self.cron.split())
        if count == 6 and self.seconds is None:
            raise ValueError(
                f"cron: {self.cron!r} has 6 fields; say with `seconds: first` or `seconds: last` which end the seconds stand at"
            )
        if count != (5 if self.seconds is None else 6):
            wanted = "minute hour day-of-month month day-of-week"
            wanted = {None: f"five: {wanted}", "first": f"six: second {wanted}", "last": f"six: {wanted} second"}[self.seconds]
            raise ValueError(f"cron: {self.cron!r} has {count} fields; write {wanted}")
        try:
            first, _ = self.bounds
            due = next(self.times.after((_IN_2024 if first is None else first - 1) // _SECOND), None)
        except CronSimError as error:
            field = str(error).removeprefix("Bad ")
            raise ValueError(
                f"cron: {self.cron!r} is not a cron expression that ever fires, look at its {field}; one that is: 0 6 * * mon-fri"
            ) from None
        if due is None:
            raise ValueError(f"cron: {self.cron!r} is not a cron expression that ever fires in {self.timezone}")
        self._refuse_bounds_without(due * _SECOND)
        if self.jitter:
            self._refuse_overtaking(self.times.shortest_gap)
        return self


class Interval(TimeTrigger):
    """Due again and again, a fixed time apart, counted from 1970-01-01T00:00:00Z plus `offset`."""

    kind: Literal["interval"] = "interval"
    every: Duration = Field(description="Time between two due instants, a second at least.", examples=["15m"])
    offset: Duration = Field(default=Duration(0), description="Shift of all due instants.", examples=["30s"])

    @field_validator("every")
    @classmethod
    def _at_least_a_second(cls, value: Duration) -> Duration:
        if value < 1:
            raise ValueError(f"every {value:g} s is too short; write 1s or more")
        return value

    @model_validator(mode="after")
    def _fires(self) -> Self:
        first, _ = self.bounds
        if first is not None:
            every, offset = round(self.every * _SECOND), round(self.offset * _SECOND)
            self._refuse_bounds_without(first + (offset - first) % every)
        self._refuse_overtaking(self.every)
        return self


class At(TimeTrigger):
    """Due once, at an instant."""

    kind: Literal["at"] = "at"
    at: str = Field(description="ISO 8601 instant with UTC offset.", examples=["2027-01-01T09:00:00+01:00"])

    @field_validator("at")
    @classmethod
    def _is_instant(cls, value: str) -> str:
        _instant(value)
        return value

    @property
    def due_at(self) -> Microseconds:
        """The instant."""
        return _instant(self.at)

    @model_validator(mode="after")
    def _fires(self) -> Self:
        first, last = self.bounds
        if (first is not None and self.due_at < first) or (last is not None and self.due_at > last):
            raise ValueError("at: does not lie between `starts_at` and `ends_at`, so the trigger would never fire")
        return self


class Event(TriggerBase):
    """Due for each event of a type that arrives in the inbox."""

    kind: Literal["event"] = "event"
    event: str = Field(description="Type of the event.", min_length=1, examples=["commit.pushed"])
    match: dict[str, JsonValue] = Field(
        default_factory=dict, description="Payload fields that must have these values.", examples=[{"branch": "main"}]
    )


class AssetUpdate(TriggerBase):
    """Due when an upstream asset or task has been materialized."""

    kind: Literal["asset"] = "asset"
    asset: str = Field(
        description="Asset key, parts joined by a slash; for a task `application/task`.", examples=["sales/orders"]
    )


class After(TriggerBase):
    """Due with each tick of another task, `offset` later, once that tick's execution is final.

    A failed upstream is first repaired: one new attempt of the same invocation is requested, unless its outcome is unknown and
    repeating it might do something twice. If it fails again, `if_upstream_fails` decides.
    """

    kind: Literal["after"] = "after"
    task: str = Field(description="The other task, `application/task` or its name within this application.", examples=["report"])
    offset: Duration = Field(default=Duration(0), description="Time after the upstream due instant.", examples=["15m"])
    wait_at_most: Duration = Field(
        default=Duration(21_600), description="How long to wait for an upstream that is not final.", examples=["6h"]
    )
    repair: bool = Field(default=True, description="Whether a failed upstream is run once more before the verdict.")
    if_upstream_fails: Literal["skip", "run"] = Field(
        default="skip", description="What to do if the upstream has failed for good."
    )


Trigger = Annotated[Cron | Interval | At | Event | AssetUpdate | After, Field(discriminator="kind")]
"""Any of the triggers. Every task can be launched on demand besides."""


def trigger_name(trigger: Trigger) -> str:
    """The name under which a trigger's ticks are kept."""
    return trigger.name or trigger.kind


def is_to_the_second(trigger: Trigger) -> bool:
    """Whether a trigger can be due at another instant than a whole minute."""
    match trigger:
        case Cron():
            return set(trigger.fields[0]) != {"0"}
        case Interval():
            return trigger.every % 60 != 0 or trigger.offset % 60 != 0
        case At():
            return trigger.due_at % 60_000_000 != 0
        case _:
            return False
