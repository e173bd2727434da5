import threading
from pathlib import Path

from examples.agents.records import Records


def test_a_key_is_written_once(tmp_path: Path) -> None:
    records = Records(tmp_path / "new")

    assert records.create("a/b", {"n": 1})
    assert not records.create("a/b", {"n": 2})
    assert records.read("a/b") == {"n": 1}
    records.replace("a/b", {"n": 3})
    assert records.all() == [{"n": 3}]
    assert records.read("a b") is None


def test_one_of_many_at_the_same_time_wins(tmp_path: Path) -> None:
    records = Records(tmp_path)
    won: list[int] = []
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait()
        if records.create("key", {"n": number}):
            won.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert records.all() == [{"n": won[0]}]
    assert len(list(tmp_path.iterdir())) == 1


def test_no_key_leaves_the_directory(tmp_path: Path) -> None:
    records = Records(tmp_path)

    for key in ("../../etc/passwd", "/etc/passwd", "a" * 500, "..", "ä/ö"):
        assert records.path(key).parent == tmp_path
        assert records.create(key, {})
