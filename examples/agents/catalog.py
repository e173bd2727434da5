"""All example agents, by the name under which they are asked."""

from pathlib import Path
from typing import Any

from examples.agents.agent import Agent
from examples.agents.code_review import CodeReview
from examples.agents.data_quality import DataQuality
from examples.agents.mail_writer import MailWriter
from examples.agents.reconciliation import Reconciliation
from examples.agents.report_writer import ReportWriter
from examples.agents.settlement import Settlement

KINDS: tuple[type[Agent[Any]], ...] = (CodeReview, DataQuality, MailWriter, Reconciliation, ReportWriter, Settlement)


def catalog(home: Path) -> dict[str, Agent[Any]]:
    """The agents, keeping their files below a directory."""
    return {kind.name: kind(home) for kind in KINDS}
