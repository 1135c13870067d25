"""What users do with gradients: backward, hooks, graphs kept and differentiated again, functions of functions."""

from __future__ import annotations

import copy
import doctest
import gc
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.autodiff.modes import anomaly
from dagrun.errors import OperationError


def leaf(*values: float, dtype: str = "f8") -> dr.Array:
    return dr.asarray(np.array(values, dtype), requires_grad=True)


# ---- backward


def test_backward_adds_to_grad() -> None:
    x = leaf(1, 2)
    (x * x).sum().backward()
    (x * 3).sum().backward()
    assert x.grad.tolist() == [5, 7]
    x.grad = None
    (x * x).backward(dr.asarray([1.0, 10.0]))
    assert x.grad.tolist() == [2, 40]


def test_grad_is_the_users_own_array() -> None:
    x, y = leaf(1, 2), leaf(3, 4)
    start = dr.ones(2)
    (x + y).backward(start)
    x.grad[0] = 100.0
    assert y.grad.tolist() == [1, 1] and start.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("run", "error", "text"),
    [
        (lambda x: (x * 2).backward(), RuntimeError, "an output of shape \\(2,\\) needs a gradient of that shape"),
        (lambda x: x.detach().sum().backward(), RuntimeError, "does not depend on an array with"),
        (lambda x: (x > 1).sum().backward(), TypeError, "an output of dtype int64 has no gradient"),
        (lambda x: (x * 2).backward(dr.ones(3)), ValueError, "a gradient of shape \\(3,\\) for an output"),
        (lambda x: x.astype("i4").requires_grad_(), TypeError, "an array of dtype int32 has no gradient"),
        (lambda x: setattr(x * 2, "requires_grad", False), RuntimeError, "use x.detach()"),
        (lambda x: setattr(x, "grad", dr.ones(3)), ValueError, "expected None or an array of shape \\(2,\\)"),
        (lambda x: setattr(x * 2, "grad", dr.ones(2)), RuntimeError, "only arrays with requires_grad=True"),
        (lambda x: x.detach().register_hook(print), RuntimeError, "does not require gradients"),
        (lambda x: x.detach().retain_grad(), RuntimeError, "does not require gradients"),
        (lambda x: dr.gradients(x.sum(), dr.ones(2)), RuntimeError, "an input of shape \\(2,\\) does not require"),
        (lambda x: dr.gradients(x.sum(), leaf(1)), RuntimeError, "do not depend on an input of shape \\(1,\\)"),
        (lambda x: dr.grad(lambda x: x * 2)(x), RuntimeError, "expected one element|of one element"),
        (lambda x: dr.grad(lambda x: x.sum())(dr.asarray([1])), TypeError, "dtype int64 has no gradient"),
        (lambda x: dr.jvp(lambda x: x, (x,), (dr.ones(3),)), ValueError, "a tangent of shape \\(3,\\)"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(run: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run(leaf(1, 2))


def test_a_graph_can_be_walked_again_only_if_retained() -> None:
    x = leaf(1, 2)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [4, 8]
    with pytest.raises(RuntimeError, match=r"backward through \w+ \(.*test_autodiff.py:\d+ .*retain_graph=True"):
        y.backward()


def test_gradients_of_gradients() -> None:
    x = leaf(1, 2)
    (g,) = dr.gradients((x * x * x).sum(), [x], create_graph=True)
    assert g.requires_grad
    g.sum().backward()
    assert x.grad.tolist() == [6, 12]
    third = dr.grad(dr.grad(dr.grad(lambda x: x**4)))
    assert third(dr.asarray(2.0)).item() == 48


def test_unused_inputs() -> None:
    x, unused = leaf(1, 2), leaf(1)
    assert dr.gradients((x * 2).sum(), {"x": x, "u": unused}, allow_unused=True)["u"] is None
    assert unused.grad is None and x.grad is None
    assert dr.grad(lambda a, b: a.sum(), 1)(x, unused).tolist() == [0]


def test_piecewise_constant_functions_give_zeros_and_no_complaint() -> None:
    x, y = leaf(1.5, 2.5), leaf(1)
    steps = dr.floor(x * 2).sum()
    assert dr.gradients(steps + y.sum(), [x, y])[0].tolist() == [0, 0]
    assert dr.gradients(dr.sign(x).sum(), x, allow_unused=True).tolist() == [0, 0]
    with pytest.raises(RuntimeError, match="do not depend"):
        dr.gradients(dr.floor(x).sum(), y)


def test_inner_arrays_and_several_outputs() -> None:
    x = leaf(1, 2)
    y = x * x
    z = y * 3
    assert [g.tolist() for g in dr.gradients([z.sum(), y.sum()], (y, x, z), retain_graph=True)] == [
        [4, 4],
        [8, 16],
        [1, 1],
    ]


def test_detach_and_leaves() -> None:
    x = leaf(1, 2)
    y = x * 2
    assert x.is_leaf and not y.is_leaf and y.detach().is_leaf and not y.detach().requires_grad
    assert (y.detach() * x).sum().backward() is None and x.grad.tolist() == [2, 4]
    y.detach()[0] = 50.0  # the same memory
    assert y.tolist() == [50, 4]


def test_integers_stop_gradients() -> None:
    x = leaf(1.5, 2.5)
    assert not (x > 2).requires_grad and not dr.argsort(x).requires_grad
    y = dr.where(x > 2, x, 0.0)
    y.sum().backward()
    assert x.grad.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: dr.maximum(x, 1.0), [0, 0.5, 1, 0.5]),
        (lambda x: dr.minimum(x, 1.0), [1, 0.5, 0, 0.5]),
        (lambda x: dr.max(x), [0, 0, 1, 0]),
        (lambda x: dr.min(x - x.detach()), [0.25, 0.25, 0.25, 0.25]),
        (lambda x: dr.relu(x), [0, 1, 1, 1]),
        (lambda x: dr.abs(x), [0, 1, 1, 1]),
        (lambda x: dr.clip(x, 0, 1), [1, 1, 0, 1]),
        (lambda x: dr.topk(x, 2)[0] * dr.asarray([1.0, 5.0]), [0, 5, 1, 0]),
        (lambda x: dr.sort(x) * dr.asarray([1.0, 2.0, 3.0, 4.0]), [1, 2, 4, 3]),
        (lambda x: dr.unique(x), [1, 1, 1, 0]),
    ],
)
def test_kinks_get_what_the_documents_say(function: Any, expected: list[float]) -> None:
    x = leaf(0, 1, 2, 1)
    function(x).sum().backward()
    assert x.grad.tolist() == expected


# ---- modes


def test_no_grad_and_enable_grad() -> None:
    x = leaf(1)

    @dr.no_grad()
    def silent(x: dr.Array) -> tuple[bool, bool]:
        with dr.enable_grad():
            inner = (x * 2).requires_grad
        return (x * 2).requires_grad, inner

    assert silent(x) == (False, True) and dr.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), dr.no_grad():
        raise ZeroDivisionError
    assert dr.is_grad_enabled()


def test_each_thread_has_its_own_mode() -> None:
    x, seen = leaf(1), []
    with dr.no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
        assert seen == [True] and not (x * 2).requires_grad


# ---- hooks and kept gradients


def test_hooks_see_and_change_gradients() -> None:
    x = leaf(1, 2)
    y = x * 2
    seen: list[Any] = []
    kept = y.register_hook(lambda g: seen.append(g.tolist()))
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    (y * 3).sum().backward(retain_graph=True)
    assert seen == [[3, 3]] and x.grad.tolist() == [61, 61]
    kept.remove()
    kept.remove()
    (y * 3).sum().backward()
    assert len(seen) == 1


def test_a_hook_gets_the_complete_gradient() -> None:
    x = leaf(1)
    y = x * 2
    seen: list[float] = []
    y.register_hook(lambda g: seen.append(g.item()))
    (y * 3 + y * 4 + y).sum().backward()
    assert seen == [8]


def test_retain_grad() -> None:
    x = leaf(1, 2)
    y = x * 2
    y.retain_grad()
    (y * y).sum().backward()
    assert y.grad.tolist() == [4, 8] and (x * 2).grad is None


def test_hooks_of_one_of_several_results() -> None:
    x = leaf(1, 2)
    first, second = dr.custom_gradient(lambda x: ((x * 2, x * 3), lambda a, b: a * 2 + b * 3))(x)
    second.register_hook(lambda g: g * 100)
    (first.sum() + second.sum()).backward()
    assert x.grad.tolist() == [302, 302]


# ---- functions of functions, against closed forms

MATRIX = np.array([[2.0, 1.0], [0.5, 3.0]])


def test_vjp_jvp_jacobian_and_hessian() -> None:
    a, x, v = dr.asarray(MATRIX), dr.asarray([1.0, 2.0]), dr.asarray([0.5, -1.0])

    def f(x: dr.Array) -> dr.Array:
        return dr.sin(a @ x)

    expected = np.cos(MATRIX @ [1, 2])[:, None] * MATRIX
    np.testing.assert_allclose(dr.jacobian(f)(x).numpy(), expected)
    value, pullback = dr.vjp(f, x)
    np.testing.assert_allclose(value.numpy(), np.sin(MATRIX @ [1, 2]))
    np.testing.assert_allclose(pullback(v)[0].numpy(), v.numpy() @ expected)
    np.testing.assert_allclose(pullback(v)[0].numpy(), v.numpy() @ expected, err_msg="a pullback can be called again")
    np.testing.assert_allclose(dr.jvp(f, (x,), (v,))[1].numpy(), expected @ v.numpy())
    quadratic = dr.hessian(lambda x: x @ a @ x)(x)
    np.testing.assert_allclose(quadratic.numpy(), MATRIX + MATRIX.T)


def test_value_and_grad_of_nested_arguments() -> None:
    parameters = {"w": dr.ones(2), "b": [dr.asarray(3.0)]}

    def loss(p: Any, x: dr.Array) -> tuple[dr.Array, str]:
        return (p["w"] * x).sum() * p["b"][0], "extra"

    (value, extra), gradient = dr.value_and_grad(loss, has_aux=True)(parameters, dr.asarray([1.0, 2.0]))
    assert (value.item(), extra) == (9, "extra")
    assert gradient["w"].tolist() == [3, 6] and gradient["b"][0].item() == 3
    both = dr.grad(lambda x, y: (x * y).sum(), (0, 1))(dr.asarray([1.0]), dr.asarray([5.0]))
    assert [g.tolist() for g in both] == [[5], [1]]


def test_functions_are_differentiated_by_what_they_close_over_too() -> None:
    w = leaf(3)
    g = dr.grad(lambda x: (x * x * w).sum())(dr.asarray([2.0]))
    g.sum().backward()
    assert w.grad.tolist() == [4]


# ---- modes of generators


@pytest.mark.parametrize("mode", [dr.no_grad, dr.detect_anomaly])
def test_a_decorated_generator_has_its_mode_while_it_runs(mode: Any) -> None:
    def state() -> Any:
        return dr.is_grad_enabled(), anomaly.on

    outside, events = state(), []

    @mode()
    def numbers(count: int) -> Any:
        try:
            for number in range(count):
                try:
                    sent = yield number, state()
                except KeyError as error:
                    events.append((str(error), state()))
                else:
                    events.append((sent, state()))
        finally:
            events.append(("closed", state()))
        return "end"

    with mode():
        inside = state()
    assert inside != outside
    steps = numbers(3)
    assert next(steps) == (0, inside) and state() == outside
    assert steps.send("a") == (1, inside) and state() == outside
    assert steps.throw(KeyError("b")) == (2, inside) and state() == outside
    with pytest.raises(StopIteration, match="end"):
        next(steps)
    steps = numbers(3)
    next(steps)
    steps.close()
    assert events == [("a", inside), ("'b'", inside), (None, inside), ("closed", inside), ("closed", inside)]
    with pytest.raises(ValueError, match="mine"):
        for _ in numbers(2):
            raise ValueError("mine")
    assert state() == outside


def test_a_generator_without_gradients_passes_its_failure_on() -> None:
    @dr.enable_grad  # without parentheses, too
    def one() -> Any:
        yield dr.is_grad_enabled()
        raise ValueError("from within")

    with dr.no_grad(), pytest.raises(ValueError, match="from within"):
        for on in one():
            assert on and not dr.is_grad_enabled()
    assert dr.is_grad_enabled()


# ---- text


def test_an_array_shows_where_its_gradient_goes() -> None:
    x = dr.asarray([1.0, 2.0], requires_grad=True)
    assert repr(x) == "array([1., 2.], requires_grad=True)" and str(x) == "[1. 2.]"
    assert repr(x * 2) == "array([2., 4.], grad_fn=<multiply>)"
    assert repr(x[1:]) == "array([2.], grad_fn=<view>)"
    assert repr(dr.topk(x, 1)[0]) == "array([2.], grad_fn=<take_along_axis>)"
    y = dr.asarray([1, 2], "float32", device="cpu:1", requires_grad=True)
    assert repr(y) == "array([1., 2.], dtype=float32, device='cpu:1', requires_grad=True)"
    assert repr(x.detach()) == "array([1., 2.])"
    with dr.no_grad():
        assert repr(x * 2) == "array([2., 4.])"


# ---- checkpoint


def test_checkpoint_gives_the_same_gradients_and_random_numbers() -> None:
    w = leaf(0.5, 2)

    def block(x: dr.Array) -> dr.Array:
        return dr.tanh(x * w) * dr.random.rand(2)  # w is a leaf of the closure

    def both(run: Any) -> tuple[Any, ...]:
        dr.random.set_state((5, 0))
        x = leaf(1, 2)
        w.grad = None
        y = run(x)
        after = dr.random.get_state()
        y.sum().backward()
        assert dr.random.get_state() == after, "generators stay where they are"
        return y.tolist(), x.grad.tolist(), w.grad.tolist()

    plain = both(lambda x: block(block(x)))
    assert both(lambda x: dr.checkpoint(block, dr.checkpoint(block, x))) == plain
    assert both(lambda x: dr.checkpoint(lambda x: dr.checkpoint(block, dr.checkpoint(block, x)), x)) == plain


def test_checkpoint_keeps_only_its_inputs() -> None:
    def block(x: dr.Array) -> dr.Array:
        for _ in range(10):
            x = dr.exp(x * 1e-3)
        return x

    def live(run: Any) -> int:
        x = dr.ones(100_000, requires_grad=True)
        dr.wait()
        before = dr.memory_stats("cpu:0")["live_bytes"]
        y = run(x)
        dr.wait()
        held = int(dr.memory_stats("cpu:0")["live_bytes"] - before)
        y.sum().backward()
        assert x.grad is not None
        return held

    assert live(lambda x: dr.checkpoint(block, x)) < live(block) / 5


# ---- gradients of the user's own


def test_custom_gradient() -> None:
    @dr.custom_gradient
    def straight(x: dr.Array) -> Any:
        return dr.round(x), lambda g: g * 7

    x = leaf(1.2, 2.7)
    straight(x).sum().backward()
    assert x.grad.tolist() == [7, 7]


def test_custom_op_with_and_without_gradient() -> None:
    double = dr.custom_op(lambda x: x * 2, name="double")
    with pytest.raises(NotImplementedError, match="double has no gradient"):
        double(leaf(1)).sum().backward()
    cube = dr.custom_op(lambda x: x**3, grad=lambda g, x: g * 3 * x * x, name="cube")
    assert dr.grad(dr.grad(lambda x: cube(x).sum()))(dr.asarray(2.0)).item() == 12
    wrong = dr.custom_op(lambda x, y: x * y, grad=lambda g, x, y: g * y, name="wrong")
    with pytest.raises(ValueError, match="wrong returned 1 gradients, expected 2"):
        wrong(leaf(1), leaf(2)).sum().backward()


# ---- threads, failures, memory


def test_threads_walk_backward_at_once() -> None:
    w, failures = leaf(*range(1, 9)), []

    def work(seed: int) -> None:
        try:
            for k in range(20):
                x = dr.asarray(np.full(8, seed + k, "f8"), requires_grad=True)
                y = dr.exp(x * 0.01) * w
                assert dr.gradients(y.sum(), [w])[0].tolist() == np.exp(np.full(8, seed + k) * 0.01).tolist()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and w.grad is None


def test_a_failure_in_forward_reaches_grad() -> None:
    x = leaf(1, 2)
    y = dr.take(x, dr.asarray([0, 7])) * 2
    y.sum().backward()
    for _ in range(2):
        with pytest.raises(OperationError, match="index 7 is out of bounds") as caught:
            x.grad.numpy()
        assert "test_autodiff.py" in str(caught.value)
    with pytest.raises(IndexError):
        y.numpy()
    x.grad = None
    raises_nothing_more()


def test_a_failure_in_backward_reaches_grad() -> None:
    def fail(x: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("on purpose")

    failing = dr.custom_op(fail)
    good = dr.custom_op(lambda x: x + 1, grad=lambda g, x: failing(g))
    x, y = leaf(1, 2), leaf(3, 4)
    (good(x) * y).sum().backward()
    assert y.grad.tolist() == [2, 3]
    with pytest.raises(ZeroDivisionError, match="on purpose") as caught:
        x.grad.numpy()
    assert "test_autodiff.py" in str(caught.value)
    x.grad = None
    raises_nothing_more()


def raises_nothing_more() -> None:
    """Failures that were looked at are not raised again by a wait for everything."""
    try:
        dr.wait()
    except OperationError as error:  # one that only intermediate results held
        assert "take" in str(error) or "on purpose" in str(error)


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_no_cycle_keeps_arrays_alive(collector_off: None) -> None:
    def program() -> None:
        x = dr.ones(100_000, requires_grad=True)
        y = dr.exp(x)  # its rule reads the result
        z = (y * y)[1:]
        z *= 2.0
        w = dr.checkpoint(dr.tanh, z)
        (g,) = dr.gradients(w.sum(), [x], create_graph=True)
        (g * g).sum().backward()
        dr.exp(x).sum()  # never differentiated
        dr.vjp(dr.tanh, x)
        dr.jacobian(lambda x: dr.tanh(x[:2]))(x)

    program()
    dr.wait()
    before = dr.memory_stats("cpu:0")["live_bytes"]
    for _ in range(3):
        program()
        dr.wait()
    assert dr.memory_stats("cpu:0")["live_bytes"] == before


def test_memory_is_freed_by_backward() -> None:
    x = dr.ones(100_000, requires_grad=True)
    dr.wait()
    before = dr.memory_stats("cpu:0")["live_bytes"]
    y = x
    for _ in range(10):
        y = dr.exp(y * 0.1)
    y = y.sum()
    dr.wait()
    assert dr.memory_stats("cpu:0")["live_bytes"] - before >= 10 * x.nbytes
    y.backward()
    dr.wait()
    assert dr.memory_stats("cpu:0")["live_bytes"] - before < 2.5 * x.nbytes  # the gradient remains


def chain(length: int) -> float:
    x = leaf(1.0)
    y = x
    for _ in range(length):
        y = y * 1.0
    y.backward(dr.ones(1))
    del y
    return float(x.grad.item())


def test_long_chains_are_differentiated_and_freed() -> None:
    assert chain(100_000) == 1


@pytest.mark.long
def test_a_chain_of_a_million_operations() -> None:
    assert chain(1_000_000) == 1


def test_a_long_chain_is_freed_without_backward_and_through_results() -> None:
    x = leaf(1.0)
    twice = dr.custom_gradient(lambda x: ((x * 1.0, x * 1.0), lambda a, b: a + b))
    y = x
    for number in range(20_000):
        y = twice(y)[0] if number % 10 == 0 else y[:] if number % 10 == 1 else y + 1
    del y
    assert x.grad is None


# ---- anomalies


def test_anomaly_mode_finds_the_first_operation_that_gave_a_nan() -> None:
    x = leaf(-1, 2)
    with pytest.raises(FloatingPointError) as caught, dr.detect_anomaly():
        y = x * 2
        z = dr.log(y)
        (z + 1).sum()
    line = test_anomaly_mode_finds_the_first_operation_that_gave_a_nan.__code__.co_firstlineno + 4
    assert f"log at {__file__}:{line} in" in str(caught.value)
    dr.log(x)  # the mode is off again


def test_anomaly_mode_names_the_forward_line_of_a_gradient() -> None:
    x = leaf(0, 2)
    with pytest.raises(FloatingPointError) as caught, dr.detect_anomaly():
        y = dr.sqrt(x) * dr.asarray([0.0, 1.0])
        y.sum().backward()
    line = test_anomaly_mode_names_the_forward_line_of_a_gradient.__code__.co_firstlineno + 3
    assert f"the gradient of sqrt holds a NaN; the operation was recorded at {__file__}:{line}" in str(caught.value)


def test_anomaly_mode_sees_writes_and_belongs_to_one_thread() -> None:
    x, seen = leaf(-1), []

    def elsewhere() -> None:
        seen.append(dr.sqrt(x).tolist())

    with dr.detect_anomaly():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        y = x * 1.0
        with pytest.raises(FloatingPointError, match="sqrt"):
            dr.sqrt(y, out=y)
    assert np.isnan(seen[0][0])


def test_the_examples_of_the_documents() -> None:
    file = Path(__file__).parents[2] / "docs" / "autodiff.md"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testfile(str(file), module_relative=False, optionflags=flags)
    assert failed == 0 and tried > 20


def test_copies_of_leaves_are_leaves():
    w = dr.asarray([1.0, 2.0], requires_grad=True)
    (w * w).sum().backward()
    twin, same = copy.deepcopy([w, w])
    assert twin is same and twin.is_leaf and twin.requires_grad
    (3 * twin).sum().backward()
    assert twin.grad.tolist() == [5.0, 7.0] and w.grad.tolist() == [2.0, 4.0]
    again = pickle.loads(pickle.dumps(w))
    assert again.is_leaf and again.requires_grad and again.grad is None
    assert not pickle.loads(pickle.dumps(w * 2)).requires_grad
    assert not copy.deepcopy(w.detach()).requires_grad
    with dr.no_grad():
        assert copy.deepcopy(w).requires_grad
