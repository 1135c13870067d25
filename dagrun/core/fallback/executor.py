"""The threads that run tasks, and the threads that wait: everything that takes the lock of the engine.

Guarantees:
  - Bodies, callables and finalizers of foreign objects run without the lock (tiny tasks that run where they are
    recorded aside). One thread can take it twice: garbage collection can run a finalizer that calls in anywhere.
  - Finalizers of arrays and exports take no lock: they append to `dropped`, and whoever takes the lock next drains it.
  - The lock is taken by `with` on the lock itself: no signal comes between taking it and the block that gives it back.
"""

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from .memory import Block, make_export
from .scheduler import Scheduler
from .tasks import OUT_OF_MEMORY, RAISED, WRITE, Buffer, Failure, Settings, Task, largest

HELP_BYTES = 1 << 15  # a waiting thread runs native tasks up to this cost itself
POLL_SECONDS = 0.1  # a signal that comes just before a thread falls asleep does not wake it


class Executor(Scheduler):
    """The engine of a process."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)  # told of everything that a sleeping thread may wait for
        self.dropped: deque[Buffer | Block] = deque()  # handles and exports that are gone; appended without the lock
        self.local = threading.local()  # name, in_task: of this thread
        self.started = self.forked = self.interrupted = False
        self.generation = 0  # of threads: those of an older one end
        self.threads: list[threading.Thread] = []
        self.names = self.admission_waits = 0

    def dispose(self) -> None:
        """Lets go of what finished tasks and dead buffers left behind; without the lock."""
        with suppress(IndexError):
            while True:
                self.garbage.popleft()

    def drain(self) -> None:
        """Gives back what finalizers left behind; under the lock."""
        while self.dropped:
            item = self.dropped.popleft()
            if self.forked:
                continue  # nothing is given back in a child: the parent's threads may have been amid a change
            if isinstance(item, Block):
                self.drop_block(item)
            else:
                self.drop_handle(item)

    # ---- life

    def start(self, settings: Settings) -> None:
        """Starts the worker threads, the Python lane and the thread of the simulated streams."""
        with self.lock:
            self.thread_name()
            self.settings = settings
            self.random.seed(settings.shuffle_seed)
            self.started = True
            self.generation += 1
            takes = {f"worker {i}": self.take_native for i in range(settings.workers)}
            for name, take in (takes | {"python": self.take_python, "streams": self.take_streamed}).items():
                arguments = (name, take, self.generation)
                thread = threading.Thread(target=self._work, name=f"dagrun {name}", args=arguments, daemon=True)
                self.threads.append(thread)
                thread.start()

    def stop(self, seconds: float) -> bool:
        """Finishes what is in flight, then ends the threads; False: gave up waiting."""
        finished = self.wait_until(lambda: not self.tasks, seconds)
        with self.lock:
            self.started = False
            self.generation += 1
            threads, self.threads = self.threads, []
            self.condition.notify_all()
        for thread in threads if finished else ():
            if thread is not threading.current_thread():
                thread.join()
        if not finished:  # a body may still write to memory when the interpreter clears up
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
        return finished

    def after_fork(self) -> None:
        """In the child: the threads are gone, and one of them may have held the lock."""
        if self.started:
            self.forked = True
            self.lock = threading.RLock()
            self.condition = threading.Condition(self.lock)

    def thread_name(self) -> str:
        """How traces call this thread."""
        if not hasattr(self.local, "name"):
            self.local.name = f"thread {self.names}" if self.names else "main"
            self.names += 1
        return self.local.name

    def in_task(self) -> bool:
        """Whether this thread is running a Python callable of a task."""
        return getattr(self.local, "in_task", False)

    def _work(self, name: str, take: Callable[[], Task | None], generation: int) -> None:
        self.local.name = name
        while self.generation == generation:
            with self.lock:
                while not (task := take()) and self.generation == generation:
                    self.condition.wait()
            if task:
                self._run(task)

    # ---- run

    def _run(self, task: Task) -> None:
        """Runs a task that was taken; whatever happens, it finishes."""
        begin = time.monotonic_ns()
        try:
            failure = self.execute(task)
        except BaseException as error:  # Ctrl-C just behind a body that ran here
            failure = self._fail(task, RAISED, exception=error)
        with self.lock:
            self.drain()
            self.settle(task, failure)
            if self.tracing:
                stream = -1
                if task.streamed and (numbers := task.device.streams[task.body.lane]):
                    stream = numbers[self.launches % len(numbers)]  # for the eye only: no task waits for its stream
                event = (task.sequence, begin, time.monotonic_ns(), self.thread_name(), stream, failure is not None)
                self.trace_events.append(event)
            self.finish(task)
            self.condition.notify_all()
        self.dispose()

    def execute(self, task: Task) -> Failure | None:
        """Runs a body, or fails it with what poisoned its operands."""
        with self.lock:
            if failure := self.poison_of(task):
                return failure
            addresses, refused_bytes = self.resolve(task)
        if refused_bytes:
            return self._fail(task, OUT_OF_MEMORY, (refused_bytes, 0, 0, 0))
        if task.body.detaches:
            self._detach(task.operands[0][0])
        elif task.callable:
            if error := self._call(task):
                return self._fail(task, RAISED, exception=error)
        elif task.body.function:
            details = (ctypes.c_int64 * 4)()
            data = (ctypes.c_void_p * len(addresses))(*addresses)
            if code := task.body.function(data, task.body.params, task.scalars, details):
                return self._fail(task, code, tuple(details))
        return None

    def _fail(
        self, task: Task, code: int, details: tuple[int, ...] = (0, 0, 0, 0), exception: BaseException | None = None
    ) -> Failure:
        self.interrupted |= isinstance(exception, KeyboardInterrupt)
        failure = Failure(task.sequence, task.body, task.site, task.device, code, details, exception, task.operation)
        if code == OUT_OF_MEMORY:
            failure.holdings = largest(task.device, 5)
        with self.lock:
            self.failures.append(failure)
        return failure

    def _call(self, task: Task) -> BaseException | None:
        """Runs a Python callable on (memory, offset) pairs; the memory outlives the call if it is kept."""
        assert task.callable
        operands = []
        for spec in task.body.operands:
            buffer, offset = task.operands[spec.index]
            with self.lock:
                block = self.export_block(buffer)
            assert block  # it was resolved
            operands.append((make_export(block, not spec.mode & WRITE, self.dropped), offset + spec.offset))
        self.local.in_task = True
        try:
            task.callable(tuple(operands))
        except BaseException as error:
            return error
        finally:
            self.local.in_task = False
        return None

    def _detach(self, buffer: Buffer) -> None:
        """Replaces exported or lent memory by a copy; the task that calls it has the whole buffer to itself."""
        with self.lock:
            block = buffer.block
            if not block or not buffer.needs_detach():
                return  # given back meanwhile
            address = buffer.device.memory.allocate(buffer.nbytes)
            buffer.detach_failed = not address
        if address:  # else the write that follows is refused: see `resolve`
            ctypes.memmove(address, block.address, buffer.nbytes)
            with self.lock:
                buffer.address, buffer.block = address, None
                self.drop_block(block)

    # ---- wait

    def wait_until(self, done: Callable[[], bool], seconds: float | None = None) -> bool:
        """Blocks until `done()`, asked under the lock; False: the time is over.

        Runs ready work meanwhile, unless it may not take all the time in the world: a task may never return.
        Raises KeyboardInterrupt when Ctrl-C hits this thread or a task that it runs.
        """
        until = time.monotonic() + (threading.TIMEOUT_MAX / 2 if seconds is None else seconds)
        with self.lock:
            self.pause(False)
        while True:
            with self.lock:
                self.drain()
                task = None
                while not (finished := done()) and not (seconds is None and (task := self._take_to_help())):
                    left = until - time.monotonic()
                    if left <= 0:
                        return False
                    self.condition.wait(min(left, POLL_SECONDS))
                    self.drain()
            self.dispose()
            if finished:
                return True
            assert task
            self.run_here(task)

    def _take_to_help(self) -> Task | None:
        return self.take_python() or self.take_native(HELP_BYTES)

    def run_here(self, task: Task) -> None:
        """Runs a task on a thread of the user, which gets the Ctrl-C that hit it."""
        self._run(task)
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt

    def pause(self, on: bool) -> None:
        """Keeps the lanes from taking tasks, or lets them; under the lock."""
        self.paused = on
        self.condition.notify_all()

    def wait_for_space(self) -> None:
        """Blocks while too much is in flight, until a quarter of it is done."""

        def crowded(share: float) -> bool:
            tasks, nbytes = self.settings.max_inflight_tasks, self.settings.max_inflight_bytes
            return bool((tasks and len(self.tasks) >= tasks * share) or (nbytes and self.pinned >= nbytes * share))

        with self.lock:
            self.drain()
            if not crowded(1.0):
                return
            self.admission_waits += 1
        self.wait_until(lambda: not self.tasks or not crowded(0.75))

    def run_serially(self, task: Task) -> None:
        """Serial engine: runs a task that this thread recorded, when the tasks of other threads let it."""
        if task.state == "pending":
            self.wait_until(lambda: task.state != "pending")
        task.state = "running"
        self.run_here(task)
