# SPDX-License-Identifier: MIT
"""Ctrl-C while the CPU solver runs, on inputs that take it many seconds."""

import os
import signal
import threading
import time

import pytest
import torch

from pointloss import assign
from pointloss.testing.clouds import duplicates, exponents, make, surface

AFTER = 0.4  # seconds


@pytest.fixture
def ctrl_c():
    """A function that sets SIGINT's handler and sends it soon; returns what tells when."""
    before = signal.getsignal(signal.SIGINT)
    sent = []

    def send():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    def soon(handler):
        signal.signal(signal.SIGINT, handler)
        timer.start()
        return sent

    timer = threading.Timer(AFTER, send)
    yield soon
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a solver that was done before
    timer.join()
    signal.signal(signal.SIGINT, before)


def calling_thread():
    """Squared costs of all sizes, to the last digit: half a minute."""
    return *make(exponents, 1, 2000, 2400), {"rtol": 0, "squared": True}


def another_thread():
    """The calling thread's cloud is solved at once; the other's goes on."""
    x, y = make(duplicates, 2, 20000, 20000)
    x[0] = y[0]
    return x, y, {"rtol": 1e-4}


@pytest.mark.parametrize("case", [calling_thread, another_thread], ids=lambda c: c.__name__)
def test_ctrl_c_ends_the_solver(case, ctrl_c):
    x, y, options = case()
    sent = ctrl_c(signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        assign(x, y, **options)
    assert time.monotonic() - sent[0] < 2
    x, y = make(surface, 3, 50, 50)
    assert assign(x, y).converged.all()


def test_a_handler_that_does_not_raise_ends_nothing(ctrl_c):
    noted = []
    x, y = make(duplicates, 1, 2048, 2048)
    sent = ctrl_c(lambda *_: noted.append(time.monotonic()))
    while not noted:
        found = assign(x, y, rtol=1e-4)
    assert found.converged.all()
    assert noted[0] - sent[0] < 2


def test_an_interrupted_thread_of_its_own(ctrl_c):
    """Signals are the main thread's: it goes on, and the other's result is whole."""
    found = []
    x, y = make(duplicates, 1, 1024, 1024)
    thread = threading.Thread(target=lambda: found.append(assign(x, y, rtol=1e-4)))
    thread.start()
    ctrl_c(signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        time.sleep(10)
    thread.join()
    assert found[0].converged.all()
    assert torch.equal(found[0].idx.sort(1).values[0], torch.arange(1024))
