"""Nobody gets in without the token: every route is tried."""

import re

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from agent_pipelines.hub import Hub
from agent_pipelines.web.api import build_api, operations
from agent_pipelines.web.token import ApiToken
from agent_pipelines_tests.registry.conftest import DECLARED
from agent_pipelines_tests.web.conftest import TOKEN, WELL

REFUSED = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer wrong"},
    {"Authorization": TOKEN},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Cookie": f"token={TOKEN}"},
]


@pytest.fixture
def stranger(hub: Hub) -> TestClient:
    """Somebody who has no token."""
    return TestClient(build_api(hub, ApiToken(TOKEN), lambda: DECLARED, lambda: WELL))


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_every_route_wants_the_token(hub: Hub, stranger: TestClient, headers: dict[str, str]) -> None:
    tried = 0
    for route in stranger.app.routes:  # pyright: ignore[reportAttributeAccessIssue]
        path = re.sub(r"{\w+}", "x", route.path)
        for method in [*route.methods, "OPTIONS", "TRACE"]:
            if path == "/health":
                continue
            answer = stranger.request(method, path, headers=headers)
            assert answer.status_code == 401, f"{method} {path} answered {answer.status_code} without a token"
            assert answer.headers["www-authenticate"] == 'Bearer realm="agent-pipelines"'
            tried += 1
    assert tried >= 2 * len(operations(hub, lambda: DECLARED, lambda: WELL))


def test_what_does_not_exist_wants_the_token_too(stranger: TestClient) -> None:
    for path in ("/", "/nothing", "/health/", "/health/x", "//health", "/tasks/../health/x", "/%2e/health"):
        assert stranger.get(path, follow_redirects=False).status_code == 401, path


def test_a_token_in_the_address_counts_for_nothing(stranger: TestClient) -> None:
    assert stranger.get("/tasks", params={"token": TOKEN, "access_token": TOKEN}).status_code == 401


def test_only_health_and_callbacks_are_open_and_health_tells_only_whether_it_is_well(hub: Hub, stranger: TestClient) -> None:
    assert [each.path for each in operations(hub, lambda: DECLARED, lambda: WELL) if each.is_open] == [
        "/health",
        "/waits/{id}/callback",  # which wants the token of the wait
    ]
    assert stranger.get("/health").json() == {"status": "ok"}


def test_no_page_elsewhere_may_read_an_answer(stranger: TestClient) -> None:
    headers = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    answer = stranger.options("/tasks", headers=headers)
    assert answer.status_code == 401
    answer = stranger.get("/tasks", headers={**headers, "Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_there_is_no_websocket(stranger: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), stranger.websocket_connect("/tasks"):
        pass


def test_the_scheme_is_read_in_any_case(stranger: TestClient) -> None:
    assert stranger.get("/tasks", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
