"""Learning rates by step."""

import math

import pytest

from finetune.errors import UserError
from finetune.settings.stage import ScheduleSettings, StageSettings
from finetune.training.schedules import make_schedule

PIECES = {"learning_rate_boundaries": (50,), "learning_rate_values": (0.01,)}


def make(decay_type, **options):
    length = {"steps_per_epoch": 10.0, "max_steps": 100}
    length |= {name: options.pop(name) for name in (*length, "scale") if name in options}
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


def test_one_cycle_rises_from_a_25th_and_falls_to_the_end():
    rate = make("one-cycle", end_learning_rate=0.001)
    assert [rate(step) for step in (0, 15, 30, 65, 100, 150)] == pytest.approx(
        [0.004, 0.052, 0.1, 0.0505, 0.001, 0.001]
    )
    assert max(map(rate, range(100))) == 0.1


def test_a_cycles_rise_and_length_can_be_told():
    rate = make("one-cycle", end_learning_rate=0.0, warmup_epochs=1.0, num_epochs_per_decay=5)
    assert [rate(step) for step in (0, 5, 10, 30, 50)] == pytest.approx([0.004, 0.052, 0.1, 0.05, 0.0])


def test_piecewise_changes_after_each_boundary():
    rate = make("piecewise", learning_rate_boundaries=(10, 20), learning_rate_values=(0.03, 0.005))
    assert [rate(step) for step in (0, 9, 10, 19, 20, 99)] == [0.1, 0.1, 0.03, 0.03, 0.005, 0.005]


@pytest.mark.parametrize("decay_type", ["fixed", "exponential", "polynomial", "cosine", "piecewise"])
def test_warmup_goes_with_each_decay(decay_type):
    pieces = PIECES if decay_type == "piecewise" else {}
    warm, plain = make(decay_type, warmup_epochs=2.0, **pieces), make(decay_type, **pieces)
    assert [warm(step) for step in (0, 5, 10)] == pytest.approx([0.0, 0.025, 0.05])
    assert [warm(step) for step in range(20, 100)] == [plain(step) for step in range(20, 100)]


@pytest.mark.parametrize("decay_type", ["fixed", "exponential", "polynomial", "cosine", "one-cycle", "piecewise"])
def test_a_scale_is_of_the_whole_schedule(decay_type):
    pieces = PIECES if decay_type == "piecewise" else {}
    plain = make(decay_type, warmup_epochs=2.0, **pieces)
    scaled = make(decay_type, warmup_epochs=2.0, scale=4.0, **pieces)
    assert [scaled(step) for step in range(120)] == [4 * plain(step) for step in range(120)]


@pytest.mark.parametrize(
    ("settings", "num_devices", "scale"),
    [
        ({"batch_size": 8}, 1, 1.0),
        ({"batch_size": 8}, 4, 4.0),
        ({"batch_size": 8, "accumulate_steps": 2}, 2, 4.0),
        ({"batch_size": 8, "scale_learning_rate": "sqrt"}, 4, 2.0),
        ({"batch_size": 8, "scale_learning_rate": "none"}, 4, 1.0),
        ({"batch_size": 8, "learning_rate_batch_size": 256}, 4, 0.125),
        # As many images make the same rate, whatever takes part in them.
        ({"global_batch_size": 128}, 1, 4.0),
        ({"global_batch_size": 128}, 4, 4.0),
        ({"global_batch_size": 128, "accumulate_steps": 2}, 2, 4.0),
    ],
)
def test_rates_scale_by_the_images_of_a_step(settings, num_devices, scale):
    stage = StageSettings(**{"scale_learning_rate": "linear", **settings})
    assert stage.with_images_of_rates().on_devices(num_devices).rate_scale(num_devices) == scale


def test_a_rate_that_is_found_with_a_steps_images_is_not_scaled():
    with pytest.raises(UserError, match=r"would scale it once more.*\n.*--scale-learning-rate none"):
        ScheduleSettings(learning_rate="auto", scale_learning_rate="sqrt")


@pytest.mark.parametrize(("end", "is_told"), [(0.2, True), (0.1, False), (0.0, False)])
def test_a_decay_that_rises_is_told(end, is_told, caplog):
    make("cosine", end_learning_rate=end)
    make("fixed", end_learning_rate=end)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * is_told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay_type": "one-cycle", "max_steps": None}, "--max-steps"),
        ({"decay_type": "one-cycle", "warmup_epochs": 10.0}, "100 steps, and leaves one-cycle nothing of its 100"),
        ({"decay_type": "one-cycle", "end_learning_rate": 0.1}, "such as 0"),
        ({"decay_type": "piecewise"}, "0 --learning-rate-boundaries and 0"),
        (
            {"decay_type": "piecewise", "learning_rate_boundaries": (5,), "learning_rate_values": (0.1, 0.01)},
            "one value for each boundary",
        ),
        (
            {"decay_type": "piecewise", "learning_rate_boundaries": (5, 5), "learning_rate_values": (0.1, 0.01)},
            "5,5, but must rise",
        ),
        ({"decay_type": "cosine", "learning_rate_values": (0.1,)}, "--learning-rate-values="),
    ],
)
def test_schedules_that_can_not_be_meant(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_refusals():
    with pytest.raises(UserError, match="--max-steps"):
        make("cosine", max_steps=None)
    with pytest.raises(UserError, match="exponential"):
        make("exponentail")
