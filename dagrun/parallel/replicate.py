"""Copies of a module on several devices: of one step, through which gradients flow, or with parameters of their own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.autodiff import is_grad_enabled, no_grad
from dagrun.devices import Device
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


def shells(module: Any, count: int) -> list[Any]:
    """Modules of the same structure whose parameters and buffers may be replaced without touching the original's."""
    made: list[Any] = []
    for _ in range(count):
        known: dict[int, Any] = {}

        def shell(own: Any, known: dict[int, Any] = known) -> Any:
            if id(own) not in known:
                twin = known[id(own)] = copy.copy(own)
                twin.__dict__ = dict(own.__dict__)
                for name in ("_parameters", "_buffers"):
                    twin.__dict__[name] = dict(own.__dict__[name])
                twin.__dict__["_modules"] = {
                    name: None if child is None else shell(child) for name, child in own._modules.items()
                }
            return known[id(own)]

        made.append(shell(module))
    return made


def replicas_of_step(module: Any, devices: Sequence[Device]) -> list[Any]:
    """Copies of a module for one step: their parameters are copies through which gradients reach the module's own.

    The first copy has the module's own buffers, so that running statistics move on.
    """
    made = shells(module, len(devices))
    copies: dict[int, list[Array]] = {}
    layers = [list(twin.modules()) for twin in made]
    for place, own in enumerate(module.modules()):
        for name, parameter in own._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in copies:
                copies[id(parameter)] = replicate(parameter, devices)
            for k, copied in enumerate(copies[id(parameter)]):
                layers[k][place]._parameters[name] = copied
        for name, buffer in own._buffers.items():
            for k in range(1, len(made)):
                if buffer is not None:
                    moved = buffer.to_device(devices[k])
                    layers[k][place]._buffers[name] = ops.copy(moved) if moved is buffer else moved
    return made


def own_copy(module: Any, device: Device) -> Any:
    """A module of the same structure with parameters and buffers of its own, on a device."""
    (twin,) = shells(module, 1)
    known: dict[int, Array] = {}
    with no_grad():
        for own in twin.modules():
            for table in (own._parameters, own._buffers):
                for name, x in table.items():
                    if x is None:
                        continue
                    if id(x) not in known:
                        known[id(x)] = ops.copy(x.detach()) if x.device is device else x.detach().to_device(device)
                        known[id(x)].requires_grad = x.requires_grad
                    table[name] = known[id(x)]
    return twin
