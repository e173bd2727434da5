import random
from typing import Any

from agent_pipelines.flow.sharing import Want, share


def want(application: str, amount: int, **values: Any) -> Want:
    given = {"holder": "p", "priority_class": "normal", "priority": 0, "scopes": ("agent/w",), "served_at": 0, **values}
    return Want(application=application, amount=amount, **given)


def test_applications_get_the_same_unless_they_want_less() -> None:
    assert share({"agent/w": 10}, [want("a", 100), want("b", 100), want("c", 2)]) == [4, 4, 2]


def test_what_an_application_may_not_have_itself_is_left_to_the_others() -> None:
    capped = want("a", 100, scopes=("agent/w", "application/a"))
    assert share({"agent/w": 20, "application/a": 5}, [capped, want("b", 100)]) == [5, 15]


def test_a_class_goes_before_the_next_and_a_priority_before_a_lower_one() -> None:
    wants = [
        want("a", 5, priority_class="batch"),
        want("a", 2, priority_class="interactive"),
        want("a", 4),
        want("a", 4, priority=5),
    ]
    assert share({"agent/w": 8}, wants) == [0, 2, 2, 4]


def test_processes_of_an_application_share_and_who_was_served_longest_ago_gets_what_is_left() -> None:
    assert share({"agent/w": 5}, [want("a", 9, holder="p"), want("a", 9, holder="q")]) == [3, 2]
    assert share({"agent/w": 1}, [want("a", 1, served_at=2), want("b", 1, served_at=1)]) == [0, 1]


def test_what_starves_has_one_before_all_others() -> None:
    wants = [want("a", 9, priority_class="interactive"), want("b", 9, priority_class="batch", is_starved=True)]
    assert share({"agent/w": 3}, wants) == [2, 1]


def test_no_scope_ever_gives_more_than_it_has_and_nothing_is_left_that_somebody_could_use() -> None:
    chance = random.Random(7)
    for _ in range(200):
        room = {f"agent/{number}": chance.randint(0, 300) for number in range(3)}
        wants = [
            want(
                chance.choice("abc"),
                chance.randint(0, 200),
                priority_class=chance.choice(("interactive", "normal", "batch")),
                scopes=tuple(chance.sample(sorted([*room, "agent/unlimited"]), 2)),
                served_at=chance.randint(0, 9),
            )
            for _ in range(8)
        ]
        given = share(room, wants)
        used = {scope: sum(n for n, each in zip(given, wants, strict=True) if scope in each.scopes) for scope in room}
        assert all(used[scope] <= room[scope] for scope in room)
        for number, each in zip(given, wants, strict=True):
            assert number <= each.amount
            assert number == each.amount or any(used[scope] == room[scope] for scope in each.scopes if scope in room)
