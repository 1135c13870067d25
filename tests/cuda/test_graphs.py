"""CUDA graphs: captured programs run again with the same bits and keep their memory; what cannot be, says so."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.backends.cuda.graphs import capture
from dagrun.core import native
from dagrun.errors import OperationError
from tests.cuda.emulated import EmulatedPlatform
from tests.cuda.test_devices import REAL, emulator, nothing_misused, pytestmark, run_alone  # noqa: F401


def mlp() -> dr.nn.Module:
    nn = dr.nn
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 10))


NETWORKS: dict[str, Callable[[], dr.nn.Module]] = {"mlp": mlp, "lenet": dr.models.LeNet5}


def training(network: str) -> tuple[Callable[[], dr.Array], list[dr.Array]]:
    """A training step with momentum on one batch, and what it changes."""
    dr.random.seed(5)
    rng = np.random.default_rng(1)
    with dr.default_device("cuda:0"):
        model = NETWORKS[network]()
        x = dr.asarray(rng.standard_normal((4, 1, 28, 28)).astype("float32"))
        y = dr.asarray(rng.integers(0, 10, 4))
    optimizer = dr.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step() -> dr.Array:
        optimizer.zero_grad()
        loss = dr.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, list(model.parameters())


def bits(arrays: list[dr.Array]) -> list[bytes]:
    return [x.numpy().tobytes() for x in arrays]


@pytest.mark.parametrize("seed", range(4))
def test_a_random_program_is_replayed_bit_for_bit(seed: int) -> None:
    def start() -> list[dr.Array]:
        rng = np.random.default_rng(seed)
        return [dr.asarray(rng.standard_normal(64), device="cuda:0") for _ in range(5)]

    def program(arrays: list[dr.Array]) -> None:
        rng = np.random.default_rng(seed + 100)
        for _ in range(90):
            into, left, right = rng.integers(0, len(arrays), 3)
            lo, hi = sorted(rng.integers(0, 65, 2))
            kind = rng.integers(0, 4)
            if kind == 0:
                arrays[into][lo:hi] = dr.sin(arrays[left][lo:hi]) - arrays[right][lo:hi]
            elif kind == 1:
                arrays[into] += dr.flip(arrays[left]) * 0.25
            elif kind == 2:
                arrays[into] -= dr.mean(arrays[right])
            else:
                arrays[into][...] = (arrays[left].reshape((8, 8)) @ arrays[right].reshape((8, 8))).reshape(64) * 0.1

    expected = start()
    for _ in range(4):
        program(expected)
    arrays = start()
    program(arrays)
    with capture("cuda:0") as graph:
        program(arrays)
    for _ in range(2):
        graph.replay()
    assert bits(arrays) == bits(expected)


def test_scatters_that_sort_are_captured() -> None:
    rng = np.random.default_rng(4)
    index = dr.asarray(rng.integers(0, 50, 7000), device="cuda:0")
    v, x = (dr.asarray(rng.standard_normal(n), device="cuda:0") for n in (7000, 50))

    def step() -> dr.Array:
        x[index] = v
        return dr.index_add(x, index, v)

    step()
    with capture("cuda:0") as graph:
        made = step()
    again = rng.standard_normal(7000)
    v[...] = dr.asarray(again, device="cuda:0")
    graph.replay()
    rows = index.numpy()
    expected = x.numpy()
    assert bits([x]) == [np.array([again[rows == i][-1] for i in range(50)]).tobytes()]
    np.add.at(expected, rows, again)
    assert bits([made]) == [expected.tobytes()]


def test_replays_are_ordered_with_other_operations() -> None:
    x, total = dr.zeros(100, device="cuda:0"), dr.zeros(100, device="cuda:0")
    with capture("cuda:0") as graph:
        y = x * 2
        total += y
    for i in range(1, 30):
        x[...] = float(i)
        graph.replay()
        if i == 10:
            assert y.tolist() == [20.0] * 100
    assert (y + total).tolist() == [58.0 + 2 * sum(range(30))] * 100


def test_its_memory_is_nobody_elses() -> None:
    before = dr.memory_stats("cuda:0")["live_bytes"]
    x = dr.asarray(np.arange(500.0), device="cuda:0")
    with capture("cuda:0") as graph:
        result = ((x + 1) * 2 - 1) * 3  # three of four are out of reach
    others = [dr.full((500,), float(i), device="cuda:0") for i in range(20)]
    dr.wait()
    for _ in range(3):
        graph.replay()
    expected = ((np.arange(500.0) + 1) * 2 - 1) * 3
    assert result.tolist() == expected.tolist()
    assert [y.tolist() for y in others] == [[float(i)] * 500 for i in range(20)]
    x += 1
    del x, others
    graph.replay()
    assert result.tolist() == (expected + 6).tolist()
    del result, graph
    dr.ones(1, device="cuda:0").wait()
    assert dr.memory_stats("cuda:0")["live_bytes"] <= before


def test_a_graph_that_is_dropped_finishes_first() -> None:
    x = dr.zeros(50, device="cuda:0")
    with capture("cuda:0") as graph:
        x += 1
    native.pause(True)
    graph.replay()
    del graph
    native.pause(False)
    with capture("cuda:0"):
        x += 10
    assert x.tolist() == [12.0] * 50


def test_work_is_captured_on_several_streams_beyond_all_bounds(engine_options: Callable[..., None]) -> None:
    engine_options(max_inflight_tasks=16, max_inflight_bytes=1 << 12, workers=3)
    x = dr.asarray(np.arange(64.0), device="cuda:0")
    launched = native.stats()
    with capture("cuda:0") as graph:
        chains = [x] * 6
        for i in range(50):
            chains = [chain + i for chain in chains]
        total = sum(chains[1:], start=chains[0])
    assert graph.nodes == 305 and native.stats()["stream_waits"] > launched["stream_waits"]
    x[...] = 1.0
    graph.replay()
    assert total.tolist() == [6 + 6.0 * sum(range(50))] * 64


def test_products_need_no_allocation_on_the_way() -> None:
    a = dr.asarray(np.arange(64.0).reshape(8, 8), device="cuda:1")
    native.wait_all()
    with capture("cuda:1") as graph:
        products = [(a + i) @ a for i in range(6)]
    a[...] = 1.0
    graph.replay()
    others = [a @ a for _ in range(6)]  # beside the graph's
    assert [p[0].tolist() for p in products] == [[8.0 * (1 + i)] * 8 for i in range(6)]
    assert [p[0].tolist() for p in others] == [[8.0] * 8] * 6


# ---- what cannot be captured


def python_function(x: dr.Array) -> dr.Array:
    return dr.custom_op(lambda values: values * 2)(x)


REFUSED: dict[str, tuple[Callable[[dr.Array], Any], str]] = {
    "python": (python_function, "<lambda> cannot be captured: it runs in Python"),
    "read": (lambda x: x.numpy(), "to_device cannot be captured: it uses cpu:0"),
    "upload": (
        lambda x: x + dr.asarray([1.0, 2.0, 3.0], device="cuda:0"),
        "to_device cannot be captured: it uses cpu:0",
    ),
    "elsewhere": (lambda x: dr.ones(1000) + 1, "cannot be captured: it uses cpu:0"),
    "other GPU": (lambda x: x.to_device("cuda:1"), "cannot be captured: it uses cuda:1"),
    "wait": (lambda x: x.wait(), "a wait cannot be captured"),
    "wait for all": (lambda x: dr.wait(), "a wait cannot be captured"),
    "nested": (lambda x: capture("cuda:0").__enter__(), "cuda:0 is captured already"),
    "engine": (lambda x: dr.engine("serial").__enter__(), "the end of the engine cannot be captured"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_captured_says_so(what: str) -> None:
    program, message = REFUSED[what]
    x = dr.zeros(3, device="cuda:0")
    with pytest.raises(RuntimeError, match=message) as caught, capture("cuda:0") as graph:
        x += 1
        program(x)
    if what not in ("nested", "engine"):
        assert f"recorded at: {__file__}:" in str(caught.value)
    assert x.tolist() == [1.0] * 3 and (x * 2).tolist() == [2.0] * 3
    with pytest.raises(RuntimeError, match="the graph of cuda:0 is not there"):
        graph.replay()


def test_a_refusal_that_nobody_looked_at_ends_the_capture() -> None:
    x = dr.zeros(3, device="cuda:0")
    with pytest.raises(RuntimeError, match="cuda:0: the capture was given up"), capture("cuda:0"):
        x += 1
        with pytest.raises(RuntimeError, match="to_device cannot be captured"):
            x.numpy()
        x += 1
    assert x.tolist() == [2.0] * 3


def test_a_program_that_raises_has_run_so_far() -> None:
    x = dr.zeros(3, device="cuda:0")
    with pytest.raises(ZeroDivisionError), capture("cuda:0"):
        x += 1
        1 / 0  # noqa: B018
    assert x.tolist() == [1.0] * 3


def test_only_gpus_are_captured() -> None:
    for where in ("cpu:0", "sim:0"):
        with pytest.raises(ValueError, match=f"{where} is no GPU"), capture(where):
            pass
    with dr.engine("serial"), pytest.raises(RuntimeError, match="the serial engine waits"), capture("cuda:0"):
        pass
    with capture("cuda:0") as graph:
        pass
    assert graph.nodes == 0
    with dr.engine("serial"), pytest.raises(RuntimeError, match="not replayed by the serial engine"):
        graph.replay()
    graph.replay()


def test_other_threads_keep_to_other_devices() -> None:
    x, other = dr.zeros(3, device="cuda:0"), dr.zeros(3, device="cuda:1")
    found: list[Any] = []

    def elsewhere() -> None:
        found.append((other + 1).tolist())
        try:
            x + 1
        except RuntimeError as error:
            found.append(str(error))

    thread = threading.Thread(target=elsewhere)
    with capture("cuda:0") as graph:
        x += 1
        thread.start()
        thread.join()
    assert found == [[1.0] * 3, "add: another thread captures cuda:0"] and graph.nodes == 1


# ---- failures


def test_failures_of_a_replay_come_home() -> None:
    x = dr.asarray([1.0, 2.0, 3.0], device="cuda:0")
    at = dr.asarray([0, 1], device="cuda:0")
    with capture("cuda:0") as graph:
        y = dr.take(x, at) * 2
        line = sys._getframe().f_lineno - 1
        z = x + 1
    assert y.tolist() == [2.0, 4.0]
    at[...] = 7
    graph.replay()
    graph.replay()
    with pytest.raises(IndexError, match="7") as caught:
        y.wait()
    assert isinstance(caught.value, OperationError)
    assert (caught.value.operation, caught.value.line, caught.value.device) == ("take", line, "cuda:0")
    at[...] = 2
    graph.replay()  # it writes all of y and z anew
    assert y.tolist() == [6.0, 6.0] and z.tolist() == [2.0, 3.0, 4.0]
    native.failures(True)


def test_each_replay_is_asked_for_its_own_errors() -> None:
    x, at = dr.asarray([1.0, 2.0], device="cuda:0"), dr.zeros(1, "int64", device="cuda:0")
    with capture("cuda:0") as graph:
        y = dr.take(x, at)
    for _ in range(20):
        at[...] = 1
        graph.replay()
        at[...] = 9
        graph.replay()
        with pytest.raises(IndexError, match="9"):
            y.wait()
        at[...] = 1
        graph.replay()
        assert y.tolist() == [2.0]


def test_a_failure_in_the_captured_run_comes_home_too() -> None:
    x, at = dr.asarray([1.0, 2.0], device="cuda:0"), dr.asarray([5], device="cuda:0")
    with capture("cuda:0") as graph:
        y = dr.take(x, at)
    with pytest.raises(IndexError, match="5"):
        y.wait()
    at[...] = 1
    graph.replay()
    assert y.tolist() == [2.0]


@pytest.mark.parametrize(("what", "result"), [("begin", 2), ("end", 901), ("instantiate", 2), ("launch", 701)])
def test_a_driver_that_refuses_leaves_the_engine_usable(
    emulator: EmulatedPlatform,  # noqa: F811
    what: str,
    result: int,
) -> None:
    x = dr.zeros(3, device="cuda:0")
    x.wait()
    emulator.inject(what, 1, result)
    arrays = []
    with pytest.raises(RuntimeError, match="CUDA_ERROR") as caught, capture("cuda:0"):
        arrays.append(x + 1)
        arrays.append(arrays[0] * 2)
    if what != "begin":
        assert isinstance(caught.value, OperationError) and caught.value.operation == "add"
        with pytest.raises(OperationError, match="add failed: the GPU's driver refused it: CUDA_ERROR"):
            arrays[1].wait()
    with capture("cuda:0") as graph:
        x += 1
    graph.replay()
    assert x.tolist() == [2.0] * 3


def test_an_array_that_moved_is_noticed(emulator: EmulatedPlatform, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    held = []
    plain = emulator.array
    x = dr.ones(3, device="cuda:0")
    with capture("cuda:0") as graph:
        y = x + 1
    monkeypatch.setattr(emulator, "array", lambda memory, *rest: held.append(memory) or plain(memory, *rest))
    dr.custom_op(lambda values: values * 2)(x).wait()
    graph.replay()  # reads what is held
    assert y.tolist() == [2.0] * 3
    x += 1  # to fresh memory
    others = [dr.full((3,), 9.0, device="cuda:0") for _ in range(4)]
    graph.replay()
    with pytest.raises(OperationError, match="graph failed: an array that it was captured with lies in other memory"):
        y.wait()
    held.clear()
    assert x.tolist() == [2.0] * 3 and [z.tolist() for z in others] == [[9.0] * 3] * 4
    with pytest.raises(RuntimeError, match="multiply cannot be captured: it writes memory that a function in Python"):
        dr.custom_op(lambda values: values * 2)(x).wait()
        with capture("cuda:0"):
            x *= 2


def test_a_gpu_that_is_lost_in_a_capture_ends_in_one_clear_error() -> None:
    out = run_alone(
        """
        import dagrun as dr
        from dagrun.backends.cuda.graphs import capture
        x = dr.zeros(16, device="cuda:0") + 1
        x.wait()
        emulator.inject("fault", 1, 700)
        try:
            with capture("cuda:0") as graph:
                y = x * 2
                z = y + 1
        except RuntimeError as error:
            print("is lost: CUDA_ERROR_ILLEGAL_ADDRESS" in str(error), error.operation)
        for what in (lambda: z.wait(), lambda: capture("cuda:0").__enter__()):
            try:
                what()
            except RuntimeError as error:
                print("CUDA_ERROR_ILLEGAL_ADDRESS" in str(error))
        print((dr.ones(2, device="cuda:1") + 1).tolist(), dr.engine_stats()["in_flight"])
        """
    )
    assert out.splitlines() == ["True multiply", "True", "True", "[2.0, 2.0] 0"]


def test_a_capture_that_runs_out_of_memory_says_so() -> None:
    out = run_alone(
        """
        import dagrun as dr
        from dagrun.backends.cuda.graphs import capture
        x = dr.zeros(1 << 18, device="cuda:0")  # 2 MiB
        def program():
            y = x
            for _ in range(30):
                y = y + 1.0  # in a capture all of them are there at once
            return y
        y = program()
        print(y[0].item())
        try:
            with capture("cuda:0"):
                y = program()
        except MemoryError as error:
            print("no memory for 2,097,152 bytes" in str(error))
        y = None
        print((x + 1)[0].item())
        """,
        DAGRUN_EMULATED_BYTES=str(12 << 20),
    )
    assert out.splitlines() == ["30.0", "True", "1.0"]


def test_a_device_of_several_on_one_gpu_is_captured_alone() -> None:
    out = run_alone(
        """
        import dagrun as dr
        from dagrun.backends.cuda.graphs import capture
        a, b = dr.ones(8, device="cuda:0"), dr.ones(8, device="cuda:1")
        with capture("cuda:1") as graph:
            b += 1
        for _ in range(3):
            a += 1
            graph.replay()
        print(a[0].item(), b[0].item(), graph.nodes, emulator.misuses())
        """,
        DAGRUN_CUDA_LOGICAL="2",
        DAGRUN_EMULATED_GPUS="1",
    )
    assert out == "4.0 5.0 1 []\n"


# ---- training; the last, because it may take long to fail


@pytest.mark.timeout(400)  # every kernel is compiled when it is first met
@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_step_is_captured_and_replayed(network: str) -> None:
    replays = 3
    step, parameters = training(network)
    ordinary = []
    for _ in range(replays + 2):
        step()
        ordinary.append(bits(parameters))
    step, parameters = training(network)
    step()
    launched = native.stats()["stream_launches"]
    with capture("cuda:0") as graph:
        loss = step()
    launches = native.stats()["stream_launches"] - launched
    assert graph.nodes > 0 and (REAL or graph.nodes <= launches)  # a product of cuBLAS may be several
    captured = [bits(parameters)]
    for _ in range(replays):
        graph.replay()
        captured.append(bits(parameters))
    assert captured == ordinary[1:]
    step, parameters = training(network)
    assert [step().item() for _ in range(replays + 2)][-1] == loss.item()
