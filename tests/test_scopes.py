"""The scope plan: whole-component matching, and every way in which it refuses."""

import pytest

from finetune.errors import UserError
from finetune.model.checkpoint_names import find_prefix
from finetune.model.scopes import NetworkVariable, in_scope, plan_variables, shortest_scopes

VARIABLES = [
    NetworkVariable("Net/Conv2d_1/weights", (3, 3, 3, 8), is_statistic=False),
    NetworkVariable("Net/Conv2d_1/BatchNorm/beta", (8,), is_statistic=False),
    NetworkVariable("Net/Conv2d_1/BatchNorm/moving_mean", (8,), is_statistic=True),
    NetworkVariable("Net/Conv2d_10/weights", (3, 3, 8, 8), is_statistic=False),
    NetworkVariable("Net/Logits/weights", (8, 5), is_statistic=False),
    NetworkVariable("Net/Logits/biases", (5,), is_statistic=False),
]
CHECKPOINT = {variable.name: variable.shape for variable in VARIABLES} | {
    "Net/Logits/weights": (8, 1001),
    "Net/Logits/biases": (1001,),
    "global_step": (),
}


def make_plan(**options):
    options = {"checkpoint_shapes": CHECKPOINT, "exclude_scopes": ["Net/Logits"], **options}
    return plan_variables(VARIABLES, head_scopes=["Net/Logits"], **options)


def test_a_scope_is_a_path_of_whole_components():
    assert in_scope("Net/Conv2d_1/weights", "Net/Conv2d_1")
    assert in_scope("Net/Conv2d_1/weights", "Net/Conv2d_1/weights")
    assert not in_scope("Net/Conv2d_10/weights", "Net/Conv2d_1")


def test_counts_of_each_group():
    plan = make_plan(trainable_scopes=["Net/Logits", "Net/Conv2d_1"])
    assert plan.counts() == [
        ("restored", "trained", 2, 216 + 8),
        ("restored", "updated", 1, 8),
        ("restored", "frozen", 1, 576),
        ("initialised", "trained", 2, 45),
    ]
    assert not plan.is_frozen("Net/Conv2d_1/BatchNorm")
    assert plan.is_frozen("Net/Conv2d_10/BatchNorm")


def test_overlapping_scopes_and_trailing_slashes_change_nothing():
    plain = make_plan(trainable_scopes=["Net"])
    assert make_plan(trainable_scopes=["Net/", "Net/Logits", "Net/Logits/weights"]).counts() == plain.counts()


def test_no_trainable_scopes_means_all():
    plan = make_plan()
    assert not plan.frozen
    assert not plan.is_frozen("Net/Conv2d_1/BatchNorm")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"trainable_scopes": ["Net/Logit"]}, ["--trainable-scopes", "'Net/Logit'", "Net/Logits"]),
        ({"trainable_scopes": ["net/logits"]}, ["'net/logits'", "Net/Logits"]),
        ({"exclude_scopes": ["Net/AuxLogits"]}, ["--exclude-scopes", "'Net/AuxLogits'", "Net/Logits"]),
        ({"exclude_scopes": []}, ["[8, 1001]", "[8, 5]", "(and 1 more)", "--exclude-scopes Net/Logits"]),
        (
            {"trainable_scopes": ["Net/Conv2d_1"]},
            ["Net/Logits/weights", "not restored and not trained", "--trainable-scopes"],
        ),
        ({"checkpoint_shapes": None, "trainable_scopes": ["Net/Logits"]}, ["--checkpoint"]),
        ({"checkpoint_shapes": {"Other/weights": (3,)}}, ["another network", "Other", "--model"]),
    ],
)
def test_refusals_name_both_sides_and_the_remedy(options, parts):
    with pytest.raises(UserError) as caught:
        make_plan(**options)
    for part in parts:
        assert part in str(caught.value)


def test_missing_variables_are_refused_unless_ignored():
    without = {name: shape for name, shape in CHECKPOINT.items() if "Conv2d_10" not in name}
    with pytest.raises(UserError, match=r"lacks 1 of the 4 .*Net/Conv2d_10/weights[\s\S]*--ignore-missing-vars"):
        make_plan(checkpoint_shapes=without)
    plan = make_plan(checkpoint_shapes=without, ignore_missing=True)
    assert ("initialised", "trained", 3, 576 + 45) in plan.counts()


def test_moving_averages_are_preferred_unless_told_otherwise():
    average = "Net/Conv2d_1/weights/ExponentialMovingAverage"
    shapes = CHECKPOINT | {average: (3, 3, 3, 8)}
    assert make_plan(checkpoint_shapes=shapes).variables[0].source == average
    raw = make_plan(checkpoint_shapes=shapes, use_moving_averages=False)
    assert raw.variables[0].source == "Net/Conv2d_1/weights"


NAMES = [variable.name for variable in VARIABLES]


@pytest.mark.parametrize(
    ("wanted", "head_scopes", "expected"),
    [
        ([], (), []),
        (["Net/Logits/weights", "Net/Logits/biases"], (), ["Net/Logits"]),
        (["Net/Logits/biases"], (), ["Net/Logits/biases"]),
        (["Net/Logits/biases"], ("Net/Logits", "Net/Conv2d_1"), ["Net/Logits"]),
        (["Net/Conv2d_10/weights"], (), ["Net/Conv2d_10"]),
        (["Net/Conv2d_1/weights", "Net/Conv2d_10/weights"], (), ["Net/Conv2d_1/weights", "Net/Conv2d_10"]),
        (NAMES[:3], (), ["Net/Conv2d_1"]),
        (NAMES[1:3], (), ["Net/Conv2d_1/BatchNorm"]),
        (NAMES, (), ["Net"]),
    ],
)
def test_the_fewest_scopes_take_these_variables_and_no_others(wanted, head_scopes, expected):
    assert shortest_scopes(wanted, NAMES, head_scopes) == expected


def test_scopes_of_any_choice_of_variables_take_exactly_these_and_none_lies_in_another():
    for number in range(1 << len(NAMES)):
        wanted = [name for index, name in enumerate(NAMES) if number >> index & 1]
        scopes = shortest_scopes(wanted, NAMES)
        assert [name for name in NAMES if any(in_scope(name, scope) for scope in scopes)] == wanted
        assert not [(a, b) for a in scopes for b in scopes if a != b and in_scope(a, b)]


def test_the_prefix_of_most_variables_is_found():
    stored = [f"tower_1/{name}" for name in NAMES[:2]] + [f"a/tower_0/{name}" for name in NAMES] + ["Logits/biases"]
    assert find_prefix(NAMES, stored) == ("a/tower_0", len(NAMES))
    assert find_prefix(NAMES, NAMES) == ("", 0)
