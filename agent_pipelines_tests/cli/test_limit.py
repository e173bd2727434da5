from agent_pipelines_tests.cli.conftest import Cli


def test_limits_are_set_listed_and_cleared(cli: Cli) -> None:
    assert cli.ok("limit", "list") == "no limits\n"
    assert cli.ok("limit", "set", "agent/w", "--concurrency", "4", "--requests", "10/s") == (
        "agent/w: 4 at once, 10/s requests, set\n"
    )
    (limit,) = cli.json("limit", "list")["limits"]
    assert (limit["scope"], limit["concurrency"], limit["origin"], limit["waiting"]) == ("agent/w", 4, "set", 0)
    assert cli.json("limit", "queue") == {"queue": []}
    assert cli.ok("limit", "clear", "agent/w") == "agent/w: no limit\n"
    actions = [entry["action"] for entry in cli.json("audit", "list")["entries"]]
    assert actions == ["limit.clear", "limit.set"]


def test_what_is_wrong_is_said(cli: Cli) -> None:
    assert cli.refused("limit", "set", "w", "--concurrency", "4").startswith("SCOPE: 'w' is not a scope; write one of")
    assert cli.refused("limit", "set", "agent/w", "--requests", "ten").startswith("--requests: 'ten' is not a rate")
    assert "one of them" in cli.refused("limit", "set", "agent/w")
    assert "no limit of agent/w was set" in cli.refused("limit", "clear", "agent/w", code=1)
