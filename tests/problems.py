"""Random LSTM problems for the tests of the kernels; to be run by kernels, specification and PyTorch.

The kernels are called through `bptt._core` itself, with every output filled with NaN beforehand, so that an
element left unwritten shows; the layers above have tests of their own.
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import reference

core = pytest.importorskip("bptt._core", reason="the compiled core is not built")
VARIANTS = core.variants()
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "weight_hr")
FORWARD = ("output", "h_n", "c_n", "cells", "gates")
BACKWARD = ("d_x", "d_h_0", "d_c_0", "d_hidden", "d_cells")
KINDS = ("plain", "bias", "peephole", "bias peephole")


@dataclass
class Problem:
    """Sizes, weights, and what comes in from outside; a state or an error may be None (zeros)."""

    T: int
    B: int
    I: int
    H: int
    dtype: Any
    weights: dict[str, Any]
    x: Any
    h_0: Any
    c_0: Any
    d_output: Any
    d_h_n: Any
    d_c_n: Any

    @property
    def parameters(self):
        return tuple(self.weights.get(name) for name in NAMES)

    def inputs(self, dtype=None):
        """x, h_0, c_0 without a None, in another dtype if wanted."""
        zeros = np.zeros((self.B, self.H), self.dtype)
        arrays = (self.x, *(zeros if a is None else a for a in (self.h_0, self.c_0)))
        return tuple(a.astype(dtype or self.dtype) for a in arrays)

    def errors(self, dtype=None):
        """d_output, d_h_n, d_c_n, likewise."""
        state, output = (self.B, self.H), (self.T, self.B, self.H)
        given = zip((output, state, state), (self.d_output, self.d_h_n, self.d_c_n), strict=True)
        arrays = (np.zeros(shape, self.dtype) if a is None else a for shape, a in given)
        return tuple(a.astype(dtype or self.dtype) for a in arrays)


def make(sizes, dtype=np.float32, kind="bias", states=True, errors=True, seed=0):
    """Draw a problem; weights are uniform within 1/sqrt(H) as a layer's are, all else is standard normal."""
    T, B, I, H = sizes
    rng = np.random.default_rng([seed, *sizes, KINDS.index(kind)])

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def uniform(*shape):
        return rng.uniform(-(H**-0.5), H**-0.5, shape).astype(dtype)

    weights = {"weight_ih": uniform(4 * H, I), "weight_hh": uniform(4 * H, H)}
    if "bias" in kind:
        weights |= {"bias_ih": uniform(4 * H), "bias_hh": uniform(4 * H)}
    if "peephole" in kind:
        weights["weight_peephole"] = uniform(3, H)
    state = [normal(B, H), normal(B, H)] if states else [None, None]
    error = [normal(T, B, H), normal(B, H), normal(B, H)] if errors else [None, None, None]
    return Problem(T, B, I, H, np.dtype(dtype), weights, normal(T, B, I), *state, *error)


def unwritten(shape, dtype):
    return np.full(shape, np.nan, dtype)


def forward(problem, threads=1, packed=None, training=True):
    """Run the kernels; without `training` there are no cells and gates."""
    p, real = problem, problem.dtype
    state = (p.B, p.H)
    shapes = [(p.T, *state), state, state] + ([(p.T, *state), (p.T, p.B, 4, p.H)] if training else [])
    out = dict(zip(FORWARD, (unwritten(shape, real) for shape in shapes), strict=False))
    arrays = (out.get(name) for name in FORWARD)
    parameters = None if packed else p.parameters
    core.forward(core.Cell("LSTM"), threads, parameters, packed, p.x, p.h_0, p.c_0, *arrays)
    return out


def backward(problem, tape, threads=1, wanted=BACKWARD):
    """Run the kernels over a tape of `forward`; a result that is not wanted is passed as None."""
    p, real = problem, problem.dtype
    state, output = (p.B, p.H), (p.T, p.B, p.H)
    shapes = dict(zip(BACKWARD, (p.x.shape, state, state, output, output), strict=True))
    out = {name: unwritten(shapes[name], real) for name in wanted}
    weights = {name: unwritten(array.shape, real) for name, array in p.weights.items()}
    kept = (p.x, p.h_0, p.c_0, tape["output"], tape["cells"], tape["gates"])
    d_x, d_h_0, d_c_0, d_hidden, d_cells = (out.get(name) for name in BACKWARD)
    d_weights = tuple(weights.get(name) for name in NAMES)
    given = (*kept, p.d_output, p.d_h_n, p.d_c_n, d_x, d_h_0, d_c_0, d_weights, d_hidden, d_cells)
    core.backward(core.Cell("LSTM"), threads, p.parameters, *given)
    return out | {f"d_{name}": array for name, array in weights.items()}


def pack(problem, threads=1):
    return core.pack(core.Cell("LSTM"), threads, problem.parameters)


def expected(problem, dtype=np.float64):
    """Return the results of the specification in `dtype`: forward's and backward's, by name."""
    weights = {name: array.astype(dtype) for name, array in problem.weights.items()}
    inputs = problem.inputs(dtype)
    tape = dict(zip(FORWARD, reference.lstm_forward(*inputs, weights), strict=True))
    saved = (tape[name] for name in ("output", "cells", "gates"))
    d_x, d_h_0, d_c_0, d_weights, d_hidden, d_cells = reference.lstm_backward(
        *inputs, weights, *saved, *problem.errors(dtype)
    )
    gradients = dict(zip(BACKWARD, (d_x, d_h_0, d_c_0, d_hidden, d_cells), strict=True))
    return tape, gradients | {f"d_{name}": array for name, array in d_weights.items()}


def torch_results(problem, dtype):
    """Return the same of PyTorch's own LSTM; it has no peepholes, tape or gradients of single steps.

    On one thread: its pool would contend with that of the kernels, for many times the time on a busy machine.
    """
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    p, names = problem, [name for name in NAMES if name in problem.weights]
    layer = torch.nn.LSTM(p.I, p.H, bias="bias_ih" in p.weights).to(getattr(torch, np.dtype(dtype).name))
    layer.load_state_dict({f"{name}_l0": torch.from_numpy(p.weights[name].astype(dtype)) for name in names})
    x, h_0, c_0 = (torch.from_numpy(a).requires_grad_() for a in p.inputs(dtype))
    output, (h_n, c_n) = layer(x, (h_0[None], c_0[None]))
    d_output, d_h_n, d_c_n = (torch.from_numpy(a) for a in p.errors(dtype))
    torch.autograd.backward([output, h_n, c_n], [d_output, d_h_n[None], d_c_n[None]])
    torch.set_num_threads(threads)
    gradients = {"d_x": x.grad, "d_h_0": h_0.grad, "d_c_0": c_0.grad}
    gradients |= {f"d_{name}": getattr(layer, f"{name}_l0").grad for name in names}
    tape = {"output": output, "h_n": h_n[0], "c_n": c_n[0]}
    return tuple({k: v.detach().numpy() for k, v in results.items()} for results in (tape, gradients))


def forward_bound(T, dtype):
    """Promised largest error of a forward result against the specification in float64."""
    return 4 * math.ceil(math.log2(9 * max(T, 1))) * float(np.finfo(dtype).eps)


def gradient_bound(dtype):
    """Promised relative error of a gradient, in the Euclidean norm of the whole array."""
    return 1e-5 if dtype == np.float32 else 1e-13


def largest_error(got, want):
    """Largest error of an element, relative where the value is above 1 (a cell state grows with T)."""
    if not got.size:
        return 0.0
    return float(np.max(np.abs(got - want) / np.maximum(1, np.abs(want))))


def relative_error(got, want):
    """Euclidean norm of the error over that of the value; zero wants zero."""
    error, norm = np.linalg.norm(np.ravel(got - want)), np.linalg.norm(np.ravel(want))
    return float(error / norm) if norm else float(error)


def assert_promised(got, want, bound, measure, what):
    """Every array of `got` is within `bound` of its namesake; a NaN is not."""
    for name, array in got.items():
        assert array.shape == want[name].shape, f"{name} of {what}"
        error = measure(array.astype(np.float64), want[name])
        assert error <= bound, f"{name} of {what}: error {error:.3g}, promised {bound:.3g}"


def assert_same_bits(got, want, what):
    """Every array of `got` is its namesake to the last bit, the sign of a zero included, and holds no NaN."""
    for name, array in got.items():
        assert not np.isnan(array).any(), f"{name} of {what}: NaN"
        assert array.tobytes() == want[name].tobytes(), (
            f"{name} of {what}: {np.count_nonzero(array != want[name])} of {array.size} elements differ"
        )


@contextlib.contextmanager
def variant(name):
    """Run the block on one kernel variant."""
    before = bptt.active_variant()
    bptt.use_variant(name)
    try:
        yield
    finally:
        bptt.use_variant(before)
