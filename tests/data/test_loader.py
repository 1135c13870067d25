"""The loader: order and contents by seed and epoch alone, resuming, errors at their batch, threads that end."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import weakref
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun import data

PATIENCE = 60


class Squares(data.Dataset):
    """Sample i is (i, i squared, a number that depends on the loader's seed and place)."""

    def __init__(self, length: int = 20) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, Any, float]:
        if not 0 <= index < self.length:
            raise IndexError(f"no sample {index}")
        return index, np.float32([index, index**2]), float(data.sample_generator().random())


class Gated(Squares):
    """Lets each batch's first sample go only when all later batches that are in the workers' hands are through."""

    def __init__(self, length: int, batch_size: int, ahead: int) -> None:
        super().__init__(length)
        self.batch_size, self.ahead = batch_size, ahead
        self.through = [threading.Event() for _ in range(-(-length // batch_size))]

    def __getitem__(self, index: int) -> tuple[int, Any, float]:
        batch, place = divmod(index, self.batch_size)
        if place == 0 and batch % self.ahead < self.ahead - 1 and batch + 1 < len(self.through):
            assert self.through[batch + 1].wait(PATIENCE)
        if place == self.batch_size - 1 or index == self.length - 1:
            self.through[batch].set()
        return super().__getitem__(index)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dagrun-loader")]


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    assert threads() == []


def rows(loader: Any) -> list[list[Any]]:
    return [[x.tolist() for x in batch] for batch in loader]


def test_batches_of_an_array_dataset() -> None:
    x, y = np.arange(10.0, dtype="float32").reshape(5, 2), np.arange(5)
    batches = list(data.DataLoader(data.ArrayDataset(x, y), batch_size=2))
    assert [(b[0].shape, b[1].tolist()) for b in batches] == [((2, 2), [0, 1]), ((2, 2), [2, 3]), ((1, 2), [4])]
    assert all(isinstance(part, dr.Array) for batch in batches for part in batch)
    assert batches[0][0].dtype == np.float32 and batches[0][0].device is dr.device("cpu:0")
    np.testing.assert_array_equal(np.concatenate([b[0].numpy() for b in batches]), x)
    assert len(list(data.DataLoader(data.ArrayDataset(x, y), batch_size=2, drop_last=True))) == 2
    assert len(data.DataLoader(data.ArrayDataset(x, y), batch_size=2, drop_last=True)) == 2


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_and_contents_depend_on_seed_and_epoch_alone(workers: int) -> None:
    def epochs(seed: int, num_workers: int) -> list[Any]:
        loader = data.DataLoader(Squares(), 3, shuffle=True, num_workers=num_workers, seed=seed)
        return [rows(loader) for _ in range(3)]

    reference = epochs(1, 0)
    assert epochs(1, workers) == reference
    assert epochs(2, workers) != reference
    orders = [[index for batch in epoch for index in batch[0]] for epoch in reference]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    draws = [value for epoch in reference for batch in epoch for value in batch[2]]
    assert len(set(draws)) == len(draws)


def test_the_order_that_a_seed_means() -> None:
    """Fixed for good: what was trained with it can be trained again."""
    order = data.RandomSampler(range(8), seed=3)
    assert list(order) == [7, 5, 2, 1, 6, 4, 3, 0]


@pytest.mark.parametrize("ahead", [2, 4])
def test_batches_that_are_done_in_reverse_come_in_order(ahead: int) -> None:
    """With as many workers as batches ahead, each group of batches ends last one first: the gates see to it."""
    gated = Gated(18, 3, ahead)
    # Every batch of a group must be in a worker's hands at once, so the whole epoch is handed out at the start.
    loader = data.DataLoader(gated, 3, num_workers=ahead, prefetch=len(gated.through), seed=5)
    expected = rows(data.DataLoader(Squares(18), 3, seed=5))
    assert rows(loader) == expected
    assert all(event.is_set() for event in gated.through)


def test_prefetch_is_bounded() -> None:
    """Three batches ahead of the one given out are asked for, and not one more."""
    asked: list[int] = []
    seen = [threading.Event() for _ in range(10)]

    class Asked(Squares):
        def __getitem__(self, index: int) -> Any:
            asked.append(index)
            seen[index].set()
            return super().__getitem__(index)

    batches = iter(data.DataLoader(Asked(10), num_workers=2, prefetch=3))
    for given in range(7):
        assert next(batches)[0].tolist() == [given]
        assert seen[given + 3].wait(PATIENCE)
        assert max(asked) == given + 3
    batches.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_leaving_the_loop_stops_the_workers(workers: int) -> None:
    loader = data.DataLoader(Squares(1000), num_workers=workers)
    for batch in loader:
        assert len(threads()) == workers and batch[0].tolist() == [0]
        break
    del batch
    assert threads() == []
    batches = iter(loader)
    next(batches)
    del batches
    assert threads() == []


def test_an_iterator_in_a_cycle_is_closed_by_the_collector() -> None:
    cycle: list[Any] = [iter(data.DataLoader(Squares(), num_workers=2))]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert threads() == []


def test_an_ended_iterator_stays_ended() -> None:
    batches = iter(data.DataLoader(Squares(2), num_workers=1))
    assert [batch[0].tolist() for batch in batches] == [[0], [1]]
    assert threads() == []
    assert list(batches) == []


class Broken(Squares):
    def __getitem__(self, index: int) -> Any:
        if index == 7:
            raise FileNotFoundError("no picture of number seven")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_at_their_batch(workers: int) -> None:
    loader = data.DataLoader(Broken(), 2, num_workers=workers)
    given = []
    with pytest.raises(data.LoaderError, match=r"batch 3 of epoch 0, sample 7: FileNotFoundError: no pic") as caught:
        for batch in loader:
            given.append(batch[0].tolist())
    assert given == [[0, 1], [2, 3], [4, 5]]
    error = caught.value
    assert (error.epoch, error.batch, error.index) == (0, 3, 7)
    assert isinstance(error.__cause__, FileNotFoundError)
    trace = error.__cause__.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    assert trace is not None and trace.tb_frame.f_code.co_name == "__getitem__"  # the worker's, to the user's line
    assert threads() == [] and loader.state_dict()["batch"] == 3


def test_errors_of_collate_and_of_rows_name_the_batch() -> None:
    ragged = data.ArrayDataset(np.arange(3), transform=lambda i: np.zeros(int(i) // 2 + 1))
    with pytest.raises(data.LoaderError, match=r"batch 0 of epoch 0: ValueError: .* shapes \(1,\), \(2,\)"):
        list(data.DataLoader(ragged, 3))
    rows_outside = data.DataLoader(data.ArrayDataset([1, 2]), batch_sampler=[[0], [5]])
    with pytest.raises(data.LoaderError, match="batch 1 of epoch 0: IndexError"):
        list(rows_outside)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_no_exception_comes_through_as_it_is(workers: int) -> None:
    class Leaving(Squares):
        def __getitem__(self, index: int) -> Any:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(data.DataLoader(Leaving(), num_workers=workers))


def test_ctrl_c_ends_the_wait_and_the_workers() -> None:
    """The signal comes while the main thread waits for a sample that is not let go before."""
    main = threading.main_thread().ident
    assert main is not None

    class Interrupting(Squares):
        def __getitem__(self, index: int) -> Any:
            if index == 2:
                signal.pthread_kill(main, signal.SIGINT)
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        for _ in data.DataLoader(Interrupting(), num_workers=2, prefetch=1):
            pass
        for _ in range(1000):  # where the signal came late
            threading.Event().wait(0.01)
    gc.collect()
    assert threads() == []


def test_a_stuck_worker_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, inside = threading.Event(), threading.Event()

    class Stuck(Squares):
        def __getitem__(self, index: int) -> Any:
            inside.set()
            assert gate.wait(PATIENCE)
            return super().__getitem__(index)

    monkeypatch.setattr("dagrun.data.workers.CLOSE_SECONDS", 0.0)
    batches = iter(data.DataLoader(Stuck(), num_workers=1))
    assert inside.wait(PATIENCE)
    left = [thread for thread in threading.enumerate() if thread.name == "dagrun-loader-0"]
    with pytest.warns(RuntimeWarning, match="dagrun-loader-0 did not come back"):
        batches.close()
    gate.set()
    for thread in left:
        thread.join(PATIENCE)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 3, 7])
def test_resuming_in_the_middle_of_an_epoch(workers: int, stop: int) -> None:
    def make() -> data.DataLoader:
        return data.DataLoader(Squares(), 3, shuffle=True, num_workers=workers, seed=4)

    whole = make()
    expected = [rows(whole) for _ in range(3)]
    first = make()
    rows(first)
    batches = iter(first)
    seen = [[x.tolist() for x in next(batches)] for _ in range(stop)]
    state = first.state_dict()
    batches.close()
    assert (state["epoch"], state["batch"]) == (1, stop)
    second = make()
    second.load_state_dict(state)
    assert second.epoch == 1
    assert seen + rows(second) == expected[1]
    assert rows(second) == expected[2]


def test_state_between_epochs_and_of_other_loaders() -> None:
    loader = data.DataLoader(Squares(), 4, shuffle=True, seed=2)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, 0)
    rows(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (1, 0)
    next_epoch = rows(loader)
    other = data.DataLoader(Squares(), 4, shuffle=True, seed=2)
    other.load_state_dict(state)
    assert other.state_dict() == state  # before it is used
    assert rows(other) == next_epoch
    other.set_epoch(1)
    assert rows(other) == next_epoch
    for unlike in (
        data.DataLoader(Squares(), 4, shuffle=True, seed=3),
        data.DataLoader(Squares(19), 4, shuffle=True, seed=2),
        data.DataLoader(Squares(), 5, shuffle=True, seed=2),
    ):
        with pytest.raises(ValueError, match="expected"):
            unlike.load_state_dict(state)


def test_hard_first_resumes_with_the_order_the_epoch_began_with() -> None:
    def make() -> tuple[data.HardFirstSampler, data.DataLoader]:
        sampler = data.HardFirstSampler(range(20))
        return sampler, data.DataLoader(Squares(), 4, sampler=sampler)

    def step(sampler: data.HardFirstSampler, loader: data.DataLoader, batch: Any) -> list[int]:
        sampler.update(loader.batch_indices, [float((7 * i) % 20) for i in loader.batch_indices])
        return list(batch[0].tolist())

    sampler, loader = make()
    expected = [[step(sampler, loader, batch) for batch in loader] for _ in range(3)]
    assert expected[1][0] == [17, 14, 11, 8]
    assert expected[1] != expected[0] and expected[2] == expected[1]
    sampler, loader = make()
    batches = iter(loader)
    seen = [step(sampler, loader, next(batches)) for _ in range(2)]
    state = loader.state_dict()
    sampler, loader = make()
    loader.load_state_dict(state)
    assert seen + [step(sampler, loader, batch) for batch in loader] == expected[0]
    assert [step(sampler, loader, batch) for batch in loader] == expected[1]


def test_devices(device: str) -> None:
    for x, y in data.DataLoader(data.ArrayDataset(np.arange(4.0), np.arange(4)), 2, device=device):
        assert x.device is y.device is dr.device(device)
        assert (x * 2).tolist() == [2.0 * i for i in y.tolist()]
    with dr.default_device("cpu:1"):
        (x,) = next(iter(data.DataLoader(data.ArrayDataset(np.arange(4.0)))))
    assert x.device is dr.device("cpu:1")


def test_a_batch_over_several_devices() -> None:
    x, y = np.arange(10.0).reshape(5, 2), np.arange(5)
    loader = data.DataLoader(data.ArrayDataset(x, y), 5, devices=["cpu:0", "cpu:1", "sim:0"], num_workers=1)
    ((x0, x1, x2), (y0, y1, y2)) = next(iter(loader))
    assert [part.device for part in (x0, x1, x2)] == [dr.device(d) for d in ("cpu:0", "cpu:1", "sim:0")]
    assert [part.tolist() for part in (y0, y1, y2)] == [[0, 1], [2, 3], [4]]
    np.testing.assert_array_equal(np.concatenate([part.numpy() for part in (x0, x1, x2)]), x)
    few = data.DataLoader(data.ArrayDataset(y), 1, devices=["cpu:0", "cpu:1"])
    ((first, second),) = next(iter(few))
    assert (first.shape, second.shape) == ((1,), (0,))


def test_batches_may_be_written(device: str) -> None:
    """The memory of a batch belongs to its arrays; the dataset's is not touched."""
    source = np.arange(4.0)
    for devices in (None, [device, "cpu:2"]):
        loader = data.DataLoader(data.ArrayDataset(source), 4, devices=devices, device=None if devices else device)
        (x,) = next(iter(loader))
        for part in x if devices else (x,):
            expected = part.numpy() * 2 + 1
            part *= 2
            part += 1
            assert part.tolist() == expected.tolist()
    assert source.tolist() == [0, 1, 2, 3]


def test_a_loop_that_never_waits_gives_memory_back() -> None:
    """Batches are lent to the engine; what is not in use any more is freed as the loop goes on, not at a wait."""
    alive: list[weakref.ref[np.ndarray]] = []

    class Fresh(data.ArrayDataset):
        def take(self, indices: np.ndarray) -> Any:
            rows = np.asarray(self.arrays[0].take(indices, axis=0))
            alive.append(weakref.ref(rows))
            return (rows,)

    for (_,) in data.DataLoader(Fresh(np.zeros((50, 1000))), 1):
        assert sum(ref() is not None for ref in alive) <= 3


def test_the_users_collate_keeps_its_arrays() -> None:
    kept: list[np.ndarray] = []

    def collate(samples: list[Any]) -> dict[str, Any]:
        kept.append(np.array([sample[0] for sample in samples]))
        return {"x": kept[-1], "names": ["a"] * len(samples)}

    batch = next(iter(data.DataLoader(Squares(), 3, collate_fn=collate)))
    kept[0][:] = 99
    assert batch["x"].tolist() == [0, 1, 2] and batch["names"] == ["a"] * 3


def test_collate_keeps_structure() -> None:
    Point = namedtuple("Point", "x y")
    batch = data.collate([{"p": Point(1, 2.0), "s": ["a", True]}, {"p": Point(3, 4.0), "s": ["b", False]}])
    assert batch["p"]._fields == ("x", "y") and batch["p"].x.tolist() == [1, 3]
    assert batch["s"][0] == ["a", "b"] and batch["s"][1].dtype == bool
    assert data.collate([dr.ones(2), dr.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    for bad in ([], [(1, 2), (1,)], [{"a": 1}, {"b": 1}], [np.zeros(2), np.zeros(3)]):
        with pytest.raises(ValueError, match="collate: "):
            data.collate(bad)


def test_any_sequence_is_a_dataset_and_any_iterable_a_sampler() -> None:
    loader = data.DataLoader([10, 20, 30], 2, sampler=[2, 0, 1])
    assert [batch.tolist() for batch in loader] == [[30, 10], [20]]
    loader = data.DataLoader([10, 20, 30], batch_sampler=[[0], [1, 2]], num_workers=1)
    assert [batch.tolist() for batch in loader] == [[10], [20, 30]] and len(loader) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"num_workers": -1},
        {"prefetch": 2},
        {"prefetch": 0, "num_workers": 1},
        {"seed": -1},
        {"sampler": [0], "shuffle": True},
        {"batch_sampler": [[0]], "batch_size": 2},
        {"batch_sampler": [[0]], "drop_last": True},
        {"device": "cpu:0", "devices": ["cpu:1"]},
        {"devices": []},
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        data.DataLoader(Squares(), **options)


def test_serial_and_asynchronous_engines_give_the_same() -> None:
    def total() -> list[float]:
        loader = data.DataLoader(Squares(), 3, shuffle=True, num_workers=2)
        return [float((x * draw.reshape(-1, 1)).sum()) for _, x, draw in loader]

    asynchronous = total()
    with dr.engine("serial"):
        assert total() == asynchronous


def test_a_forked_child_is_refused_and_an_exit_with_a_loader_alive_is_clean() -> None:
    program = """
import os, sys
from dagrun import data
class Numbers(data.Dataset):
    def __len__(self): return 50
    def __getitem__(self, index): return index
batches = iter(data.DataLoader(Numbers(), num_workers=2))
next(batches)
child = os.fork()
if child == 0:
    try:
        next(batches)
    except RuntimeError as error:
        os._exit(7 if "after fork" in str(error) else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    quiet = "-Wignore::DeprecationWarning"  # Python 3.12 and later warn of every fork beside threads
    done = subprocess.run([sys.executable, quiet, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)


def test_loading_a_sample_costs_few_calls() -> None:
    """What the loader itself calls for each of many tiny samples: nothing for seeding, one append, and collating."""
    samples = [(np.float32(i), i) for i in range(2000)]

    def calls(count: int) -> int:
        batches = iter(data.DataLoader(samples[:count], batch_size=500))
        seen = [0]

        def profile(frame: Any, event: str, argument: Any) -> None:
            seen[0] += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            assert sum(len(labels) for _, labels in batches) == count
        finally:
            sys.setprofile(before)
        return seen[0]

    calls(500)  # what the first call alone does
    assert (calls(2000) - calls(1000)) / 1000 < 7


def test_numbers_of_one_type_and_of_several() -> None:
    for samples in ([1, 2], [True, False], [1.5, 2.5], [np.float16(1), np.float16(2)], [1, 2.5], [np.int8(1), 300]):
        found, expected = data.collate(samples), np.stack([np.asarray(sample) for sample in samples])
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match=r"samples have shapes \(\), \(2,\)"):
        data.collate([1, np.ones(2)])
