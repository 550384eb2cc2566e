"""Signals become a flag, and the handlers before come back."""

import os
import signal
import threading
import time

import pytest

from dpojax import signals
from dpojax.training.preemption import Preemption


def send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_becomes_a_flag(name):
  number = getattr(signal, name)
  before = signal.getsignal(number)
  with Preemption() as preemption:
    assert not preemption.requested(1)
    send(number)
    assert preemption.requested(2)
  assert signal.getsignal(number) is before
  assert preemption.requested(3)  # a later stage of the same run still knows


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_request_is_not_held_back_but_one_that_comes_with_the_first_is(second):
  with Preemption() as preemption:
    send(signal.SIGTERM)
    send(second)  # as `timeout` sends its own to a process and to its group
    assert preemption.requested()
    time.sleep(signals.TOGETHER + 0.05)
    with pytest.raises(signals.StopRequested):
      send(second)


def test_a_request_inside_a_command_leaves_what_can_be_left():
  with signals.handled(lambda number: pytest.fail("it would have ended the tests")) as handler:
    with Preemption() as preemption:
      with preemption.released():
        assert not preemption.requested()
      send(signal.SIGTERM)
      assert preemption.requested()
      with pytest.raises(signals.StopRequested, match="SIGTERM"), preemption.released():
        pytest.fail("it began though it was asked to stop")
      time.sleep(0.1)  # the thread has seen it, and that it is held back
    with pytest.raises(signals.StopRequested):
      signals.check()  # at the end of a stage
    assert handler.number == signal.SIGTERM
  signals.check()
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_outside_a_command_a_request_is_a_flag_to_the_end():
  with Preemption() as preemption:
    with preemption.released():
      send(signal.SIGTERM)
    assert preemption.requested()
  signals.check()


def test_handlers_come_back_after_an_error():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(ZeroDivisionError), Preemption():
    raise ZeroDivisionError
  assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_caught():
  seen = []

  def work():
    with Preemption() as preemption:
      seen.append(preemption.requested())

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [False]
