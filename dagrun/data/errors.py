"""What goes wrong with data: files that are not what they claim to be, and samples that cannot be loaded."""

from __future__ import annotations

import os

from dagrun.errors import DagrunError


class DataError(DagrunError, ValueError):
    """A file does not hold what it should; the message names the file, what was found and what was expected.

    Attribute: `path`.
    """

    def __init__(self, path: str | os.PathLike[str], message: str) -> None:
        super().__init__(f"{os.fspath(path)}: {message}")
        self.path = os.fspath(path)


class RecordError(DataError):
    """A record file is damaged or none. Attributes: `path`, and `offset`, the byte at which the damage shows."""

    def __init__(self, path: str | os.PathLike[str], offset: int, message: str) -> None:
        super().__init__(path, f"at byte {offset}: {message}")
        self.offset = offset


class LoaderError(DagrunError, RuntimeError):
    """A batch could not be loaded; the exception that the dataset or the collate function raised is its `__cause__`.

    Attributes: `epoch`, `batch` (its number in the epoch) and `index` (of the sample; None where it is the batch).
    """

    def __init__(self, epoch: int, batch: int, index: int | None, cause: BaseException) -> None:
        where = f"batch {batch} of epoch {epoch}" + ("" if index is None else f", sample {index}")
        super().__init__(f"{where}: {type(cause).__name__}: {cause}")
        self.epoch, self.batch, self.index = epoch, batch, index
