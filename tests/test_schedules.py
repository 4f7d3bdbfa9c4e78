"""Learning rates by step."""

import math

import pytest

from finetune.errors import UserError
from finetune.settings.train import ScheduleSettings
from finetune.training.schedules import make_schedule


def make(decay_type, **options):
    length = {"steps_per_epoch": 10.0, "max_steps": 100}
    length |= {name: options.pop(name) for name in length if name in options}
    settings = ScheduleSettings(**{"learning_rate": 0.1, "learning_rate_decay_type": decay_type, **options})
    return make_schedule(settings, **length)


def test_fixed():
    assert {make("fixed")(step) for step in range(100)} == {0.1}


def test_exponential_goes_down_in_stairs_of_two_epochs():
    rate = make("exponential")
    assert [rate(step) for step in (0, 19, 20, 40)] == pytest.approx([0.1, 0.1, 0.094, 0.1 * 0.94**2])


def test_an_epoch_shorter_than_a_step_gives_a_rate_all_the_same():
    rate = make("exponential", steps_per_epoch=0.2)
    assert [rate(step) for step in (0, 1, 2)] == pytest.approx([0.1, 0.094, 0.1 * 0.94**2])


def test_polynomial_ends_with_the_run_unless_told_otherwise():
    rate = make("polynomial", end_learning_rate=0.02)
    assert [rate(step) for step in (0, 50, 100, 150)] == pytest.approx([0.1, 0.06, 0.02, 0.02])
    assert make("polynomial", end_learning_rate=0.02, num_epochs_per_decay=2)(20) == pytest.approx(0.02)


def test_cosine():
    rate = make("cosine", end_learning_rate=0.0)
    assert [rate(step) for step in (0, 50, 100)] == pytest.approx([0.1, 0.05, 0.0])
    assert rate(25) == pytest.approx(0.05 * (1 + math.cos(math.pi / 4)))


def test_warmup_rises_from_zero_and_never_above_the_decayed_rate():
    rate = make("exponential", warmup_epochs=4.0)
    assert [rate(step) for step in (0, 10, 39, 40)] == pytest.approx([0.0, 0.025, min(0.0975, 0.094), 0.1 * 0.94**2])


def test_refusals():
    with pytest.raises(UserError, match="--max-steps"):
        make("cosine", max_steps=None)
    with pytest.raises(UserError, match="exponential"):
        make("exponentail")
