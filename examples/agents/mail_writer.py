"""The mail that carries the morning report."""

import hashlib
import os
import re
import smtplib
import threading
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from examples.agents.agent import Agent
from examples.agents.facts import Facts
from examples.agents.records import Records
from examples.agents.toolbox import Json, Toolbox, ToolError, ToolUnavailableError

DOMAIN = "agent-pipelines.example"


class MailFacts(Facts):
    """What the mail is told."""

    key: str = Field(min_length=1)
    """The same for every try of the same mail; the Message-ID follows from it."""
    to: list[str] = Field(min_length=1)
    report: str = Field(min_length=1)
    subject: str | None = None


class MailWriter(Agent[MailFacts]):
    """Turns a report into a mail and sends it over SMTP (SMTP_HOST, SMTP_PORT), once for a key."""

    name: ClassVar[str] = "mail-writer"
    facts_type: ClassVar[type[Facts]] = MailFacts
    instructions: ClassVar[str] = (
        "You send a report by mail: a subject that says the gist, a body with a greeting, the two or three sentences that "
        "matter, and the whole report below a line of dashes. Send it with send_mail under the key from the facts, exactly once."
    )

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._outbox = Records(home / "outbox")
        self._lock = threading.Lock()

    def tools(self) -> Sequence[Callable[..., Json]]:
        return (self.send_mail,)

    def send_mail(self, key: str, to: list[str], subject: str, body: str) -> Json:
        """Send a mail once for a key; a repeat after a crash carries the same Message-ID."""
        message_id = f"<{hashlib.sha256(key.encode()).hexdigest()[:32]}@{DOMAIN}>"
        receipt = {"message_id": message_id, "to": to, "subject": subject}
        with self._lock:
            # Intent first: if the program dies before the receipt, the next try knows that the mail may be out.
            self._outbox.create(key, {"state": "sending", **receipt})
            known = self._outbox.read(key)
            if known is not None and known["state"] == "sent":
                return {**{name: known[name] for name in receipt}, "sent_before": True}
            self._send(_message(message_id, to, subject, body), to)
            self._outbox.replace(key, {"state": "sent", **receipt})
        return {**receipt, "sent_before": False}

    def _send(self, message: EmailMessage, to: list[str]) -> None:
        host, port = os.environ.get("SMTP_HOST") or "127.0.0.1", int(os.environ.get("SMTP_PORT") or 25)
        try:
            with smtplib.SMTP(host, port, local_hostname="localhost", timeout=30) as server:
                refused = server.send_message(message)
        except smtplib.SMTPResponseException as error:
            kind = ToolUnavailableError if 400 <= error.smtp_code < 500 else ToolError
            raise kind(f"send_mail: {host}:{port} answered {error.smtp_code}") from None
        except (OSError, smtplib.SMTPException) as error:
            raise ToolUnavailableError(f"send_mail: {host}:{port} did not take the mail: {error}") from None
        if refused:
            raise ToolError(f"send_mail: refused for {', '.join(refused)}; sent to the others of {', '.join(to)}")

    def work(self, facts: MailFacts, tools: Toolbox) -> dict[str, Any]:
        heading, opening = _gist(facts.report)
        subject = facts.subject or heading
        greeting = f"Good morning,\n\n{opening}\n\nThe whole report follows.\n\n{'-' * 72}\n\n{facts.report}"
        sent = tools.call("send_mail", key=facts.key, to=facts.to, subject=subject, body=greeting)
        if sent["sent_before"]:
            tools.tell("this mail went out before; nothing was sent again")
        told = f"{sent['subject']} went to {', '.join(sent['to'])}."
        return {**{name: sent[name] for name in ("message_id", "to", "subject")}, "sent": True, "summary": told}


def _message(message_id: str, to: list[str], subject: str, body: str) -> EmailMessage:
    message = EmailMessage()
    try:
        message["From"] = f"Morning report <reports@{DOMAIN}>"
        message["To"] = ", ".join(to)
        message["Subject"] = subject
    except ValueError as error:
        raise ToolError(f"send_mail: {error}") from None
    message["Message-ID"] = message_id
    message["Date"] = formatdate()
    message.set_content(body, cte="quoted-printable")
    return message


def _gist(report: str) -> tuple[str, str]:
    paragraphs = [paragraph.strip() for paragraph in re.split(r"\n\s*\n", report) if paragraph.strip()]
    headings = [paragraph.lstrip("# ") for paragraph in paragraphs if paragraph.startswith("#")]
    prose = [paragraph for paragraph in paragraphs if not paragraph.startswith(("#", "|", "-"))]
    return (headings[0].splitlines()[0] if headings else "Morning report"), (prose[0] if prose else "")
