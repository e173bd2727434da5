"""The hour that an accounting task is about."""

from datetime import UTC, datetime

from pydantic import AwareDatetime

from examples.agents.facts import BadFactsError, Facts


class HourFacts(Facts):
    """An hour by its end, or the instant at which the task is due: the hour that ended last is meant."""

    hour: AwareDatetime | None = None
    logical_time: AwareDatetime | None = None

    def end(self) -> datetime:
        """The end of the hour, in UTC. Raises BadFactsError if the facts name none."""
        if self.hour is not None:
            if self.hour.minute or self.hour.second or self.hour.microsecond:
                raise BadFactsError(f"`hour`: {self.hour.isoformat()} is not a full hour; write 14:00:00")
            return self.hour.astimezone(UTC)
        if self.logical_time is None:
            raise BadFactsError("the facts name no hour; give `hour: 2024-03-05T14:00:00Z`, or `logical_time`")
        return self.logical_time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def written(hour: datetime) -> str:
    """An hour as answers and events carry it."""
    return hour.astimezone(UTC).isoformat().replace("+00:00", "Z")
