"""A small trainer: epochs, devices, validation, callbacks, and checkpoints that resume bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dagrun.array import Array
from dagrun.autodiff import no_grad
from dagrun.devices import Device, current_device
from dagrun.nn import Module
from dagrun.ops import random
from dagrun.optim import clip_grad_norm_
from dagrun.parallel.data_parallel import row_count
from dagrun.parallel.placement import move
from dagrun.parallel.replicas import Replicas
from dagrun.train.callbacks import Callback, Checkpoints, ProgressBar
from dagrun.train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from dagrun.train.metrics import Mean

Metric = Callable[[Any, Any], Array]  # (outputs, targets) -> its mean over the rows


class Trainer:
    """Trains a module on batches (inputs, targets), on one device or on several.

    `loss(outputs, targets)` gives the mean over the rows. `optimizer`: a function from parameters to an optimizer,
    such as `lambda p: dr.optim.SGD(p, lr=0.1)`; `schedule`: one from an optimizer to a learning rate schedule, stepped
    after every epoch (`schedule_by="epoch"`) or step. With several `devices` every one has a copy of the module, takes
    its part of the batch and updates its own parameters after the gradients are exchanged (`parallel.Replicas`, which
    takes `shards`, `ordered` and `reduce`).

    Further arguments: `metrics`, a dict from names to functions (outputs, targets); `callbacks`; `checkpoints`, a folder
    or a `Checkpoints` callback, from which `fit` resumes where it finds one; `clip_norm`, the largest norm of all
    gradients together; `progress`, whether a bar is shown.

        >>> import dagrun as dr
        >>> net = dr.nn.Linear(2, 1)
        >>> trainer = dr.train.Trainer(net, dr.nn.functional.mse_loss, lambda p: dr.optim.SGD(p, lr=0.1), progress=False)
        >>> x = dr.ones((4, 2), "float32")
        >>> history = trainer.fit([(x, dr.zeros((4, 1), "float32"))], epochs=20)
        >>> history[-1]["loss"] < history[0]["loss"]
        True
    """

    def __init__(
        self,
        module: Module,
        loss: Callable[[Any, Any], Array],
        optimizer: Callable[[Any], Any],
        *,
        devices: Sequence[str | Device] | None = None,
        schedule: Callable[[Any], Any] | None = None,
        schedule_by: str = "epoch",
        metrics: dict[str, Metric] | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoints: str | Path | Checkpoints | None = None,
        clip_norm: float | None = None,
        progress: bool = True,
        **exchange: Any,
    ) -> None:
        if schedule_by not in ("epoch", "step"):
            raise ValueError(f"Trainer: schedule_by {schedule_by!r}, expected 'epoch' or 'step'")
        parameters = list(module.parameters())
        first = parameters[0].device if parameters else current_device()
        self.replicas = Replicas(module, [first] if devices is None else devices, **exchange)
        self.module, self.loss_function = module, loss
        self.optimizers = [optimizer(list(copy.parameters())) for copy in self.replicas.modules]
        self.schedules = [] if schedule is None else [schedule(own) for own in self.optimizers]
        self.schedule_by, self.clip_norm = schedule_by, clip_norm
        self.metrics = dict(metrics or {})
        self.checkpoints = (
            checkpoints if isinstance(checkpoints, (Checkpoints, type(None))) else Checkpoints(checkpoints)
        )
        self.callbacks = [*callbacks, *([self.checkpoints] if self.checkpoints else [])]
        if progress:
            self.callbacks.append(ProgressBar())
        self.history: list[dict[str, float]] = []
        self.epoch, self.steps = 0, 0  # finished ones
        self.steps_in_all: int | None = None
        self.loss: Array | None = None  # of the last step
        self.stop = False
        self.after_epoch: list[Callable[[], None]] = []
        self._loader: Any = None
        self._loader_state: Any = None
        self._mean = Mean()

    def step(self, batch: Any) -> Array:
        """One optimizer step on a batch (inputs, targets); returns its mean loss without waiting for it."""
        loss = self.replicas.step(lambda net, part: self.loss_function(net(part[0]), part[1]), batch)
        for copy, own in zip(self.replicas.modules, self.optimizers, strict=True):
            if self.clip_norm is not None:
                clip_grad_norm_(list(copy.parameters()), self.clip_norm)
            own.step()
            own.zero_grad()
        self.loss = loss
        self.steps += 1
        return loss

    def fit(
        self, loader: Iterable[Any], epochs: int, validation: Iterable[Any] | None = None
    ) -> list[dict[str, float]]:
        """Trains until so many epochs are finished in all; returns one line of measures for each.

        With `checkpoints` it goes on from the newest one in the folder; with a loader that has `state_dict` also in
        the middle of an epoch.
        """
        self._loader, self.stop = loader, False
        if self.checkpoints is not None and self.steps == 0:
            newest = latest_checkpoint(self.checkpoints.folder)
            if newest is not None:
                self.load(newest)
        length = len(loader) if hasattr(loader, "__len__") else None
        self.steps_in_all = None if length is None else length * epochs
        try:
            for callback in self.callbacks:
                callback.on_fit_begin(self)
            while self.epoch < epochs and not self.stop:
                self._epoch(loader, validation)
        finally:
            for callback in self.callbacks:
                callback.on_fit_end(self)
        return self.history

    def _epoch(self, loader: Any, validation: Any) -> None:
        if self._loader_state is not None:
            loader.load_state_dict(self._loader_state)
            self._loader_state = None
        else:
            self._mean = Mean()
        for copy in self.replicas.modules:
            copy.train()
        for batch in loader:
            self._mean.add(self.step(batch), row_count(batch))
            if self.schedule_by == "step":
                for schedule in self.schedules:
                    schedule.step()
            for callback in self.callbacks:
                callback.on_step_end(self)
            if self.stop:
                break
        if self.schedule_by == "epoch":
            for schedule in self.schedules:
                schedule.step()
        self.epoch += 1
        logs = {"epoch": float(self.epoch), "loss": self._mean.value()}
        if validation is not None:
            logs |= {f"val_{name}": value for name, value in self.evaluate(validation).items()}
        for callback in self.callbacks:
            callback.on_epoch_end(self, logs)
        self.history.append(logs)
        while self.after_epoch:
            self.after_epoch.pop(0)()

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """The loss and all metrics over a loader's batches, in evaluation mode on the first device; waits for them."""
        means = {name: Mean() for name in ("loss", *self.metrics)}
        was = self.module.training
        self.module.eval()
        try:
            with no_grad():
                for batch in loader:
                    inputs, targets = move(batch, self.replicas.devices[0])
                    outputs, rows = self.module(inputs), row_count(inputs)
                    means["loss"].add(self.loss_function(outputs, targets), rows)
                    for name, metric in self.metrics.items():
                        means[name].add(metric(outputs, targets), rows)
        finally:
            self.module.train(was)
        return {name: mean.value() for name, mean in means.items()}

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        state: dict[str, Any] = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizers[0].state_dict(),
            "schedule": self.schedules[0].state_dict() if self.schedules else None,
            "generator": list(random.get_state()),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "history": self.history,
            "epoch": self.epoch,
            "steps": self.steps,
            "mean": [float(self._mean._total), self._mean._weight],
        }
        if len(self.replicas.modules) > 1:  # running statistics are each copy's own
            state["buffers"] = [dict(copy.named_buffers()) for copy in self.replicas.modules[1:]]
        if hasattr(self._loader, "state_dict"):
            state["loader"] = self._loader.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave: the run goes on as if it had never stopped."""
        for place, copy in enumerate(self.replicas.modules):
            copy.load_state_dict(state["module"])
            for name, buffer in copy.named_buffers() if place else ():
                with no_grad():
                    buffer[...] = state["buffers"][place - 1][name].to_device(buffer.device)
        for own in self.optimizers:
            own.load_state_dict(state["optimizer"])
        for schedule in self.schedules:
            schedule.load_state_dict(state["schedule"])
        random.set_state(tuple(state["generator"]))
        for callback, own in zip(self.callbacks, state["callbacks"], strict=False):
            callback.load_state_dict(own)
        self.history, self.epoch, self.steps = state["history"], state["epoch"], state["steps"]
        self._mean = Mean()
        self._mean._total, self._mean._weight = state["mean"]
        self._loader_state = state.get("loader")

    def save(self, path: str | Path) -> Path:
        """Writes a checkpoint, all of it or nothing."""
        return save_checkpoint(path, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Goes on from a checkpoint."""
        self.load_state_dict(load_checkpoint(path))


__all__ = ["Trainer"]
