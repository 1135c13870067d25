"""A small trainer: epochs, devices, validation, callbacks, and checkpoints that resume bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import Any

from dagrun.array import Array
from dagrun.autodiff import no_grad
from dagrun.devices import Device, current_device
from dagrun.nn import Module
from dagrun.ops import random
from dagrun.optim import clip_grad_norm_
from dagrun.parallel import Replicas, move, row_count
from dagrun.parallel.compression import Quantized
from dagrun.train.callbacks import Callback, Checkpoints, ProgressBar
from dagrun.train.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint
from dagrun.train.interrupts import Interrupts
from dagrun.train.metrics import Mean

Metric = Callable[[Any, Any], Array]  # (outputs, targets) -> its mean over the rows


class Trainer:
    """Trains a module on batches (inputs, targets), on one device or on several.

    `loss(outputs, targets)` gives the mean over the rows. `optimizer`: a function from parameters to an optimizer,
    such as `lambda p: dr.optim.SGD(p, lr=0.1)`; `schedule`: one from an optimizer to a learning rate schedule, stepped
    after every epoch (`schedule_by="epoch"`) or step. With several `devices` every one has a copy of the module, takes
    its part of the batch and updates its own parameters after the gradients are exchanged (`parallel.Replicas`, which
    takes `shards`, `ordered`, `reduce` and `bucket_bytes`).

    Further arguments: `metrics`, a dict from names to functions (outputs, targets) that give a mean over the rows;
    `callbacks`; `checkpoints`, a folder or a `Checkpoints`, from which `fit` resumes where it finds one; `clip_norm`,
    the largest norm of all gradients together; `progress`, whether a bar is shown.

        >>> import dagrun as dr
        >>> net, loss = dr.nn.Linear(2, 1), dr.nn.functional.mse_loss
        >>> trainer = dr.train.Trainer(net, loss, lambda p: dr.optim.SGD(p, lr=0.1), progress=False)
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
        if any(isinstance(callback, Checkpoints) for callback in callbacks):
            raise ValueError("Trainer: Checkpoints among the callbacks, expected it as checkpoints=")
        if not callable(optimizer):
            raise TypeError(
                f"Trainer: optimizer is a {type(optimizer).__name__}, expected a function that makes one for a "
                "device, such as lambda p: dr.optim.SGD(p, lr=0.1)"
            )
        first = next((p.device for p in module.parameters()), current_device())
        self.module, self.objective = module, Objective(module, loss)
        self.replicas = Replicas(self.objective, [first] if devices is None else devices, **exchange)
        self.optimizers = [optimizer(list(own.parameters())) for own in self.replicas.modules]
        self.schedules = [] if schedule is None else [schedule(own) for own in self.optimizers]
        self.schedule_by, self.clip_norm = schedule_by, clip_norm
        self.metrics = dict(metrics or {})
        self.checkpoints = Checkpoints(checkpoints) if isinstance(checkpoints, (str, Path)) else checkpoints
        self.callbacks = [*callbacks, *([ProgressBar()] if progress else [])]
        if self.checkpoints is not None:
            self.callbacks.append(self.checkpoints)
        self.history: list[dict[str, float]] = []
        self.epoch, self.steps = 0, 0  # finished ones
        self.steps_in_all: int | None = None
        self.loss: Array | None = None  # of the last step
        self.stop = False
        self._loader: Any = None
        self._loader_state: Any = None  # where the next epoch goes on in its middle
        self._mean = Mean()  # of the losses of the epoch so far

    def step(self, batch: Any) -> Array:
        """One optimizer step on a batch (inputs, targets); returns its mean loss without waiting for it."""
        loss = self.replicas.step(lambda objective, part: objective(*part), batch)
        for own, optimizer in zip(self.replicas.modules, self.optimizers, strict=True):
            if self.clip_norm is not None:
                clip_grad_norm_(list(own.parameters()), self.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        self.loss = loss
        self.steps += 1
        return loss

    def fit(
        self, loader: Iterable[Any], epochs: int, validation: Iterable[Any] | None = None
    ) -> list[dict[str, float]]:
        """Trains until so many epochs are finished in all; returns one line of measures for each.

        With `checkpoints` it goes on from the newest good one in the folder; with a loader that has `state_dict` also
        in the middle of an epoch, else with that epoch anew. Ctrl-C is raised between two steps (a second one at once),
        so that a further `fit`, or a checkpoint, goes on as if nothing had been. `stop`, set by a callback, ends it in
        the same way.
        """
        self._loader, self.stop = loader, False
        if self.checkpoints is not None and self.steps == 0:
            newest = latest_checkpoint(self.checkpoints.folder)
            if newest is not None:
                self.load(newest)
        self.steps_in_all = len(loader) * epochs if isinstance(loader, Sized) else None
        try:
            with Interrupts() as interrupts:
                for callback in self.callbacks:
                    callback.on_fit_begin(self)
                while self.epoch < epochs and not self.stop:
                    self._epoch(loader, validation, interrupts)
        finally:
            for callback in self.callbacks:
                callback.on_fit_end(self)
        return self.history

    def _epoch(self, loader: Any, validation: Any, interrupts: Interrupts) -> None:
        if self._loader_state is not None:
            loader.load_state_dict(self._loader_state)
            self._loader_state = None
        else:
            self._mean = Mean()
        for own in self.replicas.modules:
            own.train()
        try:
            for batch in loader:
                self._mean.add(self.step(batch), row_count(batch))
                if self.schedule_by == "step":
                    for schedule in self.schedules:
                        schedule.step()
                for callback in self.callbacks:
                    callback.on_step_end(self)
                interrupts.check()
                if self.stop:
                    break
        except BaseException:
            self._loader_state = self._state_of_loader()
            raise
        if self.stop:
            self._loader_state = self._state_of_loader()
            return
        _check_rows(self._mean, f"Trainer.fit: the loader gave no batch in epoch {self.epoch}")
        if self.schedule_by == "epoch":
            for schedule in self.schedules:
                schedule.step()
        self.epoch += 1
        logs = {"epoch": float(self.epoch), "loss": self._mean.value()}
        self._mean = Mean()
        if validation is not None:
            logs |= {f"val_{name}": value for name, value in self.evaluate(validation).items()}
        self.history.append(logs)
        for callback in self.callbacks:
            callback.on_epoch_end(self, logs)
        interrupts.check()

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """The loss and all metrics over a loader's batches, in evaluation mode on the first device; waits for them."""
        means = {name: Mean() for name in ("loss", *self.metrics)}
        was = self.objective.training
        self.objective.eval()
        try:
            with no_grad():
                for batch in loader:
                    inputs, targets = move(batch, self.replicas.devices[0])
                    outputs, rows = self.module(inputs), row_count(inputs)
                    means["loss"].add(self.objective.loss_of(outputs, targets), rows)
                    for name, metric in self.metrics.items():
                        means[name].add(metric(outputs, targets), rows)
        finally:
            self.objective.train(was)
        _check_rows(means["loss"], "Trainer.evaluate: the loader gave no batch")
        return {name: mean.value() for name, mean in means.items()}

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; waits for the sum of losses."""
        first, *others = self.replicas.modules
        reduce = self.replicas.reduce
        return {
            "module": first.state_dict(),
            "buffers": [dict(own.named_buffers()) for own in others],  # running statistics are each copy's own
            "optimizer": self.optimizers[0].state_dict(),
            "schedule": self.schedules[0].state_dict() if self.schedules else None,
            "exchange": reduce.state_dict() if isinstance(reduce, Quantized) else None,
            "generator": random.get_state(),
            "loader": self._state_of_loader(),
            "mean": self._mean.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "history": self.history,
            "epoch": self.epoch,
            "steps": self.steps,
        }

    def _state_of_loader(self) -> Any:
        if self._loader_state is not None:  # it has not gone on there yet
            return self._loader_state
        return self._loader.state_dict() if hasattr(self._loader, "state_dict") else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave: the run goes on as if it had never stopped.

        ValueError where the state is of a trainer with other devices, callbacks or schedules.
        """
        here = [len(self.replicas.modules) - 1, bool(self.schedules), len(self.callbacks)]
        there = [len(state["buffers"]), state["schedule"] is not None, len(state["callbacks"])]
        for what, expected, given in zip(
            ("devices besides the first", "a schedule", "callbacks"), here, there, strict=True
        ):
            if expected != given:
                raise ValueError(f"Trainer: the state is of one with {what}: {given}, expected {expected}")
        for own in self.replicas.modules:
            own.load_state_dict(state["module"])
        with no_grad():
            for own, buffers in zip(self.replicas.modules[1:], state["buffers"], strict=True):
                for name, buffer in own.named_buffers():
                    buffer[...] = buffers[name].to_device(buffer.device)
        for optimizer in self.optimizers:
            optimizer.load_state_dict(state["optimizer"])
        for schedule in self.schedules:
            schedule.load_state_dict(state["schedule"])
        if isinstance(self.replicas.reduce, Quantized) and state["exchange"] is not None:
            self.replicas.reduce.load_state_dict(state["exchange"])
        random.set_state(state["generator"])
        for callback, own_state in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(own_state)
        self.history, self.epoch, self.steps = state["history"], state["epoch"], state["steps"]
        self._mean = Mean()
        self._mean.load_state_dict(state["mean"])
        self._loader_state = state["loader"]

    def save(self, path: str | Path) -> Path:
        """Writes a checkpoint, all of it or nothing."""
        return save_checkpoint(path, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Goes on from a checkpoint; CheckpointError where it is of another module."""
        state = load_checkpoint(path)
        try:
            self.load_state_dict(state)
        except RuntimeError as error:  # what `Module.load_state_dict` raises
            raise CheckpointError(f"{path} is of another module: {error}") from error


def _check_rows(mean: Mean, what: str) -> None:
    if not mean.weight:  # a mean of nothing would be NaN, and pass for a loss
        raise ValueError(f"{what}, expected at least one row; a generator can be iterated over only once")


class Objective(Module):
    """A module and its loss, of inputs and targets. The loss may be a module, too, with arrays and parameters."""

    def __init__(self, module: Module, loss: Callable[[Any, Any], Array]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, inputs: Any, targets: Any) -> Array:
        return self.loss_of(self.module(inputs), targets)

    def loss_of(self, outputs: Any, targets: Any) -> Array:
        """The loss, where the outputs are: with layers on several devices on the last of them."""
        if isinstance(outputs, Array):
            targets = move(targets, outputs.device)
        return self.loss(outputs, targets)


__all__ = ["Trainer"]
