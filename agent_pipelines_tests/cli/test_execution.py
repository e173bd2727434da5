import re
from typing import Any

import pytest

from agent_pipelines.core.clock import isoformat
from agent_pipelines.core.execution import RunRef, Status
from agent_pipelines.core.invocation import Invocation, Origin
from agent_pipelines.ledger.journal import Entry
from agent_pipelines_tests.cli.conftest import Cli
from agent_pipelines_tests.insight.filled import CHECKER, DIGEST, HOUR, PRICED, SECRET, UNPRICED, Filled

SUMMARY = {
    *("seq", "id", "workspace", "application", "task", "spec_hash", "idempotency_key", "dedupe_key", "trigger", "origin"),
    *("occurrence", "item", "actor", "due_at", "logical_at", "run_id", "job", "step", "partition", "resumptions", "status"),
    *("created_at", "finished_at", "attempts", "agent", "node", "model", "prompt_version", "session_id", "trace_id"),
    *("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "requests", "cost_usd", "reason"),
    *("error_class", "error_stage", "error_message", "duration_seconds", "total_tokens"),
    *("shard", "fallback_from", "degraded", "cached_from", "stale_from", "batch_id", "position"),
}


def ids(page: dict[str, Any]) -> list[str]:
    return [execution["id"] for execution in page["executions"]]


def test_the_list_has_stable_field_names(cli: Cli, record: Filled) -> None:
    assert cli.json("execution", "list") == {"executions": [], "next_before": None}
    begun = record.clock.now()
    record.everything()
    page = cli.json("execution", "list")
    assert page["next_before"] is None
    for execution in page["executions"]:
        assert set(execution) == SUMMARY
    oldest = page["executions"][-1]
    assert oldest["created_at"] == isoformat(begun)
    assert (oldest["duration_seconds"], oldest["total_tokens"], oldest["status"]) == (2.0, 1_200, "succeeded")


def test_filters(cli: Cli, record: Filled) -> None:
    begun = record.clock.now()
    every = [result.execution_id for result in record.everything()]

    def found(*conditions: str) -> list[int]:
        return sorted(every.index(id) for id in ids(cli.json("execution", "list", *conditions)))

    assert found("--task", "digest") == [0, 1, 2]
    assert found("--task", "quality/checker") == [3, 4, 5]
    assert found("--application", "quality") == [3, 4, 5]
    assert found("--application", "reports", "--task", "digest", "--status", "succeeded") == [0, 1, 2]
    assert found("--status", "failed") == [4]
    assert found("--origin", "on_demand") == [2]
    assert found("--text", "calm") == [0]
    assert found("--text", "CALM day", "--task", "digest") == [0]
    assert found("--text", "calm", "--status", "failed") == []
    assert found("--since", isoformat(begun + HOUR)) == [1, 2, 3, 4, 5]
    assert found("--until", isoformat(begun + HOUR).removesuffix("Z")) == [0]
    assert found("--run", cli.json("execution", "show", every[3])["execution"]["run_id"]) == [3]


def test_an_age_counts_back_from_now(cli: Cli, record: Filled) -> None:
    record.everything()  # in January 2026, on the clock of the test
    assert ids(cli.json("execution", "list", "--since", "1h")) == []
    assert len(ids(cli.json("execution", "list", "--until", "1h"))) == 6


def test_pages_stay_as_they_are_while_executions_are_added(cli: Cli, record: Filled) -> None:
    every = [result.execution_id for result in record.everything()]
    seen: list[str] = []
    before: list[str] = []
    while True:
        page = cli.json("execution", "list", "--limit", "2", *before)
        seen += ids(page)
        record.execute(DIGEST, "One more.")
        if page["next_before"] is None:
            break
        before = ["--before", str(page["next_before"])]
    assert seen == every[::-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "digset"], "no task that has run is named 'digset'; did you mean digest?"),
        (["--task", "report/digest"], "no task is named 'report/digest'; did you mean reports/digest?"),
        (["--application", "qualty"], "no application that has run is named 'qualty'; did you mean quality?"),
        (["--task", "zzz"], "no task that has run is named 'zzz'; there is checker, digest"),
        (["--since", "yesterday"], "--since 'yesterday' is no instant; write ISO 8601, as in 2026-01-31T06:00:00Z, or an age"),
    ],
)
def test_mistakes_are_named_with_what_would_be_right(cli: Cli, record: Filled, arguments: list[str], words: str) -> None:
    record.everything()
    assert words in cli.refused("execution", "list", *arguments)


def test_the_table_is_for_people(cli: Cli, record: Filled) -> None:
    assert cli.ok("execution", "list") == "no executions\n"
    results = record.everything()
    done = cli("execution", "list", "--limit", "3")
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["id", "task", "origin"]
    assert len(lines) == 4
    assert results[5].execution_id[:18] in lines[1]
    assert "quality/checker" in lines[1]
    assert "unknown" in lines[2]
    assert "authentication" in lines[2]
    assert done.stderr == "older ones: --before 4\n"
    assert "$0.0003" in cli.ok("execution", "list", "--text", "calm")


def test_show_is_the_whole_record(cli: Cli, record: Filled) -> None:
    retried = record.everything()[2]
    whole = cli.json("execution", "show", retried.execution_id[:20])
    execution, attempts = whole["execution"], whole["attempts"]
    assert (execution["id"], execution["text"], execution["actor"]) == (retried.execution_id, "Better late.", "cli:kim")
    assert [message["role"] for message in execution["invocation"]["messages"]][:1] == ["system"]
    assert execution["invocation"]["due_at"] == execution["due_at"]
    assert execution["cost_usd"] is None
    assert [attempt["status"] for attempt in attempts] == ["failed", "succeeded"]
    failed = attempts[0]
    assert (failed["error_class"], failed["error_stage"], failed["error_status"]) == ("overloaded", "invoke", 529)
    assert failed["retry_delay_seconds"] == 1.0
    assert failed["retry_decision"]
    assert failed["duration_seconds"] == 2.0
    shown = cli.ok("execution", "show", retried.execution_id)
    for words in (
        "reports/digest",
        "overloaded in invoke: busy",
        failed["retry_decision"][:20],
        "Better late.",
        "a-model-without",
    ):
        assert words in shown
    assert re.search(r"^cost +unknown", shown, re.MULTILINE)
    assert "$0" not in shown
    assert execution["prompt_version"] in shown
    assert execution["session_id"] in shown


def test_show_says_what_came_back_and_what_was_remembered(cli: Cli, record: Filled) -> None:
    answered = record.everything()[3]
    assert cli.json("execution", "show", answered.execution_id)["execution"]["output"] == {"baseline": 7, "problems": []}
    assert '"baseline": 7' in cli.ok("execution", "show", answered.execution_id)


def test_an_id_is_a_unique_beginning(cli: Cli, record: Filled) -> None:
    some = record.everything()[0].execution_id
    assert "no execution's id begins with 'ffff'" in cli.refused("execution", "show", "ffff")
    assert "several executions' ids begin with" in cli.refused("execution", "show", some[:4])
    assert "no execution's id begins with '%'" in cli.refused("execution", "logs", "%")


def test_events(cli: Cli, record: Filled) -> None:
    some = record.everything()[1].execution_id
    found = cli.json("execution", "events", some)
    assert found["execution_id"] == some
    assert [event["kind"] for event in found["events"]] == ["reasoning", "tool_call", "tool_result", "usage", "text", "final"]
    assert set(found["events"][0]) == {"seq", "attempt", "at", "kind", "body"}
    page = cli.json("execution", "events", some, "--limit", "2", "--after", "1")
    assert ([event["seq"] for event in page["events"]], page["next_after"]) == ([2, 3], 3)
    assert "lookup" in cli.ok("execution", "events", some)


def test_logs_read_as_text(cli: Cli, record: Filled) -> None:
    some = record.everything()[1].execution_id
    lines = cli.ok("execution", "logs", some).splitlines()
    assert lines[0].startswith("attempt 1, 2026-01-01T")
    assert lines[1:3] == ["reasoning   I should look it up.", "            Then answer."]
    assert lines[3] == 'tool call   lookup({"day": "2026-01-01"})'
    assert lines[4] == 'tool result lookup gave {"rows": 3}'
    assert lines[6] == "text        Three rows. The key is [secret]."
    failed = record.execute(CHECKER, "no JSON").execution_id
    assert cli.ok("execution", "logs", failed).splitlines()[-1].startswith("failed: output in settle: ")


def test_logs_follow_until_the_end(cli: Cli, record: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = record.hub
    with hub.database.transaction() as connection:
        spec_hash = hub.ledger.specs.put(connection, DIGEST)
        given = {"trigger": "cron", "origin": Origin.SCHEDULE, "occurrence": "1", "due_at": 1, "logical_at": 1}
        invocation = Invocation.model_validate({"application": "reports", "task": "digest", "spec_hash": spec_hash, **given})
        run = RunRef(run_id="r")
        some = hub.executions.admit(connection, invocation, run, dedupe_key=None, trace_id="0" * 32).execution
    steps = iter(["A piece,", " and another.", None])

    def work(_: float) -> None:
        piece = next(steps)
        with hub.database.transaction() as connection:
            seq = hub.ledger.journal.last_seq(connection, some.id) + 1
            if piece is None:
                hub.executions.close(connection, some.id, Status.SUCCEEDED, text="A piece, and another.")
            else:
                entry = Entry(seq=seq, attempt=1, at=record.clock.now(), kind="text", body={"text": piece})
                hub.ledger.journal.append(connection, some.id, [entry])

    monkeypatch.setattr("agent_pipelines.cli.execution.time.sleep", work)
    assert cli.ok("execution", "logs", some.id, "--follow").splitlines()[1:] == ["text        A piece, and another."]
    assert next(steps, "over") == "over"


def test_spans_are_a_tree_with_durations(cli: Cli, record: Filled) -> None:
    some = record.everything()[1].execution_id
    lines = cli.ok("execution", "spans", some).splitlines()
    assert lines[0] == "execute reports/digest  5.0 s"
    names = [line.strip("│├└─ ").rpartition("  ")[0] for line in lines[1:]]
    assert sorted(names) == ["admit", "compose", "execute_tool lookup", "invoke_agent writer", "settle"]
    spans = cli.json("execution", "spans", some)["spans"]
    root = next(span for span in spans if span["parent_id"] is None)
    assert (root["duration_seconds"], root["name"]) == (5.0, "execute reports/digest")


def test_no_secret_and_no_control_character_is_shown(cli: Cli, record: Filled) -> None:
    results = record.everything()
    hostile = record.execute(DIGEST, [PRICED, UNPRICED, "\x1b[2J\x1b]0;title\x07 [red]not markup[/red] \u202eback"]).execution_id
    commands = (
        ["execution", "list"],
        ["execution", "show", hostile],
        ["execution", "events", hostile],
        ["execution", "logs", hostile],
        ["execution", "spans", hostile],
        ["session", "list"],
        ["task", "show", "digest"],
    )
    for command in commands:
        shown = cli.ok(*command)
        assert SECRET not in shown
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "[red]not markup[/red]" in cli.ok("execution", "show", hostile)
    assert r"\x1b[2J" in cli.ok("execution", "logs", hostile)
    for spoken in (results[1], results[4]):
        for view in ("show", "events"):
            assert SECRET not in cli.ok("execution", view, spoken.execution_id, "--json")
