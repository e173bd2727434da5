import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_pipelines_tests.examples.serving import AgentServer
from examples.agents.facts import BadFactsError
from examples.agents.matching import PAGE
from examples.agents.reconciliation import Reconciliation, ReconciliationFacts
from examples.agents.settlement import Settlement, SettlementFacts
from examples.agents.toolbox import Toolbox, ToolError, WorkCancelledError
from examples.data.bank import PLANTED, bank_feed, ledger

DAY = datetime(2024, 3, 5, tzinfo=UTC)


def reconcile(home: Path, hour: datetime, told: list[str] | None = None) -> dict[str, Any]:
    agent = Reconciliation(home)
    tools = Toolbox(agent.tools(), tell=[].append if told is None else told.append)
    return agent.work(ReconciliationFacts(hour=hour), tools)


def settle(home: Path, **facts: Any) -> dict[str, Any]:
    agent = Settlement(home)
    return agent.work(SettlementFacts.model_validate(facts), Toolbox(agent.tools()))


def test_a_clean_hour_is_balanced_although_the_bank_leaves_references_out(tmp_path: Path) -> None:
    hour = DAY + timedelta(hours=13)
    answer = reconcile(tmp_path, hour)

    assert answer["balanced"]
    assert answer["matched"] == len(bank_feed(hour)) == len(ledger(hour))
    assert answer["matched_by"]["amount_and_date"] == int((bank_feed(hour)["reference"] == "").sum()) > 0
    assert answer["total_cents"] == answer["feed_total_cents"] == int(ledger(hour)["amount_cents"].sum())
    assert answer["mismatches"] == []
    assert answer["case"] is None
    # The hour of 13:00 holds what was booked before it.
    assert ledger(hour)["booked_at"].between("2024-03-05T12:00:00Z", "2024-03-05T12:59:59Z").all()
    assert not (tmp_path / "cases").exists()


def test_every_hour_of_a_day_has_exactly_what_was_planted(tmp_path: Path) -> None:
    for number in range(24):
        answer = reconcile(tmp_path, DAY + timedelta(hours=number))
        assert sorted(mismatch["kind"] for mismatch in answer["mismatches"]) == sorted(PLANTED.get(number, ()))
        assert answer["balanced"] == (number not in PLANTED)


def test_a_mismatch_opens_a_case_with_its_context_once(tmp_path: Path) -> None:
    answer = reconcile(tmp_path, DAY + timedelta(hours=14))
    missing, differs = answer["mismatches"]

    assert missing["kind"] == "missing_in_ledger"
    assert missing["feed"]["row"] in answer["unmatched_feed"]
    assert missing["ledger"] is None
    assert len(missing["candidates"]) == 3
    assert all(candidate["counterparty"] == missing["counterparty"] for candidate in missing["candidates"])
    assert differs["feed"]["reference"] == differs["ledger"]["reference"]
    assert differs["difference_cents"] == differs["feed"]["amount_cents"] - differs["ledger"]["amount_cents"]
    assert "two digits may have changed places" in differs["explanation"]

    (case,) = (tmp_path / "cases").iterdir()
    assert case.stem == answer["case"]
    assert json.loads(case.read_text())["mismatches"] == [missing, differs]

    assert reconcile(tmp_path, DAY + timedelta(hours=14)) == answer
    assert list((tmp_path / "cases").iterdir()) == [case]


def test_matching_goes_on_where_it_was_left(tmp_path: Path) -> None:
    hour = DAY + timedelta(hours=14)
    whole = reconcile(tmp_path / "whole", hour)
    agent = Reconciliation(tmp_path / "parts")
    tools = Toolbox(agent.tools())
    tools.call("match_next", hour=hour)
    tools.call("match_next", hour=hour)

    told: list[str] = []
    assert reconcile(tmp_path / "parts", hour, told) == {**whole}
    assert f"resumed at row {2 * PAGE} of {len(bank_feed(hour))}: the rows before were matched earlier\n" in told


def test_a_kill_in_the_middle_loses_only_the_page_in_hand(tmp_path: Path) -> None:
    hour = DAY + timedelta(hours=14)
    progress = tmp_path / "home" / "progress"
    prompt = "```facts\nhour: 2024-03-05T14:00:00Z\npause_seconds: 60\n```"
    with AgentServer(tmp_path / "home") as server:
        body = {"model": "reconciliation", "stream": True, "messages": [{"role": "user", "content": prompt}]}
        with httpx.stream("POST", f"{server.url}/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            while "match_next" not in next(lines):
                pass
            os.kill(server.pid, signal.SIGKILL)
    (saved,) = progress.glob("*.json")
    assert json.loads(saved.read_text())["next"] == PAGE

    told: list[str] = []
    assert reconcile(tmp_path / "home", hour, told) == reconcile(tmp_path / "other", hour)
    assert any(line.startswith(f"resumed at row {PAGE} ") or f'"from": {PAGE}' in line for line in told)


def test_cancelled_work_stops_between_pages(tmp_path: Path) -> None:
    agent = Reconciliation(tmp_path)
    tools = Toolbox(agent.tools(), tell=lambda line: tools.cancelled.set())

    with pytest.raises(WorkCancelledError):
        agent.work(ReconciliationFacts(hour=DAY), tools)


def test_the_hour_that_ended_last_is_meant(tmp_path: Path) -> None:
    assert ReconciliationFacts(logical_time=DAY + timedelta(hours=15)).end() == DAY + timedelta(hours=15)
    assert ReconciliationFacts(logical_time=DAY + timedelta(hours=15, minutes=59)).end() == DAY + timedelta(hours=15)
    with pytest.raises(BadFactsError, match="not a full hour"):
        ReconciliationFacts(hour=DAY + timedelta(minutes=5)).end()


def test_settlement_nets_by_counterparty_and_is_written_once(tmp_path: Path) -> None:
    hour = DAY + timedelta(hours=13)
    reconciled = reconcile(tmp_path, hour)
    facts = {name: reconciled[name] for name in ("hour", "balanced", "total_cents")}
    answer = settle(tmp_path, **facts)

    expected = ledger(hour).groupby("counterparty")["amount_cents"].sum().to_dict()
    assert {position["counterparty"]: position["net_cents"] for position in answer["positions"]} == expected
    assert settle(tmp_path, **facts) == answer
    assert [path.stem for path in (tmp_path / "settlements").iterdir()] == [answer["instruction"]]


def test_settlement_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(BadFactsError, match="is not balanced"):
        settle(tmp_path, hour=DAY, balanced=False, total_cents=0)
    with pytest.raises(BadFactsError, match="`total_cents`: reconciled were 1, the ledger now holds"):
        settle(tmp_path, hour=DAY, balanced=True, total_cents=1)
    agent = Settlement(tmp_path)
    agent.write_instruction(DAY, [])
    with pytest.raises(ToolError, match="settled with other positions"):
        agent.write_instruction(DAY, [{"counterparty": "Elbe Papier", "net_cents": 1, "payments": 1}])
