"""The functions and types that the layers above meet, and the life of the engine."""

import json
import os
import signal
import struct
import threading
from functools import partial
from operator import call
from pathlib import Path
from typing import Any

from .lab import ADD, INOUT, PACKAGE, PYTHON, SHIFT, Gate, Lab, elementwise, failing, message_of


def user_lines(lab: Lab) -> Any:
    """The user's line is the innermost one outside the package."""
    n = lab.start()
    assert n.here()[0] == __file__ and n.here()[2] == "user_lines"
    x = lab.array([1])
    assert n.last_writer(x) == (0, "", ("<unknown>", 0, "<unknown>"))
    code = compile("def run(f, *arguments, **options):\n    return f(*arguments, **options)", "/user/file.py", "exec")
    user: dict[str, Any] = {}
    exec(code, user)
    n.set_prefix(str(PACKAGE.parent), "/nowhere")
    y = user["run"](lab.record, "y", SHIFT, x)
    sequence, name, site = n.last_writer(y)
    assert sequence > 0 and (name, site) == ("y", ("/user/file.py", 2, "run"))
    assert "both_cores" not in n.here()[0]
    n.set_prefix(str(PACKAGE.parent), str(Path(__file__).parent))
    assert n.here()[0] == __file__


def operators(lab: Lab) -> Any:
    """Operators take the signatures that were installed for their operands, and ask the layers above for others."""
    asked: list[Any] = []

    def slow(number: int, left: Any, right: Any, in_place: bool) -> Any:
        asked.append([number, type(left).__name__, type(right).__name__, in_place])
        return len(asked)

    n = lab.start()
    x, y = lab.array([1, 2]), lab.array([10, 20])
    assert message_of(lambda: x + y) == "RuntimeError: operators are not registered yet"
    n.set_hooks(binary_slow=slow)
    assert [x + y, 2 - x, x < 1, x == y, x**2, x @ y, x >> 1] == list(range(1, 8))
    layout = x._layout
    n.install_binary(0, x, y, False, lab.signature("add", ADD, layout, [layout, layout]))
    scaled = lab.signature("scaled", elementwise(lambda a, s: a * s), layout, [layout], scalars=1)
    n.install_binary(2, x, 1.0, False, scaled)
    n.install_binary(2, 1, x, False, scaled)
    n.install_binary(0, x, y, True, lab.signature("add", ADD, layout, [layout, layout], mode=INOUT))
    same = x
    same += y
    assert same is x and lab.values(x) == [11, 22] and x._version == 1
    assert [lab.values(v) for v in (x + y, x * 0.5, 3 * x)] == [[21, 42], [5.5, 11], [33, 66]]
    assert len(asked) == 7
    view = n.view(x, layout, 0)
    view += x  # two views of one buffer: not for the fast way
    other = n.from_memory(layout, n.add_device("cpu:1", None, 1, 1, 1), bytes(16), True)
    assert [x + other, x * True, x * 10**400, x & 1, x | 1, x ^ 1] == [9, 10, 11, 12, 13, 14]
    assert len({x, y, x}) == 2 and hash(x) == hash(x)
    assert (x.dtype, x.shape, x.strides, x.ndim, x.size, x.nbytes, x.itemsize) == ("f8", (2,), (8,), 1, 2, 16, 8)
    assert (x.device, x._node, x._requires_grad, x._offset) == ("label 0", None, False, 0)
    n.Array.total = lambda self: sum(lab.values(self))
    assert x.total() == 33 and type(x) is n.Array and n.Array.__name__ == "Array"
    assert message_of(n.Array).startswith("TypeError: cannot create 'dagrun.Array' instances")
    assert message_of(lambda: n.wait(3)) == "TypeError: expected a dagrun array, got int"
    return asked


def gradient_hook(lab: Lab) -> Any:
    """Operations on arrays that want gradients are shown to the hook, unless the thread has it switched off."""
    shown: list[Any] = []
    n = lab.start()
    n.set_hooks(gradient_hook=lambda *arguments: shown.append(arguments))
    x = lab.array([1])
    lab.record("no", SHIFT, x)
    x._requires_grad = True
    y = lab.record("yes", SHIFT, x)
    assert n.set_gradients(False) is True
    lab.record("off", SHIFT, x)
    assert n.gradients() is False
    others: list[bool] = []
    other = threading.Thread(target=lambda: others.append(n.gradients()))
    other.start()
    other.join()
    assert others == [True]
    assert n.set_gradients(True) is False
    z = lab.array([2])
    lab.record("into", SHIFT, x, out=z, scalars=(5.0,))
    (context, inputs, result, scalars, in_place), last = shown
    assert context == "context of yes" and inputs == (x,) and result is y and (scalars, in_place) == (b"", False)
    assert last == ("context of into", (x,), z, struct.pack("d", 5.0), True)
    y._node = shown
    assert y._node is shown


def nodes(lab: Lab) -> Any:
    """Nodes are numbered in order, long chains of them are freed, and each thread has an observer of its own."""
    n = lab.start()
    before = n.sequence()
    first = n.Node("plan", (None,), ("value", 3))
    second = n.Node("plan", (first,), ())
    assert before < first.sequence < second.sequence < n.sequence()
    assert (first.plan, first.parents, first.saved) == ("plan", (None,), ("value", 3)) and second.parents[0] is first
    assert (first.hooks, first.kept, first.token) == (None, None, None)
    first.saved, first.hooks, first.token = None, {0: []}, "token"
    assert (first.saved, first.hooks, first.token) == (None, {0: []}, "token")
    for _ in range(200_000):
        second = n.Node("plan", (second,), ())
    del second
    seen: list[Any] = []
    assert n.set_observer(lambda *told: seen.append(told)) is None
    other = threading.Thread(target=lambda: n.observe(first, "elsewhere"))
    other.start()
    other.join()
    n.observe(first, "result")
    assert n.set_observer(None) is not None
    n.observe(first, "late")
    assert seen == [(first, "result")]


def view_hook(lab: Lab) -> Any:
    """Views of arrays that want gradients are shown with their rules; views of one buffer share a family."""
    shown: list[Any] = []
    n = lab.start()
    n.set_hooks(view_hook=lambda *arguments: shown.append(arguments))
    x = lab.array([1, 2])
    assert x._family is None and x._extent == 16
    x._node = "made here"
    part = n.view(x, lab.layout(1), 8, "rule", 7)
    assert part._family is x._family and part._family.root == "made here" and not shown
    x._requires_grad = True
    whole = n.view(x, x._layout, 0, "rule", 7)
    assert shown == [(x, whole, ("rule", 7))]
    copy, named = n.alias(x), n.alias(x, "record")
    assert copy._family is None and copy._node is None and not copy._tracked and copy._buffer == x._buffer
    assert named._node == "record" and named._tracked
    assert not part._tracked
    part._family.tracked, part._family.node = True, "since a write"
    assert whole._tracked and part._tracked and whole._family.node == "since a write"


def write_guard(lab: Lab) -> Any:
    """Writing into a tracked array asks the guard first; what it refuses is not recorded."""
    n = lab.start()
    asked: list[Any] = []

    def refuse(target: Any) -> None:
        asked.append(target)
        raise PermissionError("a leaf")

    n.set_hooks(write_guard=refuse)
    x, y = lab.array([1]), lab.array([5])
    lab.record("free", SHIFT, y, out=x)
    before = x._version
    x._requires_grad = True
    assert message_of(lambda: lab.record("refused", SHIFT, y, out=x)) == "PermissionError: a leaf"
    assert asked == [x] and x._version == before and lab.values(x) == [6]
    n.set_gradients(False)
    lab.record("allowed", SHIFT, y, out=x)
    assert asked == [x] and x._version > before


def restart(lab: Lab) -> Any:
    """The engine ends when its work is done and starts again; its arrays stay; the first operation starts it."""
    n = lab.n
    started: list[int] = []
    assert message_of(lambda: n.empty(lab.layout(1), 0)) == "RuntimeError: the engine has been shut down"
    n.set_hooks(start=lambda: (started.append(1), n.start(workers=1)))
    x = lab.array([0])
    for k in range(4):
        x = lab.record("shift", SHIFT, x)
        assert n.stop(60.0) and len(started) == k + 1
    assert lab.values(x) == [4]
    lab.array([0])
    assert message_of(lambda: n.start(workers=1)) == "RuntimeError: the engine runs already"
    assert n.stop(60.0) and n.stop(60.0)
    assert message_of(lambda: n.start(workers=0)) == "ValueError: workers is 0, expected 1 to 256"


def stop_gives_up(lab: Lab) -> Any:
    """A body that does not return does not keep the process."""
    n = lab.start()
    gate = Gate()
    x = lab.record("stuck", gate.body, lab.array([1]))
    gate.entered.wait()
    n.pause(True)
    lab.record("stuck too", 0, lab.array([1]), lane=PYTHON, callable=lambda operands: threading.Event().wait())
    assert n.stop(0.01) is False
    assert n.stats()["in_flight"] == 2 and not n.is_ready(x)


def fork(lab: Lab) -> Any:
    """A child reads what was finished; all else raises and nothing hangs."""
    n = lab.start()
    os.register_at_fork(after_in_child=n.after_fork)
    done = lab.record("done", SHIFT, lab.array([1]))
    failed = lab.record("failed", failing(), done)
    n.wait_all()
    gate = Gate()
    pending = lab.record("pending", gate.body, done)
    gate.entered.wait()
    readable, writable = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(30)  # so that nothing can hang here
        messages = [
            str(lab.values(done)),
            message_of(lambda: lab.values(pending)),
            message_of(lambda: lab.record("more", SHIFT, done)),
            message_of(lambda: n.empty(lab.layout(1), 0)),
            str(n.is_ready(done)),
            str(n.stop(1.0)),
        ]
        n.wait_all()
        os.write(writable, json.dumps(messages).encode())
        os._exit(0)
    os.close(writable)
    with open(readable) as pipe:
        messages = json.load(pipe)
    os.waitpid(child, 0)
    assert messages[0] == "[2.0]" and messages[4:] == ["True", "True"]
    assert messages[1].startswith("RuntimeError: this array was not finished when the process forked")
    assert "cannot record an operation in a forked child process" in messages[2]
    assert "cannot make an array in a forked child process" in messages[3]
    gate.opened.set()
    assert lab.values(pending) == [3] and lab.error_of(failed)["name"] == "failed"
    return messages


def bad_calls(lab: Lab) -> Any:
    """What does not fit is refused with the same words."""
    n = lab.start()
    x = lab.array([1, 2])
    signature = lab.signature("shift", SHIFT, x._layout, [x._layout])
    messages = [
        message_of(lambda: n.record(signature, (), b"", None, 0, None)),
        message_of(lambda: n.record(signature, (x,), b"12345678", None, 0, None)),
        message_of(lambda: n.record(signature, (x,), b"", (x, x), 0, None)),
        message_of(lambda: n.record(signature, (x,), b"", None, 7, None)),
        message_of(lambda: lab.layout(-1)),
        message_of(lambda: lab.layout(2, strides=(1, 2))),
        message_of(lambda: n.layout("f8", 12, 8, (1,) * 65)),
        message_of(lambda: n.view(x, None, 0)).replace("NoneType", "None"),
    ]
    return messages


def again(lab: Lab) -> Any:
    """What was recorded under a tag and layouts is recorded again; anything unknown gives None."""
    n = lab.start()
    x, y, out = lab.array([1, 2]), lab.array([3, 4]), lab.array([0, 0])
    signature = lab.signature("add", ADD, x._layout, [x._layout, y._layout])
    known = {("tag", x._layout, y._layout): signature, ("into", out._layout, x._layout, y._layout): signature}
    assert lab.values(n.again(known, "tag", None, x, y)) == [4, 6]
    assert n.again(known, "into", out, x, y) is out and lab.values(out) == [4, 6]
    assert n.again(known, "other", None, x, y) is None
    assert n.again(known, "tag", None, x, 3.0) is None
    assert n.again(known, "into", x, x, y) is None  # may need a copy first
    assert n.again(known, "tag", None, x, lab.array([3])) is None


def lent_line(lab: Lab) -> Any:
    """A thread in which no line of the user runs names the line that was lent to it, else none."""
    n = lab.start()
    line = n.site()
    for lent, expected in (([], "<unknown>"), ([partial(n.lend_site, line)], n.describe_site(line)[0])):
        answers: list[Any] = []
        thread = threading.Thread(target=answers.extend, args=(map(call, [*lent, n.here]),))
        thread.start()
        thread.join()
        assert answers[-1][0] == expected
