import pytest

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.engine.celery.settings import CelerySettings
from agent_pipelines.engine.warm.settings import WarmSettings


@pytest.mark.parametrize("name", ["max_runs", "max_children", "memory_limit_mb", "start_timeout", "idle_timeout"])
def test_a_limit_that_lets_nothing_through_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"dagster.yaml, field `run_launcher.config.{name}`: 0 is not above zero"):
        WarmSettings.of({name: 0})
    assert WarmSettings.of({"max_children": None}) == WarmSettings()


@pytest.mark.parametrize("name", ["lease", "margin", "resend_after", "unserved_after", "visibility_timeout"])
def test_a_time_of_workers_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"run_launcher.config.{name}`: -1 is not above zero"):
        CelerySettings.of({name: -1})
    with pytest.raises(DefinitionError, match="max_children"):
        CelerySettings.of({"warm": {"max_children": 0}})
