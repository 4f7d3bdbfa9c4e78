"""Waiting for input is told once, with the rates of both sides."""

import logging

import pytest

from finetune.training import input_watch
from finetune.training.input_watch import InputWatch


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(input_watch, "time", clock)
    return clock


def make_steps(watch, clock, *, num_steps, waiting, working):
    for _ in range(num_steps):
        with watch.waiting():
            clock.now += waiting
        with watch.working(1):
            clock.now += working


def test_a_starving_device_is_told_once_with_both_rates(clock, caplog):
    caplog.set_level(logging.WARNING, "finetune")
    watch = InputWatch(images_per_step=32)
    make_steps(watch, clock, num_steps=20, waiting=0.3, working=0.1)
    watch.report()
    assert "75 % of the time: 80 images/s come, steps alone would take 320" in caplog.text
    make_steps(watch, clock, num_steps=20, waiting=0.3, working=0.1)
    watch.report()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("num_steps", "waiting"),
    [(100, 0.02), (10, 0.3)],
    ids=["hardly any waiting", "too few steps to say"],
)
def test_it_is_silent_else(clock, caplog, num_steps, waiting):
    watch = InputWatch(images_per_step=32)
    make_steps(watch, clock, num_steps=num_steps, waiting=waiting, working=0.1)
    watch.report()
    assert not caplog.records


def test_the_first_step_is_forgotten(clock, caplog):
    watch = InputWatch(images_per_step=32)
    make_steps(watch, clock, num_steps=1, waiting=1000.0, working=0.1)
    watch.restart()
    make_steps(watch, clock, num_steps=30, waiting=0.01, working=0.1)
    watch.report()
    assert not caplog.records
