"""A sensor that requests runs of jobs that are declared elsewhere."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.target import AutomationTarget


class SensorOfJobs(dg.SensorDefinition):
    """A sensor with several target jobs, all given by name.

    Dagster's own takes one name, or several job objects that must then be the ones which the repository holds: but the
    upstream of a task may be declared in another file. That each job exists is checked when the repository is loaded.
    """

    def __init__(self, name: str, *, job_names: Sequence[str], **arguments: Any) -> None:
        super().__init__(name, job_name=job_names[0], **arguments)
        self._targets = [AutomationTarget(job_name) for job_name in job_names]
        self._arguments = arguments

    @property
    def job_name(self) -> str:
        """The names of the jobs, for Dagster's error message if one is missing."""
        return ", ".join(target.job_name for target in self._targets)

    def with_attributes(self, *, jobs: Any = None, metadata: Any = None) -> "SensorOfJobs":  # pyright: ignore
        """A copy with other metadata. There are no job objects that could be replaced."""
        arguments = self._arguments if metadata is None else {**self._arguments, "metadata": metadata}
        return SensorOfJobs(self.name, job_names=[target.job_name for target in self._targets], **arguments)
