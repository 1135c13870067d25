"""Replicas that meet: each runs in a thread of its own, one at a time and in order, until all are at the same place.

A layer that needs the values of all replicas, such as `SyncBatchNorm`, calls `meet`. Only one thread runs at any time,
and they take turns at meetings only, in the order of the replicas: so the program is recorded in the same order every
time. Without such a layer the replicas simply run one after the other, in the calling thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any

from dagrun.autodiff.functions import in_checkpoint
from dagrun.autodiff.modes import anomaly, detect_anomaly
from dagrun.core import native
from dagrun.nn import Module


class MeetingLayer(Module):
    """The base of layers that call `meet`."""


class _Group:
    """The replicas of one call, and what they brought to the current meeting."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.turns = [threading.Semaphore(0) for _ in range(count)]
        self.back = threading.Semaphore(0)
        self.offers: dict[int, tuple[Any, Callable[[list[Any]], Any]]] = {}  # of the replicas that wait, by rank
        self.answer: Any = None
        self.failure: BaseException | None = None


class _Current(threading.local):
    group: _Group | None = None
    rank = 0


_current = _Current()


def meet(offer: Any, combine: Callable[[list[Any]], Any]) -> Any:
    """Brings `offer` to the other replicas; gives what `combine` makes of all offers, in the order of the replicas.

    RuntimeError inside a `checkpoint` of one replica: it would be computed again without the others.
    """
    group, rank = _current.group, _current.rank
    if group is None:
        return combine([offer])
    if in_checkpoint():
        raise RuntimeError(
            "dr.checkpoint around a layer where replicas meet (such as SyncBatchNorm): backward computes each replica "
            "again, alone; put the checkpoint around the call of the DataParallel module, or leave this layer out of it"
        )
    group.offers[rank] = (offer, combine)
    group.back.release()
    group.turns[rank].acquire()
    if group.failure is not None:
        raise RuntimeError("another replica failed") from group.failure
    return group.answer


def run_in_lockstep(calls: Sequence[Callable[[], Any]], modules: Sequence[Module]) -> list[Any]:
    """The results of one call for each replica. What the first of them raises is raised here."""
    if len(calls) == 1 or not any(isinstance(layer, MeetingLayer) for layer in modules[0].modules()):
        return [call() for call in calls]
    group = _Group(len(calls))
    results: list[Any] = [None] * len(calls)
    site = native.site()
    gradients, autocast, anomalies = (
        native.gradients(),
        native.autocast(),
        anomaly.on,
    )  # what belongs to a thread, besides the context

    def run(rank: int) -> None:
        group.turns[rank].acquire()
        _current.group, _current.rank = group, rank
        native.set_gradients(gradients)
        native.set_autocast(autocast)
        native.lend_site(site)
        try:
            if group.failure is None:
                with detect_anomaly() if anomalies else nullcontext():
                    results[rank] = calls[rank]()
        except BaseException as error:
            group.failure = group.failure or error
        finally:
            group.back.release()

    threads = [threading.Thread(target=copy_context().run, args=(run, k), daemon=True) for k in range(len(calls))]
    for thread in threads:
        thread.start()
    try:
        _take_turns(group)
    except BaseException as error:  # Ctrl-C
        group.failure = group.failure or error
        for turn in group.turns:
            turn.release()
    for thread in threads:
        thread.join()
    if group.failure is not None:
        raise group.failure
    return results


def _take_turns(group: _Group) -> None:
    """Lets every replica run to its next meeting or its end, until all have ended."""
    running = list(range(group.count))
    while running:
        group.offers.clear()
        for rank in running:
            group.turns[rank].release()
            group.back.acquire()
        running = list(group.offers)
        if running and group.failure is None:
            try:
                group.answer = _combine(group)
            except Exception as error:
                group.failure = error


def _combine(group: _Group) -> Any:
    if len(group.offers) < group.count:
        raise RuntimeError(
            f"{len(group.offers)} of {group.count} replicas reached a layer where all must meet: replicas must run the "
            "same layers"
        )
    return group.offers[0][1]([offer for offer, _ in group.offers.values()])
