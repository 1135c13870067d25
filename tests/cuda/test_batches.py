"""Batches of calls on GPUs: kernels behind the events that their edges ask for, and captured into graphs."""

from __future__ import annotations

import numpy as np
import pytest

import dagrun as dr
from dagrun.backends.cuda.graphs import capture
from dagrun.core.batch import push_batch
from tests.core.test_batch import (
    MULTIPLY,
    call_of,
    check_calls,
    random_updates,
    test_calls_fail_like_operations,  # noqa: F401
    test_the_edges_of_a_batch_are_those_given,  # noqa: F401
)
from tests.core.test_batch import SUBTRACT as SUB
from tests.cuda.test_devices import nothing_misused, pytestmark  # noqa: F401


@pytest.fixture
def device() -> str:
    """For the tests that every device passes."""
    return "cuda:0"


@pytest.mark.parametrize("seed", range(12))
def test_calls_run_in_order(seed: int) -> None:
    check_calls(f"cuda:{seed % 2}", seed)


def test_a_batch_is_captured() -> None:
    updates, predecessors = random_updates(3, 60, 5)
    rng = np.random.default_rng(3)
    start = [rng.standard_normal(16) for _ in range(5)]

    def after(runs: int, captured: bool) -> list[list[float]]:
        arrays = [dr.asarray(x, device="cuda:0") for x in start]
        calls = [call_of(SUB, arrays[i], arrays[j], arrays[k]) for i, j, k in updates]
        if captured:
            with capture("cuda:0") as graph:
                push_batch(predecessors, where="cuda:0", calls=calls)
            assert graph.nodes == len(calls)
        for _ in range(runs - captured):
            if captured:
                graph.replay()
            else:
                push_batch(predecessors, where="cuda:0", calls=calls)
        return [x.tolist() for x in arrays]

    assert after(3, captured=True) == after(3, captured=False)


def test_a_function_of_the_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="a function of the CPU does not run on cuda:0"):
        push_batch([[]], where="cuda:0", function=1)
    push_batch([[], [0], [0, 1]], where="cuda:0")
    dr.wait()


def test_what_has_no_kernel_is_refused() -> None:
    @dr.custom_op
    def double(x: np.ndarray) -> np.ndarray:
        return x * 2

    x = dr.ones(3, device="cuda:0")
    call = call_of(MULTIPLY, x, x, 2.0)
    push_batch([[]], where="cuda:0", calls=[call])
    with pytest.raises(RuntimeError, match="a batch cannot be captured: it runs on another device"), capture("cuda:0"):
        push_batch([[]], where="cpu:0")
    assert x.tolist() == [2.0] * 3
