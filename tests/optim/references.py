"""The optimizers' published equations in plain NumPy: each is a function (p, g, state, t, options) -> p."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

State = dict[str, Any]


def _get(state: State, name: str, like: np.ndarray) -> np.ndarray:
    return state.get(name, np.zeros_like(like))


def sgd(
    p: Any, g: Any, s: State, t: int, lr: float, momentum: float = 0.0, dampening: float = 0.0,
    weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False, decoupled_weight_decay: bool = False,
) -> Any:  # fmt: skip
    g = -g if maximize else g
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    if momentum == 0:
        return p - lr * g
    s["v"] = g if t == 1 else momentum * s["v"] + (1 - dampening) * g
    return p - lr * (g + momentum * s["v"] if nesterov else s["v"])


def adam(
    p: Any, g: Any, s: State, t: int, lr: float, betas: Any = (0.9, 0.999), eps: float = 1e-8,
    weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False, decoupled_weight_decay: bool = False,
) -> Any:  # fmt: skip
    g = -g if maximize else g
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    s["m"] = betas[0] * _get(s, "m", p) + (1 - betas[0]) * g
    s["v"] = betas[1] * _get(s, "v", p) + (1 - betas[1]) * g**2
    s["most"] = np.maximum(_get(s, "most", p), s["v"])
    v = s["most"] if amsgrad else s["v"]
    return p - lr * (s["m"] / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def adamw(p: Any, g: Any, s: State, t: int, lr: float, weight_decay: float = 1e-2, **options: Any) -> Any:
    return adam(p, g, s, t, lr, weight_decay=weight_decay, decoupled_weight_decay=True, **options)


def nadam(
    p: Any, g: Any, s: State, t: int, lr: float, betas: Any = (0.9, 0.999), eps: float = 1e-8,
    weight_decay: float = 0.0, momentum_decay: float = 4e-3,
) -> Any:  # fmt: skip
    g = g + weight_decay * p
    mus = [betas[0] * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in range(1, t + 2)]
    s["m"] = betas[0] * _get(s, "m", p) + (1 - betas[0]) * g
    s["v"] = betas[1] * _get(s, "v", p) + (1 - betas[1]) * g**2
    mean = mus[t] * s["m"] / (1 - np.prod(mus)) + (1 - mus[t - 1]) * g / (1 - np.prod(mus[:t]))
    return (p - lr * mean / (np.sqrt(s["v"] / (1 - betas[1] ** t)) + eps)).astype(p.dtype)


def adagrad(
    p: Any, g: Any, s: State, t: int, lr: float, lr_decay: float = 0.0, weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0, eps: float = 1e-10,
) -> Any:  # fmt: skip
    g = g + weight_decay * p
    s["s"] = (s["s"] if t > 1 else np.full_like(p, initial_accumulator_value)) + g**2
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["s"]) + eps)


def adadelta(
    p: Any, g: Any, s: State, t: int, lr: float, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0
) -> Any:
    g = g + weight_decay * p
    s["s"] = rho * _get(s, "s", p) + (1 - rho) * g**2
    x = np.sqrt(_get(s, "d", p) + eps) / np.sqrt(s["s"] + eps) * g
    s["d"] = rho * _get(s, "d", p) + (1 - rho) * x**2
    return p - lr * x


def rmsprop(
    p: Any, g: Any, s: State, t: int, lr: float, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
    momentum: float = 0.0, centered: bool = False,
) -> Any:  # fmt: skip
    g = g + weight_decay * p
    s["s"] = alpha * _get(s, "s", p) + (1 - alpha) * g**2
    s["m"] = alpha * _get(s, "m", p) + (1 - alpha) * g
    x = g / (np.sqrt(s["s"] - s["m"] ** 2 if centered else s["s"]) + eps)
    s["b"] = momentum * _get(s, "b", p) + x
    return p - lr * s["b"]


def rprop(p: Any, g: Any, s: State, t: int, lr: float, etas: Any = (0.5, 1.2), step_sizes: Any = (1e-6, 50.0)) -> Any:
    product = g * _get(s, "g", p)
    size = s.get("size", np.full_like(p, lr))
    factor = np.where(product > 0, etas[1], np.where(product < 0, etas[0], 1.0)).astype(p.dtype)
    s["size"] = np.clip(size * factor, *step_sizes)
    s["g"] = np.where(product < 0, np.zeros_like(g), g)
    return p - np.sign(s["g"]) * s["size"]


def lamb(
    p: Any, g: Any, s: State, t: int, lr: float, betas: Any = (0.9, 0.999), eps: float = 1e-6,
    weight_decay: float = 0.01,
) -> Any:  # fmt: skip
    s["m"] = betas[0] * _get(s, "m", p) + (1 - betas[0]) * g
    s["v"] = betas[1] * _get(s, "v", p) + (1 - betas[1]) * g**2
    u = s["m"] / (1 - betas[0] ** t) / (np.sqrt(s["v"] / (1 - betas[1] ** t)) + eps) + weight_decay * p
    norms = np.linalg.norm(p), np.linalg.norm(u)
    return p - lr * (norms[0] / norms[1] if min(norms) > 0 else 1.0) * u


CASES: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
    ("SGD", sgd, {"lr": 0.1}),
    ("SGD", sgd, {"lr": 0.1, "weight_decay": 0.2, "maximize": True}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.9}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", sgd, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adam", adam, {"lr": 0.01}),
    ("Adam", adam, {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adam", adam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", adamw, {"lr": 0.01}),
    ("NAdam", nadam, {"lr": 0.01, "weight_decay": 0.1}),
    ("Adagrad", adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.1}),
    ("Adadelta", adadelta, {"lr": 1.0, "weight_decay": 0.1}),
    ("RMSprop", rmsprop, {"lr": 0.01}),
    ("RMSprop", rmsprop, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", rmsprop, {"lr": 0.01, "alpha": 0.9, "eps": 0.1, "centered": True}),
    ("Rprop", rprop, {"lr": 0.1}),
    ("LAMB", lamb, {"lr": 0.01}),
]
