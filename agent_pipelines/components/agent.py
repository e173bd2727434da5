"""Agents in YAML."""

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from agent_pipelines.components.declaration import Declaration
from agent_pipelines.components.reading import Attributes, substitute, validate
from agent_pipelines.components.resource import AgentResource, resource_key
from agent_pipelines.components.scaffolding import AgentScaffolder
from agent_pipelines.components.source import Source
from agent_pipelines.core.breaker import BreakerSpec
from agent_pipelines.core.errors import AgentPipelinesError, DefinitionError
from agent_pipelines.core.problems import refuse
from agent_pipelines.core.secrets import redactor
from agent_pipelines.core.trigger import NAME_PATTERN
from agent_pipelines.runtimes import catalog


class NodeSpec(BaseModel):
    """One endpoint of an agent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME_PATTERN, description="Name of the node, unique in its agent.", examples=["left"])
    config: dict[str, JsonValue] = Field(default_factory=dict, description="Settings of this node, over those of the agent.")
    capacity: int | None = Field(default=None, ge=1, description="Requests at once; without it there is no limit.", examples=[4])
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="What tasks may ask for with `placement.labels`.",
        examples=[{"zone": "a", "gpu": "yes"}],
    )


class AgentSpec(BaseModel):
    """A named agent: a runtime with its settings, on one or more nodes."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        pattern=NAME_PATTERN, description="Name that tasks use; defaults to the name of the folder.", examples=["writer"]
    )
    runtime: str = Field(description="Kind of runtime.", examples=["openai"])
    config: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Settings of the runtime. Secrets are named by their environment variable.",
        examples=[{"base_url": "https://api.openai.com/v1", "model": "gpt-5-mini", "api_key_env": "OPENAI_API_KEY"}],
    )
    provider: str | None = Field(
        default=None,
        pattern=NAME_PATTERN,
        description="Whose service it uses, for limits of `provider/NAME`; the kind of its runtime if it is not said.",
        examples=["openai"],
    )
    nodes: tuple[NodeSpec, ...] = Field(
        default=(), description="Endpoints; the one with the least to do is taken. Without any the agent is one node."
    )
    breaker: BreakerSpec = Field(default=BreakerSpec(), description="When a node that fails is left alone.")


class AgentAttributes(Attributes):
    """The attributes of an agent in YAML."""

    model_of: ClassVar[type[BaseModel]] = AgentSpec
    optional = ("name",)


@dg.scaffold_with(AgentScaffolder)
class Agent(Declaration, AgentSpec):
    """A named agent that tasks run on: one kind of runtime, on one or more nodes."""

    attributes = AgentAttributes

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> "Agent":
        assert isinstance(model, AgentAttributes)
        source = Source.of(context)
        values = substitute(model.written, context, source, verbatim=lambda way: False)
        agent = validate(cls, {**source.named_by_folder, **values}, source)
        agent._source = source
        refuse(agent.problems())
        return agent

    def problems(self) -> list[DefinitionError]:
        """What is wrong with the settings of the runtime; imports the runtime, opens nothing."""
        source = self._source
        kinds = catalog.kinds()
        if self.runtime not in kinds:
            near = difflib.get_close_matches(self.runtime, kinds, n=1)
            guess = f"Did you mean `{near[0]}`? " if near else ""
            fix = f"{guess}There is: {', '.join(sorted(kinds))}"
            return [source.problem(f"there is no runtime `{self.runtime}`", ("runtime",), fix)]
        try:
            config_type = catalog.runtime_type(self.runtime).config_type
        except AgentPipelinesError as error:
            return [source.problem(str(error), ("runtime",))]
        found: list[DefinitionError] = []
        names = [node.name for node in self.nodes]
        found += [
            source.problem(f"two nodes are named `{name}`", ("nodes", index, "name"), "Give each a name of its own")
            for index, name in enumerate(names)
            if name in names[:index]
        ]
        if self.runtime == "node" and self.nodes:
            found.append(
                source.problem(
                    "nodes that fetch their work are registered", ("nodes",), "Leave it out, and run `agent-pipelines node run`"
                )
            )
        for below, config in self._configs():
            field = _credential(config)
            if field is not None:
                fix = "Put it into an environment variable and write the variable's name, as in `api_key_env: OPENAI_API_KEY`"
                found.append(source.problem("holds a secret", (*below, field), fix))
                continue
            try:
                validate(config_type, config, source, below=below)
            except DefinitionError as error:
                found.append(error)
        return found

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return dg.Definitions(resources={resource_key(self.name): self.resource()})

    def resource(self) -> AgentResource:
        """The agent as a Dagster resource."""
        nodes = {node.name: {**self.config, **node.config} for node in self.nodes} or {"main": dict(self.config)}
        return AgentResource(
            agent=self.name,
            runtime=self.runtime,
            nodes=nodes,
            provider=self.provider,
            capacities={node.name: node.capacity for node in self.nodes if node.capacity is not None},
            labels={node.name: node.labels for node in self.nodes if node.labels},
            breaker=self.breaker.model_dump(mode="json"),
        )

    def _configs(self) -> list[tuple[tuple[str | int, ...], Mapping[str, JsonValue]]]:
        if not self.nodes:
            return [(("config",), self.config)]
        return [(("nodes", index, "config"), {**self.config, **node.config}) for index, node in enumerate(self.nodes)]


def _credential(config: Mapping[str, Any]) -> str | None:
    return next((name for name, value in config.items() if is_credential(value)), None)


def is_credential(value: Any) -> bool:
    """Whether a value of a declaration has the shape of a credential, which belongs into the environment."""
    if isinstance(value, Mapping):
        return any(map(is_credential, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_credential, value))
    # A sentence may well hold the words of a credential.
    return isinstance(value, str) and len(value.split()) <= 2 and redactor.text(value) != value
