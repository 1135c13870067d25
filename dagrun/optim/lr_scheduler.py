"""Learning rate schedules: each is one closed formula for the rate in epoch (or step) t, counted from 0.

    scheduler = dr.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    for epoch in range(100):
        train(); scheduler.step()

Names, arguments and values are PyTorch's, except that a rate never depends on what "lr" of a group was set to in
between: change `base_lrs` instead. `ChainedScheduler` composes formulas, `SequentialLR` puts them one after another.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from dagrun.optim.optimizer import Optimizer


class LRScheduler:
    """The base of all schedules. `step()` after each epoch sets the "lr" of the optimizer's groups.

    The constructor sets the rates of epoch `last_epoch` + 1. To go on with a run, load the optimizer's and the
    scheduler's `state_dict`; with `last_epoch` alone the groups must hold "initial_lr".
    """

    _schedulers: Sequence[LRScheduler] = ()  # what it is combined of

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: optimizer is a {type(optimizer).__name__}, expected an Optimizer")
        self.optimizer = optimizer
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f'{type(self).__name__}: last_epoch is {last_epoch}, but group {number} has no "initial_lr"'
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch: float = last_epoch
        self._last_lr: list[float] = []
        self.step()

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        """The formula: the learning rate of a group (its number) in an epoch."""
        raise NotImplementedError

    def momentum(self, epoch: float, group: int) -> float | None:
        """The momentum of a group in an epoch; None: left as it is."""
        return None

    def step(self, epoch: float | None = None) -> None:
        """Goes on to the next epoch, or to the one given, and sets the groups' rates."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._set()

    def _set(self) -> None:
        self._last_lr = []
        for number, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.rate(self.base_lrs[number], self.last_epoch, number)
            self._last_lr.append(group["lr"])
            momentum = self.momentum(self.last_epoch, number)
            if momentum is not None and "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif momentum is not None:
                group["momentum"] = momentum

    def get_last_lr(self) -> list[float]:
        """The rates that were set last, one for each group."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions."""
        state: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name == "_schedulers":
                state[name] = [scheduler.state_dict() for scheduler in value]
            elif name not in ("optimizer", "lr_lambdas", "scale_fn"):
                state[name] = value
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a `state_dict`."""
        state = dict(state_dict)
        for scheduler, inner in zip(self._schedulers, state.pop("_schedulers", ()), strict=True):
            scheduler.load_state_dict(inner)
        vars(self).update(state)


def _at_least(name: str, what: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name}: {what} is {value}, expected at least {least}")


def _for_each_group(name: str, what: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """One value for each group, from one for all or a sequence."""
    count = len(optimizer.param_groups)
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name}: {len(values)} {what}, expected {count}, one for each group")
    return values


def _check_momentum(name: str, optimizer: Optimizer) -> None:
    if not all("betas" in group or "momentum" in group for group in optimizer.param_groups):
        raise ValueError(f"{name}: cycle_momentum=True, but the optimizer has neither momentum nor betas")


class LambdaLR(LRScheduler):
    """lr = base f(t), with a function or one for each group."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[float], float] | Sequence[Callable[[float], float]],
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        self.lr_lambdas = _for_each_group("LambdaLR", "functions", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        return float(base_lr * self.lr_lambdas[group](epoch))


class MultiplicativeLR(LRScheduler):
    """lr = base f(1) f(2) ... f(t), with a function or one for each group."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[float], float] | Sequence[Callable[[float], float]],
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        self.lr_lambdas = _for_each_group("MultiplicativeLR", "functions", lr_lambda, optimizer)
        self._products = [(0, 1.0)] * len(self.lr_lambdas)  # of the last epoch that was asked for
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        done, product = self._products[group]
        if epoch < done:
            done, product = 0, 1.0
        for number in range(done + 1, int(epoch) + 1):
            product *= self.lr_lambdas[group](number)
        self._products[group] = (int(epoch), product)
        return float(base_lr * product)


class ConstantLR(LRScheduler):
    """lr = base factor for t < total_iters, then base."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        return base_lr * self.factor if epoch < self.total_iters else base_lr


class TimeBasedDecay(LRScheduler):
    """lr = base / (1 + k t) (Robbins and Monro, "A stochastic approximation method", 1951)."""

    def __init__(self, optimizer: Optimizer, k: float, last_epoch: int = -1) -> None:
        _at_least("TimeBasedDecay", "k", k, 0)
        self.k = k
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        return base_lr / (1 + self.k * epoch)


class StepLR(LRScheduler):
    """lr = base gamma^floor(t / step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        _at_least("StepLR", "step_size", step_size, 1)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        return base_lr * self.gamma ** (epoch // self.step_size)


class MultiStepLR(LRScheduler):
    """lr = base gamma^(number of milestones <= t)."""

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        return base_lr * self.gamma ** bisect_right(self.milestones, epoch)


class ExponentialLR(LRScheduler):
    """lr = base gamma^t."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        return base_lr * self.gamma**epoch


class LinearLR(LRScheduler):
    """Linear warm-up: lr = base (start_factor + (end_factor - start_factor) min(t, total_iters) / total_iters)."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        _at_least("LinearLR", "total_iters", total_iters, 1)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        done = min(epoch, self.total_iters) / self.total_iters
        return base_lr * (self.start_factor + (self.end_factor - self.start_factor) * done)


class PolynomialLR(LRScheduler):
    """lr = base (1 - min(t, total_iters) / total_iters)^power."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        _at_least("PolynomialLR", "total_iters", total_iters, 1)
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        return float(base_lr * (1 - min(epoch, self.total_iters) / self.total_iters) ** self.power)


def _cosine(start: float, end: float, share: float) -> float:
    """From start (share 0) to end (share 1) on half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (base - eta_min) (1 + cos(pi t / T_max)) / 2; after T_max it rises again.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017), equation 5 without restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        _at_least("CosineAnnealingLR", "T_max", T_max, 1)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        return _cosine(base_lr, self.eta_min, epoch / self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """SGDR: cosines of T_0, T_0 T_mult, T_0 T_mult^2, ... epochs, each from base down to eta_min.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017), equation 5. `step(epoch)` may
    be called with fractions of epochs.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:  # fmt: skip
        _at_least("CosineAnnealingWarmRestarts", "T_0", T_0, 1)
        _at_least("CosineAnnealingWarmRestarts", "T_mult", T_mult, 1)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        length = self.T_0
        if self.T_mult == 1:
            epoch = epoch % length
        while epoch >= length:
            epoch -= length
            length *= self.T_mult
        return _cosine(base_lr, self.eta_min, epoch / length)


class CosineWarmup(LRScheduler):
    """Linear from 0 to base in `warmup_steps`, then half a cosine down to `min_lr` at `total_steps`, and so on there.

    lr = base t / warmup_steps for t < warmup_steps (Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2),
    then min_lr + (base - min_lr) (1 + cos(pi (t - warmup_steps) / (total_steps - warmup_steps))) / 2.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int, total_steps: int, min_lr: float = 0.0, last_epoch: int = -1
    ) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"CosineWarmup: warmup_steps {warmup_steps} of total_steps {total_steps}, expected 0 <= warmup < total"
            )
        self.warmup_steps, self.total_steps, self.min_lr = warmup_steps, total_steps, min_lr
        super().__init__(optimizer, last_epoch)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        if epoch < self.warmup_steps:
            return base_lr * epoch / self.warmup_steps
        share = (min(epoch, self.total_steps) - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return _cosine(base_lr, self.min_lr, share)


class CyclicLR(LRScheduler):
    """lr goes up from base_lr to max_lr in `step_size_up` steps and down again in `step_size_down` (as many if None).

    Smith, "Cyclical learning rates for training neural networks" (2017). The height of cycle n, from 1 on, is that of
    the first ("triangular"), half of the one before ("triangular2"), or shrinks in each step by `gamma` ("exp_range");
    `scale_fn`, of n or with `scale_mode` "iterations" of the step, replaces that. With `cycle_momentum` the momentum
    (or betas[0]) goes the opposite way, from max_momentum to base_momentum and back. Call `step` after each batch.
    """

    def __init__(
        self, optimizer: Optimizer, base_lr: float | Sequence[float], max_lr: float | Sequence[float],
        step_size_up: int = 2000, step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle", cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.8, max_momentum: float | Sequence[float] = 0.9, last_epoch: int = -1,
    ) -> None:  # fmt: skip
        name = "CyclicLR"
        if mode not in ("triangular", "triangular2", "exp_range") or scale_mode not in ("cycle", "iterations"):
            raise ValueError(
                f"{name}: mode {mode!r} and scale_mode {scale_mode!r}, expected 'triangular', 'triangular2' or "
                "'exp_range', and 'cycle' or 'iterations'"
            )
        if cycle_momentum:
            _check_momentum(name, optimizer)
        self.step_size_up = float(step_size_up)
        self.step_size_down = float(step_size_up if step_size_down is None else step_size_down)
        _at_least(name, "the smaller step size", min(self.step_size_up, self.step_size_down), 1)
        self.mode, self.gamma, self.scale_fn, self.scale_mode = mode, gamma, scale_fn, scale_mode
        self.cycle_momentum = cycle_momentum
        self.max_lrs = _for_each_group(name, "rates in max_lr", max_lr, optimizer)
        self.base_momentums = _for_each_group(name, "values in base_momentum", base_momentum, optimizer)
        self.max_momentums = _for_each_group(name, "values in max_momentum", max_momentum, optimizer)
        if last_epoch == -1:
            rates = _for_each_group(name, "rates in base_lr", base_lr, optimizer)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["initial_lr"] = rate
        super().__init__(optimizer, last_epoch)

    def _height(self, epoch: float) -> float:
        """How far up the way is, in an epoch, as a share of the first cycle's."""
        length = self.step_size_up + self.step_size_down
        cycle = math.floor(1 + epoch / length)
        place, peak = 1.0 + epoch / length - cycle, self.step_size_up / length
        share = place / peak if place <= peak else (place - 1) / (peak - 1)
        if self.scale_fn is not None:
            return share * self.scale_fn(cycle if self.scale_mode == "cycle" else epoch)
        if self.mode == "exp_range":
            return float(share * self.gamma**epoch)
        return share if self.mode == "triangular" else share / 2.0 ** (cycle - 1)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        return float(base_lr + (self.max_lrs[group] - base_lr) * self._height(epoch))

    def momentum(self, epoch: float, group: int) -> float | None:
        if not self.cycle_momentum:
            return None
        highest: float = self.max_momentums[group]
        return highest - (highest - self.base_momentums[group]) * self._height(epoch)


class OneCycleLR(LRScheduler):
    """One cycle: from max_lr / div_factor up to max_lr, then down to max_lr / div_factor / final_div_factor.

    Smith and Topin, "Super-convergence: very fast training of neural networks using large learning rates" (2018). The
    way up takes `pct_start` of the steps; with `three_phase` the way back down to the start takes as many, and the rest
    goes to the end. With `cycle_momentum` the momentum (or betas[0]) goes the opposite way, max -> base -> max.
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int | None = None,
        epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: float = 0.85,
        max_momentum: float = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4,
        three_phase: bool = False, last_epoch: int = -1,
    ) -> None:  # fmt: skip
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: expected total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        _at_least("OneCycleLR", "total_steps", total_steps, 1)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start is {pct_start}, expected 0 <= pct_start <= 1")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy is {anneal_strategy!r}, expected 'cos' or 'linear'")
        groups = optimizer.param_groups
        if cycle_momentum:
            _check_momentum("OneCycleLR", optimizer)
        highest = [float(x) for x in _for_each_group("OneCycleLR", "rates in max_lr", max_lr, optimizer)]
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        self.base_momentum, self.max_momentum = base_momentum, max_momentum
        self.max_lrs, self.div_factor, self.final_div_factor = highest, div_factor, final_div_factor
        up = pct_start * total_steps - 1
        # The phases: their last step, and where rate and momentum go in them (places in the list of `_along`).
        self.phases = [(up, 1), (2 * up, 0), (total_steps - 1, 2)] if three_phase else [(up, 1), (total_steps - 1, 2)]
        if last_epoch == -1:
            for group, rate in zip(groups, highest, strict=True):
                group["initial_lr"] = rate / div_factor
        super().__init__(optimizer, last_epoch)

    def _along(self, epoch: float, values: tuple[float, float, float]) -> float:
        """The value in an epoch of what goes through (start, peak, end)."""
        if epoch > self.total_steps:
            raise ValueError(f"OneCycleLR: step {epoch}, expected at most total_steps = {self.total_steps}")
        begin, start = 0.0, values[0]
        for end, place in self.phases:
            if epoch <= end or end == self.phases[-1][0]:
                share = (epoch - begin) / (end - begin) if end != begin else 1.0
                if self.anneal_strategy == "cos":
                    return _cosine(start, values[place], share)
                return start + (values[place] - start) * share
            begin, start = end, values[place]
        raise AssertionError("the last phase ends the cycle")

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        start = self.max_lrs[group] / self.div_factor
        return self._along(epoch, (start, self.max_lrs[group], start / self.final_div_factor))

    def momentum(self, epoch: float, group: int) -> float | None:
        if not self.cycle_momentum:
            return None
        return self._along(epoch, (self.max_momentum, self.base_momentum, self.max_momentum))


class ChainedScheduler(LRScheduler):
    """Several schedules at once: each takes what the one before gives as its base rate."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        self._schedulers = _of_one_optimizer("ChainedScheduler", schedulers, optimizer)
        super().__init__(schedulers[0].optimizer)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        for scheduler in self._schedulers:
            base_lr = scheduler.rate(base_lr, epoch, group)
        return base_lr

    def momentum(self, epoch: float, group: int) -> float | None:
        found = [scheduler.momentum(epoch, group) for scheduler in self._schedulers]
        return next((momentum for momentum in reversed(found) if momentum is not None), None)


class SequentialLR(LRScheduler):
    """One schedule after another: schedule i from milestones[i - 1] on, where its own epochs begin with 0."""

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        self._schedulers = _of_one_optimizer("SequentialLR", schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1 or sorted(milestones) != list(milestones):
            raise ValueError(
                f"SequentialLR: milestones {list(milestones)} for {len(schedulers)} schedulers, expected "
                f"{len(schedulers) - 1} in ascending order"
            )
        self._milestones = list(milestones)
        super().__init__(optimizer, last_epoch)

    def _at(self, epoch: float) -> tuple[LRScheduler, float]:
        index = bisect_right(self._milestones, epoch)
        return self._schedulers[index], epoch - (self._milestones[index - 1] if index else 0)

    def rate(self, base_lr: float, epoch: float, group: int) -> float:
        scheduler, own = self._at(epoch)
        return scheduler.rate(base_lr, own, group)

    def momentum(self, epoch: float, group: int) -> float | None:
        scheduler, own = self._at(epoch)
        return scheduler.momentum(own, group)


def _of_one_optimizer(name: str, schedulers: Sequence[Any], optimizer: Optimizer | None) -> list[LRScheduler]:
    if not schedulers:
        raise ValueError(f"{name}: no schedulers, expected at least one")
    for scheduler in schedulers:
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(f"{name}: cannot combine a {type(scheduler).__name__}, which is no function of the epoch")
        if scheduler.optimizer is not (optimizer or schedulers[0].optimizer):
            raise ValueError(f"{name}: the schedulers belong to different optimizers, expected one")
    return list(schedulers)


class ReduceLROnPlateau:
    """lr <- max(lr factor, min_lr) when a metric has not improved for more than `patience` epochs.

    `step(metric)` after each epoch; an array is waited for. `mode` "min": better is below best (1 - threshold), with
    `threshold_mode` "abs" below best - threshold; "max": above. For `cooldown` epochs after a reduction bad epochs do
    not count.
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
        threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        if not factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor is {factor}, expected below 1")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceLROnPlateau: mode {mode!r} and threshold_mode {threshold_mode!r}, expected 'min' or 'max', "
                "'rel' or 'abs'"
            )
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        count = len(optimizer.param_groups)
        self.min_lrs = [float(x) for x in min_lr] if isinstance(min_lr, Sequence) else [float(min_lr)] * count
        if len(self.min_lrs) != count:
            raise ValueError(f"ReduceLROnPlateau: {len(self.min_lrs)} rates in min_lr, expected {count}")
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs, self.cooldown_counter, self.last_epoch = 0, 0, 0

    def step(self, metrics: Any, epoch: int | None = None) -> None:
        """Looks at the metric of an epoch; waits for it."""
        value = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                lower = max(group["lr"] * self.factor, least)
                if group["lr"] - lower > self.eps:
                    group["lr"] = lower
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        margin = self.threshold
        if self.threshold_mode == "rel":
            return value * sign > self.best * (1 + sign * margin) * sign
        return value * sign > (self.best + sign * margin) * sign

    def get_last_lr(self) -> list[float]:
        """The rates of the groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a `state_dict`."""
        vars(self).update(state_dict)


__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CosineWarmup",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "TimeBasedDecay",
]
