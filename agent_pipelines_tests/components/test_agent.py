import asyncio
from typing import Any

import dagster as dg
import pytest

from agent_pipelines import Agent, DefinitionError
from agent_pipelines.components.agent import AgentAttributes, AgentSpec
from agent_pipelines.components.resource import AgentResource, agent_of_key, resource_key
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.engine.project_tree import ProjectTree
from agent_pipelines_tests.components.project import AGENT, Project

INVOCATION = Invocation(task="x", spec_hash="h", trigger="t", origin=Origin.ON_DEMAND, occurrence="o", due_at=1, logical_at=1)


def _load(project: Project) -> Agent:
    loaded, problems = ProjectTree.for_project(project.root).load_all(Agent)
    if problems:
        raise problems[0]
    [(agent, _)] = loaded
    return agent


def test_the_name_defaults_to_the_folder(project: Project) -> None:
    agent = _load(project.agent("night_writer"))
    assert (agent.name, agent.runtime, agent.config) == ("night_writer", "fake", {})


def test_an_agent_is_a_resource_that_opens_nothing(project: Project) -> None:
    _load(project.agent(text=AGENT + "  config: {replies: [Hello]}\n"))
    resources = project.load().resources or {}
    assert set(resources) == {"agent_writer"}
    resource = resources["agent_writer"]
    assert isinstance(resource, AgentResource)
    made = resource.create()
    assert (made.name, [node.name for node in made.nodes]) == ("writer", ["main"])

    async def answer() -> list[Any]:
        return [event async for event in made.nodes[0].runtime.stream(INVOCATION)]

    assert asyncio.run(answer())[-1].text == "Hello"


def test_the_settings_of_a_node_go_over_those_of_the_agent(project: Project) -> None:
    text = (
        AGENT + "  config: {replies: [common], fail_times: 1}\n  nodes: [{name: left, config: {fail_times: 0}}, {name: right}]\n"
    )
    resource = _load(project.agent(text=text)).resource()
    assert resource.nodes == {
        "left": {"replies": ["common"], "fail_times": 0},
        "right": {"replies": ["common"], "fail_times": 1},
    }
    assert [node.name for node in resource.create().nodes] == ["left", "right"]


def test_settings_come_from_the_environment_by_template(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        AGENT.replace("fake", "openai") + "  config: {base_url: \"{{ env('WRITER_URL', 'http://127.0.0.1:1/v1') }}\", model: m}\n"
    )
    assert _load(project.agent(text=text)).config["base_url"] == "http://127.0.0.1:1/v1"
    monkeypatch.setenv("WRITER_URL", "https://host/v1")
    assert _load(project).config["base_url"] == "https://host/v1"


@pytest.mark.parametrize(
    "config",
    [
        "headers: {X-Key: sk-0123456789abcdef}",
        "headers: {X-Key: 'Bearer 0123456789abcdef0123456789abcdef'}",
        "extra_body: {tools: [{key: ghp_0123456789abcdef0123456789abcdef0123}]}",
    ],
)
def test_a_secret_in_the_settings_is_refused_and_not_repeated(project: Project, config: str) -> None:
    text = AGENT.replace("fake", "openai") + f"  config: {{base_url: https://host/v1, model: m, {config}}}\n"
    with pytest.raises(DefinitionError, match="holds a secret") as caught:
        _load(project.agent(text=text))
    assert "0123456789" not in str(caught.value)


def test_sentences_are_no_secrets(project: Project) -> None:
    _load(project.agent(text=AGENT + "  config: {replies: ['Show a basic understanding of the task']}\n"))


def test_two_nodes_of_a_name_are_refused(project: Project) -> None:
    with pytest.raises(DefinitionError, match="two nodes are named `left`") as caught:
        _load(project.agent(text=AGENT + "  nodes: [{name: left}, {name: left}]\n"))
    assert caught.value.field == "nodes[1].name"


def test_the_key_of_a_resource_tells_the_agent() -> None:
    assert agent_of_key(resource_key("writer")) == "writer"
    assert agent_of_key("database") is None


def test_the_json_schema_names_every_field() -> None:
    schema = AgentAttributes.model_json_schema()
    assert set(schema["properties"]) == set(AgentSpec.model_fields)
    assert schema["required"] == ["runtime"]


def test_an_asset_of_the_user_can_use_an_agent(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def greeting(agent_writer: AgentResource) -> str:
        made = agent_writer.create()

        async def answer() -> list[Any]:
            return [event async for event in made.nodes[0].runtime.stream(INVOCATION)]

        return asyncio.run(answer())[-1].text

    agent = Agent(name="writer", runtime="fake", config={"replies": ["Hello"]})
    result = dg.materialize([greeting], resources={"agent_writer": agent.resource()}, instance=instance)
    assert result.output_for_node("greeting") == "Hello"


def test_nodes_have_capacity_and_labels_and_the_agent_a_breaker(project: Project) -> None:
    text = AGENT + "  breaker: {failures: 2, pause: 1s}\n  nodes: [{name: left, capacity: 3, labels: {zone: a}}, {name: right}]\n"
    made = _load(project.agent(text=text)).resource().create()
    assert [(node.name, node.capacity, node.labels) for node in made.nodes] == [("left", 3, {"zone": "a"}), ("right", None, {})]
    assert (made.breaker.failures, made.breaker.pause, made.breaker.max_pause) == (2, 1.0, 60.0)


def test_an_agent_whose_nodes_fetch_their_work_declares_none(project: Project) -> None:
    text = AGENT.replace("fake", "node") + "  config: {lease: 2m}\n"
    assert _load(project.agent(text=text)).resource().create().nodes[0].runtime.config.lease == 120
    with pytest.raises(DefinitionError, match="agent-pipelines node run"):
        _load(project.agent(text=text + "  nodes: [{name: left}]\n"))
