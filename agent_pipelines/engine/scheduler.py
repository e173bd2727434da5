"""Dagster's scheduler with a second hand: keeps the time of all tasks of ours, and leaves other schedules to Dagster."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from dagster._core.remote_representation.external import RemoteSchedule, RemoteSensor
from dagster._core.scheduler.scheduler import DagsterDaemonScheduler
from dagster._core.workspace.context import BaseWorkspaceRequestContext, IWorkspaceProcessContext
from dagster._daemon.daemon import DaemonIterator, SchedulerDaemon
from dagster._scheduler.scheduler import ScheduleIterationTimes, launch_scheduled_runs
from dagster._time import get_current_datetime
from dagster._utils.error import SerializableErrorInfo, serializable_error_info_from_exc_info
import sys

from agent_pipelines.core.clock import Clock
from agent_pipelines.core.secrets import redactor
from agent_pipelines.engine.burst_keeper import BurstKeeper, Lane
from agent_pipelines.engine.burst_settings import BurstSettings
from agent_pipelines.engine.bursts import Bursts
from agent_pipelines.engine.daemons import Daemons
from agent_pipelines.engine.declaration import DeclaredTriggers
from agent_pipelines.engine.declarations import Declarations
from agent_pipelines.engine.gateway import DagsterGateway
from agent_pipelines.engine.run_lane import RunLane
from agent_pipelines.engine.tick_notes import TickNotes
from agent_pipelines.engine.ticks import Ticks
from agent_pipelines.engine.timekeeper import Timekeeper, UnfinishedExecutions
from agent_pipelines.engine.triggers import Triggers
from agent_pipelines.store.database import Database
