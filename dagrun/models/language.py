"""Language models: the scores of the next token at each place of a text, from the tokens up to there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dagrun import ops
from dagrun.array import Array
from dagrun.nn import (
    LSTM,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    PositionalEncoding,
    TransformerEncoder,
    TransformerEncoderLayer,
    init,
)
from dagrun.nn import functional as F


class LSTMLanguageModel(Module):
    """An embedding, LSTM layers and a linear layer, with dropout between them.

    Zaremba, Sutskever and Vinyals, "Recurrent neural network regularization", 2014. Tokens (L, N) and perhaps the state
    that an earlier call returned, to scores (L, N, tokens) and the state (h, c). `tied`: the linear layer's weight is
    the embedding (Press and Wolf 2017), then `embedding` must equal `hidden`.

        >>> import dagrun as dr
        >>> net = dr.models.LSTMLanguageModel(50, embedding=8, hidden=16)
        >>> scores, (h, c) = net(dr.zeros((5, 2), "int64"))
        >>> scores.shape, h.shape
        ((5, 2, 50), (2, 2, 16))
    """

    def __init__(
        self, tokens: int, embedding: int = 200, hidden: int = 200, layers: int = 2, *, dropout: float = 0.2,
        tied: bool = False, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if tied and embedding != hidden:
            raise ValueError(f"LSTMLanguageModel: tied, but embedding {embedding} differs from hidden {hidden}")
        self.dropout = Dropout(dropout)
        self.encoder = Embedding(tokens, embedding, device=device)
        self.rnn = LSTM(embedding, hidden, layers, dropout=dropout, device=device)
        self.decoder = Linear(hidden, tokens, device=device)
        for weight in (self.encoder.weight, self.decoder.weight):
            init.uniform_(weight, -0.1, 0.1)
        init.zeros_(self.decoder.bias)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, tokens: Array, state: Sequence[Array] | None = None) -> tuple[Array, tuple[Array, Array]]:
        outputs, state = self.rnn(self.dropout(self.encoder(tokens)), state)
        return self.decoder(self.dropout(outputs)), (state[0], state[1])


class TransformerLanguageModel(Module):
    """Transformer layers in which each place sees those before it only; the norms stand first.

    Radford et al., "Language models are unsupervised multitask learners", 2019, but with sines for positions (Vaswani
    et al. 2017). Tokens (L, N) to scores (L, N, tokens); L at most `places`.

        >>> import dagrun as dr
        >>> net = dr.models.TransformerLanguageModel(50, width=16, heads=2, layers=1)
        >>> net(dr.zeros((5, 2), "int64")).shape
        (5, 2, 50)
    """

    def __init__(
        self, tokens: int, width: int = 128, heads: int = 4, layers: int = 2, *, dropout: float = 0.1,
        places: int = 1024, device: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale = math.sqrt(width)
        self.embedding = Embedding(tokens, width, device=device)
        self.positions = PositionalEncoding(width, dropout, places, device=device)
        layer = TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", norm_first=True, device=device
        )
        self.encoder = TransformerEncoder(layer, layers, LayerNorm(width, device=device))
        self.decoder = Linear(width, tokens, device=device)
        init.normal_(self.embedding.weight, 0, 1 / self.scale)  # times `scale`, as large as the sines

    def forward(self, tokens: Array) -> Array:
        x = self.positions(self.embedding(tokens) * self.scale)
        return self.decoder(self.encoder(x, is_causal=True))


def next_token_loss(outputs: Array | tuple[Array, Any], targets: Array) -> Array:
    """The mean cross-entropy of scores (L, N, tokens), perhaps with a state, and the tokens that came (L, N)."""
    scores = outputs[0] if isinstance(outputs, tuple) else outputs
    return F.cross_entropy(ops.reshape(scores, (-1, scores.shape[-1])), ops.reshape(targets, (-1,)))
