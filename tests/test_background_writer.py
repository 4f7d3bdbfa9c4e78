"""Tasks run beside the caller, in order, and none is lost: not the last, not an error."""

import threading

import pytest

from finetune.training.background_writer import BackgroundWriter


def test_tasks_run_beside_and_in_order():
    done, may_go_on = [], threading.Event()
    with BackgroundWriter() as writer:
        writer.submit(lambda: (may_go_on.wait(10), done.append(1)))
        writer.submit(lambda: done.append(2))
        assert done == []
        may_go_on.set()
        writer.wait()
        assert done == [1, 2]
        writer.submit(lambda: done.append(3))
    assert done == [1, 2, 3]


def test_an_error_comes_up_at_the_next_wait_or_at_the_end():
    def fail():
        raise OSError("disk full")

    with BackgroundWriter() as writer:
        writer.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            writer.wait()
    with pytest.raises(OSError, match="disk full"), BackgroundWriter() as writer:
        writer.submit(fail)


def test_what_is_pending_is_written_when_an_error_leaves():
    done = []
    with pytest.raises(ValueError, match="first"), BackgroundWriter() as writer:
        writer.submit(lambda: done.append(1))
        raise ValueError("first")
    assert done == [1]


def test_after_a_failure_nothing_is_written_that_counts_on_it():
    def fail():
        raise OSError("disk full")

    done = []
    with pytest.raises(OSError, match="disk full"), BackgroundWriter() as writer:
        writer.submit(fail)
        writer.submit(lambda: done.append("best.json"))
    assert done == []
