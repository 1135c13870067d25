"""The exchange of gradients: small ones in buckets, those of the first layers first.

Backward computes the gradients of the last layers first. Each bucket's collective starts, by its dependencies alone, as
soon as the bucket's gradients are there, while backward goes on for the layers before; among buckets that are ready the
one of the earliest layer goes first, because the next forward pass needs it first (Peng et al. 2019, ByteScheduler).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dagrun.array import Array
from dagrun.autodiff import no_grad
from dagrun.ops.joining import concatenate
from dagrun.ops.manipulation import reshape
from dagrun.parallel.ring import all_reduce

BUCKET_BYTES = 1 << 21  # gradients from this size on travel alone

Reduce = Callable[..., list[Array]]  # (arrays, one for each source; priority=) -> the total, one on each device


def buckets(gradients: Sequence[Array], limit: int = BUCKET_BYTES) -> list[list[int]]:
    """Runs of consecutive gradients of one dtype whose bytes stay below `limit`; larger ones alone.

    >>> import dagrun as dr
    >>> buckets([dr.ones(4), dr.ones(4), dr.ones(1000), dr.ones(4)], limit=100)
    [[0, 1], [2], [3]]
    """
    found: list[list[int]] = []
    room = 0
    for i, g in enumerate(gradients):
        if not found or g.nbytes > room or g.dtype != gradients[found[-1][-1]].dtype:
            found.append([])
            room = limit
        found[-1].append(i)
        room -= g.nbytes
    return found


def exchange(
    gradients: Sequence[Sequence[Array]], *, reduce: Reduce = all_reduce, bucket_bytes: int = BUCKET_BYTES
) -> list[list[Array]]:
    """For each device the totals of the gradients: `gradients[k][i]` is that of parameter i from source k.

    Parameters are in the order of the forward pass. `reduce`: the collective, `all_reduce` of one source on each
    device, or another with the same signature, such as one that compresses.

        >>> import dagrun as dr
        >>> a = [dr.ones(2), dr.ones(3)]
        >>> b = [g.to_device("cpu:1") for g in a]
        >>> [[g.tolist() for g in totals] for totals in exchange([a, b])]
        [[[2.0, 2.0], [2.0, 2.0, 2.0]], [[2.0, 2.0], [2.0, 2.0, 2.0]]]
    """
    if not gradients:
        raise ValueError("exchange: expected the gradients of at least one source")
    counts = {len(own) for own in gradients}
    if len(counts) > 1:
        raise ValueError(f"exchange: sources with {sorted(counts)} gradients, expected as many from each")
    first = gradients[0]
    groups = buckets(first, bucket_bytes)
    results: list[list[Array | None]] = []
    with no_grad():
        for number, group in reversed(list(enumerate(groups))):
            sources = [
                own[group[0]] if len(group) == 1 else concatenate([reshape(own[i], -1) for i in group])
                for own in gradients
            ]
            totals = reduce(sources, priority=len(groups) - number)
            results = results or [[None] * len(first) for _ in totals]
            for own, total in zip(results, totals, strict=True):
                start = 0
                for i in group:
                    if len(group) == 1:
                        own[i] = total
                    else:
                        own[i] = reshape(total[start : start + first[i].size], first[i].shape)
                    start += first[i].size
    return results  # type: ignore[return-value]
