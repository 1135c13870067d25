"""Arguments that several commands share, and what they say where a value makes no sense."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from dagrun.devices import Device, device
from dagrun.errors import DeviceError


def add_command(commands: Any, name: str, summary: str, description: str, run: Any, examples: str = "") -> Any:
    """A new command, whose `--help` shows description and examples as they are written; `run(args)` carries it out."""
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def at_least_one(text: str) -> int:
    """A whole number from 1 on."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 on")
    return value


def seed(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 0 on")
    return int(text)


def device_list(text: str) -> list[Device]:
    """Labels with commas between them, each another device."""
    try:
        devices = [device(label.strip()) for label in text.split(",")]
    except (DeviceError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}; write them like cpu:0,cpu:1") from None
    if len(set(devices)) < len(devices):
        raise argparse.ArgumentTypeError(f"{text!r} names a device twice, expected each once, like cpu:0,cpu:1")
    return devices


def add_model(command: argparse.ArgumentParser) -> None:
    # The names are checked later: listing them here would import every model for `dagrun --help`.
    command.add_argument("model", help="its name, such as lenet or mlp; a wrong name lists them all")


def add_devices(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--devices",
        type=device_list,
        default="cpu:0,cpu:1",
        metavar="LIST",
        help="where to run, with commas between; any cpu:k is a device of its own (default: %(default)s)",
    )


def add_batch(command: argparse.ArgumentParser, default: str = "the model's") -> None:
    command.add_argument(
        "--batch",
        type=at_least_one,
        metavar="ROWS",
        help=f"rows of a batch, for all devices together (default: {default})",
    )


def add_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of all that is drawn (default: %(default)s)"
    )


def add_output(command: argparse.ArgumentParser, default: str, what: str) -> None:
    command.add_argument("--output", type=Path, metavar="PATH", help=f"{what} (default: {default})")


def enough_rows(batch: int, devices: int) -> int:
    """The batch, if each device gets a row of it."""
    if batch < devices:
        raise ValueError(f"--batch is {batch} for {devices} devices, expected at least one row for each")
    return batch


def made_up(model: Any, rows: int, seed: int = 0) -> Any:
    """A batch of a model's kind, drawn from a seed."""
    return model.example(np.random.default_rng(seed), rows)
