"""Build of the native core, `dagrun._native`, and of the kernels' place in the wheel; the rest is in pyproject.toml.

The core is optional: without a working C++17 compiler the package installs all the same, and its Python executor
serves. `DAGRUN_REQUIRE_NATIVE=1` makes a failed build an error.
"""

from __future__ import annotations

import os
import shutil
import sys
from glob import glob
from pathlib import Path
from textwrap import shorten

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# No -march and no -ffast-math: the same bits on every machine. No contraction to FMA, for the same reason.
COMPILE_FLAGS = ["-O3", "-std=c++17", "-fvisibility=hidden", "-ffp-contract=off", "-g1", "-pthread"]
HEADERS = sorted(glob("dagrun/native/*.h") + glob("dagrun/native/*.hpp"))


class OptionalBuildExt(build_ext):
    """Builds the extension, or says in one line that it could not."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            if os.environ.get("DAGRUN_REQUIRE_NATIVE") == "1":
                ext.optional = False  # setuptools would only warn
                raise
            reason = shorten(str(error), 90, placeholder=" ...")
            print(
                f"dagrun: {ext.name} was not built ({reason}); the slower Python executor will serve. "
                "For the native one, install a C++17 compiler and then dagrun again.",
                file=sys.stderr,
            )


class BuildPyWithKernels(build_py):
    """Puts the hand-written kernels of the top-level `kernels/` into the wheel, as `dagrun/kernels/`."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source in self._kernels():
                target = Path(self.build_lib, "dagrun", source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        kernels = [] if self.editable_mode else [str(Path(self.build_lib, "dagrun", path)) for path in self._kernels()]
        return [*super().get_outputs(include_bytecode), *kernels]

    @staticmethod
    def _kernels() -> list[Path]:
        files = (path for path in sorted(Path("kernels").rglob("*")) if path.is_file())
        return [path for path in files if "__pycache__" not in path.parts]


setup(
    license="Apache-2.0",
    ext_modules=[
        Extension(
            "dagrun._native",
            sorted(glob("dagrun/native/*.cpp")),
            depends=[*HEADERS, "setup.py"],
            extra_compile_args=COMPILE_FLAGS,
            extra_link_args=["-pthread", "-ldl"],
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": OptionalBuildExt, "build_py": BuildPyWithKernels},
)
