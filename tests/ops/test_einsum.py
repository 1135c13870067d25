"""Sums of products over labelled axes: against NumPy, on every dtype and device."""

from __future__ import annotations

import numpy as np
import pytest

import dagrun as dr

CASES = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("kj,ij", (2, 3), (4, 3)), ("ii", (3, 3)), ("ii->i", (3, 3)), ("iii->i", (3, 3, 3)),
    ("ij->ji", (2, 3)), ("ij->", (2, 3)), ("ba", (2, 3)), ("i,j->ij", (2,), (3,)), ("i,i", (3,), (3,)),
    ("ij,ij->ij", (2, 3), (2, 3)), ("ij,j->i", (2, 3), (3,)), ("b i j, b j k", (2, 3, 4), (2, 4, 5)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 6)), ("...,...", (2, 3), (3,)), ("i...->...", (2, 3, 4)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)), (",ij->ji", (), (2, 3)), ("iij,jkk->ik", (2, 2, 3), (3, 4, 4)),
    ("ij,ij", (2, 1), (2, 3)), ("ij,jk->k", (2, 1), (3, 4)), ("ij,jk->ik", (2, 0), (0, 4)),  # lengths 1 and 0
    ("ij,kj,lk->il", (2, 3), (4, 3), (5, 4)), ("bn,anm,bm->ba", (2, 5), (3, 5, 4), (2, 4)),
    ("i,i,i->i", (3,), (3,), (3,)), ("abc,cd,def,f->ae", (2, 3, 4), (4, 5), (5, 2, 3), (3,)),
]  # fmt: skip


def drawn(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(len(shape))
    return rng.normal(size=shape).astype(dtype) if dtype[0] == "f" else rng.integers(0, 5, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_numpy(case: tuple, dtype: str, device: str) -> None:
    subscripts, *shapes = case
    operands = [drawn(shape, dtype) for shape in shapes]
    expected = np.einsum(subscripts, *operands)
    found = dr.einsum(subscripts, *(dr.asarray(x, device=device) for x in operands))
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=2e-5)


def test_views_and_numpys_name() -> None:
    x = dr.asarray(drawn((3, 4), "float64"))
    y = dr.einsum("ij->ji", x)
    x[0, 1] = 9.0
    assert y[1, 0].item() == 9.0
    assert type(np.einsum("ij,ij->i", x, x)) is dr.Array


def test_products_wait_for_nothing() -> None:
    """It is recorded: an operand that fails is told at the wait."""
    bad = dr.take(dr.ones((2, 3)), [5], axis=0)
    y = dr.einsum("ij,kj->ik", bad, dr.ones((4, 3)))
    with pytest.raises(IndexError, match="index 5"):
        y.numpy()


@pytest.mark.parametrize(
    ("subscripts", "shapes", "text"),
    [
        ("ij,jk", [(2, 3)], "names 2 operands, got 1"),
        ("ij", [(2,)], r"labels 'ij' for an operand of shape \(2,\), expected 1"),
        ("ij,jk", [(2, 3), (4, 5)], "Size of label 'j'"),
        ("ii", [(2, 3)], "axes 'i' of an operand of shape"),
        ("ij->k", [(2, 3)], "k"),
        ("...i", [()], "for an operand of 0 axes"),
    ],
)
def test_errors(subscripts: str, shapes: list, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dr.einsum(subscripts, *map(dr.ones, shapes))
    with pytest.raises(TypeError, match="expected a string"):
        dr.einsum(dr.ones(2), [0])
