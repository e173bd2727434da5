import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.secrets import redactor
from agent_pipelines.runtimes import http
from agent_pipelines.runtimes.http import Http, HttpConfig, failure_of_error, failure_of_response, retry_after

NOW = 1_767_225_600_000_000  # Thu, 01 Jan 2026 00:00:00 GMT


@contextmanager
def raw_server(answer: bytes | None) -> Iterator[str]:
    """Reads one request, sends these bytes and closes; with None it sends nothing and stays."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            if answer is None:
                over.wait()
            else:
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        over.set()
        thread.join()
        listener.close()


def ask(url: str, client: httpx.AsyncClient | None = None, **settings: Any) -> bytes:
    async def main() -> bytes:
        endpoint = Http(HttpConfig(base_url=url, **settings), client)
        try:
            async with endpoint.open("POST", "/x", json={"a": 1}) as answer:
                return await answer.aread()
        finally:
            await endpoint.close()

    return asyncio.run(main())


def refused(url: str, **settings: Any) -> RuntimeFailure:
    with pytest.raises(RuntimeFailure) as caught:
        ask(url, **settings)
    return caught.value


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def test_an_answer_is_given_unread() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok") as url:
        assert ask(url) == b"ok"


@pytest.mark.parametrize("plain", [False, True], ids=["aiohttp", "httpx"])
@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\ncontent-"],
    ids=["nothing", "cut body", "cut head"],
)
def test_a_connection_that_breaks_after_sending_has_an_unknown_outcome(answer: bytes, plain: bool) -> None:
    with raw_server(answer) as url, pytest.raises(RuntimeFailure) as caught:
        ask(url, httpx.AsyncClient() if plain else None)
    assert caught.value.error_class is ErrorClass.UNKNOWN_OUTCOME


def test_silence_after_sending_has_an_unknown_outcome() -> None:
    with raw_server(None) as url:
        failure = refused(url, max_idle=0.05)
    assert failure.error_class is ErrorClass.UNKNOWN_OUTCOME
    assert "silent" in failure.message


@pytest.mark.parametrize("plain", [False, True], ids=["aiohttp", "httpx"])
def test_a_closed_port_is_a_connection_failure(plain: bool) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        ask(f"http://127.0.0.1:{free_port()}/v1", httpx.AsyncClient() if plain else None)
    assert caught.value.error_class is ErrorClass.CONNECTION
    assert "cannot be reached" in caught.value.message


def test_a_name_that_does_not_resolve_is_a_connection_failure() -> None:
    assert refused("http://nowhere.invalid/v1").error_class is ErrorClass.CONNECTION


def test_an_answer_that_is_not_http_is_a_protocol_failure() -> None:
    with raw_server(b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as url:
        assert refused(url).error_class is ErrorClass.PROTOCOL


def test_an_answer_that_cannot_be_decompressed_is_a_protocol_failure() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n"
    with raw_server(head + b"junk") as url:
        assert refused(url).error_class is ErrorClass.PROTOCOL


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, None, ErrorClass.INVALID_REQUEST),
        (400, "content_filter", ErrorClass.REFUSED),
        (401, None, ErrorClass.AUTHENTICATION),
        (402, None, ErrorClass.QUOTA),
        (403, None, ErrorClass.PERMISSION),
        (404, None, ErrorClass.NOT_FOUND),
        (408, None, ErrorClass.TIMEOUT),
        (409, None, ErrorClass.INVALID_REQUEST),
        (413, None, ErrorClass.INVALID_REQUEST),
        (422, None, ErrorClass.INVALID_REQUEST),
        (429, None, ErrorClass.RATE_LIMIT),
        (429, "rate_limit_exceeded", ErrorClass.RATE_LIMIT),
        (429, "insufficient_quota", ErrorClass.QUOTA),
        (429, "billing_hard_limit_reached", ErrorClass.QUOTA),
        (500, None, ErrorClass.SERVER),
        (502, None, ErrorClass.SERVER),
        (503, None, ErrorClass.OVERLOADED),
        (504, None, ErrorClass.SERVER),
        (529, None, ErrorClass.OVERLOADED),
    ],
)
def test_a_status_has_a_class(status: int, code: str | None, expected: ErrorClass) -> None:
    body = b'{"error": {"message": "no", "code": "%s"}}' % (code or "").encode()
    failure = failure_of_response(status, {}, body, "host/v1", NOW)
    assert (failure.error_class, failure.status, failure.code) == (expected, status, code)
    assert failure.message == f"host/v1 answered {status}: no"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": 429, "message": "slow down"}, ErrorClass.RATE_LIMIT),
        ({"code": "503", "message": "busy"}, ErrorClass.OVERLOADED),
        ({"type": "overloaded_error", "message": "busy"}, ErrorClass.OVERLOADED),
        ({"code": "insufficient_quota", "type": "invalid_request_error"}, ErrorClass.QUOTA),
        ("it broke", ErrorClass.SERVER),
        ({"message": "it broke"}, ErrorClass.SERVER),
    ],
)
def test_an_error_that_came_with_status_200_has_a_class(error: Any, expected: ErrorClass) -> None:
    assert failure_of_error(error, "host").error_class is expected


def test_a_redirect_names_the_setting_to_change() -> None:
    failure = failure_of_response(308, {"location": "https://user:pw@host/"}, b"", "host/v1", NOW)
    assert failure.error_class is ErrorClass.INVALID_REQUEST
    assert "base_url" in failure.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:01:30 GMT"}, 90.0),
        ({"retry-after": "Wed, 31 Dec 2025 23:59:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
    ],
)
def test_the_wait_that_an_endpoint_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx.Headers(headers), NOW) == seconds


def test_a_message_is_short_one_line_and_without_secrets() -> None:
    redactor.register("planted-value-1")
    body = b"<html>\n" + b"x" * 390 + b" planted-value-1\n" + b"y" * 100_000
    message = failure_of_response(500, {}, body, "host", NOW).message
    assert len(message) == 400
    assert "\n" not in message
    assert "plant" not in message


def test_a_key_that_an_injected_client_brings_is_not_quoted() -> None:
    answer = b"HTTP/1.1 401 no\r\ncontent-length: 23\r\n\r\nbad key: odd.key.format."
    with raw_server(answer) as url, pytest.raises(RuntimeFailure) as caught:
        ask(url, httpx.AsyncClient(headers={"Authorization": "Custom odd.key.format"}))
    assert "odd.key" not in caught.value.message


def test_an_injected_client_stays_open() -> None:
    client = httpx.AsyncClient()
    with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok") as url:
        assert ask(url, client) == b"ok"
    assert not client.is_closed


def test_clients_are_made_in_the_event_loop_that_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.AbstractEventLoop] = []
    new_client = http._new_client

    def spy(config: HttpConfig) -> httpx.AsyncClient:
        made.append(asyncio.get_running_loop())
        return new_client(config)

    monkeypatch.setattr(http, "_new_client", spy)
    endpoint = Http(HttpConfig(base_url=f"http://127.0.0.1:{free_port()}"))

    async def twice() -> None:
        for _ in range(2):
            with pytest.raises(RuntimeFailure):
                async with endpoint.open("GET", "/"):
                    pass
        await endpoint.close()
        await endpoint.close()

    assert made == []
    asyncio.run(twice())
    asyncio.run(twice())
    assert len(made) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_url": "https://user:secret@host/v1"}, "api_key_env"),
        ({"base_url": "host:80/v1"}, "https://host/v1"),
        ({"base_url": "ftp://host"}, "https://host/v1"),
        ({"base_url": "https://host", "headers": {"authorization": "Bearer abc"}}, "api_key_env"),
        ({"base_url": "https://host", "headers": {"X-Api-Key": "abc"}}, "api_key_env"),
    ],
)
def test_settings_that_hold_a_secret_or_no_address_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HttpConfig(**settings)
    assert words in str(caught.value)
    assert "secret@" not in str(caught.value)
    assert "abc" not in str(caught.value)
