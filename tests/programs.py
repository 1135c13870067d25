"""Random programs over several devices, as data: drawn once, run on any engine, compared bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

import dagrun as dr
from dagrun.errors import OperationError

SHAPE = (6, 8)


@dr.custom_op
def failing(x: np.ndarray) -> np.ndarray:
    """Fails wherever it is computed."""
    raise ZeroDivisionError("on purpose")


@dr.custom_op
def negated(x: np.ndarray) -> np.ndarray:
    """A body for the Python lane."""
    return -x


UNARY = [
    lambda x: -(x * 1),
    dr.exp,
    dr.tanh,
    dr.square,
    lambda x: dr.cumsum(x, axis=1),
    negated,
    lambda x: x.astype("float32"),
    lambda x: x.T.reshape(x.shape),
]
BINARY = [dr.add, lambda a, b: a * 1 - b, dr.multiply, dr.maximum, dr.less, lambda a, b: a @ b.T @ a]
VIEWS = [
    lambda x: x[1:4],
    lambda x: x[:, 2:5],
    lambda x: x[::2],
    lambda x: x[::-1, ::2],
    lambda x: x[2],
    lambda x: x[:, 3],
    lambda x: x.T,
    lambda x: x[1:5, 1:7],
]
IN_PLACE = ["add", "multiply", "assign", "fill"]


@dataclass(frozen=True)
class Step:
    """One line of a program: what to do, to which of the arrays, with which."""

    kind: str
    a: int
    b: int
    which: int
    where: int


def steps(max_size: int = 40, kinds: tuple[str, ...] = ()) -> st.SearchStrategy[list[Step]]:
    """Programs of up to so many lines."""
    kinds = kinds or (
        "unary",
        "binary",
        "in_place",
        "in_place",
        "view_write",
        "view_write",
        "reduce",
        "move",
        "take",
        "fail",
        "read",
    )
    number = st.integers(0, 1 << 16)
    return st.lists(st.builds(Step, st.sampled_from(kinds), number, number, number, number), max_size=max_size)


class Machine:
    """Runs a program: five arrays on each device; every line reads and writes some of them."""

    def __init__(self, devices: list[str], seed: int, shape: tuple[int, int] = SHAPE) -> None:
        rng = np.random.default_rng(seed)
        self.devices = devices
        self.arrays = [
            [
                dr.asarray(rng.standard_normal(shape).astype(dtype), device=device)
                for dtype in ("f8", "f4", "f8", "i8", "f4")
            ]
            for device in devices
        ]
        self.reads: list[object] = []

    def run(self, program: list[Step]) -> None:
        for step in program:
            self.step(step)

    def step(self, s: Step) -> None:
        row = self.arrays[s.where % len(self.devices)]
        i, j = s.a % len(row), s.b % len(row)
        if s.kind == "unary":
            row[i] = UNARY[s.which % len(UNARY)](row[j])
        elif s.kind == "binary":
            row[i] = BINARY[s.which % len(BINARY)](row[i], row[j])
        elif s.kind == "in_place":
            self.write(row[i], row[j], s)
        elif s.kind == "view_write":
            view = VIEWS[s.which % len(VIEWS)]
            self.write(view(row[i]), view(row[j]), s)
        elif s.kind == "reduce":
            row[i] += dr.sum(row[j], axis=s.which % 2, keepdims=True).astype(row[i].dtype)
        elif s.kind == "move":
            other = self.arrays[s.which % len(self.devices)]
            other[i] = row[j].to_device(self.devices[s.which % len(self.devices)])
        elif s.kind == "take":
            index = np.array([s.which % 6, s.a % 6, 0, 1, 2, 5 if s.b % 5 else 77])
            row[i] = dr.take(row[j], dr.asarray(index, device=row[j].device), axis=0)
        elif s.kind == "fail" and s.which % 4 == 0:
            row[i] = failing(row[j])
        elif s.kind == "read":
            self.reads.append(outcome(row[i]))

    def write(self, target: dr.Array, source: dr.Array, s: Step) -> None:
        way = IN_PLACE[(s.which >> 4) % len(IN_PLACE)]
        if way == "add":
            target += source.astype(target.dtype)
        elif way == "multiply":
            target *= source.astype(target.dtype)
        elif way == "assign":
            target[...] = source
        else:
            target[...] = s.a % 7

    def outcome(self) -> list[object]:
        """What every array came to: its dtype and bytes, or the failure that it raises."""
        return self.reads + [outcome(array) for row in self.arrays for array in row]


def outcome(array: dr.Array) -> object:
    try:
        values = array.numpy()
    except OperationError as error:
        return (error.operation, error.line)
    return (str(values.dtype), values.shape, values.tobytes())
