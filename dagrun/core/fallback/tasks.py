"""The records of the executor: body, task, buffer, failure. Data only; `scheduler.py` moves them along."""

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from .memory import Allocator, Block
from .regions import Region, overlaps

READ, WRITE, OVERWRITE = 1, 2, 4  # READ | WRITE: in place; OVERWRITE: the write does not depend on what was there
LANES = ("compute", "copy", "communication", "python")
COMPUTE, PYTHON = 0, 3
OUT_OF_MEMORY, RAISED = -1, -2  # codes of failures that no body returned

Site = tuple[str, int, str]  # file, line, function
UNKNOWN: Site = ("<unknown>", 0, "<unknown>")
Holding = tuple[int, str, Site]  # bytes of an array, and what wrote it last
Operand = tuple["Buffer", int]  # and the bytes from the buffer's start to the view's first element
Function = Callable[..., int]
Entry = tuple[int, float, int, "Task"]  # -priority, shuffle, sequence, task: of ready ones the smallest runs first

_function_type = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)  # calls without the GIL


@cache
def function_at(address: int) -> Function | None:
    """The native body at an address."""
    return _function_type(address) if address else None


@dataclass(slots=True, frozen=True)
class OperandSpec:
    index: int  # which operand of the operation (outputs first)
    offset: int  # bytes from the view's first element to this body's first element
    mode: int
    region: Region  # relative to the operand's view offset


@dataclass(slots=True, frozen=True, eq=False)
class Body:
    """The part of a task that many tasks share."""

    name: str
    shapes: str = ""
    function: Function | None = None  # None: a callable in the task, or nothing to do
    params: bytes = b""
    operands: tuple[OperandSpec, ...] = ()
    lane: int = COMPUTE
    priority: int = 0
    cost: int = 0  # bytes moved, the estimate of its length
    explain: object = None  # (code, details) -> (exception type, message)
    detaches: bool = False  # replaces exported memory before a write


@dataclass(slots=True, eq=False)
class Lane:
    """How many tasks of one kind a device runs at once."""

    limit: int = 1 << 30
    running: int = 0
    backlog: list[Entry] = field(default_factory=list)  # ready, waiting for the lane


@dataclass(slots=True, eq=False)
class Device:
    name: str  # "cpu:0"
    label: object  # what the layers above call it
    memory: Allocator
    lanes: list[Lane]
    streams: list[range]  # per lane, its numbers among all streams; empty: tasks run on worker threads


@dataclass(slots=True, eq=False)
class Failure:
    """Why a task failed; shared by every region it poisoned."""

    sequence: int
    body: Body
    site: Site
    device: Device
    code: int
    details: tuple[int, ...]  # of OUT_OF_MEMORY: bytes asked for
    exception: BaseException | None
    operation: int  # as the task's
    holdings: tuple[Holding, ...] = ()  # the largest arrays of a device that is out of memory
    delivered: bool = False


@dataclass(slots=True, eq=False)
class Task:
    sequence: int  # program order, from 1
    body: Body
    operands: tuple[Operand, ...]
    scalars: bytes
    callable: Callable[[Any], object] | None
    device: Device
    site: Site
    priority: int = 0
    operation: int = 0  # sequence number of the first of the tasks that one operation was cut into
    owned: bool = False  # serial engine: the thread that recorded it runs it
    pending: int = 0  # unfinished predecessors
    state: str = "pending"  # then ready, running, done
    successors: list["Task"] = field(default_factory=list)

    @property
    def streamed(self) -> bool:
        return bool(self.device.streams and self.operands and self.body.lane != PYTHON and not self.owned)


@dataclass(slots=True, eq=False)
class Buffer:
    id: int
    device: Device
    nbytes: int
    handles: int = 1  # user arrays
    users: int = 0  # accesses of unfinished tasks
    address: int = 0  # allocated by the first task that needs it
    block: Block | None = None  # where exported or imported
    detach_failed: bool = False  # no memory for the copy that a write to exported memory needs
    poison: list[tuple[Region, Failure]] = field(default_factory=list)
    writes: list[tuple[Region, Task]] = field(default_factory=list)  # those that no later write covers
    reads: list[tuple[Region, Task]] = field(default_factory=list)  # since those writes
    prune_at: int = 16  # drop finished reads when there are as many
    version: int = 0  # number of writes recorded
    last_writer: tuple[int, str, Site | None] = (0, "", None)  # sequence, name, the user's line

    def region_in(self, region: Region) -> Region:
        """The region, or of a buffer without bytes one place: what happens to an empty result concerns its readers."""
        return region if self.nbytes else (0, 1, 0, 0)

    def pending_writer(self, region: Region) -> Task | None:
        """A task that will write the region."""
        return next((task for other, task in self.writes if task.state != "done" and overlaps(other, region)), None)

    def poison_of(self, region: Region) -> Failure | None:
        """The first failure in program order that spoilt the region."""
        found = [failure for other, failure in self.poison if overlaps(other, region)]
        return min(found, key=lambda failure: failure.sequence, default=None)

    def needs_detach(self) -> bool:
        """Whether somebody outside would see a write to this memory."""
        return self.block is not None and (self.block.memory is None or self.block.references > 1)


def largest(device: Device, most: int) -> tuple[Holding, ...]:
    """The largest arrays that hold a device's memory."""
    buffers = [x for x in gc.get_objects() if type(x) is Buffer and x.device is device and x.address]
    held = sorted((x for x in buffers if x.handles or x.users), key=lambda x: -x.nbytes)[:most]
    return tuple((x.nbytes, x.last_writer[1], x.last_writer[2] or UNKNOWN) for x in held)


@dataclass(slots=True)
class Settings:
    workers: int = 1
    max_inflight_tasks: int = 1 << 15  # 0: no bound
    max_inflight_bytes: int = 1 << 28  # 0: no bound
    inline_bytes: int = 2048  # ready tasks moving at most this much run where they are recorded
    shuffle_seed: int = 0  # not 0: ready tasks are taken in a seeded random order (tests)
    serial: bool = False  # run each task on the recording thread before its push returns
