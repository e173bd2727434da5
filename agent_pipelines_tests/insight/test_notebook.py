"""The notebook that reads the record runs on what is recorded, and on nothing."""

from pathlib import Path

import dagster as dg
import nbformat
import pytest
from nbclient import NotebookClient

from agent_pipelines.core.clock import ManualClock
from agent_pipelines.engine.place import database_url
from agent_pipelines.hub import open_hub
from agent_pipelines_tests.insight.filled import DIGEST, UNPRICED, Filled

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebooks" / "run_analysis.ipynb"


@pytest.fixture
def record(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Filled:
    """The empty record of a deployment that DAGSTER_HOME names."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        return Filled(open_hub(database_url(instance)).database, clock)


def outputs() -> str:
    """What the notebook shows when all of it is run."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown: list[str] = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                assert output.name == "stdout", output.text
            shown.append(output.get("text") or output["data"].get("text/plain") or "")
    return "\n".join(shown)


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert set(cell.metadata) == set()


def test_it_runs_on_an_empty_record(record: Filled) -> None:
    shown = outputs()
    assert "0 executions of 0 tasks, 0 attempts, 0 ticks" in shown
    assert "Executions per day: nothing is recorded yet" in shown
    assert "Figure" not in shown


def test_it_shows_what_is_recorded(record: Filled) -> None:
    record.everything()
    record.clock.time += 86_400_000_000
    record.everything()
    record.execute(DIGEST.model_copy(update={"prompt": "Sum up briefly {{ logical_time }}"}), [UNPRICED, "Short."])
    shown = outputs()
    assert "13 executions of 2 tasks" in shown
    assert "nothing is recorded yet" not in shown
    for words in ("reports/digest", "quality/checker", "authentication", "overloaded", "nothing has changed", "without_price"):
        assert words in shown
    assert shown.count("<Figure") == 9
