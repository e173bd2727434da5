"""Days on which a trigger runs: holidays and working days of a country."""

from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from holidays import HolidayBase


class Calendar(BaseModel):
    """The holidays of a country, and which days of it are meant (library `holidays`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    country: str = Field(description="ISO 3166 code of the country.", examples=["DE"])
    subdivision: str | None = Field(default=None, description="ISO 3166 code of a part of it.", examples=["BY"])
    days: Literal["business_days", "not_holidays", "holidays"] = Field(
        default="business_days",
        description="`business_days` are neither weekend nor holiday, `not_holidays` may be weekend, `holidays` are only those.",
    )
    closed: tuple[date, ...] = Field(default=(), description="Further days that count as holidays.", examples=[["2027-05-14"]])

    @model_validator(mode="after")
    def _known(self) -> Self:
        import holidays

        supported: dict[str, list[str]] = holidays.list_supported_countries()
        if self.country not in supported:
            near = self.country.upper()
            advice = f"did you mean {near}?" if near in supported else "write an ISO 3166 code, as in DE"
            raise ValueError(f"country: {self.country!r} has no calendar; {advice}")
        if self.subdivision is not None and self.subdivision not in supported[self.country]:
            known = ", ".join(supported[self.country]) or "none"
            raise ValueError(f"subdivision: {self.subdivision!r} is not one of {self.country}; there is: {known}")
        return self

    def reason_not_to_run(self, day: date) -> str | None:
        """Why a day is not meant; None if it is."""
        year = _year(self.country, self.subdivision, day.year)
        named = "closed" if day in self.closed else year.get(day)
        if self.days == "holidays":
            return None if named else f"{day} is no holiday in {self._place}"
        if named:
            return f"{day} is a holiday in {self._place}: {named}"
        if self.days == "business_days" and _is_weekend(year, day):
            return f"{day} is a weekend day in {self._place}"
        return None

    @property
    def words(self) -> str:
        """Which days are meant, in a few words."""
        return f"{self.days.replace('_', ' ')} of {self._place}"

    @property
    def _place(self) -> str:
        return self.country if self.subdivision is None else f"{self.country}-{self.subdivision}"


@lru_cache(maxsize=256)
def _year(country: str, subdivision: str | None, year: int) -> "HolidayBase":
    import holidays

    return holidays.country_holidays(country, subdiv=subdivision, years=year, expand=False, language="en_US")


def _is_weekend(year: "HolidayBase", day: date) -> bool:
    # Some countries work on a Saturday in exchange for a day beside a holiday.
    return year.is_weekend(day) and day not in year.weekend_workdays
