"""Learning-rate multipliers by scope and by depth: which variable has which, and what is refused."""

import pytest

from finetune.errors import UserError
from finetune.model.scopes import NetworkVariable, plan_variables
from finetune.nets.table import SPECS
from finetune.settings.stage import ScheduleSettings
from finetune.training.multipliers import rate_multipliers

GROUPS = (("Net/conv1",), ("Net/conv2", "Net/conv2_1x1"), ("Net/logits", "Net/aux"))
NAMES = (
    "Net/conv1/weights",
    "Net/conv2/weights",
    "Net/conv2_1x1/weights",
    "Net/conv2_1x1/moving_mean",
    "Net/logits/weights",
    "Net/logits/biases",
    "Net/aux/weights",
)


def plan(*trainable_scopes):
    variables = [NetworkVariable(name, (1,), is_statistic=name.endswith("mean")) for name in NAMES]
    return plan_variables(variables, checkpoint_shapes=dict.fromkeys(NAMES, (1,)), trainable_scopes=trainable_scopes)


def multipliers(*texts, layer_decay=1.0, scopes=(), groups=GROUPS, **options):
    settings = ScheduleSettings(learning_rate_multipliers=texts, layer_decay=layer_decay)
    return rate_multipliers(settings, plan(*scopes), groups, **options)


def test_without_either_nothing_has_a_multiplier():
    assert multipliers() == {}


def test_layer_decay_counts_the_groups_from_the_head():
    assert multipliers(layer_decay=0.5) == {
        "Net/conv1/weights": 0.25,
        "Net/conv2/weights": 0.5,
        "Net/conv2_1x1/weights": 0.5,
        "Net/logits/weights": 1.0,
        "Net/logits/biases": 1.0,
        "Net/aux/weights": 1.0,
    }


def test_a_depth_is_of_the_network_not_of_what_is_trained():
    assert multipliers(layer_decay=0.5, scopes=["Net/conv1"]) == {"Net/conv1/weights": 0.25}


def test_the_longest_scope_counts_and_both_are_multiplied():
    found = multipliers("Net=0.1", "Net/logits=2", "Net/logits/biases=4", layer_decay=0.5)
    assert found["Net/conv1/weights"] == pytest.approx(0.025)
    assert found["Net/aux/weights"] == pytest.approx(0.1)
    assert (found["Net/logits/weights"], found["Net/logits/biases"]) == (2.0, 4.0)


@pytest.mark.parametrize(
    ("texts", "mend"),
    [
        (["Net/conv1=0"], "--trainable-scopes Net/conv2,Net/conv2_1x1,Net/logits,Net/aux"),
        (["Net=0", "Net/logits/biases=1"], "--trainable-scopes Net/logits/biases"),
        (["Net=0"], "Give a larger one"),
        (["Net/conv1=1e-60"], "--trainable-scopes Net/conv2"),
    ],
)
def test_what_would_stand_still_is_to_be_frozen_and_the_advice_does_so(texts, mend):
    with pytest.raises(UserError, match="stand still") as refused:
        multipliers(*texts)
    assert mend in str(refused.value)
    if "--trainable-scopes" in mend:
        scopes = str(refused.value).rpartition("--trainable-scopes ")[2].rstrip(".").split(",")
        standing = texts[0].partition("=")[0] + "/"
        assert not any(v.name.startswith(standing) and v.name != "Net/logits/biases" for v in plan(*scopes).trained)


def test_a_run_that_was_begun_with_a_multiplier_of_0_goes_on():
    assert multipliers("Net/conv1=0", is_resumed=True)["Net/conv1/weights"] == 0.0


def test_a_record_that_lacks_a_variable_is_no_guess():
    with pytest.raises(UserError, match=r"--layer-decay.*Net/conv1/weights"):
        multipliers(layer_decay=0.5, groups=GROUPS[1:])
    assert multipliers(layer_decay=0.5, scopes=["Net/logits"], groups=GROUPS[1:])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_network_s_last_group_is_its_head(spec):
    assert dict.fromkeys(spec.layer_groups[-1]) == dict.fromkeys(spec.head_scopes)
    assert len(spec.layer_groups) > 3
