"""Views and writes in place: random programs against the same programs written out of place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dagrun as dr

SHAPE = (3, 4)
KEYS = [
    (slice(None),), (0,), (slice(1, None),), (slice(None), 2), (slice(None, None, 2), slice(None, None, -1)), (2, 1),
    (..., slice(1, 3)),
]  # fmt: skip
VIEWS = ["whole", "transposed", "flat", "row", "column", "reversed", "of a view"]


def select(x: Any, view: str) -> Any:
    match view:
        case "transposed":
            return x.T
        case "flat":
            return x.reshape(-1)
        case "row":
            return x[1]
        case "column":
            return x[:, 2:3]
        case "reversed":
            return x[::-1, ::-1]
        case "of a view":
            return x.T[1:][:, 1]
    return x


PLACES = {view: select(np.arange(12).reshape(SHAPE), view) for view in VIEWS}  # flat positions of a view's elements

# A step: which view is written, with a part of which view of which array, and how.
step = st.tuples(
    st.sampled_from(VIEWS), st.sampled_from(["x", "y"]), st.sampled_from(["=", "+=", "*=", "from y"]), st.integers(0, 9)
)


def in_place(x: Any, steps: list[Any]) -> Any:
    """y starts as 2 x and is written through its views, which are made before the first write and later on."""
    y = x * 2.0
    early = {view: select(y, view) for view in VIEWS}
    for number, (view, source, how, which) in enumerate(steps):
        target = early[view] if number % 2 else select(y, view)
        value = select(y if source == "y" else x, view).copy()
        if how == "=":
            target[...] = value * value
        elif how == "+=":
            target += value * 0.5
        elif how == "*=":
            target *= value
        else:
            target[...] = dr.sin(select(y, VIEWS[which % len(VIEWS)]).sum())
    return (y * y).sum() + (early["flat"] * early["row"].sum()).sum()


def out_of_place(x: Any, steps: list[Any]) -> Any:
    """The same with a flat array that each write replaces by a new one."""
    y = (x * 2.0).reshape(-1)
    for view, source, how, which in steps:
        places = PLACES[view]
        base = y if source == "y" else x.reshape(-1)
        value = dr.take(base, places)
        old = dr.take(y, places)
        if how == "=":
            new = value * value
        elif how == "+=":
            new = old + value * 0.5
        elif how == "*=":
            new = old * value
        else:
            new = dr.zeros(places.shape) + dr.sin(dr.take(y, PLACES[VIEWS[which % len(VIEWS)]]).sum())
        mask = np.zeros(12)
        mask[places.reshape(-1)] = 1
        spread = np.zeros((12, places.size))
        spread[places.reshape(-1), np.arange(places.size)] = 1
        y = y * (1 - mask) + dr.asarray(spread) @ new.reshape(-1)
    return (y * y).sum() + (y * dr.take(y, PLACES["row"]).sum()).sum()


@settings(max_examples=60, deadline=None)
@given(st.lists(step, min_size=1, max_size=6))
def test_random_writes_equal_programs_without_writes(steps: list[Any]) -> None:
    values = np.linspace(-0.9, 1.1, 12).reshape(SHAPE)
    expected = dr.grad(lambda x: out_of_place(x, steps))(dr.asarray(values)).numpy()
    if not np.abs(expected).max() < 1e8:
        return
    found = dr.grad(lambda x: in_place(x, steps))(dr.asarray(values)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    with dr.engine("serial"):
        again = dr.grad(lambda x: in_place(x, steps))(dr.asarray(values)).numpy()
    assert again.tobytes() == found.tobytes()


@settings(max_examples=15, deadline=None)
@given(st.lists(step, min_size=1, max_size=3))
def test_second_derivatives_of_random_writes(steps: list[Any]) -> None:
    x = dr.asarray(np.linspace(-0.9, 1.1, 12).reshape(SHAPE))
    first = dr.hessian(lambda x: in_place(x, steps))(x).numpy()
    second = dr.hessian(lambda x: out_of_place(x, steps))(x).numpy()
    if np.abs(second).max() < 1e8:
        np.testing.assert_allclose(first, second, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_value_gets_the_gradient_of_its_place(key: Any) -> None:
    weights = np.arange(12.0).reshape(SHAPE)
    y = dr.zeros(SHAPE)  # no leaf: it becomes tracked by the write
    value = dr.asarray(3.0, requires_grad=True)
    y[key] = value
    (y * weights).sum().backward()
    assert value.grad is not None and value.grad.item() == weights[key].sum()


def test_of_equal_indices_the_last_one_counts() -> None:
    y, value = dr.zeros(3), dr.asarray([1.0, 2.0, 3.0], requires_grad=True)
    y[dr.asarray([0, 0, 1])] = value
    y.sum().backward()
    assert y.tolist() == [2.0, 3.0, 0.0]
    assert value.grad.tolist() == [0.0, 1.0, 1.0]


def test_writes_reach_views_made_before_and_views_of_views() -> None:
    x = dr.ones(4, requires_grad=True)
    y = x * 1.0
    part = y[1:][1:]
    y[:3] *= 5.0
    part.sum().backward()
    assert part.tolist() == [5.0, 1.0]
    assert x.grad.tolist() == [0.0, 0.0, 5.0, 1.0]


def test_a_saved_value_that_is_overwritten_raises_and_names_both_lines() -> None:
    x = dr.asarray([1.0, 2.0], requires_grad=True)
    y = x * 3
    z = y * y  # saves y
    y += 1
    with pytest.raises(RuntimeError, match="multiply") as caught:
        z.sum().backward()
    text = str(caught.value)
    lines = [int(part.split(":")[0].split()[0]) for part in text.split("test_views_and_writes.py:")[1:]]
    assert len(lines) == 2 and lines[1] == lines[0] + 1, text
    assert "overwritten since" in text and "shape (2,)" in text


def test_a_write_that_destroys_nothing_that_is_needed_is_fine() -> None:
    x = dr.asarray([1.0, 2.0], requires_grad=True)
    y = x * 3
    z = y + 1  # saves nothing
    y *= 10
    (z.sum() + y.sum()).backward()
    assert x.grad.tolist() == [33.0, 33.0]


def test_in_place_operators_keep_what_their_own_gradient_reads() -> None:
    x = dr.asarray([1.0, 2.0], requires_grad=True)
    y = x * 1.0
    y *= y
    dr.exp(y, out=y)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.array([1, 2]) * np.exp(np.array([1.0, 4.0])))


def test_out_writes_are_differentiated() -> None:
    x, y = dr.asarray([1.0, 2.0], requires_grad=True), dr.zeros((2, 2))
    dr.multiply(x, 3.0, out=y[1])
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.fill(0), lambda x: x.__setitem__(0, 1.0), lambda x: x.__iadd__(1), lambda x: x[1:].fill(2),
        lambda x: x.T.__imul__(3), lambda x: x.__setitem__([0, 1], 1.0), lambda x: dr.exp(dr.ones(3), out=x),
        lambda x: x[:2][1:].__setitem__(..., 5),
    ],
)  # fmt: skip
def test_leaves_and_their_views_cannot_be_written(write: Any) -> None:
    x = dr.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf of the graph; use `with dr"):
        write(x)
    assert x.tolist() == [1.0, 1.0, 1.0]
    with dr.no_grad():
        write(x)
    assert x.requires_grad and x.is_leaf


def test_a_view_made_before_its_array_became_a_leaf_cannot_be_written() -> None:
    x = dr.ones(3)
    view = x[1:]
    x.requires_grad = True
    with pytest.raises(RuntimeError, match="leaf"):
        view += 1


def test_views_of_integers_and_broadcasts() -> None:
    x = dr.asarray([[1.0], [2.0]], requires_grad=True)
    dr.broadcast_to(x, (3, 2, 4)).sum().backward()
    assert x.grad.tolist() == [[12.0], [12.0]]
    assert not x.astype("i4")[0].requires_grad
