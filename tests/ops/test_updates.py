"""Updates of many sets of arrays: few operations, any layout, the same bits from NumPy and from native code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.core import tracing
from dagrun.ops.cutting import PIECE_BYTES
from dagrun.ops.updates import MOST_SETS, Update, record_update


def formula(xp: Any, p: Any, s: Any, g: Any, lr: Any, factor: Any) -> tuple[Any, ...]:
    s = s + factor * (g * g)
    return p - lr * (g / (xp.sqrt(s) + 1e-3)), s


UPDATE = Update.of("test update", formula, 2)
SCALARS, FACTOR = (0.1,), np.array(0.7)


def sets_of(shapes: list[tuple[int, ...]], dtype: str = "float32") -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(5)
    return [tuple(rng.random(shape).astype(dtype) for _ in range(3)) for shape in shapes]


def expected(arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    number = arrays[0].dtype.type
    return formula(np, *arrays, number(SCALARS[0]), number(FACTOR))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("native", [True, False], ids=["native", "NumPy"])
def test_bits_of_numpy(dtype: str, native: bool, device: str) -> None:
    update = UPDATE if native else replace(UPDATE, operator=replace(UPDATE.operator, lower=None))
    host = sets_of([(3, 5), (), (0, 4), (300,)], dtype)
    sets = [tuple(dr.asarray(x, device=device) for x in arrays) for arrays in host]
    record_update(update, sets, SCALARS, (dr.asarray(FACTOR, device=device),))
    for arrays, own in zip(host, sets, strict=True):
        for got, value in zip(own, expected(arrays), strict=False):
            assert got.numpy().tobytes() == np.asarray(value, dtype).tobytes()
        assert own[2].numpy().tobytes() == arrays[2].tobytes()


def test_large_sets_are_cut_and_small_ones_put_together() -> None:
    large = (PIECE_BYTES,)
    host = sets_of([(10,), large, *[(4,)] * MOST_SETS])
    sets = [tuple(dr.asarray(x) for x in arrays) for arrays in host]
    factor = dr.asarray(FACTOR)
    record_update(UPDATE, sets, SCALARS, (factor,))
    dr.wait()
    with tracing() as tasks:
        record_update(UPDATE, sets, SCALARS, (factor,))
        dr.wait()
    pieces = 12 * PIECE_BYTES // PIECE_BYTES
    assert [task.name for task in tasks] == ["test update"] * (pieces + 2)
    once = expected(host[1])
    assert sets[1][1].numpy().tobytes() == expected((*once, host[1][2]))[1].tobytes()


def test_any_layout() -> None:
    (host,) = sets_of([(4, 6)])
    reversed_rows = dr.asarray(host[0][::-1].copy())[::-1]
    transposed = dr.asarray(host[1].T.copy()).T
    gradient = dr.broadcast_to(dr.asarray(host[2][:1]), (4, 6))
    record_update(UPDATE, [(reversed_rows, transposed, gradient)], SCALARS, (dr.asarray(FACTOR),))
    p, s = expected((host[0], host[1], np.broadcast_to(host[2][:1], (4, 6))))
    np.testing.assert_array_equal(reversed_rows.numpy(), p)
    np.testing.assert_array_equal(transposed.numpy(), s)


def test_errors() -> None:
    x, y = dr.ones(3), dr.ones(4)
    factor = dr.asarray(1.0)
    with pytest.raises(ValueError, match=r"test update: an array of shape \(4,\), expected \(3,\)"):
        record_update(UPDATE, [(x, x, y)], SCALARS, (factor,))
    with pytest.raises(ValueError, match="that was broadcast"):
        record_update(UPDATE, [(dr.broadcast_to(factor, (3,)), x, x)], SCALARS, (factor,))
    with pytest.raises(dr.DeviceError, match="cpu:1"):
        record_update(UPDATE, [(x, dr.ones(3), dr.ones(3, device="cpu:1"))], SCALARS, (factor,))


def test_a_failure_stays_with_its_set() -> None:
    """A gradient that failed poisons the sets of its own operation only."""

    def broken(x: np.ndarray) -> np.ndarray:
        raise ValueError("no gradient")

    size = (PIECE_BYTES // 4,)
    bad = dr.custom_op(broken)(dr.ones(size, dtype="float32"))
    sets = [tuple(dr.ones(size, dtype="float32") for _ in range(3)) for _ in range(2)]
    record_update(UPDATE, [(*sets[0][:2], bad), sets[1]], SCALARS, (dr.asarray(1.0),))
    assert sets[1][1].numpy()[0] == 2
    with pytest.raises(dr.OperationError, match="no gradient"):
        sets[0][0].numpy()
