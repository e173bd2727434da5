"""The one way to talk HTTP: a client per event loop, and errors in the words of the retry policy."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import HttpxAiohttpClient
from pydantic import ConfigDict, Field, JsonValue, SecretStr, field_validator
from pydantic_core import from_json

from agent_pipelines.core.clock import Microseconds, SystemClock, from_microseconds
from agent_pipelines.core.duration import Duration
from agent_pipelines.core.errors import ErrorClass, RuntimeFailure
from agent_pipelines.core.secrets import redactor
from agent_pipelines.runtimes.base import RuntimeConfig
from agent_pipelines.runtimes.excerpt import excerpt

_ADDRESSES = 64  # of paths that are kept; where a path has an id in it there are any number
_CREDENTIAL_HEADERS = ("authorization", "proxy-authorization", "cookie", "api-key", "x-api-key", "x-goog-api-key")


class HttpConfig(RuntimeConfig):
    """Settings of an endpoint that is reached over HTTP."""

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: str = Field(description="Address that paths are added to.", examples=["https://api.openai.com/v1"])
    api_key_env: str | None = Field(
        default=None, description="Name of the environment variable that holds the key.", examples=["OPENAI_API_KEY"]
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="Further headers, none of them secret.", examples=[{"X-Team": "data"}]
    )
    connect_timeout: Duration = Field(default=Duration(10), description="Limit of connecting.", examples=["5s"])
    max_idle: Duration = Field(default=Duration(600), description="Longest wait for the next byte.", examples=["10m"])

    @field_validator("base_url")
    @classmethod
    def _address_without_credentials(cls, value: str) -> str:
        try:
            url = httpx.URL(value)
        except httpx.InvalidURL as error:
            raise ValueError(f"not an address ({error}); write one as in https://host/v1") from None
        if url.userinfo:
            raise ValueError("holds a user name or password; name the variable of the key in `api_key_env` instead")
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"{value!r} is not an address; write one as in https://host/v1")
        return value

    @field_validator("headers")
    @classmethod
    def _no_secret_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name.lower() in _CREDENTIAL_HEADERS:
                raise ValueError(f"{name} holds a secret; name the variable of the key in `api_key_env` instead")
        return value


class Http:
    """The HTTP of one endpoint.

    A client is made when an event loop first needs one, never before. An injected client is used as it is, with its own
    timeouts, and stays its owner's to close.
    """

    def __init__(self, config: HttpConfig, client: httpx.AsyncClient | None = None) -> None:
        self._config = config
        self._base = httpx.URL(config.base_url)
        self._injected = client
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._addresses: dict[str, tuple[httpx.URL, str]] = {}

    @asynccontextmanager
    async def open(
        self, method: str, path: str, *, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and give the successful response, its body not yet read.

        Raises RuntimeFailure for every other answer, and for what breaks while the body is read inside the block.
        """
        url, where = self._address(path)
        try:
            async with self._client().stream(
                method, url, json=json, headers={**self._config.headers, **(headers or {})}
            ) as answer:
                if not answer.is_success:
                    body = await _beginning(answer)
                    _register_credentials(answer.request)
                    raise failure_of_response(answer.status_code, answer.headers, body, where, SystemClock().now())
                yield answer
        except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
            raise failure_of_transport(error, where) from None

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _address(self, path: str) -> tuple[httpx.URL, str]:
        """The address of a path, and how errors name it; httpx takes a tenth of a request to put one together."""
        if path not in self._addresses:
            if len(self._addresses) >= _ADDRESSES:
                self._addresses.clear()
            url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
            self._addresses[path] = (url, f"{url.netloc.decode()}{url.path}")
        return self._addresses[path]

    def _client(self) -> httpx.AsyncClient:
        if self._injected is not None:
            return self._injected
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            for ended in [known for known in self._clients if known.is_closed()]:
                del self._clients[ended]
            self._clients[loop] = _new_client(self._config)
        return self._clients[loop]


def bearer(key: SecretStr | None) -> dict[str, str]:
    """The Authorization header for a key; no header without one (RFC 6750, section 2.1)."""
    return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}


def _new_client(config: HttpConfig) -> httpx.AsyncClient:
    # httpcore's pool scans all connections for each request; aiohttp's does not, and costs an eighth of the CPU.
    return HttpxAiohttpClient(
        verify=_ssl_context(),
        timeout=httpx.Timeout(config.max_idle, connect=config.connect_timeout, pool=None),
        # How many calls are in flight is decided above; 0 is aiohttp's "no limit". Common servers close an idle connection
        # after 5 s, and a request that crosses with that has an unknown outcome: let go well before them.
        limits=httpx.Limits(max_connections=0, keepalive_expiry=2.0),
    )


@cache
def _ssl_context() -> ssl.SSLContext:
    # Reading the certificates takes tens of milliseconds; one context serves all clients of the process.
    return httpx.create_ssl_context()


_STATUS = {
    401: ErrorClass.AUTHENTICATION,
    402: ErrorClass.QUOTA,
    403: ErrorClass.PERMISSION,
    404: ErrorClass.NOT_FOUND,
    408: ErrorClass.TIMEOUT,
    410: ErrorClass.NOT_FOUND,
    429: ErrorClass.RATE_LIMIT,
    503: ErrorClass.OVERLOADED,
    529: ErrorClass.OVERLOADED,
}

# Names that endpoints give to errors, in the body's `code` or `type`.
_QUOTA_NAMES = {"insufficient_quota", "quota_exceeded", "provider_quota_exceeded", "budget_exceeded", "insufficient_balance"}
_REFUSAL_NAMES = {"content_filter", "content_policy_violation"}
_NAMES = {
    "authentication_error": ErrorClass.AUTHENTICATION,
    "invalid_api_key": ErrorClass.AUTHENTICATION,
    "permission_error": ErrorClass.PERMISSION,
    "not_found_error": ErrorClass.NOT_FOUND,
    "model_not_found": ErrorClass.NOT_FOUND,
    "invalid_request_error": ErrorClass.INVALID_REQUEST,
    "context_length_exceeded": ErrorClass.INVALID_REQUEST,
    "rate_limit_error": ErrorClass.RATE_LIMIT,
    "rate_limit_exceeded": ErrorClass.RATE_LIMIT,
    "throttling_error": ErrorClass.RATE_LIMIT,
    "overloaded_error": ErrorClass.OVERLOADED,
}


def failure_of_response(status: int, headers: Mapping[str, str], body: bytes, where: str, now: Microseconds) -> RuntimeFailure:
    """The failure that an answer with an HTTP status other than 2xx stands for."""
    if 300 <= status < 400:
        problem = "redirects; set `base_url` to the address that it leads to"
        return RuntimeFailure(ErrorClass.INVALID_REQUEST, f"{where} answered {status}: {problem}", status=status)
    message, names = _explanation(body)
    return RuntimeFailure(
        _class_of(status, names),
        excerpt(f"{where} answered {status}{f': {message}' if message else ''}"),
        retry_after=retry_after(headers, now),
        status=status,
        code=next(iter(names), None),
        tries=tries_of(headers),
    )


def failure_of_error(error: JsonValue, where: str) -> RuntimeFailure:
    """The failure that an error object stands for which came with status 200, in a body or in a stream."""
    message, names = _details(error)
    number = next((int(name) for name in names if name.isdigit()), None)
    names = [name for name in names if not name.isdigit()]
    status = number if number is not None and 400 <= number < 600 else None
    text = excerpt(f"{where} answered with an error: {message}")
    return RuntimeFailure(_class_of(status, names), text, status=status, code=next(iter(names), None))


def failure_of_transport(error: Exception, where: str) -> RuntimeFailure:
    """The failure that a broken exchange stands for: certainly not accepted, or of unknown outcome."""
    # httpx-aiohttp 0.2 turns nearly every aiohttp error into ConnectTimeout, a disconnect after sending too; only the
    # original says whether a connection was ever made.
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    reason = str(getattr(cause, "os_error", None) or cause) or type(cause).__name__
    if isinstance(cause, _UNSENT):
        return RuntimeFailure(ErrorClass.CONNECTION, excerpt(f"{where} cannot be reached: {reason}"))
    if isinstance(cause, httpx.DecodingError | aiohttp.ClientResponseError):
        return RuntimeFailure(ErrorClass.PROTOCOL, excerpt(f"{where} answered with something that is not HTTP: {reason}"))
    problem = "was silent for too long" if isinstance(cause, TimeoutError | httpx.TimeoutException) else "broke off"
    return RuntimeFailure(ErrorClass.UNKNOWN_OUTCOME, excerpt(f"{where} {problem} before its answer was complete: {reason}"))


_UNSENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


def retry_after(headers: Mapping[str, str], now: Microseconds) -> float | None:
    """Seconds that the endpoint asks to wait, None if it does not say.

    Reads `retry-after-ms` and `retry-after`, the latter as seconds or as a date (RFC 9110, section 10.2.3).
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = (parsedate_to_datetime(value) - from_microseconds(now)).total_seconds()
            except (ValueError, TypeError):
                continue
        if seconds < float("inf"):
            return max(seconds, 0.0)
    return None


def tries_of(headers: Mapping[str, str]) -> int:
    """How often a gateway has tried behind an answer; 1 if it does not say (`x-litellm-attempted-retries`)."""
    told = headers.get("x-litellm-attempted-retries", "")
    return 1 + int(told) if told.isascii() and told.isdigit() else 1


def read_json(body: bytes | str, where: str) -> JsonValue:
    """Parse a body. Raises RuntimeFailure (protocol) if it is not JSON."""
    try:
        return from_json(body)
    except ValueError:
        start = body.decode(errors="replace") if isinstance(body, bytes) else body
        raise RuntimeFailure(ErrorClass.PROTOCOL, excerpt(f"{where} answered with something that is not JSON: {start}")) from None


def _class_of(status: int | None, names: list[str]) -> ErrorClass:
    for name in names:
        if name in _QUOTA_NAMES or name.startswith("billing"):
            return ErrorClass.QUOTA
        if name in _REFUSAL_NAMES:
            return ErrorClass.REFUSED
    if status is not None:
        return _STATUS.get(status, ErrorClass.SERVER if status >= 500 else ErrorClass.INVALID_REQUEST)
    return next((_NAMES[name] for name in names if name in _NAMES), ErrorClass.SERVER)


def _explanation(body: bytes) -> tuple[str, list[str]]:
    try:
        parsed = from_json(body)
    except ValueError:
        return body.decode(errors="replace"), []
    details = parsed.get("error") or parsed if isinstance(parsed, dict) else parsed
    message, names = _details(details)
    return message, [name for name in names if not name.isdigit()]


def _details(error: JsonValue) -> tuple[str, list[str]]:
    if not isinstance(error, dict):
        return str(error), []
    message = next((error[name] for name in ("message", "detail", "msg") if error.get(name)), error)
    names = [error.get(name) for name in ("code", "type", "status")]
    return str(message), [excerpt(str(name), 80) for name in names if isinstance(name, str | int) and name]


async def _beginning(answer: httpx.Response, limit: int = 65_536) -> bytes:
    body = b""
    try:
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) >= limit:
                break
    except (httpx.RequestError, aiohttp.ClientError, OSError):
        pass  # the status says enough
    return body[:limit]


def _register_credentials(request: httpx.Request) -> None:
    # An endpoint may quote the request; a key that an injected client brought is not known yet.
    for value in _credentials(request.headers):
        redactor.register(value)


def _credentials(headers: httpx.Headers) -> Iterator[str]:
    for name in _CREDENTIAL_HEADERS:
        if name in headers:
            yield headers[name]
            yield headers[name].partition(" ")[2]
