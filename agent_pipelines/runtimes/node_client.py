"""What a node says to the control plane, over HTTP."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, JsonValue, SecretStr, ValidationError

from agent_pipelines.core.errors import AgentPipelinesError

Model = TypeVar("Model", bound=BaseModel)

_TIMEOUT = 10.0  # seconds that an answer may take, beyond what was asked to be waited for


class CutOff(AgentPipelinesError):
    """The control plane cannot be reached just now, or does not answer as it should."""


class NodeRefused(AgentPipelinesError):
    """The control plane has refused what a node says; to say it again is of no use."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class GivenOrder(BaseModel):
    """An order that a node is to work on; `lease` is in seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    fence: int
    lease: float
    invocation: dict[str, JsonValue]


class Beaten(BaseModel):
    """What the control plane says to a beat: the orders that are still the worker's own."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    held: tuple[str, ...]


class _Given(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    orders: tuple[GivenOrder, ...]


@dataclass(frozen=True)
class NodeClient:
    """Speaks for one worker of one node. Every method raises CutOff and NodeRefused."""

    http: httpx.AsyncClient
    agent: str
    node: str
    worker: str

    @classmethod
    def to(cls, url: str, token: SecretStr, *, agent: str, node: str, worker: str) -> "NodeClient":
        """A client of the control plane at a URL, as in http://control-plane:3000."""
        headers = {"Authorization": f"Bearer {token.get_secret_value()}", "X-Actor": f"node {agent}/{node}"}
        http = httpx.AsyncClient(base_url=f"{url.rstrip('/')}/api/v1", headers=headers, timeout=_TIMEOUT)
        return cls(http, agent, node, worker)

    async def register(self, *, capacity: int, labels: Mapping[str, str], runtime: str) -> None:
        """Say that the node is there."""
        await self._post(self._path("register"), {"capacity": capacity, "labels": dict(labels), "runtime": runtime})

    async def beat(self, held: Collection[str]) -> Beaten:
        """Say that the worker lives, and move the leases of its orders on."""
        return _read(Beaten, await self._post(self._path("beat"), {"held": sorted(held)}))

    async def pull(self, held: Collection[str], *, limit: int, wait: float) -> Sequence[GivenOrder]:
        """Ask for work; waits for some for so many seconds."""
        body = {"held": sorted(held), "limit": limit, "wait": wait}
        return _read(_Given, await self._post(self._path("pull"), body, wait)).orders

    async def report(self, order: GivenOrder, events: Sequence[tuple[int, JsonValue]]) -> int:
        """Send events; returns the number of the last one that is kept."""
        body = {"fence": order.fence, "events": [{"seq": seq, "event": event} for seq, event in events]}
        answer = await self._post(f"/orders/{order.id}/events", body)
        last = answer.get("last_seq")
        if not isinstance(last, int):
            raise CutOff("the control plane did not say which events it has kept")
        return last

    async def finish(self, order: GivenOrder, last_seq: int, failure: Mapping[str, JsonValue] | None) -> None:
        """Say that an order has ended."""
        body = {"fence": order.fence, "last_seq": last_seq, "failure": None if failure is None else dict(failure)}
        await self._post(f"/orders/{order.id}/finish", body)

    async def leave(self) -> None:
        """Say that the worker ends."""
        await self._post(self._path("leave"), {})

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    def _path(self, verb: str) -> str:
        return f"/agents/{quote(self.agent, safe='')}/nodes/{quote(self.node, safe='')}/{verb}"

    async def _post(self, path: str, body: dict[str, Any], wait: float = 0) -> dict[str, Any]:
        try:
            answer = await self.http.post(path, json={"worker": self.worker, **body}, timeout=_TIMEOUT + wait)
            value = answer.json()
        except (httpx.HTTPError, ValueError, OSError) as error:
            raise CutOff(f"{self.http.base_url} cannot be reached: {type(error).__name__}: {error}") from None
        if answer.is_success and isinstance(value, dict):
            return value
        detail = value.get("detail") if isinstance(value, dict) else None
        words = f"{self.http.base_url} answered {answer.status_code}: {detail or 'no reason given'}"
        if answer.is_server_error or answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or not answer.is_client_error:
            raise CutOff(words)
        raise NodeRefused(answer.status_code, words)


def _read(model: type[Model], value: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise CutOff(
            f"the control plane answered with something else than {model.__name__}: {error.error_count()} faults"
        ) from None
