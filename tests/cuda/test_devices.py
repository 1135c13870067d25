"""CUDA devices: copies, streams, lifetimes, failures; random programs show that no wait is missing.

On the emulator, or on a GPU with DAGRUN_TEST_CUDA=1 and DAGRUN_CUDA_LOGICAL=2; failures are ordered from the emulator.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checker import violations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import Step, steps

import dagrun as dr
from dagrun.backends import cuda
from dagrun.backends.cuda import nvrtc
from dagrun.backends.cuda.libraries import cuda_library
from dagrun.codegen.cuda import registry
from dagrun.core import native, tracing
from dagrun.errors import DeviceError, OperationError
from dagrun.record import Operator, lowering
from tests.cuda import across_streams
from tests.cuda.emulated import COMPILER, EmulatedPlatform, use_emulator
from tests.test_random_programs import check_order, run

ROOT = Path(__file__).parents[2]
REAL = os.environ.get("DAGRUN_TEST_CUDA") == "1"

pytestmark = [
    pytest.mark.skipif(
        COMPILER is None and not REAL, reason="the emulator is built with a C++ compiler, and there is none"
    ),
    pytest.mark.skipif(os.environ.get("DAGRUN_CORE") == "python", reason="CUDA devices need the native core"),
]


@pytest.fixture
def emulator() -> EmulatedPlatform:
    """For what only the emulator can do."""
    if REAL:
        pytest.skip("this orders from the emulator what a GPU does not do on request")
    return use_emulator()


@pytest.fixture(autouse=True)
def nothing_misused() -> Iterator[None]:
    """At the end of a test the emulator has seen nothing that a driver would refuse, or make slow."""
    platform = None if REAL else use_emulator()
    yield
    native.wait_all()
    assert platform is None or platform.misuses() == []


def run_alone(program: str, **environment: str) -> str:
    """What a program prints that has an emulator of its own, as `emulator`: for what ends a GPU."""
    if COMPILER is None:
        pytest.skip("the emulator is built with a C++ compiler, and there is none")
    text = "from tests.cuda.emulated import use_emulator\nemulator = use_emulator()\n" + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "PYTHONFAULTHANDLER": "1",
            "DAGRUN_CUDA_LOGICAL": "1",
            **environment,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- values


def test_a_short_program() -> None:
    a = dr.asarray(np.arange(6.0).reshape(2, 3), device="cuda:0")
    b = dr.ones((2, 3), device="cuda:0")
    assert str(a.device) == "cuda:0" and ((a + b) * 2).tolist() == [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]
    assert (a @ b.T).tolist() == [[3.0, 3.0], [12.0, 12.0]]
    a[:, 1] = -1
    a += b
    assert repr(a[0]) == "array([1., 0., 3.], device='cuda:0')" and float(a[1, 2]) == 6.0


def test_which_there_are() -> None:
    found = dr.gpus()
    assert dr.device("cuda:0") in found and all(
        str(dr.ones(2, device=device).device) == str(device) for device in found
    )
    with pytest.raises(DeviceError, match=f"no device cuda:{len(found)}: "):
        dr.ones(2, device=f"cuda:{len(found)}")


@pytest.mark.parametrize("devices", [["cuda:0"], ["cuda:0", "cpu:0", "cuda:1"]], ids=",".join)
@pytest.mark.timeout(300)  # every kernel is compiled when it is first met
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(program=steps(), seed=st.integers(0, 1000), shuffle=st.integers(0, 1 << 30))
def test_asynchronous_is_serial_bit_for_bit(devices: list[str], program: list[Step], seed: int, shuffle: int) -> None:
    serial = run(devices, program, seed, serial=True)
    assert run(devices, program, seed, serial=False, workers=1 + shuffle % 3, shuffle_seed=shuffle) == serial


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(program=steps(max_size=30))
def test_every_conflicting_pair_is_ordered(program: list[Step]) -> None:
    check_order(["cuda:0", "cuda:1"], program)


def test_the_serial_engine_gives_the_same_bits() -> None:
    def program() -> bytes:
        x = dr.asarray(np.linspace(-3, 3, 777).reshape(21, 37), device="cuda:0")
        y = dr.exp(x) / (1 + dr.square(x[:, ::-1]))
        return bytes(dr.cumsum(y @ y.T, axis=1).numpy().tobytes())

    expected = program()
    with dr.engine("serial"):
        assert program() == expected


@pytest.mark.parametrize("devices", [["cuda:0"], ["cuda:0", "cuda:1"]], ids=",".join)
def test_training_takes_the_steps_of_the_cpu(devices: list[str]) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((16, 5)).astype("float32"), rng.integers(0, 3, 16)

    def losses(places: list[str]) -> list[float]:
        with dr.default_device(places[0]):
            dr.random.seed(7)
            model = dr.nn.Sequential(dr.nn.Linear(5, 8), dr.nn.ReLU(), dr.nn.Linear(8, 3))
        net = dr.parallel.DataParallel(model, places) if len(places) > 1 else model
        optimizer = dr.optim.Adam(model.parameters(), lr=0.05)
        found = []
        for _ in range(4):
            optimizer.zero_grad()
            given = dr.asarray(x, device=places[0])
            loss = dr.nn.functional.cross_entropy(net(given), dr.asarray(y, device=places[0]))
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    np.testing.assert_allclose(losses(devices), losses(["cpu:0"]), rtol=1e-5)


@pytest.fixture
def python_bodies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operators that run on the Python lane from now on."""
    names: list[str] = []
    compute = lowering.compute_on_gpu

    def noted(operator: Operator, *rest: Any) -> None:
        names.append(operator.name)
        compute(operator, *rest)

    for module in (lowering, import_module("dagrun.record.apply")):  # the package has a function of that name
        monkeypatch.setattr(module, "compute_on_gpu", noted)
    return names


def test_convolutions_train_in_half_precision(python_bodies: list[str]) -> None:
    """float32 parameters, float16 products and a scaled loss come close to the CPU's single precision."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((8, 1, 12, 12)).astype("float32"), rng.integers(0, 3, 8)

    def trained(place: str, half: bool) -> tuple[list[float], list[np.ndarray]]:
        with dr.default_device(place):
            dr.random.seed(7)
            parts = dr.nn.Conv2d(1, 4, 3), dr.nn.MaxPool2d(2), dr.nn.ReLU(), dr.nn.Flatten(), dr.nn.Linear(100, 3)
            model = dr.nn.Sequential(*parts)
        optimizer, scaler = dr.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), dr.optim.LossScaler(1024.0)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            with dr.autocast(enabled=half):
                made = model(dr.asarray(x, device=place))
                assert made.dtype == ("float16" if half else "float32")
                loss = dr.nn.functional.cross_entropy(made, dr.asarray(y, device=place))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        assert scaler.get_scale() == 1024.0
        return losses, [p.numpy() for p in model.parameters()]

    losses, parameters = trained("cpu:0", False)
    for half, tolerance in ((False, 1e-5), (True, 5e-3)):
        own, values = trained("cuda:0", half)
        np.testing.assert_allclose(own, losses, atol=tolerance)
        for a, b in zip(values, parameters, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=tolerance)
    assert losses[-1] < losses[0] and not python_bodies


def test_more_products_than_a_grid_is_deep() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 9, shape).astype("float32") for shape in ((70_000, 2, 3), (70_000, 3, 1)))
    c = dr.asarray(a, device="cuda:0") @ dr.asarray(b, device="cuda:0")
    assert np.array_equal(c.numpy(), a @ b)


# ---- copies


@pytest.mark.parametrize("source", ["cpu:0", "sim:0", "cuda:0", "cuda:1"])
@pytest.mark.parametrize("target", ["cpu:1", "sim:1", "cuda:0", "cuda:1"])
def test_copies_between_devices(source: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "COPY_PIECE", 1000)  # several pieces
    values = np.arange(37 * 29, dtype="int32").reshape(37, 29) + (sum(map(ord, source + target)))
    x = dr.asarray(values, device=source)
    y = x.to_device(target)
    assert str(y.device) == target
    x = x + 0 if y is x else x
    x += 1  # after the copy has read
    assert np.array_equal(y.numpy(), values) and np.array_equal(x.numpy(), values + 1)
    assert np.array_equal(x[::2, ::-3].to_device(target).numpy(), (values + 1)[::2, ::-3])
    assert x[5:5].to_device(target).shape == (0, 29) and x[5:5].to_device(target).tolist() == []


def test_many_positions_are_sorted_first(python_bodies: list[str]) -> None:
    """Sums and assignments at indices, and their gradients, have the bits of the CPU; a wrong index comes home."""
    rng = np.random.default_rng(3)
    rows, values, table = rng.integers(-40, 40, 7000), rng.standard_normal((7000, 2)), rng.standard_normal((40, 2))

    def program(device: str) -> list[bytes]:
        index = dr.asarray(rows, device=device)
        v, t = (dr.asarray(x, device=device).requires_grad_() for x in (values, table))
        x = t * 2
        x[index] = v
        (x * dr.take(t, index, 0)[:40]).sum().backward()
        made = [x, dr.index_add(t, index, v), v.grad, t.grad]
        return [y.numpy().tobytes() for y in made]

    assert program("cuda:0") == program("cpu:0")
    wrong = rows.copy()
    wrong[6500] = 40
    with pytest.raises(OperationError, match="index 40 is out of bounds for axis 0 with size 40"):
        dr.index_add(dr.zeros((40, 2), device="cuda:0"), dr.asarray(wrong, device="cuda:0"), 1.0).wait()
    assert python_bodies == []


def test_memory_of_a_gpu_is_not_lent() -> None:
    with pytest.raises(ValueError, match=r"use x\.numpy\(\) or x\.to_device\('cpu:0'\)"):
        dr.ones(3, device="cuda:0").numpy(copy=False)
    values = np.ones(3)
    values.flags.writeable = False
    with pytest.raises(ValueError, match="cannot be lent to cuda:0"):
        dr.asarray(values, device="cuda:0", copy=False)


def test_gradients_cross() -> None:
    x = dr.asarray([1.0, 2.0, 3.0], device="cuda:0", requires_grad=True)
    loss = (x.to_device("cpu:0") * dr.asarray([1.0, 10.0, 100.0])).to_device("cuda:1").sum().to_device("cpu:0")
    loss.backward()
    assert x.grad is not None and str(x.grad.device) == "cuda:0" and x.grad.tolist() == [1.0, 10.0, 100.0]
    assert x.item(1) == 2.0 and x.requires_grad


@pytest.mark.parametrize("devices", [["cuda:0", "cuda:1"], ["cuda:1", "cpu:0", "cuda:0", "sim:0"]], ids=",".join)
def test_ring(devices: list[str]) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(1001).astype("float32") for _ in devices]
    on_cpus = dr.parallel.all_reduce([dr.asarray(x, device=f"cpu:{i}") for i, x in enumerate(parts)])
    arrays = [dr.asarray(x, device=device) for x, device in zip(parts, devices, strict=True)]
    sums = dr.parallel.all_reduce(arrays)
    assert [str(x.device) for x in sums] == devices
    for ours, theirs in zip(sums, on_cpus, strict=True):
        assert np.array_equal(ours.numpy(), theirs.numpy())
    ordered = dr.parallel.ordered_all_reduce(arrays)
    assert all(np.array_equal(x.numpy(), ordered[0].numpy()) for x in ordered)


@pytest.mark.parametrize("bits", [16, 8, 2, 1])
def test_gradients_in_low_precision(bits: int, python_bodies: list[str]) -> None:
    """The bits of the CPU, in three rounds with what the rounds before lost."""
    rng = np.random.default_rng(bits)
    rounds = [[rng.standard_normal(1001).astype("float32") for _ in range(2)] for _ in range(3)]

    def sums(places: list[str]) -> list[np.ndarray]:
        compression = dr.parallel.compression
        reduce = compression.half() if bits == 16 else compression.Quantized(bits)
        made = [reduce([dr.asarray(x, device=at) for x, at in zip(xs, places, strict=True)]) for xs in rounds]
        return [x.numpy() for own in made for x in own]

    for ours, theirs in zip(sums(["cuda:0", "cuda:1"]), sums(["cpu:0", "cpu:1"]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not python_bodies


# ---- the Python lane


def test_functions_of_the_user_get_numpy_arrays() -> None:
    kept = []

    @dr.custom_op
    def keep(x: np.ndarray) -> np.ndarray:
        assert type(x) is np.ndarray and not x.flags.writeable
        kept.append(x)
        return x * 2

    x = dr.asarray([1.0, 2.0], device="cuda:0")
    y = keep(x)
    x += 5
    assert y.tolist() == [2.0, 4.0] and x.tolist() == [6.0, 7.0] and kept[0].tolist() == [1.0, 2.0]


def test_functions_of_the_user_on_the_device() -> None:
    places, calls = [], []

    @dr.custom_op(on_device=True, infer=lambda x, *, rows: ((rows, 2), x[1]))
    def double(x: Any, *, rows: int) -> Any:
        calls.append(rows)
        if not REAL:
            places.append(x.ctypes.data)
        return x * 2

    x = dr.asarray([[1.0, 2.0], [3.0, 4.0]], device="cuda:0")
    assert double(x, rows=2).tolist() == [[2.0, 4.0], [6.0, 8.0]]
    if not REAL:
        memory = native.export(x)
        assert places == [use_emulator().library.emulator_host_view(memory.address)]
    with pytest.raises(ValueError, match=r"double computed an array of shape \(2, 2\), expected \(3, 2\)"):
        double(x, rows=3).wait()
    assert calls == [2, 3]  # what fails is not tried again with copies
    assert dr.custom_op(lambda x: x + 1, on_device=True)(dr.asarray([1, 2])).tolist() == [2, 3]


def test_memory_that_a_function_keeps_is_not_written(
    emulator: EmulatedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    plain = emulator.array
    monkeypatch.setattr(emulator, "array", lambda memory, *rest: held.append(memory) or plain(memory, *rest))
    double = dr.custom_op(lambda x: x * 2)
    x = dr.asarray([1.0, 2.0], device="cuda:0")
    double(x).wait()
    x += 5  # to fresh memory: what the function got may be alive
    x.wait()
    assert [plain(memory, 0, (2,), np.dtype(float), (8,)).tolist() for memory in held] == [[2.0, 4.0], [1.0, 2.0]]
    assert x.tolist() == [6.0, 7.0]


# ---- streams


def test_events_are_few_and_used_again() -> None:
    x = dr.zeros(64, device="cuda:0")
    x.wait()
    held = 0 if REAL else use_emulator().library.emulator_events()
    before = dr.engine_stats()
    for _ in range(600):
        x = x + 1
    assert x.tolist() == [600.0] * 64
    after = dr.engine_stats()
    launches, events, waits = (
        int(after[f"stream_{k}"]) - int(before[f"stream_{k}"]) for k in ("launches", "events", "waits")
    )
    assert launches >= 601 and waits <= 2  # one chain: only its copy to the CPU runs on another stream
    assert events <= (launches if REAL else launches / 4)  # a GPU may end each launch before the next is made
    assert REAL or use_emulator().library.emulator_events() < held + 100


def test_independent_work_takes_several_streams() -> None:
    with tracing() as records:
        native.pause(True)
        chains = [dr.zeros(16, device="cuda:0") for _ in range(4)]
        for _ in range(10):
            chains = [x + 1 for x in chains]
        native.pause(False)
        native.wait_all()
    assert len({r.worker for r in records if r.lane == "compute"}) > 1


def test_a_trace_shows_the_times_of_the_gpu(emulator: EmulatedPlatform) -> None:
    with tracing():  # events with times are made, and the clock is set
        (dr.zeros(8, device="cuda:0") + 1).wait()
    emulator.tick(1500)
    try:
        with tracing() as records:
            x = dr.zeros(8, device="cuda:0")
            for _ in range(20):
                x = x * 2
            x.to_device("cuda:1").wait()
        native.wait_all()
    finally:
        emulator.tick(0)
    assert violations(records) == []
    launched = [r for r in records if "stream" in r.worker]
    assert len(launched) == 22
    assert all(abs(r.end_ns - r.begin_ns - 1500) <= 1 for r in launched), [r.end_ns - r.begin_ns for r in launched]


def counted(what: str) -> int:
    return int(native.stats()[f"stream_{what}"])


def wait_for_count(what: str, count: int) -> None:
    """Until so many of these were made; of what needs no more than a thread of the engine that gets its turn."""
    while counted(what) < count:
        time.sleep(0)


def test_an_event_stands_for_all_that_its_stream_came_after(emulator: EmulatedPlatform) -> None:
    """Of three streams that wait for one another only the last one's end is seen; the failure is the first one's."""
    x, bad = dr.asarray([1.0, 2.0, 3.0], device="cuda:0"), dr.asarray([0, 7], device="cuda:0")
    dr.wait()
    emulator.hold(True)
    try:
        arrays, parent = [], dr.take(x, bad)
        for late in (True, True, False):
            events, launches = counted("events"), counted("launches")
            if late:
                emulator.inject("late", 1, 3000)
            children = [parent + 1, parent * 2]  # one on the parent's stream, one on a stream of its own
            wait_for_count("launches", launches + 2)
            if late:
                wait_for_count("events", events + 1)
            arrays += children
            parent = children[1]
    finally:
        emulator.hold(False)
    for array in reversed(arrays):
        with pytest.raises(IndexError, match="7"):
            array.wait()


def test_copies_hold_no_more_pinned_memory_than_they_may(emulator: EmulatedPlatform) -> None:
    x = dr.zeros(8 << 17, device="cuda:0")  # 8 MiB
    dr.wait()
    emulator.library.emulator_pinned_peak()
    launches = counted("launches")
    emulator.hold(True)
    try:
        copies = [x.to_device("cpu:0") for _ in range(60)]
        wait_for_count("launches", launches + 31)
    finally:
        emulator.hold(False)
    assert all(copy[-1].item() == 0.0 for copy in copies)
    assert 31 * (8 << 20) <= emulator.library.emulator_pinned_peak() <= 280 << 20


# ---- memory


def test_memory_goes_from_stream_to_stream() -> None:
    across_streams.main(rounds=6)


@pytest.mark.timeout(900)
def test_compute_sanitizer_finds_nothing() -> None:
    sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}{os.pathsep}/usr/local/cuda/bin")
    if not REAL or sanitizer is None:
        pytest.skip(
            "compute-sanitizer is not installed" if REAL else "compute-sanitizer watches a GPU: DAGRUN_TEST_CUDA=1"
        )
    done = subprocess.run(
        # Libraries make calls that fail, and live with it: only what kernels and copies do counts.
        [
            sanitizer,
            "--tool",
            "memcheck",
            "--report-api-errors",
            "no",
            "--error-exitcode",
            "9",
            sys.executable,
            across_streams.__file__,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0 and "20 rounds as on the CPU" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]


# ---- failures


def test_a_kernel_that_fails_comes_home() -> None:
    x = dr.asarray([1.0, 2.0, 3.0], device="cuda:0")
    y = dr.take(x, dr.asarray([0, 7], device="cuda:0")) * 2
    line = sys._getframe().f_lineno - 1
    for _ in range(2):
        with pytest.raises(IndexError, match="7") as caught:
            y.numpy()
        assert isinstance(caught.value, OperationError)
        assert (caught.value.operation, caught.value.device, caught.value.line) == ("take", "cuda:0", line)
    y[...] = 4.0
    assert y.tolist() == [4.0, 4.0] and x.tolist() == [1.0, 2.0, 3.0]


def test_a_launch_that_is_refused_fails_alone(emulator: EmulatedPlatform) -> None:
    x = dr.zeros(8, device="cuda:0")
    x.wait()
    emulator.inject("launch", 1, 701)
    y = x + 1
    with pytest.raises(OperationError, match="refused it: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES") as caught:
        (y * 2).wait()
    assert caught.value.operation == "add" and Path(caught.value.file).name == "test_devices.py"
    assert (x + 1).tolist() == [1.0] * 8


def test_an_allocation_that_fails_once_is_tried_again(emulator: EmulatedPlatform) -> None:
    x = dr.zeros(1 << 16, device="cuda:0")
    x.wait()
    emulator.inject("allocate", 1, 2)
    y = dr.zeros(3 << 17, device="cuda:0") + 1
    assert y[:2].tolist() == [1.0, 1.0]


LOST = """
    import dagrun as dr, sys, time
    from dagrun.errors import OperationError
    x = dr.zeros(16, device="cuda:0") + 1
    other = dr.ones(16, device="cuda:1") * 3
    x.wait(), other.wait()
    emulator.inject({what!r}, {countdown}, {result})
    y = x * 2  # the first
    for _ in range(100):
        y = y + 1
    z = y.to_device("cpu:0") * 2
    for array in (y, z, z + 1, y):
        try:
            array.wait()
            print("no error")
        except OperationError as error:
            print(type(error).__name__, error.operation, error.line, "is lost: CUDA_ERROR" in str(error))
    try:
        print((x + 1).tolist())
    except OperationError as error:
        print("later", error.operation, error.line)
    print(other.tolist()[:1], (dr.ones(2) + 1).tolist())
    print(dr.memory_stats("cuda:1")["live_bytes"] > 0, dr.engine_stats()["in_flight"])
"""


@pytest.mark.parametrize(("what", "countdown", "result"), [("fault", 1, 700), ("query", 1, 719), ("launch", 1, 719)])
def test_a_lost_gpu_ends_in_one_clear_error(what: str, countdown: int, result: int) -> None:
    out = run_alone(LOST.format(what=what, countdown=countdown, result=result), DAGRUN_EXIT_SECONDS="5").splitlines()
    line = next(i for i, text in enumerate(LOST.splitlines(), 3) if "# the first" in text)
    assert out[:4] == [f"OperationError multiply {line} True"] * 4
    assert out[4] == f"later multiply {line}"
    assert out[5:] == ["[3.0] [2.0, 2.0]", "True 0"]


def test_a_gpu_that_waits_for_a_lost_one_does_not_hang() -> None:
    out = run_alone(
        """
        import dagrun as dr
        from dagrun.core import native
        x = dr.zeros(16, device="cuda:0") + 1
        other = dr.ones(16, device="cuda:1")
        x.wait(), other.wait()
        emulator.hold(True)
        enqueued = native.stats()["stream_launches"]
        emulator.inject("stall", 1, 0)
        alone = other * 2  # does not end before that, and fails with its GPU
        while native.stats()["stream_launches"] < enqueued + 1:
            pass
        emulator.inject("fault", 1, 700)
        x = x + 1
        other = x.to_device("cuda:1") + other
        while native.stats()["stream_launches"] < enqueued + 4:
            pass
        emulator.hold(False)  # by now cuda:1 waits for what cuda:0 will never do
        for array in (other, alone, x):
            try:
                array.wait()
            except dr.errors.OperationError as error:
                print(error.operation, "is lost" in str(error))
        print(dr.engine_stats()["in_flight"])
        """
    )
    assert out.splitlines() == ["add True"] * 3 + ["0"]


def test_a_stream_that_does_not_wait_for_a_lost_gpu_comes_after_nothing_of_it() -> None:
    out = run_alone(
        """
        import dagrun as dr
        from dagrun.core import native
        def wait_for(**counts):
            while any(native.stats()[f"stream_{what}"] < count for what, count in counts.items()):
                pass
        x, y = dr.zeros(16, device="cuda:1"), dr.zeros(16, device="cuda:1")
        dr.zeros(16, device="cuda:0").wait()
        dr.wait()
        events, launches = (native.stats()[f"stream_{what}"] for what in ("events", "launches"))
        emulator.inject("stall", 1, 0)
        x = x + 1
        busy = [x.to_device("cuda:0"), x.to_device("cuda:0")]  # both copy streams of cuda:0 come after x
        wait_for(launches=launches + 3, events=events + 3)
        copied = y.to_device("cuda:0")
        wait_for(launches=launches + 4)
        emulator.inject("record", 1, 719)
        y += 1  # is to wait for the copy, but that finds cuda:0 lost
        y.wait()
        print(dr.engine_stats()["in_flight"] > 0)  # x
        emulator.go_on()
        print(x.tolist()[:1], y.tolist()[:1])
        for array in (*busy, copied):
            try:
                array.wait()
            except dr.errors.OperationError as error:
                print("is lost" in str(error))
        """
    )
    assert out.splitlines() == ["True", "[1.0] [1.0]", "True", "True", "True"]


def test_out_of_memory_says_what_holds_it() -> None:
    out = run_alone(
        """
        import dagrun as dr
        x = dr.zeros(1 << 18, device="cuda:0")  # 2 MiB
        for _ in range(30):
            x = x * 1.0  # more than there is, but never at once
        x.wait()
        kept = []
        try:
            for i in range(10):
                kept.append(x + i)  # the line
                kept[-1].wait()
        except MemoryError as error:
            print(len(kept) > 2, error)
        kept.clear()
        print((x + 1)[:1].tolist())
        """,
        DAGRUN_EMULATED_BYTES=str(12 << 20),
    )
    assert out.startswith("True add failed: no memory for 2,097,152 bytes")
    assert out.count("in memory: 2,097,152 bytes of add made at") >= 3 and out.endswith("[1.0]\n")


def test_several_devices_on_one_gpu() -> None:
    out = run_alone(
        """
        import dagrun as dr
        from dagrun.backends import cuda
        a, b = dr.ones(1000, device="cuda:0"), dr.ones(1000, device="cuda:1") * 2
        print([x.tolist()[:2] for x in dr.parallel.all_reduce([a, b])])
        print(dr.memory_stats("cuda:0")["live_bytes"] > 0, dr.memory_stats("cuda:1")["live_bytes"] > 0)
        print(*map(str, dr.devices()))
        try:
            dr.ones(1, device="cuda:2")
        except dr.errors.DeviceError as error:
            print(error)
        """,
        DAGRUN_CUDA_LOGICAL="2",
        DAGRUN_EMULATED_GPUS="1",
    )
    assert out.splitlines() == [
        "[[3.0, 3.0], [3.0, 3.0]]",
        "True True",
        "cpu:0 cuda:0 cuda:1",
        "no device cuda:2: expected cuda:0 to cuda:1; there are 1 GPUs, and each stands for 2 (DAGRUN_CUDA_LOGICAL)",
    ]


# ---- what is missing


def test_info_describes_the_gpus(emulator: EmulatedPlatform) -> None:
    lines = cuda.describe()
    assert lines[0].startswith("cuda:0: emulated GPU 0, 1.0 GiB, compute capability 9.0")
    assert lines[-1] == "through the emulator of the tests, cuBLAS found"


def test_nvrtc_compiles_and_keeps_what_it_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cuda_library("nvrtc")
    if not path:
        pytest.skip("NVRTC is not installed")
    monkeypatch.setenv("DAGRUN_CACHE_DIR", str(tmp_path))
    source, include = '#include "dagrun.cuh"\nDAGRUN_KERNEL(nothing, 32) {}', str(registry.include_directory())
    options = ("-fmad=false", "-std=c++17", f"-I{include}", "--gpu-architecture=sm_90")
    image = nvrtc.compile_cached(path, source, "nothing", include, options)
    assert image[:4] == b"\x7fELF"
    monkeypatch.setattr(nvrtc, "compile_source", None)
    assert nvrtc.compile_cached(path, source, "nothing", include, options) == image
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="does not take the source of wrong"):
        nvrtc.compile_source(path, "int f( {", "wrong", options)


def test_a_gpu_that_nvrtc_does_not_know_gets_what_its_driver_translates() -> None:
    path = cuda_library("nvrtc")
    if not path:
        pytest.skip("NVRTC is not installed")
    assert nvrtc.architecture_for(path, 90) == "sm_90"
    newest = nvrtc.architecture_for(path, 990)
    assert newest.startswith("compute_") and int(newest[8:]) >= 90
    source, include = '#include "dagrun.cuh"\nDAGRUN_KERNEL(nothing, 32) {}', str(registry.include_directory())
    image = nvrtc.compile_source(path, source, "nothing", ("-std=c++17", f"-I{include}", f"-arch={newest}"))
    assert b".entry nothing(" in image and image.endswith(b"\0")


def test_a_number_too_high_is_refused(emulator: EmulatedPlatform) -> None:
    with pytest.raises(DeviceError, match="no device cuda:7: expected cuda:0 to cuda:1"):
        dr.ones(1, device="cuda:7")


def test_without_cupy_a_cuda_device_says_what_is_missing() -> None:
    program = """
    import sys
    sys.modules["cupy"] = None  # as if it were not installed
    import dagrun as dr
    assert dr.ones(2).tolist() == [1.0, 1.0]
    try:
        dr.ones(2, device="cuda:0")
    except dr.errors.DeviceError as error:
        print(error)
    """
    environment = {k: v for k, v in os.environ.items() if k != "DAGRUN_TEST_CUDA"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("CUDA devices need CuPy")
