"""`dagrun info`: what this installation has and how it is set up."""

from __future__ import annotations

import argparse
import os
import platform
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from dagrun import __version__
from dagrun.backends import cuda
from dagrun.codegen.gemm import find_blas
from dagrun.config import Settings, settings, worker_count
from dagrun.core.engine import engine_info


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "info", help="versions, devices, settings", description="Shows versions, devices and settings."
    )
    command.set_defaults(run=run)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def run(args: argparse.Namespace) -> int:
    core = engine_info()
    blas = find_blas()
    rows = [
        ("dagrun", __version__),
        ("Python", platform.python_version()),
        ("NumPy, llvmlite", f"{np.__version__}, {_version('llvmlite')}"),
        ("core", f"{core.core} executor, {core.mode} engine, {worker_count()} workers on {os.cpu_count()} cores"),
        (
            "BLAS",
            f"called by pointer, one thread a task: {os.path.basename(blas.path)}"
            if blas
            else "NumPy's, through NumPy",
        ),
        ("CPU devices", "cpu:0, cpu:1, ... as many as are named; they share the workers"),
        ("simulated devices", "sim:0, sim:1, ..."),
        *(("CUDA devices" if not i else "", line) for i, line in enumerate(cuda.describe())),
    ]
    for name, value in rows:
        print(f"{name:18} {value}")
    print("\nsettings (each is read from the environment, as DAGRUN_ and its name in capitals):")
    for field in fields(Settings):
        print(f"  {field.name:20} {getattr(settings(), field.name)!r}")
    return 0
