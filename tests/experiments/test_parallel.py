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


def test_a_caller_that_blocks_ctrl_c_finds_it_blocked() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with interrupts_put_off():
            pass
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_handlers_that_cannot_be_set_leave_signals_as_they_were(monkeypatch) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    set_handler = signal.signal

    def refusing(number: int, handler: object) -> object:
        if number == signal.SIGTERM and handler not in before:
            raise ValueError("signal only works in main thread of the main interpreter")
        return set_handler(number, handler)

    monkeypatch.setattr(signal, "signal", refusing)
    with pytest.raises(ValueError, match="only works in main thread"), interrupts_put_off():
        pass
    monkeypatch.undo()
    try:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before[0])
