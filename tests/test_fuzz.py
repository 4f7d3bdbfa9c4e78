"""Fuzzing: out of every reader come its declared errors alone, and none takes a GiB. Long rounds: `scripts/fuzz.sh`."""

import os
import resource
from datetime import timedelta

import pytest
from fuzz_targets import KEPT, TARGETS, run
from hypothesis import HealthCheck, Phase, given, settings

# Of a long round, over all readers; 0: a short one.
LONG_ROUND = int(os.environ.get("FINETUNE_FUZZ_RUNS", "0"))
MOST_MEMORY_KIB = 2**20

COMMON = settings(
    database=None, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck), print_blob=True
)
# The same inputs in every round, and no verdict by the clock: a test's outcome hangs on the code alone.
SHORT = settings(COMMON, derandomize=True, deadline=None, max_examples=40)


def settings_for(name):
    if not LONG_ROUND:
        return SHORT
    share = 1 / TARGETS[name].cost / sum(1 / target.cost for target in TARGETS.values())
    return settings(COMMON, deadline=timedelta(seconds=10), max_examples=max(1, round(LONG_ROUND * share)))


@pytest.mark.parametrize("name", TARGETS)
def test_only_declared_errors_come_out(name, tmp_path, capsys):
    num_runs = 0
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings_for(name)
    @given(TARGETS[name].inputs)
    def read(drawn):
        nonlocal num_runs
        num_runs += 1
        run(name, drawn, tmp_path)

    try:
        read()
    finally:
        if LONG_ROUND:
            with capsys.disabled():
                print(f"\n{name}: {num_runs:,} runs")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before < MOST_MEMORY_KIB


@pytest.mark.parametrize(("name", "drawn"), [(name, drawn) for name, found in KEPT.items() for drawn in found])
def test_what_was_found_stays_mended(name, drawn, tmp_path):
    run(name, drawn, tmp_path)
