import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.context.prompts import PromptError, Prompts, PromptVersion, content_version, diff
from agent_pipelines.core.clock import ManualClock
from agent_pipelines.store.database import Database

TASK = ("default", "app", "job")


@pytest.fixture
def declare(database: Database, clock: ManualClock) -> Callable[[str], PromptVersion]:
    """Runs the task with a prompt as declared, in a transaction of its own."""

    def ensure(prompt: str) -> PromptVersion:
        clock.time += 1
        with database.transaction() as connection:
            return Prompts(clock).ensure(connection, TASK, system=None, prompt=prompt, parameters={"temperature": 0.2})

    return ensure


def test_only_a_changed_file_moves_stable(
    database: Database, clock: ManualClock, declare: Callable[[str], PromptVersion]
) -> None:
    prompts = Prompts(clock)
    first = declare("one")
    assert (first.prompt, first.parameters, first.actor) == ("one", {"temperature": 0.2}, "git")
    assert declare("one") == first
    second = declare("two")
    with database.transaction() as connection:
        back = prompts.move(connection, TASK, "stable", first.short, actor="kim", reason="two is worse")
    assert (back.previous, back.version, back.actor) == (second.version, first, "kim")
    assert declare("two") == first, "the file has not changed since: the pointer rules"
    assert declare("three").prompt == "three"
    with database.reading() as connection:
        moves = prompts.history(connection, TASK)
        assert [(m.version.prompt, m.actor, m.reason) for m in reversed(moves)] == [
            ("one", "git", "file changed"),
            ("two", "git", "file changed"),
            ("one", "kim", "two is worse"),
            ("three", "git", "file changed"),
        ]
        assert [m.previous for m in moves[1:]] == [second.version, first.version, None]
        assert [version.prompt for version in prompts.versions(connection, TASK)] == ["three", "two", "one"]
        older = prompts.history(connection, TASK, before=moves[1].seq, limit=1)
        assert [m.version.prompt for m in older] == ["two"]


def test_a_file_taken_back_moves_stable_back(declare: Callable[[str], PromptVersion]) -> None:
    first, second = declare("one"), declare("two")
    assert declare("one") == first != second


@pytest.mark.parametrize("contents", [["same"] * 6, ["old", "new", *["old"] * 6]])
def test_processes_that_see_a_changed_file_at_once_move_once(
    database: Database, clock: ManualClock, declare: Callable[[str], PromptVersion], contents: list[str]
) -> None:
    before = contents[: len(contents) - 6]
    for content in before:
        declare(content)
    barrier = threading.Barrier(6)
    found: list[PromptVersion] = []

    def run(content: str) -> None:
        barrier.wait()
        found.append(declare(content))

    threads = [threading.Thread(target=run, args=(content,)) for content in contents[len(before) :]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [version.prompt for version in found] == contents[-6:]
    with database.reading() as connection:
        assert len(Prompts(clock).history(connection, TASK)) == len(before) + 1


def test_rollback_goes_further_back_each_time(
    database: Database, clock: ManualClock, declare: Callable[[str], PromptVersion]
) -> None:
    prompts = Prompts(clock)
    for content in ("one", "two", "three"):
        declare(content)
    with database.transaction() as connection:
        back = [prompts.rollback(connection, TASK, actor="kim", reason="worse").version.prompt for _ in range(2)]
        assert back == ["two", "one"]
        with pytest.raises(PromptError, match="app/job: 'stable' has no version before"):
            prompts.rollback(connection, TASK, actor="kim", reason="worse")
        prompts.move(connection, TASK, "stable", content_version(None, "three", {"temperature": 0.2}), actor="kim", reason="")
        assert prompts.rollback(connection, TASK, actor="kim", reason="").version.prompt == "one"


def test_a_move_is_refused_if_the_channel_was_moved_meanwhile(
    database: Database, clock: ManualClock, declare: Callable[[str], PromptVersion]
) -> None:
    prompts = Prompts(clock)
    first, second, third = (declare(content) for content in ("one", "two", "three"))
    with database.transaction() as connection:
        with pytest.raises(PromptError, match=f"points at {third.short} by now, not at {second.short}"):
            prompts.rollback(connection, TASK, actor="kim", reason="", expected=second.version)
        with pytest.raises(PromptError, match=f"points at {third.short} already"):
            prompts.move(connection, TASK, "stable", third.version, actor="kim", reason="")
        with pytest.raises(PromptError, match="points at nothing by now"):
            prompts.move(connection, TASK, "canary", first.version, actor="kim", reason="", expected=second.version)
        prompts.rollback(connection, TASK, actor="kim", reason="", expected=third.version)
        assert prompts.current(connection, TASK) == second


def test_channels_are_apart(database: Database, clock: ManualClock, declare: Callable[[str], PromptVersion]) -> None:
    prompts = Prompts(clock)
    first = declare("one")
    with database.transaction() as connection:
        assert prompts.current(connection, TASK, "canary") is None
        better = prompts.add(connection, TASK, system="Be brief.", prompt="better", parameters={}, actor="ana")
        again = prompts.add(connection, TASK, system="Be brief.", prompt="better", parameters={}, actor="kim")
        assert again == better
        assert (better.actor, better.system) == ("ana", "Be brief.")
        move = prompts.move(connection, TASK, "canary", better.version, actor="ana", reason="try it")
        assert (move.channel, move.previous) == ("canary", None)
        assert prompts.current(connection, TASK, "canary") == better
        assert prompts.current(connection, TASK) == first
        assert [m.seq for m in prompts.history(connection, TASK, channel="canary")] == [move.seq]


def test_versions_are_found_by_their_first_digits(database: Database, clock: ManualClock) -> None:
    prompts = Prompts(clock)
    with database.transaction() as connection:
        added = [prompts.add(connection, TASK, system=None, prompt=f"p{n}", parameters={}, actor="kim") for n in range(17)]
        shared = next(v.version[0] for v in added if sum(w.version[0] == v.version[0] for w in added) > 1)
        for version in added:
            assert prompts.get(connection, TASK, version.short.upper()) == version
        with pytest.raises(PromptError, match=f"app/job: '{shared}' begins several prompt versions, .*give more digits"):
            prompts.get(connection, TASK, shared)
        for unknown in ("", "%", "_", "xyz", "0" * 64):
            with pytest.raises(PromptError, match="has no prompt version"):
                prompts.get(connection, TASK, unknown)
        with pytest.raises(PromptError, match="app/other has no prompt version"):
            prompts.get(connection, ("default", "app", "other"), added[0].version)


def _version(system: str | None, prompt: str, parameters: dict[str, int]) -> PromptVersion:
    version = content_version(system, prompt, {**parameters})
    return PromptVersion(version=version, system=system, prompt=prompt, parameters={**parameters}, actor="kim", created_at=1)


def test_a_diff_shows_what_changed() -> None:
    old = _version("Be brief.", "Sum up:\n{{ event.text }}\n", {"top_k": 1})
    new = _version("Be brief.", "Sum up in a line:\n{{ event.text }}\n", {"top_k": 2})
    assert diff(old, new).splitlines() == [
        f"--- {old.short}",
        f"+++ {new.short}",
        "@@ -1,10 +1,10 @@",
        " system:",
        "   Be brief.",
        " prompt:",
        "-  Sum up:",
        "+  Sum up in a line:",
        "   {{ event.text }}",
        "   ",
        " parameters:",
        "   {",
        '-    "top_k": 1',
        '+    "top_k": 2',
        "   }",
    ]


contents = st.tuples(
    st.none() | st.text("ab\n: ", max_size=8), st.text("ab\n: ", max_size=8), st.dictionaries(st.text("ab"), st.integers())
)


@given(contents, contents)
def test_a_diff_is_empty_for_the_same_content_only(
    one: tuple[str | None, str, dict[str, int]], two: tuple[str | None, str, dict[str, int]]
) -> None:
    old, new = _version(*one), _version(*two)
    assert (diff(old, new) == "") == (one == two) == (old.version == new.version)
