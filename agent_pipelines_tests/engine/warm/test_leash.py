import socket
import time

from agent_pipelines.engine.warm.leash import Leash
from agent_pipelines.engine.warm.protocol import Alive, Channel, Done


def test_the_word_of_a_worker_that_comes_with_the_end_of_the_run_does_no_harm() -> None:
    ours, theirs = socket.socketpair()
    worker = Channel(theirs)
    leash = Leash(Channel(ours), 15.0, time.monotonic())
    worker.send(Alive(time.monotonic()))
    assert leash.hear() == []
    assert not leash.is_torn
    worker.send(Alive(time.monotonic()))
    leash.let_go(left=False)
    assert leash.hear() == []
    assert leash.is_torn
    assert worker.receive() == Done(False)
