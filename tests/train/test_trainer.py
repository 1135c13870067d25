"""The trainer: runs on several devices, schedules, callbacks, early stopping, what an interruption leaves."""

from __future__ import annotations

import doctest
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training import assert_close, batch, bits, mlp, weights

import dagrun as dr
from dagrun import data, nn, optim
from dagrun.parallel import OnDevice, SyncBatchNorm
from dagrun.parallel.compression import Quantized, half
from dagrun.train import Callback, CheckpointError, Checkpoints, EarlyStopping, Trainer, accuracy

mse = nn.functional.mse_loss


def sgd(parameters: Any) -> optim.Optimizer:
    return optim.SGD(parameters, lr=0.1, momentum=0.9)


def loader(rows: int = 22, **options: Any) -> data.DataLoader:
    x, y = batch(rows)
    return data.DataLoader(data.ArrayDataset(x.numpy(), y.numpy()), **{"batch_size": 4, "shuffle": True, **options})


def make(net: nn.Module | None = None, **options: Any) -> Trainer:
    return Trainer(mlp() if net is None else net, mse, options.pop("optimizer", sgd), progress=False, **options)


@pytest.mark.parametrize("kind", ["cpu", "sim"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_several_devices_make_the_run_of_one(count: int, kind: str) -> None:
    plain = make()
    history = plain.fit(loader(), 2)
    trainer = make(devices=[f"{kind}:{k}" for k in range(count)])
    found = trainer.fit(loader(), 2)
    assert_close(plain.module, trainer.module)
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in history], rel=1e-5)
    assert trainer.steps == 12 and trainer.epoch == 2


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_asynchronous_is_serial_bit_for_bit(kind: str) -> None:
    def run() -> bytes:
        dr.random.seed(0)
        net = SyncBatchNorm.convert(mlp(norm=True))
        trainer = make(
            nn.Sequential(net, Noise()),
            devices=[f"{kind}:0", f"{kind}:1"],
            optimizer=partial(optim.Adam, lr=0.01),
            clip_norm=1.0,
            schedule=lambda o: optim.lr_scheduler.CosineAnnealingLR(o, T_max=3),
        )
        history = trainer.fit(loader(num_workers=2), 3, validation=loader(shuffle=False))
        return bits(trainer.module) + repr(history).encode()

    with dr.engine("serial"):
        serial = run()
    assert run() == serial


class Noise(nn.Module):
    """Draws from the default generator in training, as dropout does."""

    def forward(self, x: dr.Array) -> dr.Array:
        if not self.training:
            return x
        return x * (dr.random.uniform(size=x.shape, device=x.device) > 0.2).astype(x.dtype)


def test_low_precision_exchange() -> None:
    runs = {}
    for name, reduce in (("plain", None), ("half", half()), ("8 bits", Quantized(8))):
        trainer = make(devices=["cpu:0", "cpu:1"], reduce=reduce)
        runs[name] = trainer.fit(loader(), 6)[-1]["loss"]
    assert runs["half"] == pytest.approx(runs["plain"], rel=0.02)
    assert runs["8 bits"] == pytest.approx(runs["plain"], rel=0.05)


def test_layers_on_several_devices() -> None:
    def net(*places: str) -> nn.Module:
        return weights(nn.Sequential(*map(OnDevice, (nn.Linear(4, 8), nn.Linear(8, 3)), places)))

    placed = make(net("cpu:0", "cpu:1"))
    placed.fit(loader(), 1, validation=loader())
    assert placed.module[1].module.weight.device is dr.device("cpu:1")
    one = make(net("cpu:0", "cpu:0"))
    one.fit(loader(), 1)
    assert bits(one.module) == bits(placed.module)


class Weighted(nn.Module):
    """A loss with an array of its own, which has to be on every device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", dr.asarray([1.0, 2.0, 3.0], "float32"))

    def forward(self, outputs: dr.Array, targets: dr.Array) -> dr.Array:
        return ((outputs - targets) ** 2 * self.weight).mean()


def test_losses_that_are_modules() -> None:
    nets = []
    for devices in (["cpu:0"], ["cpu:0", "cpu:1"]):
        trainer = Trainer(mlp(), Weighted(), sgd, devices=devices, progress=False)
        trainer.fit(loader(), 1, validation=loader())
        nets.append(trainer.module)
    assert_close(*nets)


@pytest.mark.parametrize("by", ["epoch", "step"])
def test_schedules_are_stepped_on_every_device(by: str) -> None:
    trainer = make(
        devices=["cpu:0", "cpu:1"], schedule=lambda o: optim.lr_scheduler.ExponentialLR(o, 0.5), schedule_by=by
    )
    trainer.fit(loader(), 2)
    expected = 0.1 * 0.5 ** (2 if by == "epoch" else 12)
    assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == pytest.approx([expected] * 2)


def test_validation_with_metrics() -> None:
    x, targets = batch(30)[0], np.arange(30) % 3
    net = mlp()
    rows = data.ArrayDataset(x.numpy(), targets)
    trainer = Trainer(
        net, lambda z, t: -(z * dr.asarray(np.eye(3, dtype="float32"))[t]).mean(), sgd,
        metrics={"accuracy": accuracy}, progress=False,
    )  # fmt: skip
    measures = trainer.evaluate(data.DataLoader(rows, batch_size=7))
    scores = net(x).detach().numpy()
    assert measures["accuracy"] == pytest.approx(np.mean(scores.argmax(1) == targets))
    assert measures["loss"] == pytest.approx(-(scores * np.eye(3)[targets]).mean(), rel=1e-5)
    assert net.training
    (line,) = trainer.fit(data.DataLoader(rows, batch_size=7), 1, validation=data.DataLoader(rows, batch_size=7))
    assert list(line) == ["epoch", "loss", "val_loss", "val_accuracy"]


class Script(Callback):
    """Gives the epochs measures that are known beforehand."""

    def __init__(self, *given: float) -> None:
        self.given = given

    def on_epoch_end(self, trainer: Trainer, logs: dict[str, float]) -> None:
        logs["val_loss"] = self.given[trainer.epoch - 1]


@pytest.mark.parametrize(
    ("measures", "options", "epochs"),
    [
        ((5, 4, 3, 2, 1, 0), {}, 6),
        ((5, 4, 4, 4, 1, 0), {"patience": 2}, 4),
        ((5, 4, 4, 3.5, 3.5, 3.5), {"patience": 2}, 6),
        ((5, 4.95, 4.9, 1, 1, 1), {"patience": 2, "min_delta": 0.2}, 3),
        ((1, 2, 3, 2, 2, 2), {"patience": 2, "mode": "max"}, 5),
        ((float("nan"), 1, float("nan"), float("nan"), 0, 0), {"patience": 2}, 4),
    ],
)
def test_early_stopping(measures: Any, options: dict[str, Any], epochs: int, tmp_path: Path) -> None:
    def run() -> Trainer:
        trainer = make(callbacks=[Script(*measures), EarlyStopping(**{"patience": 1, **options})], checkpoints=tmp_path)
        trainer.fit(loader(8), 6)
        return trainer

    first = run()
    assert first.epoch == epochs and len(first.history) == epochs
    again = run()  # resumes where it had ended: nothing is trained beyond
    assert again.epoch == epochs and bits(again.module) == bits(first.module)


def test_early_stopping_of_what_is_not_there() -> None:
    with pytest.raises(KeyError, match="no measure 'val_loss' in the logs, there are"):
        make(callbacks=[EarlyStopping()]).fit(loader(8), 1)
    with pytest.raises(ValueError, match="mode 'least'"):
        EarlyStopping(mode="least")
    with pytest.raises(ValueError, match="patience 0"):
        EarlyStopping(patience=0)


# ---- interruptions


class AtStep(Callback):
    """Calls something after a step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.steps == self.step:
            self.action(trainer)


@pytest.mark.parametrize("step", [1, 3, 5, 6, 7, 12])
@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_and_going_on_is_the_run_that_never_stopped(step: int, workers: int) -> None:
    whole = make()
    expected = whole.fit(loader(num_workers=workers), 2)
    trainer = make(callbacks=[AtStep(step, lambda t: setattr(t, "stop", True))])
    batches = loader(num_workers=workers)
    trainer.fit(batches, 2)
    assert trainer.steps == step
    assert trainer.fit(batches, 2) == expected
    assert bits(trainer.module) == bits(whole.module)


def test_ctrl_c_comes_between_two_steps() -> None:
    whole = make(devices=["cpu:0", "cpu:1"])
    expected = whole.fit(loader(), 2)

    class Pressed(nn.Module):
        """Ctrl-C while the fourth step's forward is recorded."""

        calls = 0

        def forward(self, x: dr.Array) -> dr.Array:
            type(self).calls += 1
            if type(self).calls == 7:
                os.kill(os.getpid(), signal.SIGINT)
            return x

    trainer = make(nn.Sequential(Pressed(), *mlp()), devices=["cpu:0", "cpu:1"])
    batches = loader()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(batches, 2)
    assert trainer.steps == 4  # it was finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len({bits(own) for own in trainer.replicas.modules}) == 1
    assert trainer.fit(batches, 2) == expected
    assert bits(trainer.module) == bits(whole.module)


def test_a_second_ctrl_c_stops_at_once() -> None:
    def press(trainer: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not stopped")

    with pytest.raises(KeyboardInterrupt):
        make(callbacks=[AtStep(2, press)]).fit(loader(), 1)


def test_an_epoch_without_batches_is_an_error() -> None:
    batches = list(loader())
    with pytest.raises(ValueError, match="no batch in epoch 0"):
        make().fit([], 1)
    trainer = make()
    with pytest.raises(ValueError, match="no batch in epoch 1, expected"):
        trainer.fit((batch for batch in batches), 2)
    assert [line["epoch"] for line in trainer.history] == [1]
    with pytest.raises(ValueError, match="evaluate: the loader gave no batch"):
        make().fit(batches, 2, (batch for batch in batches))


def test_a_loss_that_fails_names_the_line() -> None:
    def wrong(outputs: dr.Array, targets: dr.Array) -> dr.Array:
        return mse(outputs, targets[:, :2])  # this line

    trainer = make(devices=["cpu:0", "cpu:1"])
    trainer.objective.loss = trainer.replicas.modules[1].loss = wrong
    with pytest.raises(ValueError) as info:
        trainer.fit(loader(), 1)
    assert any("this line" in str(entry.statement) for entry in info.traceback)
    assert trainer.steps == 0

    @dr.custom_op(grad=lambda g, x: (g,))
    def broken(x: np.ndarray) -> np.ndarray:
        raise ArithmeticError("no loss")

    trainer.objective.loss = trainer.replicas.modules[1].loss = lambda z, t: broken(z).sum()  # that line
    with pytest.raises(ArithmeticError) as info:
        trainer.fit(loader(), 1)
    text = f"{info.value} {getattr(info.value, '__notes__', '')}"
    assert re.search(r"test_trainer\.py", text) and "broken" in text
    with pytest.raises(ArithmeticError):
        dr.wait()


# ---- state


STATES = {
    "plain": {},
    "two devices": {"devices": ["cpu:0", "cpu:1"]},
    "all at once": {
        "devices": ["cpu:0", "cpu:1"],
        "optimizer": partial(optim.Adam, lr=0.01),
        "schedule": lambda o: optim.lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=5),
        "schedule_by": "step",
        "clip_norm": 0.5,
        "reduce": "quantized",
    },
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("stop", [1, 4, 6, 9])
def test_a_resumed_run_has_the_bits_of_the_whole_one(name: str, stop: int, tmp_path: Path) -> None:
    """In the middle of an epoch, at its end, from another process' point of view: all state goes through the file."""

    def trainer(checkpoints: Any = None, callbacks: Any = ()) -> Trainer:
        options = dict(STATES[name])
        if options.get("reduce"):
            options["reduce"] = Quantized(2)
        norm = mlp(norm=True)
        if name == "all at once":
            norm = SyncBatchNorm.convert(norm)  # else every copy has running statistics of its own
        return make(nn.Sequential(norm, Noise()), checkpoints=checkpoints, callbacks=callbacks, **options)

    def batches() -> data.DataLoader:
        return loader(24, num_workers=2, seed=5)

    dr.random.seed(1)
    whole = trainer()
    expected = whole.fit(batches(), 3)
    dr.random.seed(1)
    with pytest.raises(MemoryError):
        trainer(Checkpoints(tmp_path, every_steps=1, keep=2), [Dies(stop)]).fit(batches(), 3)
    dr.random.seed(99)  # another process
    resumed = trainer(Checkpoints(tmp_path, every_steps=1, keep=2), [Dies(10**9)])
    assert resumed.fit(batches(), 3) == expected
    for own, other in zip(resumed.replicas.modules, whole.replicas.modules, strict=True):
        assert bits(own) == bits(other)
    assert len(list(tmp_path.iterdir())) == 2


class Dies(Callback):
    """Fails before the checkpoint of a step is written: that of the step before is the newest."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.steps == self.step + 1:
            raise MemoryError


def test_a_loader_without_state_begins_its_epoch_anew(tmp_path: Path) -> None:
    batches = [batch(4, seed) for seed in range(5)]
    folder = Checkpoints(tmp_path, every_steps=1)
    with pytest.raises(MemoryError):
        make(checkpoints=folder, callbacks=[Dies(7)]).fit(batches, 2)
    trainer = make(checkpoints=folder, callbacks=[Dies(10**9)])
    trainer.fit(batches, 2)
    assert trainer.epoch == 2 and trainer.steps == 7 + 5


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    expected = make(checkpoints=tmp_path).fit(loader(), 3)
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == [f"step-{n:09d}.safetensors" for n in (6, 12, 18)]
    files[-1].write_bytes(files[-1].read_bytes()[:-9])
    (tmp_path / ".step-000000018.safetensors.1.part").write_bytes(b"half")
    trainer = make(checkpoints=tmp_path)
    assert trainer.fit(loader(), 3) == expected
    assert sorted(f.name for f in tmp_path.iterdir()) == [f.name for f in files]


def test_states_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = make().save(tmp_path / "a")
    with pytest.raises(ValueError, match="devices besides the first: 0, expected 1"):
        make(devices=["cpu:0", "cpu:1"]).load(path)
    with pytest.raises(ValueError, match="callbacks: 0, expected 1"):
        make(callbacks=[Callback()]).load(path)
    with pytest.raises(CheckpointError, match=r"is of another module: .*has shape"):
        make(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))).load(path)
    with pytest.raises(ValueError, match="schedule_by 'hour'"):
        make(schedule_by="hour")
    net = nn.Linear(2, 1)
    with pytest.raises(TypeError, match=r"optimizer is a SGD, expected a function .* lambda p"):
        Trainer(net, mse, optim.SGD(net.parameters()))
    with pytest.raises(ValueError, match="expected it as checkpoints="):
        make(callbacks=[Checkpoints(tmp_path)])
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="expected one above 0"):
        Checkpoints(tmp_path, every_epochs=0)


def test_the_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(mlp(), mse, sgd)
    trainer.fit(loader(), 2)
    assert "12/12" in capsys.readouterr().out


def test_the_examples_of_the_documents() -> None:
    for name in ("parallel.md", "training.md"):
        file = Path(__file__).parents[2] / "docs" / name
        failed, tried = doctest.testfile(str(file), module_relative=False)
        assert failed == 0 and tried > 4
