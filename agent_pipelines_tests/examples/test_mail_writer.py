import email
import email.policy
import json
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from agent_pipelines_tests.examples.serving import MailServer
from examples.agents.mail_writer import MailFacts, MailWriter
from examples.agents.records import Records
from examples.agents.toolbox import Toolbox, ToolError, ToolUnavailableError

REPORT = "# Morning report, 2026-03-06\n\nAll 3 executions succeeded — gut!\n\n## By task\n\n| Task |\n| --- |\n| a/x |\n"
FACTS = {"key": "operations/morning_mail 2026-03-06", "to": ["team@example.org"], "report": REPORT}


def send(home: Path, **facts: Any) -> dict[str, Any]:
    agent = MailWriter(home)
    return agent.work(MailFacts.model_validate({**FACTS, **facts}), Toolbox(agent.tools()))


def received(home: Path) -> list[EmailMessage]:
    files = sorted((home / "mail").glob("*.eml"))
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]  # type: ignore[misc]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with MailServer(tmp_path) as server:
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(server.port))
        yield tmp_path


def test_the_report_goes_out_once(home: Path) -> None:
    answer = send(home)
    assert send(home) == answer

    (mail,) = received(home)
    assert mail["Message-ID"] == answer["message_id"]
    assert mail["Subject"] == "Morning report, 2026-03-06"
    assert mail["To"] == "team@example.org"
    body = mail.get_content().replace("\r\n", "\n")
    assert body.startswith("Good morning,\n\nAll 3 executions succeeded — gut!\n")
    assert body.endswith(REPORT)


def test_another_key_is_another_mail(home: Path) -> None:
    send(home)
    send(home, key="operations/morning_mail 2026-03-07")

    assert len({mail["Message-ID"] for mail in received(home)}) == 2


def test_a_mail_whose_fate_is_unknown_is_sent_again_under_the_same_name(home: Path) -> None:
    message_id = send(home)["message_id"]
    # As a kill between sending and the receipt leaves it.
    outbox = Records(home / "outbox")
    outbox.replace(FACTS["key"], {**(outbox.read(FACTS["key"]) or {}), "state": "sending"})  # type: ignore[arg-type]
    send(home)

    assert [mail["Message-ID"] for mail in received(home)] == [message_id, message_id]


def test_a_server_that_is_away_can_be_tried_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as away:
        away.setenv("SMTP_PORT", "1")
        with pytest.raises(ToolUnavailableError, match=r"127\.0\.0\.1:1 did not take the mail"):
            send(home)
    (receipt,) = (home / "outbox").glob("*.json")
    assert json.loads(receipt.read_text())["state"] == "sending"
    send(home)

    assert len(received(home)) == 1


def test_a_subject_cannot_bring_headers(home: Path) -> None:
    with pytest.raises(ToolError, match="send_mail"):
        send(home, subject="Hello\nBcc: everybody@example.org")
    assert received(home) == []
