"""The Dagster definitions of the example pipelines."""

from pathlib import Path

import dagster as dg

import agent_pipelines


@dg.definitions
def defs() -> dg.Definitions:
    return agent_pipelines.definitions(Path(__file__).parent)
