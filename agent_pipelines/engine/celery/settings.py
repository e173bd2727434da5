"""What can be set of the Celery launcher in dagster.yaml, and what is set of Celery."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import dagster as dg
from dagster_celery.launcher import CeleryRunLauncher

from agent_pipelines.core.errors import DefinitionError
from agent_pipelines.engine.warm.settings import CONFIG as WARM_CONFIG
from agent_pipelines.engine.warm.settings import WarmSettings, require_positive

TASK = "agent_pipelines.execute"
"""Celery's name of the task that executes a run."""


@dataclass(frozen=True)
class CelerySettings:
    """The settings of `run_launcher.config` besides Dagster's own; times are in seconds."""

    lease: float = 15.0
    margin: float = 5.0
    resend_after: float = 10.0
    unserved_after: float = 15.0
    visibility_timeout: int = 172_800
    local_workers: int = 0
    warm: WarmSettings = field(default_factory=WarmSettings)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The settings as Dagster read them. Raises DefinitionError for a number that makes no sense."""
        require_positive(config, "lease", "margin", "resend_after", "unserved_after", "visibility_timeout")
        if (workers := config.get("local_workers", 0)) < 0:
            field = "run_launcher.config.local_workers"
            raise DefinitionError(f"{workers} is below zero", field=field, file="dagster.yaml", fix="Leave it out for none")
        return cls(**{**config, "warm": WarmSettings.of(config.get("warm", {}))})


_DEFAULT = CelerySettings()
_DAGSTERS = {
    name: field
    for name, field in dict(CeleryRunLauncher.config_type()).items()  # pyright: ignore[reportArgumentType, reportCallIssue]
    if name in ("broker", "default_queue", "config_source")
}

OURS = {
    "lease": dg.Field(
        float,
        default_value=_DEFAULT.lease,
        description="A worker that cannot say for so many seconds that it lives kills its runs.",
    ),
    "margin": dg.Field(
        float,
        default_value=_DEFAULT.margin,
        description="Seconds after the lease at which a silent worker's runs count as lost; in them their processes end.",
    ),
    "resend_after": dg.Field(
        float,
        default_value=_DEFAULT.resend_after,
        description="Seconds after which a run that no worker has claimed is sent again, if the broker has lost messages.",
    ),
    "unserved_after": dg.Field(
        float,
        default_value=_DEFAULT.unserved_after,
        description="Seconds after which the events of a waiting run say that no worker serves its queue.",
    ),
    "visibility_timeout": dg.Field(
        int,
        default_value=_DEFAULT.visibility_timeout,
        description="Seconds after which Redis delivers again what was not acknowledged: more than the longest run. Too short a "
        "one costs messages that are dropped, nothing else.",
    ),
    "local_workers": dg.Field(
        int,
        default_value=_DEFAULT.local_workers,
        description="Workers that `agent-pipelines up` keeps alive on its own machine.",
    ),
    "warm": dg.Field(
        dg.Shape(WARM_CONFIG),
        is_required=False,
        description="How a worker executes runs: the settings of WarmRunLauncher.",
    ),
}

CONFIG = {**_DAGSTERS, **OURS}
"""The config schema of `ClaimingCeleryRunLauncher`."""


def celery_config(settings: CelerySettings, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the Celery app; what was given in `config_source` wins."""
    transport = {
        "visibility_timeout": settings.visibility_timeout,
        "socket_connect_timeout": 5,
        "socket_timeout": 15,
        "socket_keepalive": True,
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.2,
        "interval_max": 0.5,
    }
    ours = {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_ignore_result": True,
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0.2},
        "worker_prefetch_multiplier": 1,
        "worker_enable_remote_control": False,
        "worker_redirect_stdouts": False,
        "worker_hijack_root_logger": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {**transport, **given.get("broker_transport_options", {})},
    }
    return {**ours, **{name: value for name, value in given.items() if name != "broker_transport_options"}}
