import subprocess
import sys
from pathlib import Path

import pytest

from agent_pipelines.engine.warm.identity import HOST, ProcessIdentity
from agent_pipelines.engine.warm.record import RunRecord, RunRecords

OWN = ProcessIdentity.own()
GONE = ProcessIdentity(OWN.pid, "another start")


def record(run_id: str = "run", *, host: str = HOST, process: ProcessIdentity = OWN, owner: ProcessIdentity = GONE) -> RunRecord:
    return RunRecord(run_id, host, process.pid, process.started, owner.pid, owner.started, "/old/socket")


@pytest.fixture
def records(tmp_path: Path) -> RunRecords:
    return RunRecords(tmp_path)


def test_a_run_has_one_record(records: RunRecords) -> None:
    first = record()
    assert records.create(first) is None
    assert records.create(record(process=GONE)) == first
    assert records.get("run") == first
    records.remove("run")
    assert records.get("run") is None


def test_the_end_is_written_once_and_by_who_means_the_same_process(records: RunRecords) -> None:
    records.create(record())
    assert not records.end("run", GONE, "another process")
    assert records.end("run", OWN, "first")
    assert not records.end("run", OWN, "second")
    assert not records.end("none", OWN, "no record")
    found = records.get("run")
    assert found is not None
    assert found.ended == "first"


def test_only_orphans_of_this_machine_are_adopted(records: RunRecords) -> None:
    records.create(record("orphan"))
    records.create(record("cared_for", owner=OWN))
    records.create(record("elsewhere", host="another"))
    records.create(record("ended"))
    records.end("ended", OWN, "over")
    assert [each.run_id for each in records.adopt(OWN, "/new/socket")] == ["orphan"]
    assert records.adopt(OWN, "/new/socket") == []
    found = records.get("orphan")
    assert found is not None
    assert (found.owner, found.socket) == (OWN, "/new/socket")


def test_a_process_is_meant_by_its_start_too() -> None:
    assert OWN.is_alive()
    assert not GONE.is_alive()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid)
    assert identity.is_alive()
    process.communicate()
    assert not identity.is_alive()
