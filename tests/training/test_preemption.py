"""Signals become a flag, and the handlers before come back."""

import os
import signal
import threading

import pytest

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
    assert preemption.requested(2) and preemption.signal_name == name
  assert signal.getsignal(number) is before
  assert preemption.requested(3)  # a later stage of the same run still knows


def test_a_second_interrupt_is_not_held_back():
  with Preemption() as preemption:
    send(signal.SIGTERM)
    send(signal.SIGTERM)
    send(signal.SIGINT)
    assert preemption.requested()
    with pytest.raises(KeyboardInterrupt):
      send(signal.SIGINT)


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
