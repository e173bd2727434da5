"""Processes are killed and the network fails; nothing is lost, nothing done twice, nothing left open."""

import json
import os
import sys
from pathlib import Path

import pytest

from agent_pipelines.hub import Hub
from agent_pipelines.store.database import Database
from agent_pipelines_tests.chaos.storm import Storm
from agent_pipelines_tests.chaos.world import world

SEED = int(os.environ.get("CHAOS_SEED", "20260101"))


@pytest.mark.timeout(300)
def test_a_short_storm(database: Database) -> None:
    with world(SEED, 0.15) as url:
        storm = Storm(Hub(database), url, seed=SEED, executions=24, workers=2, life=(1.0, 2.5))
        outcome = storm.run(rounds=4)
    assert outcome.is_clean, outcome
    assert outcome.kills > 0
    assert outcome.faults.total() > 0


@pytest.mark.long
@pytest.mark.timeout(7_200)
def test_a_long_storm(database: Database, tmp_path: Path) -> None:
    executions = int(os.environ.get("CHAOS_EXECUTIONS", "10000"))
    with world(SEED, 0.05) as url:
        storm = Storm(Hub(database), url, seed=SEED, executions=executions, workers=2, life=(5.0, 20.0))
        outcome = storm.run(rounds=max(5, executions // 500))
    sys.stderr.write(f"\n{json.dumps(vars(outcome))}\n")
    assert outcome.is_clean, outcome
