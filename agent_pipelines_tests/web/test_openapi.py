import json
import re
from typing import Any

from starlette.testclient import TestClient

from agent_pipelines.hub import Hub
from agent_pipelines.web.api import PREFIX, operations
from agent_pipelines_tests.registry.conftest import DECLARED
from agent_pipelines_tests.web.conftest import WELL


def test_the_description_names_every_operation(hub: Hub, client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    assert told["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}
    assert described == {(each.method, PREFIX + each.path) for each in operations(hub, lambda: DECLARED, lambda: WELL)}
    assert told["security"] == [{"token": []}]
    health: dict[str, Any] = told["paths"][f"{PREFIX}/health"]["get"]
    assert health["security"] == []


def test_all_that_it_refers_to_is_there(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    schemas = told["components"]["schemas"]
    assert {"TaskSpec", "Cron", "Pause", "Run", "Event", "Problem"} <= set(schemas)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(told)))
    assert references <= set(schemas)
    parameters = {each["name"] for each in told["paths"][f"{PREFIX}/tasks"]["get"]["parameters"]}
    assert {"workspace", "limit", "agent", "state", "text", "after"} <= parameters
