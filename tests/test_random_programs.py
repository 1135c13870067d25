"""Promise 1, serial values: random programs give the same bits on any lanes, in any order, on any device."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from checker import violations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import SHAPE, Machine, Step, steps

import dagrun as dr
from dagrun.core import configure, native, tracing
from dagrun.ops import cutting

DEVICE_SETS = [["cpu:0"], ["cpu:0", "cpu:1"], ["sim:0", "sim:1"], ["cpu:0", "sim:0", "cpu:1"]]
if os.environ.get("DAGRUN_TEST_CUDA"):
    DEVICE_SETS += [["cuda:0"], ["cuda:0", "cpu:0", "cuda:1"]]
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def forget_failures() -> None:
    native.failures(True)


def run(
    devices: list[str], program: list[Step], seed: int, shape: tuple[int, int] = SHAPE, **options: object
) -> list[object]:
    """The outcome of a program under these engine options; work is held back, so that the ready set grows."""
    before = configure(**options)
    try:
        machine = Machine(devices, seed, shape)
        native.pause(True)
        machine.run(program)
        result = machine.outcome()
    finally:
        native.pause(False)
        native.wait_all()
        forget_failures()
        configure(**before)
    return result


@pytest.mark.parametrize("devices", DEVICE_SETS, ids=",".join)
@relaxed
@given(program=steps(), seed=st.integers(0, 1000), workers=st.sampled_from([1, 2, 3]), shuffle=st.integers(0, 1 << 30))
def test_asynchronous_is_serial_bit_for_bit(
    devices: list[str], program: list[Step], seed: int, workers: int, shuffle: int
) -> None:
    serial = run(devices, program, seed, serial=True)
    assert (
        run(devices, program, seed, serial=False, workers=workers, shuffle_seed=shuffle, inline_bytes=shuffle % 3 * 500)
        == serial
    )


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    program=steps(kinds=("unary", "unary", "binary", "in_place", "view_write", "fail")),
    seed=st.integers(0, 1000),
    shuffle=st.integers(0, 1 << 30),
)
def test_results_in_the_memory_of_their_inputs(program: list[Step], seed: int, shuffle: int) -> None:
    """Arrays that are large enough for it, in several pieces."""
    shape = (96, 128)  # of this test alone: signatures are kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PIECE_BYTES", 1 << 16)
        serial = run(["cpu:0"], program, seed, shape, serial=True)
        options = {"workers": 1 + shuffle % 2, "shuffle_seed": shuffle % 3 * shuffle}
        assert run(["cpu:0"], program, seed, shape, serial=False, **options) == serial


@pytest.mark.parametrize("devices", DEVICE_SETS, ids=",".join)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(program=steps(max_size=30), shuffle=st.integers(1, 1 << 30))
def test_every_conflicting_pair_is_ordered(devices: list[str], program: list[Step], shuffle: int) -> None:
    before = configure(shuffle_seed=shuffle)
    try:
        check_order(devices, program)
    finally:
        configure(**before)


def check_order(devices: list[str], program: list[Step]) -> None:
    """Every conflicting pair of accesses in the trace of a program is ordered."""
    try:
        machine = Machine(devices, 0)
        with tracing() as records:
            native.pause(True)
            machine.run(program)
    finally:
        native.pause(False)
        native.wait_all()
        forget_failures()
    assert violations(records) == []


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    programs=st.lists(steps(kinds=("unary", "binary", "in_place", "view_write", "reduce")), min_size=2, max_size=4),
    shuffle=st.integers(0, 1 << 30),
)
def test_several_threads_record(programs: list[list[Step]], shuffle: int) -> None:
    """Each thread has arrays of its own; what they share is the engine."""
    expected = [run(["cpu:0"], program, seed, serial=True) for seed, program in enumerate(programs)]
    before = configure(shuffle_seed=shuffle, workers=2)
    try:
        machines = [Machine(["cpu:0"], seed) for seed in range(len(programs))]
        threads = [
            threading.Thread(target=machine.run, args=(program,))
            for machine, program in zip(machines, programs, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [machine.outcome() for machine in machines] == expected
    finally:
        forget_failures()
        configure(**before)


def test_threads_that_add_to_one_array_lose_nothing() -> None:
    total = dr.zeros(1000)

    def add() -> None:
        for _ in range(200):
            total.__iadd__(1.0)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(total.numpy(), np.full(1000, 800.0))


def test_a_block_of_columns_waits_for_one_that_begins_inside_it() -> None:
    gate = threading.Event()

    @dr.custom_op
    def late(x: np.ndarray) -> np.ndarray:
        assert gate.wait(60)
        return x

    x = dr.zeros((6, 8))
    x[:, 4:6] = late(dr.ones((6, 2)))
    y = x[:, 3:5] * 2
    assert not native.is_ready(y)
    gate.set()
    assert y.tolist() == [[0.0, 2.0]] * 6


def test_the_checker_sees_a_missing_edge() -> None:
    from dataclasses import replace

    with tracing() as records:
        x = dr.ones((100, 100)) + 1
        (x * 2).wait()
    assert violations(records) == []
    broken = [replace(r, predecessors=(), recorded_ns=0) for r in records]
    assert len(violations(broken)) == 2
