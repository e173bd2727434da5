from agent_pipelines.components.watch.tail import Tail

SECOND = 1_000_000
START = 1_000 * SECOND


class Table:
    """Rows with a `seq` each, and a tail that reads them."""

    def __init__(self, last_seq: int = 0) -> None:
        self.seqs = list(range(1, last_seq + 1))
        self.tail = Tail(START, last_seq)

    def read(self, now: int, *new: int) -> list[int]:
        self.seqs = sorted([*self.seqs, *new])
        rows = [(seq,) for seq in self.seqs if seq > self.tail.floor(now)]
        found = [seq for (seq,) in self.tail.new(rows)]
        self.tail.note(rows, now)
        return found


def test_each_row_is_new_once() -> None:
    table = Table()
    assert table.read(START, 1, 2) == [1, 2]
    assert table.read(START + SECOND, 3) == [3]
    assert table.read(START + 2 * SECOND) == []
    assert table.read(START + 600 * SECOND) == []


def test_a_row_that_becomes_visible_late_is_new_too() -> None:
    table = Table()
    table.read(START, 1, 5)
    assert table.read(START + SECOND, 3) == [3]
    late = [table.read(START + number * SECOND, *([4] if number == 60 else [])) for number in range(2, 120)]
    assert [found for found in late if found] == [[4]]


def test_nothing_is_read_again_for_ever() -> None:
    table = Table()
    table.read(START, *range(1, 1_000))
    assert table.tail.floor(START + 4 * SECOND) == 0
    table.read(START + 20 * SECOND)
    assert table.tail.floor(START + 26 * SECOND) == 999
    for number in range(26, 160):
        table.read(START + number * SECOND)
    assert table.tail.floor(START + 300 * SECOND) == 999


def test_a_first_reading_takes_up_what_was_being_written() -> None:
    table = Table(last_seq=5_000)
    assert table.read(START) == list(range(3_001, 5_001))
    assert table.read(START + SECOND, 5_001) == [5_001]


def test_a_clock_that_is_set_back_makes_no_row_new_again() -> None:
    table = Table()
    table.read(START, 1)
    table.read(START + 200 * SECOND, 2)
    assert table.read(START - 3_600 * SECOND, 3) == [3]
    assert table.read(START - 3_599 * SECOND) == []
