"""Processes that train side by side; what they give is compared in tests/cli."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from gradmix_ext.experiments.parallel import interrupts_put_off


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_wait_until_processes_have_started(number: signal.Signals) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda found, _: heard.append(found))
    # A thread from before, which a signal can reach however much this one blocks.
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with interrupts_put_off():
            os.kill(os.getpid(), number)
            assert heard == []
        assert heard == [number]
        os.kill(os.getpid(), number)
        assert heard == [number, number]
    finally:
        done.set()
        thread.join()
        signal.signal(number, before)


def test_an_error_is_not_lost_and_leaves_signals_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), interrupts_put_off():
        1 / 0  # noqa: B018
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
