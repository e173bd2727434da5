import subprocess
import sys
from typing import Any

import pytest

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.runtimes import catalog
from agent_pipelines.runtimes.base import Runtime, RuntimeConfig


@pytest.mark.parametrize("kind", catalog.kinds())
def test_every_kind_is_an_adapter_of_that_name(kind: str) -> None:
    adapter = catalog.runtime_type(kind)
    assert issubclass(adapter, Runtime)
    assert adapter.kind == kind
    assert issubclass(adapter.config_type, RuntimeConfig)


@pytest.mark.parametrize("kind", catalog.kinds())
def test_every_setting_is_described(kind: str) -> None:
    fields = catalog.runtime_type(kind).config_type.model_fields
    assert [name for name, field in fields.items() if not field.description] == []


def test_every_adapter_module_is_in_the_catalog() -> None:
    adapters = {catalog.runtime_type(kind) for kind in catalog.kinds()}
    ours = {each for each in Runtime.__subclasses__() if each.__module__.startswith("agent_pipelines.")}
    assert ours == adapters


def test_a_runtime_is_made_of_its_settings() -> None:
    runtime = catalog.create("openai", {"base_url": "http://127.0.0.1/v1", "model": "m", "max_idle": "2m"})
    assert runtime.config.max_idle == 120


def test_importing_the_catalog_imports_no_adapter() -> None:
    script = "import sys, agent_pipelines.runtimes.catalog; print(*sorted(m for m in sys.modules if '.runtimes.' in m))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert loaded == ["agent_pipelines.runtimes.base", "agent_pipelines.runtimes.catalog"]


@pytest.mark.parametrize(
    ("kind", "config", "field", "words"),
    [
        ("opneai", {}, "kind", "known are anthropic, command, fake, http, node, openai, python. Did you mean 'openai'?"),
        ("teapot", {}, "kind", "there is no runtime 'teapot'"),
        ("openai", {"model": "m"}, "base_url", "needs this setting"),
        ("openai", {"base_url": "http://h", "model": "m", "streem": 1}, "streem", "Did you mean 'stream'?"),
        ("openai", {"base_url": "http://h", "model": "m", "color": 1}, "color", "Its settings are api_key_env, base_url"),
        ("openai", {"base_url": "http://h", "model": "m", "max_idle": "soon"}, "max_idle", "is not a duration"),
        ("openai", {"base_url": 1, "model": 2}, "base_url", "(and 1 more)"),
        ("command", {"argv": ["x"], "output": "jsonl", "events": [{"event": "text"}]}, "events.0.match", "needs this setting"),
        ("python", {"function": "no colon"}, "function", "pattern"),
    ],
)
def test_a_wrong_setting_is_named(kind: str, config: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        catalog.create(kind, config)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_a_value_is_not_quoted_for_it_may_be_a_secret() -> None:
    with pytest.raises(DefinitionError) as caught:
        catalog.create("openai", {"base_url": "https://me:planted@host/v1", "model": "m"})
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None
