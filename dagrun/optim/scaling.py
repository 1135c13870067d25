"""Dynamic loss scaling, for gradients in half precision."""

from __future__ import annotations

from typing import Any

from dagrun.array import Array, asarray
from dagrun.autodiff import no_grad
from dagrun.ops import all as all_of
from dagrun.ops import float32, isfinite, logical_not, logical_or, stack, where
from dagrun.ops import max as largest
from dagrun.ops import min as least
from dagrun.optim.clipping import scale_gradients
from dagrun.optim.optimizer import ElementwiseOptimizer, Optimizer


class LossScaler:
    """Multiplies the loss, so that small gradients do not become 0 in half precision, and adapts the factor.

    Micikevicius et al., "Mixed precision training" (2018), section 3.2. A step whose gradients hold an infinity or NaN
    changes nothing, neither parameters nor state nor step counts, and `update` then multiplies the scale by
    `backoff_factor`; after `growth_interval` good steps in a row it grows by `growth_factor`. All of that is computed
    on the device: nothing waits. (Optimizers that wait anyway, such as LBFGS, make the step wait for the gradients.)

        scaler.scale(loss).backward()
        scaler.step(optimizer)          # before it, to clip: scaler.unscale_(optimizer)
        scaler.update()

        >>> import dagrun as dr
        >>> p = dr.asarray([1.0], requires_grad=True)
        >>> optimizer, scaler = dr.optim.SGD([p], lr=0.5), dr.optim.LossScaler(init_scale=4.0)
        >>> scaler.scale((p * p).sum()).backward()
        >>> scaler.step(optimizer)
        >>> p.detach(), p.grad
        (array([0.]), array([2.]))
    """

    def __init__(
        self, init_scale: float = 65536.0, growth_factor: float = 2.0, backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:  # fmt: skip
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            raise ValueError(
                f"LossScaler: init_scale {init_scale}, growth_factor {growth_factor}, backoff_factor {backoff_factor}, "
                f"growth_interval {growth_interval}; expected > 0, > 1, between 0 and 1, at least 1"
            )
        self.growth_factor, self.backoff_factor = growth_factor, backoff_factor
        self.growth_interval = growth_interval
        self._scale: Any = init_scale  # a number until the device is known, then an array
        self._good: Any = 0  # good steps in a row
        self._found: dict[Optimizer, Array] = {}  # whether its gradients, which are unscaled, hold an infinity or NaN

    def _on(self, x: Array) -> Array:
        """The scale, on the device of an array."""
        if not isinstance(self._scale, Array):
            self._scale = asarray(self._scale, dtype=float32, device=x.device)
            self._good = asarray(self._good, dtype=float32, device=x.device)
        return self._scale.to_device(x.device)

    def scale(self, loss: Array) -> Array:
        """The loss times the scale; its gradients are too large by that factor."""
        return loss * self._on(loss).astype(loss.dtype, copy=False)

    @no_grad()
    def unscale_(self, optimizer: Optimizer) -> None:
        """Divides the gradients of an optimizer's parameters by the scale; `step` does it where it was not done."""
        if optimizer in self._found:
            raise RuntimeError("LossScaler.unscale_: the gradients are unscaled already, since the last update()")
        members = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None and p.size]
        if not members:
            return
        device = members[0].device
        scale_gradients(members, 1.0 / self._on(members[0]))
        extremes = [f(p.grad).to_device(device).astype(float32, copy=False) for p in members for f in (largest, least)]
        self._found[optimizer] = logical_not(all_of(isfinite(stack(extremes))))

    def step(self, optimizer: Optimizer, closure: Any = None) -> Any:
        """A step of the optimizer with unscaled gradients, which is skipped where these are not finite."""
        if optimizer not in self._found:
            self.unscale_(optimizer)
        found = self._found.get(optimizer)
        if found is None:  # no gradients
            return optimizer.step(closure)
        if isinstance(optimizer, ElementwiseOptimizer):
            return optimizer.step_unless(found, closure)
        return None if bool(found) else optimizer.step(closure)

    @no_grad()
    def update(self) -> None:
        """Adapts the scale to what was found in the gradients since the last call."""
        if not self._found:
            raise RuntimeError("LossScaler.update: no gradients were unscaled since the last update(); call step first")
        flags = [found.to_device(self._scale.device) for found in self._found.values()]
        found = flags[0]
        for flag in flags[1:]:
            found = logical_or(found, flag)
        good = where(found, 0.0, self._good + 1.0)
        grows = good >= float(self.growth_interval)
        scale = where(grows, self._scale * self.growth_factor, self._scale)
        self._scale = where(found, self._scale * self.backoff_factor, scale)
        self._good = where(grows, 0.0, good)
        self._found = {}

    def get_scale(self) -> float:
        """The scale as a number; waits for it."""
        return float(self._scale)

    def state_dict(self) -> dict[str, Any]:
        """Scale, good steps in a row and options; waits for the scale."""
        return {
            "scale": float(self._scale),
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": int(self._good),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a `state_dict`."""
        self.growth_factor, self.backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self.growth_interval = state_dict["growth_interval"]
        self._scale, self._good = float(state_dict["scale"]), int(state_dict["_growth_tracker"])
        self._found = {}
