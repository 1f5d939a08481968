import signal
import threading

import pytest

from sb3_matrl.zoo.common.signals import Interrupted, SignalWatch, exit_code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_is_noted(number, code):
    before = signal.getsignal(number)
    with SignalWatch() as watch:
        assert not watch.is_set() and watch.exit_code == 0
        signal.raise_signal(number)
        assert watch.is_set()
    assert (watch.received, watch.exit_code) == (number, code)
    assert signal.getsignal(number) is before


def test_second_signal_interrupts_and_its_number_counts():
    with SignalWatch() as watch:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert exit_code(caught.value) == watch.exit_code == 143
    assert exit_code(KeyboardInterrupt()) == 130


def test_first_signal_interrupts_what_can_be_broken_off():
    with SignalWatch() as watch:
        with pytest.raises(Interrupted), watch.at_once():
            signal.raise_signal(signal.SIGTERM)
        assert watch.received is signal.SIGTERM
        with pytest.raises(Interrupted), watch.at_once():
            pytest.fail("a signal had come")


def test_outside_the_main_thread_it_does_nothing():
    before, seen = signal.getsignal(signal.SIGINT), []

    def use():
        with SignalWatch() as watch:
            seen.append((signal.getsignal(signal.SIGINT), watch.is_set()))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
