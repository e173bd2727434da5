import inspect
import re
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from agent_pipelines import frames as public
from agent_pipelines.core.clock import from_microseconds
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.home import HomeError
from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import open_hub
from agent_pipelines.insight import frames
from agent_pipelines_tests.insight.filled import DIGEST, HOUR, PRICED, SECRET, Filled

OF_THE_RECORD = ("executions", "attempts", "events", "ticks", "prompt_versions")


def documented(name: str) -> list[str]:
    """The columns that a docstring tells."""
    words = inspect.getdoc(getattr(frames, name)) or ""
    own = re.findall(r"^    (\w+): \S", words.partition("Columns")[2], flags=re.MULTILINE)
    return [*documented("executions"), *own] if name == "runs" else own


@pytest.fixture
def gateway() -> DagsterGateway:
    return DagsterGateway(dg.DagsterInstance.ephemeral())


@pytest.mark.parametrize("name", OF_THE_RECORD)
def test_columns_are_those_that_the_docstring_tells(name: str, filled: Filled) -> None:
    filled.everything()
    frame = getattr(frames, name)(filled.hub.database)
    assert len(frame) > 0
    assert list(frame.columns) == documented(name)


@pytest.mark.parametrize("name", OF_THE_RECORD)
def test_an_empty_frame_has_the_dtypes_of_a_full_one(name: str, filled: Filled) -> None:
    empty = getattr(frames, name)(filled.hub.database)
    filled.everything()
    full = getattr(frames, name)(filled.hub.database)
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


def test_executions_with_units(filled: Filled) -> None:
    begun = filled.clock.now()
    results = filled.everything()
    frame = frames.executions(filled.hub.database)
    assert list(frame["id"]) == [result.execution_id for result in results]
    assert list(frame["status"]) == ["succeeded"] * 4 + ["failed", "skipped"]
    assert list(frame["duration_seconds"][:3]) == [2.0, 5.0, 5.0]  # two tries of two seconds, one second apart
    assert set(frame["wait_seconds"]) == {0.5}
    assert list(frame["attempts"]) == [1, 1, 2, 1, 1, 0]
    assert frame["created_at"][0] == from_microseconds(begun)
    assert str(frame["created_at"].dtype) == "datetime64[us, UTC]"
    assert frame["total_tokens"][0] == 1_200
    assert frame["error_class"][4] == "authentication"
    assert frame["reason"][5] == "nothing has changed"


def test_an_unknown_price_is_missing_and_not_zero(filled: Filled) -> None:
    filled.everything()
    cost = frames.executions(filled.hub.database)["cost_usd"]
    assert cost[0] == pytest.approx(1_000 * 0.15e-6 + 200 * 0.6e-6)
    assert cost.isna().tolist() == [False, False, True, True, True, True]


def test_attempts_with_errors_and_delays(filled: Filled) -> None:
    filled.everything()
    frame = frames.attempts(filled.hub.database, task="digest")
    assert list(frame["status"]) == ["succeeded", "succeeded", "failed", "succeeded"]
    tried = frame.loc[2]
    assert (tried["error_class"], tried["error_status"], tried["retry_delay_seconds"]) == ("overloaded", 529, 1.0)
    assert tried["duration_seconds"] == 2.0
    assert set(frame["application"]) == {"reports"}


def test_events_with_texts_and_tools(filled: Filled) -> None:
    filled.everything()
    frame = frames.events(filled.hub.database)
    assert frame.loc[frame["kind"] == "reasoning", "text"].tolist() == ["I should look it up.\nThen answer."]
    assert frame.loc[frame["kind"] == "tool_call", "tool"].tolist() == ["lookup"]
    assert frame.loc[frame["kind"] == "tool_result", "body"].tolist()[0]["output"] == {"rows": 3}
    assert frame.loc[frame["kind"] == "usage", "text"].isna().all()
    assert SECRET not in frame.to_csv()


def test_ticks_with_verdicts(filled: Filled) -> None:
    filled.everything()
    frame = frames.ticks(filled.hub.database)
    assert list(frame["verdict"]) == ["ran"] * 5 + ["skipped"]
    assert set(frame["delay_seconds"]) == {0.5}


def test_prompt_versions(filled: Filled) -> None:
    filled.everything()
    filled.execute(DIGEST.model_copy(update={"prompt": "Sum up briefly {{ logical_time }}"}), "Short.")
    frame = frames.prompt_versions(filled.hub.database, task="digest")
    assert list(frame["prompt"]) == ["Sum up {{ logical_time }}", "Sum up briefly {{ logical_time }}"]
    assert set(frames.executions(filled.hub.database, task="digest")["prompt_version"]) == set(frame["version"])


def test_filters(filled: Filled) -> None:
    begun = filled.clock.now()
    filled.everything()
    database = filled.hub.database
    assert len(frames.executions(database, application="quality")) == 3
    assert len(frames.executions(database, application="quality", task="digest")) == 0
    second = frames.executions(database)["created_at"][1]
    assert list(frames.executions(database, since=second)["status"]) == ["succeeded"] * 3 + ["failed", "skipped"]
    assert len(frames.executions(database, until=second)) == 1
    assert len(frames.executions(database, since=second.isoformat(), until=from_microseconds(begun + 3 * HOUR))) == 2
    assert len(frames.ticks(database, since=from_microseconds(begun + HOUR))) == 5
    with pytest.raises(ValueError, match="has no UTC offset"):
        frames.executions(database, since="2026-01-01T00:00:00")
    with pytest.raises(ValueError, match="has no UTC offset"):
        frames.executions(database, until=datetime(2026, 1, 1))


def test_dagster_runs(gateway: DagsterGateway) -> None:
    empty = frames.dagster_runs(gateway)
    assert list(empty.columns) == documented("dagster_runs")
    instance = gateway._instance

    @dg.job(
        tags={
            "agent_pipelines/task": "reports/digest",
            "agent_pipelines/trigger": "cron",
            ".dagster/agent_pipelines.origin": "schedule",
        }
    )
    def launched() -> None: ...

    @dg.job(name="reports__mail", tags={"agent_pipelines/application": "reports"})
    def by_hand() -> None: ...

    @dg.job
    def other() -> None: ...

    ids = [job.execute_in_process(instance=instance).run_id for job in (launched, by_hand, other)]
    frame = frames.dagster_runs(gateway)
    assert list(frame["run_id"]) == ids[::-1]
    assert list(frame["status"]) == ["SUCCESS"] * 3
    assert frame.dtypes.to_dict() == empty.dtypes.to_dict()
    assert list(frame["task"].fillna("none")) == ["none", "mail", "digest"]
    assert (frame["duration_seconds"] >= 0).all()
    assert (frame["queue_seconds"] >= 0).all()
    assert frame["created_at"].max() <= datetime.now(UTC)
    assert list(frames.dagster_runs(gateway, application="reports", task="digest")["run_id"]) == ids[:1]
    assert len(frames.dagster_runs(gateway, until=frame["created_at"].min().to_pydatetime())) == 0


def test_runs_are_executions_with_their_dagster_run(filled: Filled, gateway: DagsterGateway) -> None:
    empty = frames.runs(filled.hub.database, gateway)
    assert list(empty.columns) == documented("runs")

    @dg.job
    def launched() -> None: ...

    run_id = launched.execute_in_process(instance=gateway._instance).run_id
    filled.execute(DIGEST, [PRICED, "In a run that Dagster has."], run_id=run_id)
    filled.execute(DIGEST, [PRICED, "In a run that Dagster has no more."])
    frame = frames.runs(filled.hub.database, gateway)
    assert frame.dtypes.to_dict() == empty.dtypes.to_dict()
    assert frame["dagster_status"].tolist() == ["SUCCESS", pd.NA]
    assert len(frame) == 2


def test_the_public_tables_open_the_deployment_of_dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with pytest.raises(HomeError, match="DAGSTER_HOME is not set"):
        public.executions()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        hub = open_hub(database_url(instance))
        with hub.database.transaction() as connection:
            hub.inbox.put(connection, "x", {})
        for name in public.__all__:
            frame = getattr(public, name)
            assert list(frame().columns) == documented(name)
            assert list(frame(instance=instance).columns) == documented(name)
            assert "Columns" in inspect.getdoc(frame)
        assert list(public.ticks(hub=hub).columns) == documented("ticks")
