"""Tables of vectors."""

from __future__ import annotations

from typing import Any

from dagrun.array import Array, asarray
from dagrun.autodiff import no_grad
from dagrun.nn import functional as F
from dagrun.nn import init
from dagrun.nn.linear import blank
from dagrun.nn.module import Module, Parameter


class Embedding(Module):
    """Row i of `weight` (num_embeddings, embedding_dim) for each integer i; first standard normal.

    The row `padding_idx` is first 0 and gets no gradient.

        >>> import dagrun as dr
        >>> dr.nn.Embedding(10, 3)(dr.asarray([[1, 2], [4, 5]])).shape
        (2, 2, 3)
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx is {padding_idx}, expected a row of {num_embeddings}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight = blank((num_embeddings, embedding_dim), device, dtype)
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """A layer with this table, which is not trained unless `freeze` is False."""
        table = asarray(embeddings)
        rows, width = table.shape
        layer = cls(rows, width, padding_idx, device=table.device, dtype=table.dtype)
        layer.weight = Parameter(table)
        layer.weight.requires_grad = not freeze
        return layer

    def reset_parameters(self) -> None:
        """Draws the table anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0

    def forward(self, input: Array) -> Array:
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"
