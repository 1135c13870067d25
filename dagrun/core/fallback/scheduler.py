"""Which task may run when, as a state machine without threads: edges from accesses, counters, ready queues, lifetimes.

Guarantees:
  - Edges are made in one function (`_order_access`), in program order.
  - Memory of a buffer goes back when neither a handle nor an unfinished task refers to it.
  - Nothing foreign is destroyed here, where finalizers must not run: it goes to `garbage`.
"""

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from .memory import NO_MEMORY, Block
from .regions import Region, covers, overlaps, shifted
from .tasks import (
    COMPUTE,
    LANES,
    OVERWRITE,
    PYTHON,
    READ,
    WRITE,
    Body,
    Buffer,
    Device,
    Entry,
    Failure,
    Operand,
    Settings,
    Site,
    Task,
)


class Scheduler:
    """The state of the engine. Its caller holds a lock."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.devices: list[Device] = []
        self.next_sequence = self.next_buffer = 1
        self.tasks: dict[int, Task] = {}  # unfinished ones
        self.ready: list[Entry] = []  # for the worker threads
        self.python_ready: list[Entry] = []
        self.stream_ready: list[Entry] = []
        self.python_busy = False  # one Python task at a time
        self.paused = False  # lanes take no further task until something waits
        self.random = random.Random(0)  # for shuffled order
        self.stream_random = random.Random(0)
        self.pinned = 0  # bytes of buffers that only unfinished tasks hold
        self.failures: list[Failure] = []
        self.tracing = False
        self.trace_tasks: list[tuple] = []
        self.trace_events: list[tuple] = []
        self.finished = self.inlined = self.launches = self.most_tasks = 0
        self.garbage: deque[object] = deque()

    # ---- record

    def new_buffer(self, device: Device, nbytes: int) -> Buffer:
        """A buffer with one handle."""
        self.next_buffer += 1
        return Buffer(self.next_buffer - 1, device, nbytes)

    def new_task(
        self,
        body: Body,
        operands: tuple[Operand, ...],
        scalars: bytes,
        callable: Callable[[Any], object] | None,
        device: Device,
        site: Site,
    ) -> Task:
        """A task next in program order; it notes itself as the writer of its outputs."""
        task = Task(self.next_sequence, body, operands, scalars, callable, device, site, body.priority)
        task.owned = self.settings.serial
        self.next_sequence += 1
        for spec in body.operands:
            if spec.mode & WRITE:
                buffer = operands[spec.index][0]
                buffer.version += 1
                buffer.last_writer = (task.sequence, body.name, site)
        return task

    def push(self, task: Task) -> None:
        """Puts a task behind everything that earlier tasks do to the same bytes."""
        self._add(task, *self._order_operands(task))

    def _order_operands(self, task: Task) -> tuple[list[tuple[Task, str]], list[tuple]]:
        """The tasks that it comes after, with the kind of edge, and its accesses."""
        predecessors: dict[int, tuple[Task, str]] = {}
        accesses = []
        for spec in task.body.operands:
            buffer, offset = task.operands[spec.index]
            region = buffer.region_in(shifted(spec.region, offset))
            buffer.users += 1
            accesses.append((buffer.id, *region, bool(spec.mode & WRITE)))
            self._order_access(task, buffer, region, spec.mode, predecessors)
        return list(predecessors.values()), accesses

    def push_batch(
        self, calls: Iterable[tuple[Body, tuple[Operand, ...], bytes]], predecessors: Iterable[list[int]],
        priorities: Iterable[int], device: Device, site: Site,
    ) -> int:  # fmt: skip
        """Pushes a prepared graph: task i comes after those that predecessors[i] names, all < i.

        Those are all the edges among its tasks; what operands say orders them with tasks recorded before and after.
        """
        tasks: list[Task] = []
        base = self.next_sequence
        for (body, operands, scalars), before, priority in zip(calls, predecessors, priorities):
            task = self.new_task(body, operands, scalars, None, device, site)
            task.priority, task.operation, task.owned = priority, task.sequence, False
            tasks.append(task)
            edges, accesses = self._order_operands(task)
            outside = [edge for edge in edges if edge[0].sequence < base]
            self._add(task, [*((tasks[i], "RAW") for i in before), *outside], accesses)
        return base

    def _order_access(
        self, task: Task, buffer: Buffer, region: Region, mode: int, predecessors: dict[int, tuple[Task, str]]
    ) -> None:
        """The one place where edges are made: in program order, from what earlier tasks do to the same bytes."""

        def order_after(earlier: list[tuple[Region, Task]], kind: str) -> None:
            for other_region, other in earlier:
                if other is not task and overlaps(other_region, region):
                    predecessors.setdefault(other.sequence, (other, kind))

        if region[0] >= region[1]:
            return
        if not mode & WRITE:
            order_after(buffer.writes, "RAW")  # read what it wrote
            if len(buffer.reads) >= buffer.prune_at:
                buffer.reads = [record for record in buffer.reads if record[1].state != "done"]
                buffer.prune_at = max(16, 2 * len(buffer.reads))
            buffer.reads.append((region, task))
            return
        order_after(buffer.reads, "WAR")  # overwrite only what has been read
        order_after(buffer.writes, "WAW")  # the later write is the one that stays
        # Whoever comes later and touches what this write covers is ordered behind this write.
        buffer.reads = [record for record in buffer.reads if not covers(region, record[0])]
        buffer.writes = [record for record in buffer.writes if not covers(region, record[0])]
        buffer.writes.append((region, task))

    def _add(self, task: Task, predecessors: Iterable[tuple[Task, str]], accesses: list[tuple]) -> None:
        self.tasks[task.sequence] = task
        self.most_tasks = max(self.most_tasks, len(self.tasks))
        if self.tracing:
            edges = tuple((earlier.sequence, kind) for earlier, kind in predecessors)
            self.trace_tasks.append((
                task.sequence, task.body.name, task.body.shapes, task.device.name, LANES[task.body.lane], task.site,
                task.priority, time.monotonic_ns(), tuple(accesses), edges,
            ))  # fmt: skip
        for earlier, _ in predecessors:
            if earlier.state != "done":
                earlier.successors.append(task)
                task.pending += 1
        if not task.pending:
            self._make_ready(task)

    def may_inline(self, body: Body, operands: tuple[Operand, ...], device: Device) -> bool:
        """Whether a task is tiny and has nothing to wait for: handing it over would cost more than running it."""
        special = self.settings.shuffle_seed or self.settings.serial or self.tracing or device.streams
        if special or not body.function or body.lane != COMPUTE or body.cost > self.settings.inline_bytes:
            return False
        for spec in body.operands:
            buffer, offset = operands[spec.index]
            region = buffer.region_in(shifted(spec.region, offset))
            if buffer.pending_writer(region):
                return False
            if spec.mode & WRITE and any(t.state != "done" and overlaps(r, region) for r, t in buffer.reads):
                return False
        return True

    # ---- run

    def _make_ready(self, task: Task) -> None:
        task.state = "ready"
        if task.streamed:  # as adversarial as a device may be: any order
            heapq.heappush(self.stream_ready, (0, self.stream_random.random(), task.sequence, task))
        elif not task.owned:
            queue = self.python_ready if task.body.lane == PYTHON else self.ready
            if self.settings.shuffle_seed:
                heapq.heappush(queue, (0, self.random.random(), task.sequence, task))
            else:
                heapq.heappush(queue, (-task.priority, 0.0, task.sequence, task))

    def take_native(self, most_cost: float = float("inf")) -> Task | None:
        """The next task for a worker thread, if it costs at most so much."""
        while self.ready and not self.paused and self.ready[0][-1].body.cost <= most_cost:
            entry = heapq.heappop(self.ready)
            task = entry[-1]
            lane = task.device.lanes[task.body.lane]
            if lane.running < lane.limit:
                lane.running += 1
                task.state = "running"
                return task
            heapq.heappush(lane.backlog, entry)
        return None

    def take_python(self) -> Task | None:
        """The next task for the Python lane, unless it is busy."""
        if self.paused or self.python_busy or not self.python_ready:
            return None
        self.python_busy = True
        task = heapq.heappop(self.python_ready)[-1]
        task.state = "running"
        return task

    def take_streamed(self) -> Task | None:
        """The next task of the simulated streams."""
        if self.paused or not self.stream_ready:
            return None
        task = heapq.heappop(self.stream_ready)[-1]
        task.state = "running"
        return task

    def resolve(self, task: Task) -> tuple[list[int], int]:
        """Addresses of the operands, and the bytes that were refused or 0."""
        addresses = []
        for spec in task.body.operands:
            buffer, offset = task.operands[spec.index]
            if not self.ensure_memory(buffer):
                return [], buffer.nbytes
            if spec.mode & WRITE and buffer.detach_failed and not task.body.detaches and buffer.needs_detach():
                return [], buffer.nbytes  # the copy that was to come before this write found no memory
            addresses.append(buffer.address + offset + spec.offset if buffer.address else NO_MEMORY)
        return addresses, 0

    def finish(self, task: Task) -> None:
        """A task that was taken ran, or was skipped; its successors count down."""
        for spec in task.body.operands:
            buffer = task.operands[spec.index][0]
            buffer.users -= 1
            if not buffer.users and not buffer.handles:
                self.pinned -= buffer.nbytes
                self._free(buffer)
        if task.streamed:
            self.launches += 1
        elif task.body.lane == PYTHON:
            self.python_busy = self.python_busy and task.owned
        elif not task.owned:
            lane = task.device.lanes[task.body.lane]
            lane.running -= 1
            if lane.backlog and lane.running < lane.limit:
                heapq.heappush(self.ready, heapq.heappop(lane.backlog))
        task.state = "done"
        del self.tasks[task.sequence]
        self.finished += 1
        for successor in task.successors:
            successor.pending -= 1
            if not successor.pending:
                self._make_ready(successor)
        # Later tasks may remember this one as a predecessor: it must hold nothing by then.
        self.garbage.append(task.callable)
        task.operands, task.scalars, task.callable, task.successors = (), b"", None, []

    def set_lane_limit(self, device: Device, lane: int, limit: int) -> None:
        """Bounds how many tasks of one kind a device runs at once."""
        bound = device.lanes[lane]
        bound.limit = limit
        while bound.backlog:  # they look at the new limit when they are taken
            heapq.heappush(self.ready, bound.backlog.pop())

    # ---- failures

    def poison_of(self, task: Task) -> Failure | None:
        """The first failure in program order that spoilt what a task reads."""
        found = []
        for spec in task.body.operands:
            buffer, offset = task.operands[spec.index]
            if spec.mode & READ and (failure := buffer.poison_of(buffer.region_in(shifted(spec.region, offset)))):
                found.append(failure)
        return min(found, key=lambda failure: failure.sequence, default=None)

    def settle(self, task: Task, failure: Failure | None) -> None:
        """After a body ran or was skipped: its writes are poisoned by a failure, or heal what they replace."""
        for spec in task.body.operands:
            buffer, offset = task.operands[spec.index]
            region = buffer.region_in(shifted(spec.region, offset))
            if spec.mode & WRITE and buffer.poison and (failure or spec.mode & OVERWRITE):
                self.garbage.extend(entry for entry in buffer.poison if covers(region, entry[0]))
                buffer.poison = [entry for entry in buffer.poison if not covers(region, entry[0])]
            if spec.mode & WRITE and failure:
                buffer.poison.append((region, failure))

    # ---- buffers

    def ensure_memory(self, buffer: Buffer) -> bool:
        """Gives a buffer its memory; False where there is none."""
        if not buffer.address and buffer.nbytes:
            buffer.address = buffer.device.memory.allocate(buffer.nbytes)
        return bool(buffer.address or not buffer.nbytes)

    def export_block(self, buffer: Buffer) -> Block | None:
        """The buffer's memory, counted as held by one more; None where there is none."""
        if not self.ensure_memory(buffer):
            return None
        if not buffer.block:
            buffer.block = Block(buffer.address, buffer.nbytes, buffer.device.memory)
        buffer.block.references += 1
        return buffer.block

    def drop_handle(self, buffer: Buffer) -> None:
        """One user array less."""
        buffer.handles -= 1
        if not buffer.handles and buffer.users:
            self.pinned += buffer.nbytes
        elif not buffer.handles:
            self._free(buffer)

    def drop_block(self, block: Block) -> None:
        """One export or buffer less."""
        block.references -= 1
        if block.references:
            return
        if block.memory and block.address:
            block.memory.release(block.address, block.nbytes)
        self.garbage.append(block.base)
        block.base = None

    def _free(self, buffer: Buffer) -> None:
        self.garbage.extend(buffer.poison)
        if buffer.block:
            self.drop_block(buffer.block)
        elif buffer.address:
            buffer.device.memory.release(buffer.address, buffer.nbytes)
