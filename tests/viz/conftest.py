"""Programs of hand-made task records: edges from their accesses, times from a list schedule, no threads."""

from collections.abc import Callable, Iterable, Sequence

import pytest

from dagrun.core.trace import Access, TaskRecord, conflict

NBYTES = 1024


class Program:
    """Records tasks as the engine would, and "runs" each as early as its predecessors and its workers allow."""

    def __init__(self, workers: Sequence[str] = ("worker 0", "worker 1")) -> None:
        self.records: list[TaskRecord] = []
        self._buffers: dict[str, int] = {}
        self._touched: dict[int, list[tuple[Access, TaskRecord]]] = {}
        self._free_at = dict.fromkeys(workers, 0)
        self._now_us = 1000

    def buffer(self, name: str) -> int:
        return self._buffers.setdefault(name, len(self._buffers) + 1)

    def task(
        self,
        name: str,
        reads: Iterable[str] = (),
        writes: Iterable[str] = (),
        *,
        us: int = 10,
        device: str = "cpu:0",
        lane: str = "compute",
        line: int = 1,
        file: str = "train.py",
        shapes: str = "",
        nbytes: int = NBYTES,
        failed: bool = False,
        run: bool = True,
    ) -> TaskRecord:
        accesses = tuple(
            Access(self.buffer(array), 0, nbytes, 0, 0, write)
            for arrays, write in ((reads, False), (writes, True))
            for array in arrays
        )
        draft = self._draft(name, device, lane, file, line, accesses, shapes, failed)
        edges = {
            (other.sequence, kind): other.end_ns // 1000
            for mine in accesses
            for theirs, other in self._touched.get(mine.buffer, ())
            if (kind := conflict(theirs, mine))
        }
        ready_us = max([draft.recorded_ns // 1000, *edges.values()])
        worker = min(self._free_at, key=lambda name: max(self._free_at[name], ready_us))
        begin_us = max(ready_us, self._free_at[worker])
        if run:
            self._free_at[worker] = begin_us + us
        times = (begin_us * 1000, (begin_us + us) * 1000) if run else (0, 0)
        record = TaskRecord(
            draft.sequence, name, device, lane, worker, file, line, "step", accesses, tuple(sorted(edges)),
            draft.recorded_ns, *times, shapes, 0, failed,
        )  # fmt: skip
        self.records.append(record)
        for access in accesses:
            kept = self._touched.setdefault(access.buffer, [])
            if access.write:
                kept.clear()
            kept.append((access, record))
        self._now_us += 1
        return record

    def _draft(
        self,
        name: str,
        device: str,
        lane: str,
        file: str,
        line: int,
        accesses: tuple[Access, ...],
        shapes: str,
        failed: bool,
    ) -> TaskRecord:
        sequence = len(self.records) + 1
        return TaskRecord(
            sequence,
            name,
            device,
            lane,
            "",
            file,
            line,
            "step",
            accesses,
            (),
            self._now_us * 1000,
            0,
            0,
            shapes,
            0,
            failed,
        )


def diamond() -> Program:
    r"""A = ones * 2; C = A + 2; B = A + 1; D = B * C, on two workers.

    ones - A < C > D
               B
    """
    program = Program()
    program.task("ones", [], ["x"], us=10, line=1)
    program.task("multiply", ["x"], ["A"], us=20, line=1)
    program.task("add", ["A"], ["C"], us=30, line=2)
    program.task("add", ["A"], ["B"], us=40, line=3)
    program.task("multiply", ["B", "C"], ["D"], us=50, line=4)
    return program


def ring(devices: int = 3, file: str = "train.py") -> Program:
    """An all-reduce of one chunk per device: in each of 2 (n - 1) steps device d hands a chunk to device d + 1."""
    program = Program()
    for step in range(2 * (devices - 1)):
        for device in range(devices):
            chunk, target = (device - step) % devices, (device + 1) % devices
            reduce = step < devices - 1
            reads = [f"x{device}.{chunk}"] + ([f"x{target}.{chunk}"] if reduce else [])
            name = "all_reduce.reduce" if reduce else "all_reduce.gather"
            program.task(
                name, reads, [f"x{target}.{chunk}"], device=f"cpu:{target}", lane="communication", line=7, file=file
            )
    return program


def training(steps: int) -> Program:
    """Data-parallel training of a small network on two devices, `steps` times: 30 tasks a step."""
    program = Program()
    for _ in range(steps):
        for d in (0, 1):
            _forward_and_backward(program, d)
        for g in ("gW1", "gW2"):
            for phase, us in (("reduce", 30), ("gather", 20)):
                for d in (0, 1):
                    reads = [f"{g}{d}", f"{g}{1 - d}"] if phase == "reduce" else [f"{g}{1 - d}"]
                    where = {"device": f"cpu:{d}", "lane": "communication"}
                    program.task(f"all_reduce.{phase}", reads, [f"{g}{d}"], line=28, us=us, **where)
        for d in (0, 1):
            for w, us in (("W1", 18), ("W2", 3)):
                program.task("subtract", [f"{w}{d}", f"g{w}{d}"], [f"{w}{d}"], device=f"cpu:{d}", line=30, us=us)
    return program


def _forward_and_backward(program: Program, d: int) -> None:
    steps = (
        ("matmul", "x W1", "h", 21, 120, "float32(64, 784), float32(784, 128) -> float32(64, 128)"),
        ("add", "h b1", "h", 21, 8, "float32(64, 128), float32(128) -> float32(64, 128)"),
        ("tanh", "h", "a", 22, 25, "float32(64, 128) -> float32(64, 128)"),
        ("matmul", "a W2", "y", 23, 30, "float32(64, 128), float32(128, 10) -> float32(64, 10)"),
        ("subtract", "y t", "e", 24, 5, "float32(64, 10), float32(64, 10) -> float32(64, 10)"),
        ("matmul", "a e", "gW2", 25, 32, "float32(128, 64), float32(64, 10) -> float32(128, 10)"),
        ("matmul", "e W2 a", "d", 26, 34, "float32(64, 10), float32(10, 128) -> float32(64, 128)"),
        ("matmul", "x d", "gW1", 27, 130, "float32(784, 64), float32(64, 128) -> float32(784, 128)"),
    )
    program.task("copy", ["batch"], [f"x{d}"], device=f"cpu:{d}", lane="copy", line=20, us=15)
    for name, reads, writes, line, us, shapes in steps:
        program.task(
            name,
            [f"{array}{d}" for array in reads.split()],
            [f"{array}{d}" for array in writes.split()],
            device=f"cpu:{d}",
            line=line,
            us=us,
            shapes=shapes,
        )


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture(name="diamond")
def _diamond() -> Program:
    return diamond()


@pytest.fixture(name="make_ring")
def _make_ring() -> Callable[[int], Program]:
    return ring


@pytest.fixture(name="make_training")
def _make_training() -> Callable[[int], Program]:
    return training
