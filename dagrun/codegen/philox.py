"""Random numbers by Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

The value of element i depends on (key, stream, i) only, whatever the cuts, lanes or device. Block b of a stream is
philox(counter = (b low, b high, stream low, stream high), key = (key low, key high)), four 32-bit words w0..w3.

    kind        elements of block b                          value
    "uint32"    4b .. 4b+3 from w0, w1, w2, w3               the word
    "uint64"    2b from (w0, w1), 2b+1 from (w2, w3)         low word first
    "uniform"   float32 as uint32, float64 as uint64         (w >> 8) 2^-24, or (w >> 11) 2^-53: in [0, 1)
    "normal"    float32: 4b, 4b+1 from (w0, w1) and          Box-Muller: u from the first word (pair), turn t from the
                4b+2, 4b+3 from (w2, w3); float64: 2b,       second; sqrt(-2 log u) times cos, then sin, of 2 pi t.
                2b+1 from ((w0, w1), (w2, w3))               float32: u = w 2^-32 + 2^-33, t = (w >> 8) 2^-24;
                                                             float64: u = ((w >> 11) + 1) 2^-53, t = (w >> 11) 2^-53
    "bounded"   as uint64                                    low + high 64 bits of (w * range): a value is off its fair
                                                             probability by less than 2^-64; range 0 means 2^64

Operands (`data`): the output, contiguous. Params, int64 words: 0 number of elements, 1 number of the first element, a
multiple of 4. Scalars: 0 key, 1 stream, and for "bounded" 2 low, 3 range.
"""

from __future__ import annotations

from dagrun.codegen import layout
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name
from dagrun.codegen.elementwise import check_dtypes, move_strided
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.mathematics import log, sine_cosine_of_turn
from dagrun.codegen.target import cuda_kernel, target
from dagrun.codegen.values import ITEMSIZE, Value, is_integer

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
BLOCKS = 8  # philox blocks computed together
KINDS = ("uint32", "uint64", "uniform", "normal", "bounded")


def philox_kernel(kind: str, dtype: object) -> int:
    """Address of the fill kernel of one of KINDS: floats for uniform and normal, any integer dtype for bounded."""
    check_dtypes(dtype)
    name = str(dtype)
    floating = name in ("float32", "float64")
    fits = {"uniform": floating, "normal": floating, "bounded": is_integer(name)}.get(kind, kind == name)
    if kind not in KINDS or not fits:
        raise Unsupported(f"no random kernel of kind {kind!r} for {name}")
    if target() == "cuda":
        return cuda_kernel("philox", kind, name)
    key = f"philox; {kind} {name}"
    return compile_kernel(key, lambda: _philox_ir(kind, name, entry_name(key)))


def philox_params(count: int, first: int = 0) -> bytes:
    """The params block for elements first .. first + count - 1; `first` must be a multiple of 4."""
    if first % 4:
        raise ValueError(f"a cut must begin at a multiple of 4 elements, not at {first}")
    return layout.pack((count, first))


def philox_words(counter: tuple[Value, Value, Value, Value], key: tuple[Value, Value]) -> list[Value]:
    """The four words of a block; all values are uint32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        first = c0.to("uint64") * _MULTIPLIERS[0]
        second = c2.to("uint64") * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> 32).to("uint32") ^ c1 ^ k0,
            second.to("uint32"),
            (first >> 32).to("uint32") ^ c3 ^ k1,
            first.to("uint32"),
        )
        k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return [c0, c1, c2, c3]


def split(value: Value) -> tuple[Value, Value]:
    """The lower and the upper half of a uint64."""
    return value.to("uint32"), (value >> 32).to("uint32")


def _pair(low: Value, high: Value) -> Value:
    return low.to("uint64") | (high.to("uint64") << 32)


def _box_muller(u: Value, turn: Value) -> tuple[Value, Value]:
    radius = u.emitter.intrinsic("sqrt", -2.0 * log(u))
    sine, cosine = sine_cosine_of_turn(turn)
    return radius * cosine, radius * sine


def elements_of_block(kind: str, dtype: str, words: list[Value], extra: list[Value]) -> list[Value]:
    """The elements of each block, as one vector per position within the block."""
    pairs = [_pair(words[0], words[1]), _pair(words[2], words[3])]
    if kind == "uint32":
        return words
    if kind == "uint64":
        return pairs
    if kind == "bounded":
        return [_bounded(pair, *extra).to(dtype) for pair in pairs]
    if dtype == "float32":
        fractions: list[Value] = [(word >> 8).to("int32").to("float32") * 2.0**-24 for word in words]
        if kind == "uniform":
            return fractions
        positive = [word.to("float32") * 2.0**-32 + 2.0**-33 for word in (words[0], words[2])]
        return [*_box_muller(positive[0], fractions[1]), *_box_muller(positive[1], fractions[3])]
    if kind == "uniform":
        return [_fraction64(pair >> 11) for pair in pairs]
    return list(_box_muller(_fraction64((pairs[0] >> 11) + 1), _fraction64(pairs[1] >> 11)))


def _fraction64(bits: Value) -> Value:
    """bits 2^-53 for bits <= 2^53, exactly."""
    high = ((bits >> 32) | 0x4530000000000000).bitcast("float64") - 2.0**84  # the upper half, times 2^32
    low = ((bits & 0xFFFFFFFF) | 0x4330000000000000).bitcast("float64") - 2.0**52
    return (high + low) * 2.0**-53


def _bounded(word: Value, low: Value, extent: Value) -> Value:
    """low + floor(word * extent / 2^64), by halves of 32 bits."""
    e = word.emitter
    w0, w1 = word & 0xFFFFFFFF, word >> 32
    r0, r1 = extent & 0xFFFFFFFF, extent >> 32
    middle = w1 * r0 + ((w0 * r0) >> 32)
    cross = w0 * r1 + (middle & 0xFFFFFFFF)
    scaled = w1 * r1 + (middle >> 32) + (cross >> 32)
    return low + e.select(extent.equals(0), word, scaled)


def _interleaved(values: list[Value]) -> Value:
    """Element j of every vector in turn, then element j + 1."""
    e = values[0].emitter
    if len(values) == 4:
        return e.interleave(e.interleave(values[0], values[2]), e.interleave(values[1], values[3]))
    return e.interleave(values[0], values[1])


def _philox_ir(kind: str, dtype: str, name: str) -> str:
    e = Emitter()
    n, first = e.load_at("%params", 0), e.load_at("%params", 1)
    slots = [e.load_at("%scalars", k, "uint64") for k in range(4 if kind == "bounded" else 2)]
    output = e.load_at("%data", 0, "pointer")
    key, stream, *extra = (e.splat(value, BLOCKS) for value in slots)
    per_block = 4 if kind == "uint32" or dtype == "float32" else 2
    group = BLOCKS * per_block
    first_block = first >> e.constant(per_block.bit_length() - 1, "int64")
    staged = e.buffer(group * ITEMSIZE[dtype])
    with e.loop((n + (group - 1)) >> e.constant(group.bit_length() - 1, "int64")) as i:
        block = e.splat((first_block + i * BLOCKS).to("uint64"), BLOCKS) + e.lane_numbers(BLOCKS, "uint64")
        words = philox_words((*split(block), *split(stream)), split(key))
        elements = _interleaved(elements_of_block(kind, dtype, words, extra))
        rest = n - i * group
        whole = rest >= group
        place = e.element(output, i * group, dtype)
        e.store(e.select(whole, place, staged), elements)
        with e.when(~whole):
            itemsize = e.constant(ITEMSIZE[dtype], "int64")
            move_strided(e, place, itemsize, staged, itemsize, rest, dtype)
    e.finish()
    return e.module(name)
