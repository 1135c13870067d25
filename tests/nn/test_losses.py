"""Losses and activations: values against NumPy or torch, gradients by finite differences."""

from __future__ import annotations

import inspect
import math
import warnings
from itertools import groupby, product

import numpy as np
import pytest
from differences import check_gradients

import dagrun as dr
from dagrun import nn
from dagrun.nn import functional as F

RNG = np.random.default_rng(2)
A, B = RNG.normal(size=(2, 4, 3))
P = RNG.uniform(0.05, 0.95, (4, 3))
SIGNS = np.array([1.0, -1, 1, -1])
LABELS = np.array([0, 2, 1, 1])
BITS = np.array([0.0, 1, 1, 0])
WEIGHT = np.array([0.5, 1.0, 2.0])

LOSSES = {
    "MSELoss": ((A, B), {}),
    "L1Loss": ((A, B), {}),
    "SmoothL1Loss": ((A, B), {"beta": 0.7}),
    "HuberLoss": ((A, B), {"delta": 0.6}),
    "BCELoss": ((P, (A > 0) * 1.0), {"weight": WEIGHT}),
    "BCEWithLogitsLoss": ((A, P), {"pos_weight": WEIGHT, "weight": WEIGHT[::-1].copy()}),
    "KLDivLoss": ((np.log(P), P), {}),
    "PoissonNLLLoss": ((A, 3 * P), {"full": True}),
    "GaussianNLLLoss": ((A, B, P), {"full": True}),
    "MultiMarginLoss": ((A, LABELS), {"p": 2, "margin": 0.8, "weight": WEIGHT}),
    "SoftMarginLoss": ((A, np.sign(B)), {}),
    "MultiLabelMarginLoss": ((A, np.array([[0, 2, -1], [1, -1, 0], [-1, 0, 1], [2, 1, 0]])), {}),
    "MultiLabelSoftMarginLoss": ((A, (B > 0) * 1.0), {"weight": WEIGHT}),
    "TripletMarginWithDistanceLoss": ((A, B, P), {"swap": True, "margin": 0.5}),
    "HingeEmbeddingLoss": ((A, np.sign(B)), {"margin": 0.7}),
    "MarginRankingLoss": ((A[:, 0], B[:, 0], SIGNS), {"margin": 0.3}),
    "TripletMarginLoss": ((A, B, P), {"swap": True, "p": 2.0}),
    "CosineEmbeddingLoss": ((A, B, SIGNS), {"margin": 0.1}),
}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_against_torch(name, reduction):
    torch = pytest.importorskip("torch")
    inputs, options = LOSSES[name]
    arrays = {k: v for k, v in options.items() if isinstance(v, np.ndarray)}
    theirs = getattr(torch.nn, name)(
        **{**options, **{k: torch.tensor(v) for k, v in arrays.items()}}, reduction=reduction
    )
    ours = getattr(nn, name)(**{**options, **{k: dr.asarray(v) for k, v in arrays.items()}}, reduction=reduction)
    x = torch.tensor(inputs[0], requires_grad=True)
    y = dr.asarray(inputs[0], requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch advises against the mean of a divergence
        expected = theirs(x, *map(torch.tensor, inputs[1:]))
    found = ours(y, *map(dr.asarray, inputs[1:]))
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    expected.sum().backward()
    found.sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), x.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*LOSSES, "HingeLoss", "ContrastiveLoss"])
def test_gradients(name, device):
    extra = {"HingeLoss": ((A, np.sign(B)), {}), "ContrastiveLoss": ((A, B, BITS), {"margin": 2.0})}
    inputs, options = {**LOSSES, **extra}[name]
    options = {k: dr.asarray(v, device=device) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    loss = getattr(nn, name)(**options)
    targets = [dr.asarray(t, device=device) for t in inputs[1:]]
    smooth = name not in (
        "L1Loss",
        "KLDivLoss",
        "HingeLoss",
        "HingeEmbeddingLoss",
        "MarginRankingLoss",
        "MultiLabelMarginLoss",
    )  # or linear
    check_gradients(lambda x: loss(x, *targets), inputs[0], device=device, second=smooth)


def test_hinge_and_contrastive_by_their_equations():
    y = np.sign(B)
    found = F.hinge_loss(dr.asarray(A), dr.asarray(y), reduction="none").numpy()
    np.testing.assert_allclose(found, np.maximum(0, 1 - y * A))
    distance = np.sqrt(((A - B) ** 2).sum(1))
    expected = 0.5 * (1 - BITS) * distance**2 + 0.5 * BITS * np.maximum(0, 2.0 - distance) ** 2
    found = F.contrastive_loss(dr.asarray(A), dr.asarray(B), dr.asarray(BITS), 2.0, "none").numpy()
    np.testing.assert_allclose(found, expected)
    same = dr.asarray(A, requires_grad=True)  # at distance 0 the gradient is a number
    F.contrastive_loss(same, dr.asarray(A), dr.ones(4)).backward()
    assert not same.grad.any()


def test_extreme_values_stay_finite():
    x = dr.asarray([-1e4, 0.0, 1e4], requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, dr.asarray([0.0, 1.0, 1.0]), reduction="none")
    np.testing.assert_allclose(loss.numpy(), [0, math.log(2), 0])
    loss.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    for name in ("elu", "selu", "celu", "softplus", "mish", "logsigmoid", "gelu", "silu"):
        for dtype, large in (("float64", 1e3), ("float32", 1e3), ("float64", 1e20)):
            x = dr.asarray([-large, large], dtype, requires_grad=True)
            y = getattr(F, name)(x)
            y.sum().backward()
            assert np.isfinite(y.numpy()).all() and np.isfinite(x.grad.numpy()).all(), name
            assert x.grad[1].item() == {"logsigmoid": 0, "selu": np.asarray(1.0507009873554805, dtype)}.get(name, 1), (
                name
            )
    for name in ("hardshrink", "softshrink", "hardtanh", "relu6", "hardswish", "leaky_relu"):
        assert np.isnan(getattr(F, name)(dr.asarray([np.nan])).item()), name


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_mean_over_no_lines_has_no_gradient(create_graph):
    for smoothing in (0.0, 0.2):
        x = dr.asarray([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
        loss = F.cross_entropy(x, dr.asarray([-100, -100]), label_smoothing=smoothing)
        assert math.isnan(loss.item())
        assert not dr.gradients(loss, [x], create_graph=create_graph)[0].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_cross_entropy_at_zero_and_one(dtype):
    """The logarithm is not below -100, and the slope's denominator not below 1e-12, as in torch."""
    p, y = (np.array(values, dtype) for values in ([0, 1, 0, 1, 1e-30, 0.25], [1, 0, 0, 1, 1, 0.5]))
    leaves = [dr.asarray(p, requires_grad=True), dr.asarray(y, requires_grad=True)]
    loss = F.binary_cross_entropy(*leaves, reduction="none")
    assert loss.tolist()[:4] == [100, 100, 0, 0]
    loss.sum().backward()
    eps = np.asarray(1e-12, dtype)
    np.testing.assert_allclose(leaves[0].grad.numpy(), (p - y) / np.maximum(p * (1 - p), eps), rtol=1e-6)
    assert leaves[1].grad.tolist()[:2] == [100, -100]
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(p, requires_grad=True)
    torch.nn.functional.binary_cross_entropy(theirs, torch.tensor(y), reduction="sum").backward()
    np.testing.assert_allclose(leaves[0].grad.numpy(), theirs.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "hinge_embedding_loss"])
def test_a_number_is_the_target_of_every_element(name, device):
    loss = getattr(F, name)
    x = dr.asarray(A, "float32", device=device, requires_grad=True)
    for target in (1, 1.0, dr.asarray(1.0, dtype="float32", device=device)):
        found = loss(x, target)
        assert found.dtype == np.float32
        assert found.item() == loss(x, dr.ones_like(x)).item()
    (g,) = dr.gradients(loss(x, 1.0), [x])
    assert g.tolist() == dr.gradients(loss(x, dr.ones_like(x)), x).tolist()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_weights_of_elements(name, reduction):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn.functional, name)
    if "weight" not in inspect.signature(theirs).parameters:
        pytest.skip("an older torch, which has no weights there")
    expected = theirs(*map(torch.tensor, (A, B)), reduction=reduction, weight=torch.tensor(P)).numpy()
    found = getattr(F, name)(dr.asarray(A), dr.asarray(B), reduction=reduction, weight=dr.asarray(P))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"weight of shape \(3,\), expected the input's shape \(4, 3\)"):
        getattr(F, name)(dr.asarray(A), 0.0, weight=dr.ones(3))


def test_more_numbers_as_targets():
    x = dr.asarray(A)
    assert F.gaussian_nll_loss(x, 0.0, 1.0).item() == pytest.approx(0.5 * (A * A).mean())
    assert F.poisson_nll_loss(x, 2).item() == pytest.approx((np.exp(A) - 2 * A).mean())
    assert F.kl_div(x, 0.5).item() == pytest.approx((0.5 * (np.log(0.5) - A)).mean())
    for loss in (F.binary_cross_entropy_with_logits, F.binary_cross_entropy):
        with pytest.raises(ValueError, match=r"a target of shape \(\) .* expected the same shape; dr.full_like"):
            loss(x, 1.0)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"target of shape \(3,\) for an input of shape \(4, 3\)"):
        F.mse_loss(dr.asarray(A), dr.zeros(3))
    with pytest.raises(ValueError, match="reduction 'avg'"):
        nn.MSELoss(reduction="avg")
    with pytest.raises(TypeError, match="expected reduction, delta"):
        nn.HuberLoss(beta=1.0)
    assert nn.KLDivLoss(reduction="batchmean")(dr.asarray(np.log(P)), dr.asarray(P)).item() == pytest.approx(
        0, abs=1e-12
    )


ACTIVATIONS = [
    ("ReLU", {}), ("ReLU6", {}), ("LeakyReLU", {"negative_slope": 0.2}), ("ELU", {"alpha": 0.7}),
    ("CELU", {"alpha": 2.0}), ("SELU", {}), ("GELU", {}), ("GELU", {"approximate": "tanh"}), ("SiLU", {}), ("Mish", {}),
    ("Sigmoid", {}),
    ("LogSigmoid", {}), ("Tanh", {}), ("Tanhshrink", {}), ("Softplus", {"beta": 2.0, "threshold": 3.0}),
    ("Softsign", {}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 0.8}), ("Hardsigmoid", {}), ("Hardswish", {}), ("GLU", {"dim": 0}),
    ("Threshold", {"threshold": 0.1, "value": 2.0}), ("Softmin", {"dim": 1}), ("Softmax", {"dim": 0}),
    ("LogSoftmax", {"dim": 1}), ("Hardshrink", {"lambd": 0.8}), ("Softshrink", {}),
    ("PReLU", {"num_parameters": 3, "init": 0.3}),
]  # fmt: skip
SMOOTH = {"ELU", "GELU", "SiLU", "Mish", "Sigmoid", "LogSigmoid", "Tanh", "Tanhshrink", "Softsign", "GLU", "Softmax"}
X = RNG.normal(size=(4, 3)) * 3


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS, ids=str)
def test_activations(name, options, device):
    layer = getattr(nn, name)(**options)
    if name == "PReLU":
        layer.to(device, np.float64)
    check_gradients(layer, X, device=device, second=name in SMOOTH)
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, name)(**options).double()
    expected = theirs(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(layer(dr.asarray(X, device=device)).numpy(), expected, rtol=1e-6, atol=1e-7)


def test_activation_options():
    assert repr(nn.LeakyReLU(0.3)) == "LeakyReLU(negative_slope=0.3)" and repr(nn.ReLU(inplace=True)) == "ReLU()"
    assert nn.ReLU(True)(dr.asarray([-1.0, 2.0])).tolist() == [0, 2]  # inplace, which does nothing
    with pytest.raises(TypeError, match="ReLU: too many positional arguments, expected inplace"):
        nn.ReLU(3, 4)
    with pytest.raises(TypeError, match=r"Tanh: .*'dim', expected nothing"):
        nn.Tanh(dim=1)
    with pytest.raises(TypeError, match=r"Threshold: .*'value', expected threshold, value, inplace"):
        nn.Threshold(0.5)
    with pytest.raises(ValueError, match="'none' or 'tanh'"):
        nn.GELU("x")(dr.ones(1))


# ---- CTC


def _brute_force(log_probs, labels):
    """The probability of all paths that collapse to the labels, one by one."""
    steps, classes = log_probs.shape
    total = 0.0
    for path in product(range(classes), repeat=steps):
        if [k for k, _ in groupby(path) if k != 0] == list(labels):
            total += math.exp(sum(log_probs[t, k] for t, k in enumerate(path)))
    return -math.log(total) if total else math.inf


def _log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("labels", [[], [1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 1]])
def test_ctc_counts_every_path(labels, device):
    log_probs = _log_softmax(RNG.normal(size=(5, 1, 3)))
    found = F.ctc_loss(dr.asarray(log_probs, device=device), [labels], [5], [len(labels)], reduction="sum")
    assert found.item() == pytest.approx(_brute_force(log_probs[:, 0], labels), rel=1e-12)


def test_ctc_against_torch():
    torch = pytest.importorskip("torch")
    x = RNG.normal(size=(12, 4, 6))
    lengths, sizes = [12, 9, 12, 7], [4, 3, 1, 3]
    targets = RNG.integers(1, 6, (4, 4))
    targets[0] = [2, 2, 3, 3]
    for reduction in ("none", "mean", "sum"):
        p = torch.tensor(x, requires_grad=True)
        q = dr.asarray(x, requires_grad=True)
        expected = torch.nn.CTCLoss(reduction=reduction)(
            p.log_softmax(-1), torch.tensor(targets), torch.tensor(lengths), torch.tensor(sizes)
        )
        flat = np.concatenate([row[:size] for row, size in zip(targets, sizes, strict=True)])
        for given in (targets, flat):
            found = nn.CTCLoss(reduction=reduction)(F.log_softmax(q, -1), dr.asarray(given), lengths, sizes)
            np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=1e-10)
        expected.sum().backward()
        found.sum().backward()
        np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), atol=1e-10)


def test_ctc_gradients():
    def loss(x):
        return F.ctc_loss(F.log_softmax(x, -1), [[1, 1], [2, 0]], [4, 3], [2, 1])

    check_gradients(loss, RNG.normal(size=(4, 2, 3)))


def test_ctc_second_derivatives_and_half_precision(device):
    x = RNG.normal(size=(5, 2, 4))

    def loss(x):
        return F.ctc_loss(F.log_softmax(x, -1), [[1, 1], [2, 3]], [5, 4], [2, 2], reduction="sum")

    curved = dr.grad(lambda x: (dr.grad(loss)(x) ** 2).sum())(dr.asarray(x, device=device)).numpy()
    step = 1e-5 * RNG.normal(size=x.shape)
    higher, lower = ((dr.grad(loss)(dr.asarray(x + sign * step, device=device)) ** 2).sum().item() for sign in (1, -1))
    assert (curved * step).sum() * 2 == pytest.approx(higher - lower, rel=1e-5)
    half = F.ctc_loss(F.log_softmax(dr.asarray(x, "float16", device=device), -1), [[1], [2]], [5, 5], [1, 1])
    full = F.ctc_loss(F.log_softmax(dr.asarray(x, device=device), -1), [[1], [2]], [5, 5], [1, 1])
    assert half.dtype == np.float16 and half.item() == pytest.approx(full.item(), rel=1e-2)


def test_ctc_of_what_cannot_be():
    x = dr.asarray(_log_softmax(RNG.normal(size=(2, 1, 3))), requires_grad=True)
    assert F.ctc_loss(x, [[1, 1]], [2], [2]).item() == math.inf
    loss = F.ctc_loss(x, [[1, 1]], [2], [2], zero_infinity=True)
    loss.backward()
    assert loss.item() == 0 and not x.grad.any()
    with pytest.raises(ValueError, match="expected 1 to 2"):
        F.ctc_loss(x, [[1]], [3], [1])
    with pytest.raises(ValueError, match="labels from 7 to 7"):
        F.ctc_loss(x, [[7]], [2], [1])
    with pytest.raises(ValueError, match="blank is 3"):
        F.ctc_loss(x, [[1]], [2], [1], blank=3)
