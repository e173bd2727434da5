"""How much may happen at once or in a length of time, and who goes first."""

import re
from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent_pipelines.core.rate import Rate

PriorityClass = Literal["interactive", "normal", "batch"]
PRIORITY_CLASSES: Sequence[PriorityClass] = get_args(PriorityClass)
"""The first goes before the second, and that before the third."""

ScopeKind = Literal["application", "agent", "provider", "task", "node", "resource"]
_OF_WORKSPACE = ("application", "task", "resource")
_FORM = re.compile(rf"({'|'.join(get_args(ScopeKind))})[/:]([^\s/@]+(?:/[^\s/@]+)?)(?:@([^\s/@]+))?")
_PARTS = {"task": 2, "node": 2}
_FORMS = "application/NAME, agent/NAME, provider/NAME, task/APPLICATION/NAME, node/AGENT/NODE, resource/KEY"


class Scope(str):
    """What a limit is about: `application/billing`, `provider/openai`, `task/billing/digest`, `node/writer/left`.

    Applications, tasks and resources belong to a workspace, which is written behind if it is not `default`:
    `application/billing@research`. Agents, providers and nodes are those of the whole deployment.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> "Scope":
        """Read a scope; a colon may stand behind the kind. Raises ValueError for anything else."""
        found = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None or found[2].count("/") + 1 != _PARTS.get(found[1], 1):
            raise ValueError(f"{text!r} is not a scope; write one of {_FORMS}")
        if found[3] is not None and found[1] not in _OF_WORKSPACE:
            raise ValueError(f"{text!r}: an {found[1]} belongs to all workspaces; leave @{found[3]} out")
        return cls.of(found[1], found[2], found[3] or "default")

    @classmethod
    def of(cls, kind: str, name: str, workspace: str = "default") -> "Scope":
        """The scope of a kind and a name."""
        behind = f"@{workspace}" if workspace != "default" and kind in _OF_WORKSPACE else ""
        return cls(f"{kind}/{name}{behind}")

    @property
    def kind(self) -> str:
        """`application`, `agent`, `provider`, `task`, `node` or `resource`."""
        return self.partition("/")[0]


class LimitSpec(BaseModel):
    """What may happen in a scope. Nothing that is not named is limited."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: str = Field(description=f"What is limited: {_FORMS}.", examples=["application/billing"])
    concurrency: int | None = Field(default=None, ge=1, description="Executions at once, over all processes.", examples=[5])
    requests: Rate | None = Field(default=None, description="Requests in each period.", examples=["10/s"])
    requests_burst: int | None = Field(
        default=None,
        ge=1,
        description="Requests at once after a rest, above the rate; without it no period has more than the rate.",
    )
    tokens: Rate | None = Field(default=None, description="Input and output tokens in each period.", examples=["100000/m"])
    tokens_burst: int | None = Field(default=None, ge=1, description="Tokens at once after a rest, above the rate.")

    @field_validator("scope")
    @classmethod
    def _is_scope(cls, value: str) -> str:
        return str(Scope.parse(value))

    @model_validator(mode="after")
    def _says_something(self) -> "LimitSpec":
        if self.concurrency is None and self.requests is None and self.tokens is None:
            raise ValueError("concurrency: is missing, and so are `requests` and `tokens`; write one of them")
        for rate, burst, name in ((self.requests, self.requests_burst, "requests"), (self.tokens, self.tokens_burst, "tokens")):
            if burst is not None and rate is None:
                raise ValueError(f"{name}_burst: goes with `{name}`; write that, too")
        return self
