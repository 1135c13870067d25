"""Copies of transposed arrays by the CUDA kernel of tiles, run on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from dagrun.codegen.cuda import registry
from dagrun.codegen.cuda.registry import kernel_at
from dagrun.codegen.target import lowering_for
from dagrun.ops.elementwise import COPY
from dagrun.record import Body, layout
from tests.cuda.harness import load, needs_compiler, run_bodies

pytestmark = needs_compiler


def bodies(target: np.ndarray, source: np.ndarray) -> tuple[Body, ...]:
    how = {"mask": (False,), "compute": source.dtype, "result": target.dtype}
    views = [layout(x.dtype, x.shape, x.strides) for x in (target, source)]
    with lowering_for("cuda"):
        made = COPY.operator.lower(views[:1], views[1:], (), **how)
    assert made is not None
    return made


def in_tiles(target: np.ndarray, source: np.ndarray) -> bool:
    return "transpose<" in kernel_at(bodies(target, source)[0].address).source


def test_transposed_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tiles and rests, other dimensions outside, between and repeated; every size of elements."""
    monkeypatch.setattr(registry, "MOST_BLOCKS", 3)
    rng = np.random.default_rng(1)
    copies = []
    for dtype in ("bool", "int8", "float16", "float32", "int64"):
        for shape, axes in [
            ((64, 64), (1, 0)),
            ((33, 130), (1, 0)),
            ((2, 20, 3, 70), (0, 3, 2, 1)),
            ((40, 5, 17), (2, 0, 1)),
        ]:
            source = np.transpose((rng.standard_normal(shape) * 9).astype(dtype), axes)
            copies.append((np.zeros(source.shape, dtype), source))
    x = rng.standard_normal((50, 30)).astype("float32")
    copies.append((np.zeros((30, 4, 90), "float32")[:, :, 40:], np.broadcast_to(x.T[:, None], (30, 4, 50))))
    copies.append((np.zeros((99, 30), "float32").T[:, 49:], x.T.copy()))
    load(kernel_at(bodies(target, source)[0].address) for target, source in copies)
    for number, (target, source) in enumerate(copies):
        assert in_tiles(target, source), number
        assert run_bodies(bodies(target, source), [target, source], "cuda", seed=number) is None
        np.testing.assert_array_equal(target, source, err_msg=f"copy {number}")


def test_other_copies_are_made_element_by_element() -> None:
    """Both contiguous along one dimension, one along none, few elements along one, none at all, another dtype."""
    x = np.zeros((40, 50), "float32")
    assert in_tiles(np.zeros((50, 40), "float32"), x.T)
    sources = [x, x.T[::2], x[:, ::2].T, x[:15].T, x[:0].T]
    assert not any(in_tiles(np.zeros(source.shape, "float32"), source) for source in sources)
    assert not in_tiles(np.zeros((50, 40), "float64"), x.T)
