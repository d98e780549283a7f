"""The network of an estimator: recurrent layers, pooling over time, an affine head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

import bptt

__all__ = ["CELLS", "POOLINGS", "Network"]

Array: TypeAlias = "NDArray[Any]"
CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (bptt.LSTM, {}),
    "peephole": (bptt.LSTM, {"peephole": True}),
    "gru": (bptt.GRU, {}),
    "rnn": (bptt.RNN, {}),
}
POOLINGS = ("last", "mean")


class Network(NamedTuple):
    """Scores of sequences, and their gradient.

    Attributes
    ----------
    layer : bptt.LSTM, bptt.GRU or bptt.RNN
    head : dict of str to ndarray
        ``weight`` (K, D*H) and ``bias`` (K,).
    pooling : {"last", "mean"}
        What of a sequence the head sees: the state after its last step (and, in the reverse direction, its
        first), or the mean output.
    dropout : float
        Before the head, in training; that between layers is the layer's own.
    """

    layer: Any
    head: dict[str, Array]
    pooling: str
    dropout: float

    @classmethod
    def made(
        cls, cell: str, sizes: tuple[int, int, int], pooling: str, dropout: float, rng: Any, **stack: Any
    ) -> Network:
        """Return a network of I, H and K in `sizes`, with weights drawn from `rng`."""
        I, H, K = sizes
        kind, settings = CELLS[cell]
        between = dropout if stack["num_layers"] > 1 else 0.0
        layer = kind(I, H, dropout=between, seed=rng, **settings, **stack)
        width = H * (1 + layer.bidirectional)
        weight = rng.uniform(-(width**-0.5), width**-0.5, (K, width)).astype(layer.dtype)
        return cls(layer, {"weight": weight, "bias": np.zeros(K, layer.dtype)}, pooling, dropout)

    def copies(self) -> list[Array]:
        """Return a copy of every parameter."""
        return [array.copy() for array in self._arrays()]

    def restore(self, copies: list[Array]) -> None:
        """Set every parameter to what `copies` returned."""
        for array, copy in zip(self._arrays(), copies, strict=True):
            array[...] = copy

    def _arrays(self) -> list[Array]:
        return [self.layer.parameters.flat, *self.head.values()]

    def __call__(self, x: Array, lengths: Array) -> Array:
        """Return the scores (B, K) of sequences (T, B, I)."""
        output, state = self.layer(x, lengths=lengths)
        features = self._pooled(output, state, lengths)
        # Unlike BLAS, the same sums in the same order whatever batch stands around a sequence.
        scores: Array = np.einsum("bf,kf->bk", features, self.head["weight"])
        scores += self.head["bias"]
        return scores

    def gradients(
        self, x: Array, lengths: Array, slope: Callable[[Array], tuple[float, Array]], rng: Any
    ) -> tuple[float, list[Any]]:
        """Return a loss and its gradients, the layer's and the head's.

        Parameters
        ----------
        x, lengths : ndarray, (T, B, I) and (B,)
        slope : callable
            Gives the loss of scores (B, K), and its gradient with respect to them.
        rng : numpy.random.Generator
            For dropout.
        """
        tape = self.layer.forward(x, lengths=lengths, rng=rng if self.layer.dropout else None)
        features = self._pooled(tape.output, tape.state, lengths)
        mask = self._mask(features, rng)
        features = features * mask
        loss, d_scores = slope(features @ self.head["weight"].T + self.head["bias"])
        d_features = d_scores @ self.head["weight"] * mask
        gradients = self.layer.backward(tape, *self._spread(d_features, len(x), lengths))
        return loss, [gradients, {"weight": d_scores.T @ features, "bias": d_scores.sum(axis=0)}]

    def _mask(self, features: Array, rng: Any) -> Any:
        """Return what dropout multiplies the features by."""
        if not self.dropout:
            return features.dtype.type(1)
        kept = rng.random(features.shape, np.float32) >= self.dropout
        return kept.astype(features.dtype) / features.dtype.type(max(1 - self.dropout, 1e-9))

    def _pooled(self, output: Array, state: Any, lengths: Array) -> Array:
        """Return what the head sees of each sequence: (B, D*H)."""
        if self.pooling == "mean":
            means: Array = output.sum(axis=0) / self._counts(lengths)
            return means
        h_n = state[0] if isinstance(state, tuple) else state
        last = h_n[-(1 + self.layer.bidirectional) :]  # of the top layer
        return np.concatenate(list(last), axis=1)

    def _spread(self, d_features: Array, T: int, lengths: Array) -> tuple[Array | None, Any]:
        """Return the gradients d_output and d_state that gradients of the features mean."""
        layer = self.layer
        D, H = 1 + layer.bidirectional, layer.hidden_size
        if self.pooling == "mean":
            d_mean = d_features / self._counts(lengths)
            return np.broadcast_to(d_mean, (T, *d_mean.shape)), None
        d_h_n = np.zeros((layer.num_layers * D, len(d_features), H), layer.dtype)
        for d in range(D):
            d_h_n[d - D] = d_features[:, d * H : (d + 1) * H]
        return None, (d_h_n, None) if isinstance(layer, bptt.LSTM) else d_h_n

    def _counts(self, lengths: Array) -> Array:
        """Return the steps that a mean is over, (B, 1), at least 1."""
        counts: Array = np.maximum(lengths, 1).astype(self.layer.dtype)[:, None]
        return counts
