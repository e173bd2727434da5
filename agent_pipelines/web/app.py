"""Dagster's web server, with our interface beside its pages."""

from collections.abc import Sequence

from dagster_webserver.webserver import DagsterWebserver
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount

from agent_pipelines.core.declared import Declared
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.health import HealthCheck
from agent_pipelines.engine.web_context import WebContext, request_context
from agent_pipelines.execution.fleet_standing import fleet_problems
from agent_pipelines.hub import Hub
from agent_pipelines.web.api import PREFIX, build_api
from agent_pipelines.web.health import health_routes
from agent_pipelines.web.token import ApiToken

_POLL = 2_000  # milliseconds between two looks of a page, as Dagster's own command sets it


class _Webserver(DagsterWebserver):
    """Dagster's own pages and GraphQL as they are; only our interface and our pages go before them."""

    def __init__(self, context: WebContext, ours: Sequence[BaseRoute]) -> None:
        self._ours = ours
        super().__init__(context, live_data_poll_rate=_POLL)

    def build_routes(self) -> Sequence[BaseRoute]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [*self._ours, *super().build_routes()]


def build_app(context: WebContext, hub: Hub, token: ApiToken) -> Starlette:
    """The whole web server as an application."""

    def declared() -> Declared:
        with request_context(context) as locations:
            return DagsterGateway(context.instance, context=locations).declared()

    look = HealthCheck(context.instance, hub.database, hub.clock, lambda c: fleet_problems(c, hub.fleet)).look
    api = Mount(PREFIX, app=build_api(hub, token, declared, look))
    return _Webserver(context, [api, *health_routes(look)]).create_asgi_app()
