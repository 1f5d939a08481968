import signal
import threading
from types import SimpleNamespace

import pytest

from zoo.interrupts import StopOnSignal


def stopper():
    stop = StopOnSignal(SimpleNamespace(evaluate_at_end=True))
    stop.model = SimpleNamespace(num_timesteps=0)
    return stop


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_at_the_next_step(number, exit_code):
    before = signal.getsignal(number)
    with stopper() as stop:
        assert stop.on_step() and stop.exit_code == 0
        signal.raise_signal(number)
        assert not stop.on_step()
    assert stop.exit_code == exit_code and not stop.evaluation.evaluate_at_end
    assert signal.getsignal(number) is before


def test_second_signal_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), stopper():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_it_does_nothing():
    before, seen = signal.getsignal(signal.SIGINT), []

    def use():
        with stopper() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.on_step()))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [(before, True)]
