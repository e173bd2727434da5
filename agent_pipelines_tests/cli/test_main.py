import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent_pipelines.cli.main import app
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.engine.place import FILE_NAME
from agent_pipelines.store.database import Database
from agent_pipelines.store.migration import VERSION_TABLE
from agent_pipelines_tests.cli.conftest import Cli, new_home, record_of
from agent_pipelines_tests.insight.filled import Filled


def run(*arguments: str, home: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments], env={"DAGSTER_HOME": home})
    assert isinstance(done.exception, SystemExit | None)
    assert done.stdout == ""
    return done.exit_code, done.stderr


def test_help_names_the_groups() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    for group in ("task", "execution", "tick", "prompt", "session", "event", "audit", "migrate", "up"):
        assert f" {group} " in done.stdout


def test_help_imports_neither_dagster_nor_the_record() -> None:
    code = (
        "import sys; from agent_pipelines.cli.main import app; app(['--help'], standalone_mode=False); "
        "sys.exit(', '.join({'dagster', 'sqlalchemy', 'pandas', 'alembic', 'jinja2'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tsk"], "No such command 'tsk'. Did you mean 'task'?"),
        (["task", "lst"], "No such command 'lst'. Did you mean"),
        (["execution", "list", "--staus", "failed"], "No such option"),
        (["execution", "list", "--status", "broken"], "'broken' is not one of 'running', 'waiting', 'succeeded'"),
        (["execution", "list", "--limit", "0"], "'--limit'"),
        (["execution", "show"], "Missing argument"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(cli: Cli, arguments: list[str], words: str) -> None:
    assert words in cli.refused(*arguments)


def test_a_missing_home_says_how_to_set_it(tmp_path: Path) -> None:
    code, words = run("execution", "list")
    assert code == 1
    assert words.startswith("error: DAGSTER_HOME is not set; name the directory of the deployment with --home")
    code, words = run("execution", "list", home="relative")
    assert (code, words) == (
        1,
        f"error: DAGSTER_HOME is 'relative', which is not an absolute path; write {tmp_path / 'relative'}\n",
    )
    code, words = run("execution", "list", home=str(tmp_path / "nowhere"))
    assert code == 1
    assert "where no directory is" in words


def test_settings_that_dagster_refuses_are_one_line(cli: Cli) -> None:
    (cli.home / "dagster.yaml").write_text("storage: {nothing: {}}\n")
    assert "dagster.yaml: Dagster cannot use these settings" in cli.refused("tick", "list", code=1)
    (cli.home / "dagster.yaml").write_text("a: [\n")
    assert "dagster.yaml: Dagster cannot use these settings" in cli.refused("tick", "list", code=1)


def test_a_record_of_a_newer_version_is_left_alone(cli: Cli) -> None:
    cli.ok("migrate")
    database = Database(f"sqlite:///{cli.home / FILE_NAME}")
    with database.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999_future'")
    database.close()
    assert "is at revision 9999_future, which this version of agent-pipelines does not know" in cli.refused("migrate", code=1)


def test_migrate_says_whether_there_was_something_to_do(tmp_path: Path) -> None:
    cli = Cli(new_home(tmp_path / "home"))
    assert cli.json("migrate")["changed"] is True
    assert cli.json("migrate")["changed"] is False
    assert "nothing to do" in cli.ok("migrate")


def test_a_reader_that_goes_away_is_no_error(cli: Cli, record: Filled) -> None:
    for number in range(200):
        with record.hub.database.transaction() as connection:
            record.hub.inbox.put(connection, "commit.pushed", {"number": number, "more": "x" * 500})
    command = f"{sys.executable} -c 'from agent_pipelines.cli.main import main; main()' --home {cli.home} event list --limit 1000"
    done = subprocess.run(["bash", "-c", f"{command} --json | head -c 10"], capture_output=True, text=True, check=False)
    assert len(done.stdout) == 10
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_the_same_commands_work_on_postgresql(postgres_home: Path, clock: ManualClock) -> None:
    record = record_of(postgres_home, clock)
    results = record.everything()
    cli = Cli(postgres_home)
    listed = cli.json("execution", "list")["executions"]
    assert [execution["id"] for execution in listed] == [result.execution_id for result in results][::-1]
    assert len(cli.json("execution", "list", "--text", "calm")["executions"]) == 1
    assert cli.json("execution", "show", results[0].execution_id)["execution"]["text"] == "A calm day."
    assert len(cli.json("tick", "list")["ticks"]) == 6
    assert cli.json("task", "show", "checker")["state"] == {"baseline": 7}
    assert len(cli.json("session", "list")["sessions"]) == 3
    assert cli.json("event", "send", "x.y", "--key", "1")["new"] is True
    assert cli.json("event", "send", "x.y", "--key", "1")["new"] is False
    assert cli.json("audit", "list")["entries"][0]["action"] == "event.send"
    assert len(cli.json("prompt", "history", "digest")["moves"]) == 1
    assert cli.json("migrate")["changed"] is False
