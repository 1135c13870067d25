"""Modules of the same structure with other parameters: the copies of one step, and the parts of one device's batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array, leaf
from dagrun.autodiff import is_grad_enabled, no_grad
from dagrun.devices import Device
from dagrun.nn import Module
from dagrun.record.gradients import Gradients
from dagrun.record.tape import Call, attach


def _sum_in_order(gs: list[Any], call: Call) -> tuple[Any]:
    """Added in the order of the copies, wherever they were: so the bits do not depend on the placement."""
    total = None
    for g in gs:
        if g is not None:
            arrived = g.to_device(call.device)
            total = arrived if total is None else total + arrived
    return (total,)


_REPLICATED = Gradients(joint=_sum_in_order)


def replicate(x: Array, devices: Sequence[Device]) -> list[Array]:
    """A copy of an array for each device of a list, on which devices may repeat; the gradients of all are added."""
    with no_grad():
        copies = [x.detach() if place is x.device else x.to_device(place) for place in devices]
    if is_grad_enabled() and x.requires_grad:
        call = Call({}, (x._layout,), tuple(y._layout for y in copies), x.device)
        attach("replicate", _REPLICATED, (x,), tuple(copies) if len(copies) > 1 else copies[0], call)
    return copies


def twin(module: Module, parameter: Callable[[Array], Array], buffer: Callable[[Array], Array] | None) -> Module:
    """A module of the same structure with `parameter(p)` and `buffer(b)` for its own; None: the very buffers.

    What is shared within the module stays shared. Attributes that a forward sets are lost with the twin.
    """
    changed: dict[int, Array] = {}
    known: dict[int, Module] = {}

    def table(own: dict[str, Any], change: Callable[[Array], Array]) -> dict[str, Any]:
        for x in own.values():
            if x is not None and id(x) not in changed:
                changed[id(x)] = change(x)
        return {name: None if x is None else changed[id(x)] for name, x in own.items()}

    def of(own: Module) -> Module:
        if id(own) not in known:
            made = known[id(own)] = object.__new__(type(own))
            made.__dict__.update(own.__dict__)
            made.__dict__["_parameters"] = table(own._parameters, parameter)
            if buffer is not None:
                made.__dict__["_buffers"] = table(own._buffers, buffer)
            made.__dict__["_modules"] = {k: None if m is None else of(m) for k, m in own._modules.items()}
        return known[id(own)]

    return of(module)


def own_copy_of(x: Array, place: Device) -> Array:
    """The values in memory of their own, on a device."""
    with no_grad():
        return ops.copy(x.detach()) if x.device is place else x.detach().to_device(place)


def replicas_of_step(module: Module, devices: Sequence[Device]) -> list[Module]:
    """Copies of a module for one step: their parameters are copies through which gradients reach the module's own.

    The first has the module's own buffers, so that running statistics move on; those of the others are thrown away.
    """
    copies = {id(p): replicate(p, devices) for p in module.parameters()}
    return [
        twin(module, lambda p, k=k: copies[id(p)][k], None if k == 0 else lambda b, d=d: own_copy_of(b, d))  # type: ignore[misc]
        for k, d in enumerate(devices)
    ]


def part_of_step(module: Module) -> Module:
    """The module with gradients of its own: its parameters share memory with the module's, buffers are copies."""
    return twin(module, lambda p: leaf(p.detach(), p.requires_grad), lambda b: own_copy_of(b, b.device))
