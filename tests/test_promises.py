"""The promises of `docs/design.md`, one by one. Promise 1 is tested in test_random_programs.py."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import memory_stats, native, tracing
from dagrun.errors import OperationError
from tests.conftest import Gate


def run_program(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    import os

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning", **environment},
    )


# ---- 1: serial values


def test_1_column_blocks_that_share_a_column_are_ordered() -> None:
    """Wherever the one begins: the later block left or right of the earlier one."""
    x = dr.zeros((4, 6))
    for earlier, later in ((slice(1, 3), slice(2, 4)), (slice(2, 4), slice(1, 3))):
        with tracing() as records:
            x[:, earlier] += 1
            x[:, later] *= 2
        assert [before for before, _ in records[1].predecessors if before == records[0].sequence]
    assert x.numpy()[0].tolist() == [0, 2, 6, 1, 0, 0]


# ---- 2: asynchrony


@pytest.mark.skipif(
    dr.engine_stats()["core"] == "python", reason="without a compiler, bodies are called through Python"
)
def test_2_recorded_work_advances_while_the_main_thread_spins() -> None:
    """The switch interval keeps every other Python thread out: only work that needs no GIL can finish."""
    interval = sys.getswitchinterval()
    x = dr.ones(20_000)
    (x + 1.0).wait()
    sys.setswitchinterval(1000.0)
    try:
        before = native.stats()["finished"]
        y = x
        for _ in range(500):
            y = y + 1.0
        spins = 0
        while native.stats()["finished"] < before + 500 and spins < 50_000_000:
            spins += 1
    finally:
        sys.setswitchinterval(interval)
    assert native.stats()["finished"] >= before + 500
    assert y.numpy()[0] == 501.0


def test_2_recording_returns_before_the_work_is_done(gate: Gate) -> None:
    y = gate.late(dr.zeros(10)) + 1
    z = (y * 2)[3:] + 1
    assert not native.is_ready(z)
    gate.open()
    assert z.tolist() == [3.0] * 7


# ---- 3: bounded


@pytest.mark.parametrize(("bound", "fits"), [(8 << 20, True), (0, False)])
def test_3_memory_in_flight_is_bounded(engine_options: Callable[..., None], bound: int, fits: bool) -> None:
    """A producer runs ahead of a consumer that is slow; with the bound off the same program takes all it likes."""
    produced = threading.Semaphore(0)

    @dr.custom_op(infer=lambda x: ((), x[1]))
    def consume(x: np.ndarray) -> np.ndarray:
        produced.acquire(timeout=0.002)  # slower than the producer
        return np.sort(x)[0]

    engine_options(max_inflight_bytes=bound, max_inflight_tasks=0)
    x = dr.ones(1 << 17)
    dr.wait()
    memory_stats("cpu:0", reset_peak=True)
    start = memory_stats("cpu:0")["live_bytes"]
    for _ in range(150):
        last = consume(x + 1)
    last.wait()
    grown = memory_stats("cpu:0")["peak_bytes"] - start
    assert (grown <= (8 << 20) + (32 << 20)) == fits


def test_3_one_operation_larger_than_the_bound_is_admitted(engine_options: Callable[..., None]) -> None:
    engine_options(max_inflight_bytes=1 << 10, max_inflight_tasks=2)
    x = dr.ones(100_000)
    for _ in range(20):
        x = x + 1
    assert x.numpy()[-1] == 21


def test_3_a_long_chain_needs_few_task_records(engine_options: Callable[..., None]) -> None:
    engine_options(max_inflight_tasks=500, inline_bytes=0)
    before = native.stats()["task_slots"]
    y = dr.zeros(1000)
    for _ in range(20_000):
        y += 1.0
    assert y.numpy()[0] == 20_000
    assert native.stats()["task_slots"] - before <= 2_000


# ---- 4: errors come home


@dr.custom_op
def broken(x: np.ndarray) -> np.ndarray:
    raise KeyError("broken on purpose")


def line_of(text: str) -> int:
    with open(__file__) as file:
        return next(i for i, line in enumerate(file, 1) if text in line)


def test_4_a_failure_names_operation_shapes_device_and_line(device: str) -> None:
    x = dr.asarray(np.arange(6.0).reshape(2, 3), device=device)
    good = x + 1
    bad = dr.take(x, dr.asarray([0, 5], device=device), axis=0)  # the line that fails
    worse = (bad * 2 + good[0]).sum()
    for array in (bad, worse, bad, worse):
        with pytest.raises(IndexError) as caught:
            array.numpy()
        error = caught.value
        assert isinstance(error, OperationError)
        assert (error.operation, error.device) == ("take", device)
        assert (error.file, error.line) == (__file__, line_of("# the line that fails"))
        for part in ("index 5", "size 2", "float64(2, 3)", "int64(2,)", device, f"{__file__}:{error.line}"):
            assert part in str(error)
    np.testing.assert_array_equal((good * 2).numpy(), (np.arange(6.0).reshape(2, 3) + 1) * 2)


def test_4_what_the_users_function_raised_is_the_cause(device: str) -> None:
    bad = broken(dr.ones(3, device=device)) + 1
    for _ in range(2):
        with pytest.raises(KeyError, match="broken on purpose") as caught:
            bad.wait()
        assert isinstance(caught.value, OperationError) and isinstance(caught.value.__cause__, KeyError)
        assert "raise KeyError" in str(caught.getrepr()) or caught.value.__cause__.__traceback__ is not None


def test_4_no_memory_is_a_failure_like_any_other() -> None:
    fine = dr.ones(1000) + 1
    huge = dr.ones((1 << 45,), dtype="float32")
    with pytest.raises(MemoryError, match=r"fill: .* on cpu:0"):
        huge.wait()
    with pytest.raises(MemoryError):
        (huge[:10] + 1).wait()
    assert (fine * 2).numpy()[0] == 4


def test_4_overwriting_heals(device: str) -> None:
    x = dr.ones((4, 4), device=device)
    x[1:3] = broken(dr.ones((2, 4), device=device))
    row = x[0].numpy(
        copy=device == "cuda:0"
    )  # rows that were not written are as they were; the write below moves to fresh memory
    assert row.tolist() == [1.0] * 4
    with pytest.raises(KeyError):
        x.numpy()
    x[1:3] = 7.0
    assert x.numpy().sum() == 8 + 56
    assert row.tolist() == [1.0] * 4


def test_4_a_write_between_the_poisoned_elements_does_not_heal_them() -> None:
    x = dr.zeros((6, 6, 6))
    x[:, :, ::3] = broken(dr.ones((6, 6, 2)))
    x[:, ::5, ::3] = 1.0  # the first and the last of the rows, so the same first and last byte
    with pytest.raises(KeyError):
        x[:, 1].numpy()


def test_4_wait_raises_the_first_failure_in_program_order() -> None:
    gate = threading.Event()

    @dr.custom_op
    def late(x: np.ndarray) -> np.ndarray:
        assert gate.wait(60)
        raise ValueError("first in the program")

    first = late(dr.ones(2))
    second = dr.take(dr.ones(2), dr.asarray([9]))
    gate.set()
    with pytest.raises(ValueError, match="first in the program") as caught:
        dr.wait()
    assert any("take" in note for note in caught.value.__notes__)
    dr.wait()  # delivered: the engine goes on
    for array in (first, second):
        with pytest.raises(OperationError):
            array.wait()


def test_4_failures_that_nobody_waited_for_are_printed_at_exit() -> None:
    done = run_program("""
        import dagrun as dr
        y = dr.take(dr.ones(2), dr.asarray([9]))
    """)
    assert done.returncode == 0
    assert (
        "nothing waited for" in done.stderr
        and "index 9 is out of bounds" in done.stderr
        and "<string>:3" in done.stderr
    )


# ---- 5: no silent hang


def test_5_recording_or_waiting_inside_a_task_is_refused() -> None:
    outside = dr.ones(3)

    @dr.custom_op
    def records(x: np.ndarray) -> np.ndarray:
        return (outside + 1).numpy()

    @dr.custom_op
    def waits(x: np.ndarray) -> np.ndarray:
        return outside.numpy()

    with pytest.raises(RuntimeError, match="cannot record an operation inside a task"):
        records(dr.ones(3)).wait()
    with pytest.raises(RuntimeError, match="cannot wait for an array inside a task"):
        waits(dr.ones(3)).wait()


def test_5_after_fork_finished_arrays_can_be_read_and_the_rest_raises() -> None:
    done = run_program("""
        import os, threading, dagrun as dr
        gate = threading.Event()
        @dr.custom_op
        def slow(x):
            gate.wait(60)
            return x
        finished = (dr.ones(100_000) + 1).wait()
        pending = slow(dr.ones(3))
        child = os.fork()
        if child == 0:
            assert finished.numpy()[5] == 2.0
            for use in (lambda: finished + 1, lambda: pending.numpy(), lambda: dr.ones(3)):
                try:
                    use()
                except RuntimeError as error:
                    assert "fork" in str(error)
                else:
                    os._exit(3)
            dr.wait()
            raise SystemExit(0)
        gate.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pending.tolist() == [1.0] * 3
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_5_a_process_that_only_imports_dagrun_may_fork_and_compute() -> None:
    done = run_program("""
        import multiprocessing, dagrun as dr
        def work(i):
            return (dr.ones(10) * i).sum().item()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(work, [1, 2, 3]) == [10.0, 20.0, 30.0]
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_5_exit_finishes_what_is_pending() -> None:
    done = run_program("""
        import dagrun as dr
        @dr.custom_op
        def report(x):
            print("computed", x[0])
            return x
        y = dr.ones(1_000_000)
        for _ in range(50):
            y = y + 1
        z = report(y)
    """)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "computed 51.0", "")


def test_5_exit_gives_up_on_what_does_not_end() -> None:
    done = run_program(
        """
        import threading, dagrun as dr
        @dr.custom_op
        def stuck(x):
            threading.Event().wait()
        y = stuck(dr.ones(3)) + 1
        """,
        DAGRUN_EXIT_SECONDS="0.3",
    )
    assert done.returncode == 0
    assert "gave up after 0.3 s with 2 of 2 recorded operations unfinished" in done.stderr


def test_5_ctrl_c_ends_a_wait() -> None:
    done = run_program(
        """
        import os, signal, threading, dagrun as dr
        entered = threading.Event()
        @dr.custom_op
        def stuck(x):
            entered.set()
            while True:  # a signal just before a wait without end would go unseen: CPython looks before it sleeps
                threading.Event().wait(0.01)
        y = stuck(dr.ones(3))
        def interrupt():
            entered.wait()
            os.kill(os.getpid(), signal.SIGINT)
        try:
            threading.Thread(target=interrupt, daemon=True).start()
            y.wait()
        except KeyboardInterrupt:
            print("interrupted")
        """,
        DAGRUN_EXIT_SECONDS="0.3",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "interrupted"


def test_5_the_watchdog_prints_the_chain() -> None:
    done = run_program(
        """
        import sys, threading, dagrun as dr
        seen = threading.Event()
        class Watch:
            def write(self, text):
                sys.__stderr__.write(text)
                if "stuck" in text:
                    seen.set()
            def flush(self): pass
        sys.stderr = Watch()
        @dr.custom_op
        def stuck(x):
            assert seen.wait(30)
            return x
        y = stuck(dr.ones(3)) + 1
        y.wait()
        """,
        DAGRUN_WATCHDOG_SECONDS="0.1",
    )
    assert done.returncode == 0, done.stderr
    assert "no task finished for 0.1 s" in done.stderr
    assert (
        "add: pending, recorded at <string>:15" in done.stderr
        and "stuck: running, recorded at <string>:15" in done.stderr
    )


# ---- 6: safe lifetimes


def test_6_freed_memory_of_a_stream_device_is_not_read() -> None:
    """Many short-lived temporaries on several streams: memory freed too early reads as 0xA5 and the sum tells."""
    x = dr.ones(5000, device="sim:1")
    total = dr.zeros(5000, device="sim:1")
    for k in range(60):
        parts = [(x * k + i) - i for i in range(5)]
        total += parts[0] + parts[1] + parts[2] + parts[3] + parts[4]
        del parts
    np.testing.assert_array_equal(total.numpy(), np.full(5000, 5.0 * sum(range(60))))
    dr.wait()


def test_6_memory_goes_back_when_nothing_holds_it() -> None:
    dr.wait()
    before = memory_stats("cpu:3")["live_bytes"]
    x = dr.ones((1000, 1000), device="cpu:3")
    view = x[10:20]
    y = (x + 1).sum()
    assert y.item() == 2_000_000
    del x, y
    dr.wait()
    assert memory_stats("cpu:3")["live_bytes"] - before >= 8_000_000  # the view holds it
    del view
    assert memory_stats("cpu:3")["live_bytes"] == before


LARGE = 1 << 20  # elements of a float32 array whose operations are cut into pieces


@pytest.mark.skipif(dr.engine_stats()["core"] == "python", reason="the Python executor gives every result fresh memory")
def test_6_a_chain_runs_in_the_memory_of_one_result(gate: Gate) -> None:
    size = LARGE // 8  # one task each: of several, one may still write what another would take over
    source = dr.ones(size, dtype="float32")
    x = gate.late(source)
    gate.reached()  # it has its memory; the chain cannot run before it is recorded
    memory_stats("cpu:0", reset_peak=True)
    start = memory_stats("cpu:0")["live_bytes"]
    y = x
    for _ in range(10):
        y = y * 2 + 1
    gate.open()
    dr.wait()
    assert memory_stats("cpu:0")["peak_bytes"] - start == 4 * size
    assert y[[0, -1]].tolist() == [2047.0] * 2
    del y
    assert memory_stats("cpu:0")["live_bytes"] == start


def test_6_no_result_is_written_over_what_somebody_reads(gate: Gate) -> None:
    """Each line that could take over the memory of `t` must not: a handle, an export, or a task still needs it."""
    x = dr.ones(LARGE, dtype="float32")
    zero = dr.zeros(1, dtype="float32")

    t = x + 2
    exported = t.numpy(copy=False)
    native.pause(True)  # nothing runs before the names are gone
    sums = [t * 10]

    held = x + 1
    sums.append(held * 10)

    t = x + 3
    reader = t + gate.late(zero)  # reads t after the next line could have written over it
    sums.append(t * 10)

    t = x + 4
    sums.append(t + t[::-1] * 10)  # reads t from both ends

    t = x + 5
    sums.append(t + gate.late(zero))
    t[...] = 100  # after that line, which cannot run yet

    t = x + 6
    target = dr.empty(LARGE, dtype="float32")
    target[: LARGE // 2] = gate.late(zero)  # comes before a part of the next line, and must not write into t
    dr.multiply(t, 10, out=target)
    sums.append(target)
    del t

    native.pause(False)
    gate.reached()
    for other in (sums[0], sums[1], sums[2], sums[3], target[-1:]):
        other.wait()
    del target
    gate.open()
    ends = [s[[0, LARGE // 2, -1]].tolist() for s in (held, dr.asarray(exported), reader, *sums)]
    assert ends == [[float(v)] * 3 for v in (2, 3, 4, 30, 20, 40, 55, 6, 70)]


def test_6_poison_travels_through_memory_that_is_taken_over() -> None:
    """Half of an integer array fails; the other half has its values, after operations that ran in its memory."""
    exponents = dr.zeros(LARGE, dtype="int64")
    exponents[LARGE - 1 :] = -1
    base = dr.asarray(np.full(LARGE, 2)) + 0
    native.pause(True)
    powers = (base + 1) ** exponents * 5 + 1
    with pytest.raises(OperationError, match="negative integer powers"):
        powers[-1].wait()
    assert powers[:3].tolist() == [6, 6, 6]


# ---- 7: one program


@pytest.mark.parametrize(
    "devices", [["cpu:0", "cpu:0"], ["cpu:0", "cpu:1"], ["sim:0", "sim:1"], ["cpu:0", "sim:0"]], ids=",".join
)
def test_7_only_labels_change(devices: list[str]) -> None:
    """Two steps of a small data-parallel regression; the bits do not depend on where it ran."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 5)), rng.standard_normal((8, 1))
    weights = [dr.zeros((5, 1), device=d) for d in devices]
    for _ in range(2):
        grads = []
        for d, device in enumerate(devices):
            xs, ys = (dr.asarray(v[4 * d : 4 * d + 4], device=device) for v in (x, y))
            grads.append(xs.T @ (dr.tanh(xs @ weights[d]) - ys))
        if devices[0] == devices[1]:
            totals = [grads[0] + grads[1]] * 2
        else:
            totals = dr.parallel.all_reduce(grads)
        for d in range(2):
            weights[d] -= 0.1 * totals[d]
    reference = test_7_only_labels_change.__dict__.setdefault("bits", weights[0].numpy().tobytes())
    assert weights[0].numpy().tobytes() == weights[1].numpy().tobytes() == reference
