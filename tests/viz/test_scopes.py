"""Graphs by module: which scope each task of a training step is in, and how scopes fold into boxes."""

from __future__ import annotations

from collections import Counter

import numpy as np

import dagrun as dr
from dagrun import nn
from dagrun.core import scopes
from dagrun.core.scopes import Marks, Scope
from dagrun.viz.fold import common_scope, fold


class Block(nn.Module):
    """A residual block, whose sum is its own work."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x: dr.Array) -> dr.Array:
        return x + self.inner(x)


def step(net: nn.Module, x: dr.Array) -> dr.Array:
    loss = (net(x) ** 2).mean()
    loss.backward()
    return loss


def drawn() -> dr.Graph:
    net = nn.Sequential(Block(), nn.Linear(4, 2))
    return dr.graph(step, net, dr.asarray(np.ones((3, 4)), "float32"))


def test_marks_hold_from_one_to_the_next() -> None:
    marks = Marks()
    marks.starts, marks.scopes = [2, 4, 4, 6], [Scope("a"), Scope("b"), Scope("c"), scopes.OUTSIDE]
    assert marks.of(range(1, 9)) == {3: Scope("a"), 4: Scope("a"), 5: Scope("c"), 6: Scope("c")}


def test_nothing_is_marked_while_no_graph_is_drawn() -> None:
    assert scopes.marks() is None
    assert scopes.mark(Scope("a")) == scopes.OUTSIDE == scopes.mark(Scope("b"))


def test_every_task_of_a_step_is_in_the_scope_of_its_layer() -> None:
    graph = drawn()
    work = Counter()
    for record in graph.records:
        scope = graph.scopes.get(record.sequence, scopes.OUTSIDE)
        work[record.name, scope.path, scope.backward] += 1
    for path in ("Sequential.0.inner.0", "Sequential.1"):
        assert work["matmul", path, False] == 1
        assert work["matmul", path, True] >= 1 and work["sum", path, True] >= 1  # of the weight, of the bias
    assert sum(count for (name, _, _), count in work.items() if name == "matmul") == 5  # the input asks for none
    assert work["tanh", "Sequential.0.inner.1", False] == 1
    assert work["add", "Sequential.0", False] == 1  # the block's own sum
    assert not any(path == "" for (_, path, backward) in work if backward)


def test_what_follows_the_backward_walk_is_outside_again() -> None:
    net = nn.Linear(4, 2)
    optimizer = dr.optim.SGD(net.parameters(), 0.1)

    def train(x: dr.Array) -> None:
        step(net, x)
        optimizer.step()

    graph = dr.graph(train, dr.ones((3, 4), "float32"))
    updates = [record.sequence for record in graph.records if record.name == "sgd"]
    assert updates and not any(sequence in graph.scopes for sequence in updates)


def test_two_devices_that_walk_back_together_stay_apart() -> None:
    both = dr.parallel.Replicas(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), ["cpu:0", "cpu:1"])
    graph = dr.graph(lambda x: both.step(lambda net, part: (net(part) ** 2).mean(), x), dr.ones((4, 4), "float32"))
    found: dict[str, Counter[tuple[str, Scope]]] = {"cpu:0": Counter(), "cpu:1": Counter()}
    for record in graph.records:
        if record.sequence in graph.scopes:
            found[record.device][record.name, graph.scopes[record.sequence]] += 1
    assert found["cpu:0"] == found["cpu:1"] and len(found["cpu:0"]) > 8


def test_boxes_are_layers_and_then_what_holds_them() -> None:
    graph = drawn()
    layers = {(s.path, s.backward) for s in graph.scopes.values()}
    boxes = fold(graph.records, len(graph.records) - 1, graph.scopes)
    assert all(len({graph.scopes.get(record.sequence) for record in box}) == 1 for box in boxes)
    outside = sum(record.sequence not in graph.scopes for record in graph.records)
    assert len(boxes) <= len(layers) + outside
    fewer = fold(graph.records, len(boxes) - 1, graph.scopes)
    shared = [box for box in fewer if len({graph.scopes.get(record.sequence) for record in box}) > 1]
    assert shared and all(common_scope(box, graph.scopes).path.startswith("Sequential.0") for box in shared)


def test_boxes_are_named_after_their_layers() -> None:
    source = dr.graph(step, nn.Sequential(*[nn.Linear(4, 4) for _ in range(12)]), dr.ones((3, 4), "float32")).to_dot()
    assert "<b>7 Linear</b>" in source.source and "<b>7 Linear backward</b>" in source.source
