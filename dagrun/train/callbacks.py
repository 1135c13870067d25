"""What happens beside training: callbacks of the trainer, early stopping, checkpoints, progress."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dagrun.train.checkpoint import UNFINISHED

if TYPE_CHECKING:
    from dagrun.train.trainer import Trainer


class Callback:
    """Is called at certain moments; override what you need. `trainer.stop = True` ends training after the step."""

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Before the first step, after a resume."""

    def on_step_end(self, trainer: Trainer) -> None:
        """After each optimizer step was recorded."""

    def on_epoch_end(self, trainer: Trainer, logs: dict[str, float]) -> None:
        """After each epoch; `logs` are its measures, the last line of `trainer.history`, to which more may be added."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """At the end, also after a failure."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class EarlyStopping(Callback):
    """Ends training when a measure has not become better by more than `min_delta` for `patience` epochs.

    `monitor` is a key of the epoch's logs, `mode` "min" or "max".
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 5, min_delta: float = 0.0, mode: str = "min") -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"EarlyStopping: mode {mode!r}, expected 'min' or 'max'")
        if patience < 1:
            raise ValueError(f"EarlyStopping: patience {patience}, expected at least 1 epoch")
        self.monitor, self.patience, self.min_delta, self.mode = monitor, patience, min_delta, mode
        self.best, self.waited = math.inf, 0

    def on_epoch_end(self, trainer: Trainer, logs: dict[str, float]) -> None:
        if self.monitor not in logs:
            raise KeyError(f"EarlyStopping: no measure {self.monitor!r} in the logs, there are {sorted(logs)}")
        value = logs[self.monitor] if self.mode == "min" else -logs[self.monitor]
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        trainer.stop = trainer.stop or self.waited >= self.patience

    def on_fit_begin(self, trainer: Trainer) -> None:
        trainer.stop = trainer.stop or self.waited >= self.patience  # it had ended already when it was saved

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


class Checkpoints(Callback):
    """Saves the whole state of training into `folder` every so many epochs or steps and keeps the last `keep` files.

    It is the `checkpoints` of a trainer, which calls it after all other callbacks, so that their state is saved too.
    """

    def __init__(self, folder: str | Path, *, every_epochs: int = 1, every_steps: int = 0, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints: keep is {keep}, expected at least 1 file")
        if every_epochs < 0 or every_steps < 0 or not every_epochs + every_steps:
            raise ValueError(
                f"Checkpoints: every_epochs {every_epochs}, every_steps {every_steps}, expected one above 0, none below"
            )
        self.folder = Path(folder)
        self.every_epochs, self.every_steps, self.keep = every_epochs, every_steps, keep

    def on_fit_begin(self, trainer: Trainer) -> None:
        for left in self.folder.glob(f".step-*{UNFINISHED}"):  # of a run that was killed while it wrote
            left.unlink(missing_ok=True)

    def on_step_end(self, trainer: Trainer) -> None:
        if self.every_steps and trainer.steps % self.every_steps == 0:
            self._save(trainer)

    def on_epoch_end(self, trainer: Trainer, logs: dict[str, float]) -> None:
        if self.every_epochs and trainer.epoch % self.every_epochs == 0:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save(self.folder / f"step-{trainer.steps:09d}.safetensors")
        for old in sorted(self.folder.glob("step-*.safetensors"))[: -self.keep]:
            old.unlink(missing_ok=True)


class ProgressBar(Callback):
    """A bar with the loss of a few steps ago, so that showing it does not hold up the program."""

    LAG = 4

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: Any = None
        self._recent: list[Any] = []

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        total = trainer.steps_in_all
        self._task = self._progress.add_task("training", total=total, completed=trainer.steps, loss="...")
        self._progress.start()

    def on_step_end(self, trainer: Trainer) -> None:
        if self._progress is None:
            return
        self._recent.append(trainer.loss)
        shown: dict[str, Any] = {}
        if len(self._recent) > self.LAG:
            shown["loss"] = f"{self._recent.pop(0).item():.4f}"
        self._progress.update(self._task, advance=1, **shown)

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
