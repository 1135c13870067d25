"""Arguments of layers, functions, initialisers, optimizers and schedules: names, order and defaults are PyTorch's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from inspect import Parameter
from typing import Any, get_overloads

import pytest

import dagrun as dr
from dagrun import nn
from dagrun.nn import functional as F

torch = pytest.importorskip("torch")
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13):
    pytest.skip("arguments are those of PyTorch 2.13", allow_module_level=True)

# Arguments of PyTorch's that no function here has.
NOWHERE = {
    "size_average": "deprecated for `reduction`",
    "reduce": "deprecated for `reduction`",
    "foreach": "chooses how PyTorch runs a step",
    "fused": "chooses how PyTorch runs a step",
    "capturable": "for CUDA graphs",
    "out": "results are arrays of their own",
    "differentiable": "steps are recorded without gradients",
    "_stacklevel": "where a deprecation warning points to",
}

# Further differences: what is taken from PyTorch's arguments, or put in, before they are compared.
ABSENT = {
    ("nn", "Hardtanh"): {"min_value", "max_value"},  # deprecated for min_val and max_val
    ("module", "register_forward_hook"): {"always_call"},  # hooks are not called for a forward that failed
}
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    # PyTorch's None picks the axis by the number of axes, and warns that this is deprecated.
    **{(where, name): {"dim": -1} for where, names in {
        "nn": ("Softmax", "LogSoftmax", "Softmin"), "functional": ("softmax", "log_softmax", "softmin"),
    }.items() for name in names},
    **{("nn", f"Transformer{part}"): {"activation": "relu"}  # the function itself in PyTorch
       for part in ("", "EncoderLayer", "DecoderLayer")},
}  # fmt: skip
MORE = {
    "generator": "random numbers of one's own, instead of the default generator",
    "decoupled_weight_decay": "SGD, as Adam has it",
    "orig_func": "no_grad as a decorator without parentheses, as enable_grad's",
}
# Names that mean something else, or take anything.
SKIPPED = {
    ("nn", "Module"), ("nn", "Sequential"), ("nn", "Identity"),  # any arguments
    ("nn", "Parameter"),  # a function that makes an array
    ("module", "forward"),  # that of a class of one's own
    ("module", "to"), ("module", "state_dict"),  # any arguments in PyTorch
}  # fmt: skip


def pairs() -> dict[tuple[str, str], tuple[Any, Any]]:
    """What both have, by where it stands and its name."""
    found: dict[tuple[str, str], tuple[Any, Any]] = {}
    spaces = [
        ("nn", nn, torch.nn, [name for name in nn.__all__ if name[0].isupper()]),
        ("functional", F, torch.nn.functional, F.__all__),
        ("optim", dr.optim, torch.optim, [name for name in dr.optim.__all__ if name[0].isupper()]),
        ("schedules", dr.optim.lr_scheduler, torch.optim.lr_scheduler, dr.optim.lr_scheduler.__all__),
        ("init", nn.init, torch.nn.init, [name for name in dir(nn.init) if name.endswith("_") and name[0] != "_"]),
        ("clipping", dr.optim, torch.nn.utils, ["clip_grad_norm_", "clip_grad_value_"]),
        ("module", nn.Module, torch.nn.Module, [name for name in dir(nn.Module) if name[0] != "_"]),
        ("gradients", dr, torch, ["no_grad", "enable_grad"]),
    ]
    for where, ours, theirs, names in spaces:
        for name in names:
            if callable(getattr(theirs, name, None)) and (where, name) not in SKIPPED:
                found[where, name] = getattr(ours, name), getattr(theirs, name)
    return found


def parameters(function: Any) -> list[Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.name != "self"]


def of_torch(where: str, name: str, function: Any) -> list[Parameter] | None:
    """PyTorch's parameters: from the signature, from overloads, or from the first line of the text; None: not told."""
    if where == "functional":  # those that choose between two by `return_indices`
        function = getattr(torch.nn.functional, f"_{name}", function)
    try:
        found = parameters(function)
    except ValueError:
        told = re.search(rf"{name}\((.*?)\) *->", function.__doc__ or "", re.DOTALL)
        if told is None:
            return None
        text = told[1].replace("Tensor ", "").replace("\n", " ")
        empty: Callable[..., Any] = eval(f"lambda {text}: None")
        return parameters(empty)
    if any(p.kind is Parameter.VAR_KEYWORD for p in found):
        overloads = get_overloads(function.__init__) if isinstance(function, type) else []
        return parameters(overloads[0]) if overloads else []  # none: activations without options
    return found


PAIRS = pairs()


@pytest.mark.parametrize(("where", "name"), PAIRS)
def test_arguments_are_those_of_torch(where: str, name: str) -> None:
    ours, theirs = PAIRS[where, name]
    expected = of_torch(where, name, theirs)
    assert expected is not None
    absent = NOWHERE.keys() | ABSENT.get((where, name), set())
    defaults = DEFAULTS.get((where, name), {})
    wanted = [p for p in expected if p.name not in absent]
    found = [p for p in parameters(ours) if p.name in {p.name for p in wanted} or p.name not in MORE]
    by_place = [p.name for p in wanted if p.kind is not Parameter.KEYWORD_ONLY]
    assert [p.name for p in found if p.kind is not Parameter.KEYWORD_ONLY][: len(by_place)] == by_place
    assert {p.name for p in found} == {p.name for p in wanted}
    own = {p.name: p.default for p in found}
    for p in wanted:
        assert own[p.name] == defaults.get(p.name, p.default), p.name


def test_what_is_compared() -> None:
    """The lists above say what is there, and most of what both have is compared."""
    assert len(PAIRS) > 235
    told = [key for key, (_, theirs) in PAIRS.items() if of_torch(*key, theirs) is not None]
    assert len(told) == len(PAIRS)
    for key in (*ABSENT, *DEFAULTS):
        assert key in PAIRS, key
