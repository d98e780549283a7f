"""What rules the flow: spectra of the recurrent weights, Jacobians, Lyapunov exponents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from ..layers import GRU, LSTM, RNN
from ..parameters import suffixes
from ..recurrent import Recurrent, checked_layer

__all__ = ["Spectrum", "jacobian", "lyapunov_exponents", "recurrent_spectra", "spectral_radius"]

BLOCK_BYTES = 64 << 20  # of one block of rows that run through the kernels together


class Spectrum(NamedTuple):
    """Eigenvalues and singular values of one square block of ``weight_hh``.

    Attributes
    ----------
    name : str
        The parameter; of a gated layer with the gate: "weight_hh_l0[f]".
    radius : float
        The largest absolute eigenvalue.
    singular_values : ndarray, (H,)
        Descending.
    bound : float or None
        1 / (the largest slope of the nonlinearity), for a plain layer; None for a block of a gated one.
    """

    name: str
    radius: float
    singular_values: NDArray[np.float64]
    bound: float | None

    @property
    def conclusion(self) -> str:
        """What the bounds of Pascanu, Mikolov and Bengio (2013) say of a plain layer.

        With the largest singular value below `bound` gradients vanish, whatever the data; above it they may
        explode, which is necessary for it and not sufficient.
        """
        if self.bound is None:
            return "no bound: gates scale this block at every step"
        largest = self.singular_values[0]
        if largest < self.bound:
            return f"largest singular value {largest:.3g} below {self.bound:g}: gradients vanish on any data"
        return f"largest singular value {largest:.3g}, not below {self.bound:g}: gradients may explode"


def recurrent_spectra(layer: Recurrent) -> tuple[Spectrum, ...]:
    """Return the spectrum of each square block of the recurrent weights, layer by layer, gate by gate.

    Parameters
    ----------
    layer : LSTM, GRU or RNN

    Raises
    ------
    TypeError, ValueError
        If it is not a layer, or a weight is not finite.

    Notes
    -----
    Pascanu, Mikolov and Bengio (2013), sections 2.1 and 2.2.

    Examples
    --------
    >>> import bptt
    >>> layer = bptt.RNN(1, 2, bias=False)
    >>> layer.parameters["weight_hh_l0"] = [[0, 0.5], [0.25, 0]]
    >>> [spectrum] = bptt.flow.recurrent_spectra(layer)
    >>> spectrum.singular_values
    array([0.5 , 0.25])
    >>> spectrum.conclusion
    'largest singular value 0.5 below 1: gradients vanish on any data'
    """
    D, found = 1 + checked_layer(layer).bidirectional, list[Spectrum]()
    bound = 1.0 if isinstance(layer, RNN) else None  # the slopes of tanh, relu and identity are at most 1
    for suffix in suffixes(layer.num_layers, D):
        name = f"weight_hh{suffix}"
        weight = layer.parameters[name].astype(np.float64)
        projection = layer.parameters.get(f"weight_hr{suffix}")
        if projection is not None:
            weight = weight @ projection  # from cell to gates, (4H, H)
        if not np.isfinite(weight).all():
            raise ValueError(f"{name}: expected finite numbers")
        gates = "ifgo" if isinstance(layer, LSTM) else "rzn" if isinstance(layer, GRU) else ""
        for q, block in enumerate(np.split(weight, max(1, len(gates)))):
            shown = f"{name}[{gates[q]}]" if gates else name
            radius = float(np.abs(np.linalg.eigvals(block)).max())
            stretches = np.linalg.svd(block, compute_uv=False).astype(np.float64)
            found.append(Spectrum(shown, radius, stretches, bound))
    return tuple(found)


def spectral_radius(layer: Recurrent) -> float:
    """Return the largest absolute eigenvalue of the recurrent weights.

    Of a plain layer that is the spectral radius of ``weight_hh_l0``: gradients of a linear network explode
    above 1 and vanish below. Of several layers and directions it is the largest; of a gated layer, whose
    ``weight_hh`` has a block (H, H) for each gate, the largest of all blocks. `recurrent_spectra` has them
    one by one.

    Parameters
    ----------
    layer : LSTM, GRU or RNN

    Raises
    ------
    TypeError, ValueError
        If it is not a layer, or a weight is not finite.

    Examples
    --------
    >>> import bptt
    >>> layer = bptt.RNN(1, 2, bias=False)
    >>> layer.parameters["weight_hh_l0"] = [[0, -2], [2, 0]]
    >>> round(bptt.spectral_radius(layer), 6)
    2.0
    """
    return max(spectrum.radius for spectrum in recurrent_spectra(layer))


def jacobian(layer: Recurrent, x: Any, t: int, s: int, state: Any = None) -> NDArray[np.float64]:
    """Return the derivative of h_t with respect to h_s, through all steps between them.

    h_s is changed alone: c_s and the inputs stay. Computed in float64, by one backward pass for all units.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
        Of several layers the top one counts.
    x, state
        As for ``layer.forward``.
    t : int
        0 to T-1.
    s : int
        -1 to T-1; -1 is the initial state. (Where there is a reverse direction T is its initial state.)

    Returns
    -------
    ndarray of float64, (B, H, H) or unbatched (H, H)
        Element [b, j, k] is that of unit j at step t by unit k at step s: the identity for s = t, zero for
        s > t. With two directions (B, 2H, 2H); the half that is zero there is the other one.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range; the message names it.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.RNN(1, 1, nonlinearity="identity", bias=False)
    >>> layer.parameters["weight_hh_l0"] = [[0.5]]
    >>> bptt.jacobian(layer, np.ones((9, 1), np.float32), t=7, s=4)
    array([[0.125]])
    """
    parts, batched = _parts(layer, x, state, top=True)
    T, B, _ = parts[0].x.shape
    if T == 0:
        raise ValueError("x: expected at least one step, got 0")
    t, s = _step("t", t, 0, T - 1), _step("s", s, -1, T - 1 + (len(parts) == 2))
    sizes = [part.states[0].shape[2] for part in parts]
    found = np.zeros((B, sum(sizes), sum(sizes)))
    if s == t:
        found[...] = np.eye(sum(sizes))
    for d, (part, H) in enumerate(zip(parts, sizes, strict=True)):
        end, begin = (T - 1 - t, T - 1 - s) if d else (t, s)
        if begin < end:
            start = [states[begin + 1] for states in part.states]
            block = _jacobians(part.layer, part.x[begin + 1 : end + 1], start, H)
            found[:, d * H : (d + 1) * H, d * H : (d + 1) * H] = block[:, :, :H]
    return found if batched else found[0]


def lyapunov_exponents(
    layer: Recurrent, x: Any, k: int | None = None, state: Any = None, *, discard: int | None = None
) -> NDArray[np.float64]:
    """Return the Lyapunov exponents of a layer along a trajectory: natural logarithms of growth per step.

    A small change of the state grows by exp(exponent) at each step, in as many directions as there are
    exponents; the gradient travels back by the same factors. The largest above 0 is chaos and exploding
    gradients, well below 0 is forgetting and vanishing ones.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
        The state is h, of an LSTM (h, c), of all layers and directions.
    x, state
        As for ``layer.forward``: the inputs that drive it, and where it starts.
    k : int, optional
        How many of the largest; all by default.
    discard : int, optional
        Steps at the beginning that only turn the directions into place; a tenth of them by default.

    Returns
    -------
    ndarray of float64, (k,)
        Descending; the mean over the rows of the batch. Minus infinity where a direction is lost altogether.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range; the message names it.

    Notes
    -----
    Benettin et al. (1980): directions go along the trajectory and are made orthonormal again by QR at every
    step. Each layer drives the next and not the other way, so the exponents of a stack are those of its
    layers, each with its own input. Of recurrent networks: Engelken, Wolf and Abbott (2023); Vogt et al.
    (2022). Computed in float64.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.RNN(1, 2, nonlinearity="identity", bias=False)
    >>> layer.parameters["weight_hh_l0"] = [[0.5, 0], [0, 2]]
    >>> exponents = bptt.lyapunov_exponents(layer, np.zeros((200, 1), np.float32))
    >>> np.exp(exponents).round(6)
    array([2. , 0.5])
    """
    parts, _ = _parts(layer, x, state, top=False)
    T, B, _ = parts[0].x.shape
    if not T or not B:
        raise ValueError(f"x: expected at least one step and one row, got T={T}, B={B}")
    total = sum(states.shape[2] for part in parts for states in part.states)
    wanted = total if k is None else _check.size("k", k)
    if wanted > total:
        raise ValueError(f"k: expected at most the size of the state, {total}, got {wanted}")
    skipped = T // 10 if discard is None else _check.size("discard", discard, 0)
    if skipped >= T:
        raise ValueError(f"discard: expected less than T = {T}, got {skipped}")
    found = np.concatenate([_along(part, wanted, skipped) for part in parts])
    return np.asarray(np.sort(found)[::-1][:wanted])


class _Part(NamedTuple):
    """One direction of one layer as a layer of its own, its input and states as it meets the steps.

    Attributes
    ----------
    layer : LSTM, GRU or RNN
        One layer, one direction, float64.
    x : ndarray, (T, B, I)
    states : list of ndarray, (T + 1, B, H)
        h, and c of an LSTM; slot 0 is the initial state.
    """

    layer: Recurrent
    x: NDArray[Any]
    states: list[NDArray[Any]]


def _parts(layer: Recurrent, x: Any, state: Any, top: bool) -> tuple[list[_Part], bool]:
    """Run a layer in float64; return its parts, or those of the top layer, and if there is a batch axis."""
    twin = checked_layer(layer).astype(np.float64)
    tape = twin.forward(x, state)
    B = tape.hidden.shape[2]
    inputs, batched = twin._layout.sequence(x)
    initial = twin._layout.state(state, B, batched)
    courses = [tape.hidden] if tape.cells is None else [tape.hidden, tape.cells]
    D, found = 1 + twin.bidirectional, []
    for n, suffix in enumerate(suffixes(twin.num_layers, D)):
        if n and n % D == 0:
            inputs = np.concatenate(list(tape.hidden[n - D : n]), 2)
        way = slice(None, None, -1 if n % D else 1)
        states = []
        for course, first in zip(courses, initial, strict=False):
            start = np.zeros(course.shape[2:]) if first is None else first[n]
            states.append(np.concatenate([start[None], course[n][way]]))
        found.append(_Part(_alone(twin, suffix, inputs.shape[2]), inputs[way], states))
    return found[-D:] if top else found, batched


def _alone(layer: Recurrent, suffix: str, input_size: int) -> Recurrent:
    """Return one direction of one layer as a layer of its own."""
    settings = {name: getattr(layer, name) for name in layer._DEFAULTS}
    settings |= {"num_layers": 1, "bidirectional": False, "dropout": 0.0, "batch_first": False}
    kind: Any = type(layer)
    alone: Recurrent = kind(input_size, layer.hidden_size, **settings)
    for name, array in alone.parameters.items():
        array[...] = layer.parameters[name.removesuffix("_l0") + suffix]
    return alone


def _jacobians(
    layer: Recurrent, x: NDArray[Any], states: list[NDArray[Any]], outputs: int
) -> NDArray[np.float64]:
    """Return the derivatives of the state after some steps by the one before them.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
        One layer, one direction, float64.
    x : ndarray, (K, R, I)
        K steps of R rows.
    states : list of ndarray, (R, H)
        h, or h and c, before the steps.
    outputs : int
        How many elements of the state are wanted of the one after, h first.

    Returns
    -------
    ndarray of float64, (R, outputs, n)
        With n = H or 2H.
    """
    K, R, I = x.shape
    n = sum(state.shape[1] for state in states)
    ends_at = np.cumsum([state.shape[1] for state in states])[:-1]
    found = np.empty((R * outputs, n))
    width = max(1, BLOCK_BYTES // (8 * K * (I + 8 * layer.hidden_size)))
    for start in range(0, len(found), width):
        rows = np.arange(start, min(start + width, len(found)))  # one for each element of each row
        chosen = rows // outputs
        tape = layer.forward(x[:, chosen], _given([state[None, chosen] for state in states]))
        ends = np.eye(n)[rows % outputs]
        d_state = [end[None] for end in np.split(ends, ends_at, 1)]
        slopes = layer.backward(tape, None, _given(d_state)).state
        found[rows] = np.concatenate(slopes if isinstance(slopes, tuple) else [slopes], 2)[0]
    return found.reshape(R, outputs, n)


def _given(states: list[NDArray[Any]]) -> Any:
    """Return states as a layer takes them."""
    return states[0] if len(states) == 1 else tuple(states)


def _step_jacobians(part: _Part) -> Iterator[NDArray[np.float64]]:
    """Yield the derivative of each state by the one before it, (B, n, n), step by step."""
    T, B, I = part.x.shape
    n = sum(states.shape[2] for states in part.states)
    count = max(1, BLOCK_BYTES // (8 * B * n * n))
    for start in range(0, T, count):
        end = min(start + count, T)
        before = [states[start:end].reshape((end - start) * B, -1) for states in part.states]
        found = _jacobians(part.layer, part.x[start:end].reshape(1, -1, I), before, n)
        yield from found.reshape(end - start, B, n, n)


def _along(part: _Part, k: int, skipped: int) -> NDArray[np.float64]:
    """Return the k largest exponents of a part, or all it has: mean over steps and rows."""
    T, B, _ = part.x.shape
    n = sum(states.shape[2] for states in part.states)
    drawn = np.random.default_rng(0).standard_normal((n, min(k, n)))
    directions = np.broadcast_to(np.linalg.qr(drawn)[0], (B, n, min(k, n)))
    total = np.zeros(min(k, n))
    for t, step in enumerate(_step_jacobians(part)):
        directions, factors = np.linalg.qr(step @ directions)
        if t >= skipped:
            with np.errstate(divide="ignore"):
                total += np.log(np.abs(np.diagonal(factors, axis1=1, axis2=2))).mean(0)
    return np.asarray(total / (T - skipped))


def _step(name: str, value: object, low: int, high: int) -> int:
    step = _check.size(name, value, low)
    if step > high:
        raise ValueError(f"{name}: expected {low} to {high}, got {step}")
    return step
