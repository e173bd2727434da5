from pathlib import Path

import pytest

from agent_pipelines.engine.home import HomeError, instance_of_home


def test_the_instance_is_that_of_dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with instance_of_home() as instance:
        assert Path(instance.root_directory) == tmp_path


@pytest.mark.parametrize(
    ("home", "words"),
    [
        (None, "DAGSTER_HOME is not set; name the directory of the deployment with --home DIRECTORY"),
        ("", "DAGSTER_HOME is not set"),
        ("relative/home", "DAGSTER_HOME is 'relative/home', which is not an absolute path; write /"),
        ("/nowhere/at/all", "DAGSTER_HOME is '/nowhere/at/all', where no directory is"),
    ],
)
def test_a_home_that_is_none_says_what_to_set(monkeypatch: pytest.MonkeyPatch, home: str | None, words: str) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("DAGSTER_HOME", home)
    with pytest.raises(HomeError) as caught:
        instance_of_home()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        "storage: {nothing: {}}",
        "a: [",
        "storage: {postgres: {postgres_url: 'postgresql://someone:hunter2hunter2@127.0.0.1:1/nothing'}}",
    ],
)
def test_settings_that_dagster_refuses_are_named_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(settings)
    with pytest.raises(HomeError, match=r"dagster\.yaml: Dagster cannot use these settings: .") as caught:
        instance_of_home()
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
