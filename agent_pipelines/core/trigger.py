"""What makes a task due."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from agent_pipelines.core.clock import Microseconds, to_microseconds
from agent_pipelines.core.duration import Duration

NAME_PATTERN = r"^[a-z][a-z0-9_]*$"


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
            to_microseconds(datetime.fromisoformat(value))
        return value

    def logical_at(self, due_at: Microseconds) -> Microseconds:
        """The instant that a tick due at `due_at` works on."""
        return due_at if self.logical_time is None else to_microseconds(datetime.fromisoformat(self.logical_time))


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{value!r} is not a time zone; use an IANA name, as in Europe/Berlin") from None
    return value


class Cron(TriggerBase):
    """Due at the instants of a five-field cron expression, in a time zone."""

    kind: Literal["cron"] = "cron"
    cron: str = Field(description="Minute, hour, day of month, month, day of week.", examples=["0 6 * * mon-fri"])
    timezone: str = Field(
        default="UTC", description="IANA name of the zone that the fields are read in.", examples=["Europe/Berlin"]
    )

    _valid_zone = field_validator("timezone")(_zone)

    @field_validator("cron")
    @classmethod
    def _valid_cron(cls, value: str) -> str:
        fields = value.split()
        if len(fields) != 5:
            raise ValueError(f"{value!r} has {len(fields)} fields; write five: minute hour day-of-month month day-of-week")
        try:
            next(CronSim(value, datetime(2024, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration):
            raise ValueError(f"{value!r} is not a cron expression that ever fires; an example that is: 0 6 * * mon-fri") from None
        return value


class Interval(TriggerBase):
    """Due again and again, a fixed time apart, counted from 1970-01-01T00:00:00Z plus `offset`."""

    kind: Literal["interval"] = "interval"
    every: Duration = Field(description="Time between two due instants, a minute at least.", examples=["15m"])
    offset: Duration = Field(default=Duration(0), description="Shift of all due instants.", examples=["30s"])

    @field_validator("every")
    @classmethod
    def _at_least_a_minute(cls, value: Duration) -> Duration:
        if value < 60:
            raise ValueError(f"every {value:g} s is below the minute that this version keeps; write 1m or more")
        return value


class At(TriggerBase):
    """Due once, at an instant."""

    kind: Literal["at"] = "at"
    at: str = Field(description="ISO 8601 instant with UTC offset.", examples=["2027-01-01T09:00:00+01:00"])

    @field_validator("at")
    @classmethod
    def _instant(cls, value: str) -> str:
        to_microseconds(datetime.fromisoformat(value))
        return value

    @property
    def due_at(self) -> Microseconds:
        """The instant."""
        return to_microseconds(datetime.fromisoformat(self.at))


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
