"""The specification against finite differences, PyTorch, and its own promises."""

import warnings

import numpy as np
import pytest

from bptt import reference

# T, B, I, H: no two equal, so that a transposed or swapped array cannot pass.
SIZES = (4, 3, 2, 5)
KINDS = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
PEEPHOLES = pytest.mark.parametrize("peephole", [True, False], ids=["peephole", "plain"])
INPUTS = ("x", "h_0", "c_0")
ERRORS = ("d_output", "d_h_n", "d_c_n")


def make_case(sizes=SIZES, bias=True, peephole=True, dtype=np.float64, seed=0):
    """Random arrays of a whole problem: x, the states, the weights and the gradients from outside."""
    steps, batch, inputs, hidden = sizes
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (0.8 * rng.standard_normal(shape) + 0.1).astype(dtype)

    weights = {"weight_ih": draw(4 * hidden, inputs), "weight_hh": draw(4 * hidden, hidden)}
    if bias:
        weights |= {"bias_ih": draw(4 * hidden), "bias_hh": draw(4 * hidden)}
    if peephole:
        weights |= {"weight_peephole": draw(3, hidden)}
    case = {"x": draw(steps, batch, inputs), "h_0": draw(batch, hidden), "c_0": draw(batch, hidden)}
    case |= {
        "d_output": draw(steps, batch, hidden),
        "d_h_n": draw(batch, hidden),
        "d_c_n": draw(batch, hidden),
    }
    return case | {"weights": weights}


def forward(case):
    names = ("output", "h_n", "c_n", "cells", "gates")
    return dict(zip(names, reference.lstm_forward(*(case[k] for k in INPUTS), case["weights"]), strict=True))


def backward(case, tape):
    inputs, errors = [case[k] for k in INPUTS], [case[k] for k in ERRORS]
    saved = [tape[k] for k in ("output", "cells", "gates")]
    names = ("x", "h_0", "c_0", "weights", "hidden", "cells")
    return dict(zip(names, reference.lstm_backward(*inputs, case["weights"], *saved, *errors), strict=True))


def loss(case):
    """Scalar whose gradient with respect to output, h_n and c_n is d_output, d_h_n and d_c_n."""
    tape = forward(case)
    pairs = (("d_output", "output"), ("d_h_n", "h_n"), ("d_c_n", "c_n"))
    return sum(float(np.sum(case[d] * tape[v])) for d, v in pairs)


def central_difference(function, array, step=1e-5):
    """Gradient of function() with respect to `array`, which it reads: each element moved both ways."""
    gradient = np.empty_like(array)
    for at in np.ndindex(array.shape):
        value = array[at]
        array[at] = value + step
        above = function()
        array[at] = value - step
        below = function()
        array[at] = value
        gradient[at] = (above - below) / (2 * step)
    return gradient


@KINDS
@PEEPHOLES
def test_gradients_equal_finite_differences(bias, peephole):
    case = make_case(bias=bias, peephole=peephole)
    grads = backward(case, forward(case))
    for name in INPUTS:
        expected = central_difference(lambda: loss(case), case[name])
        np.testing.assert_allclose(grads[name], expected, rtol=1e-7, atol=1e-8, err_msg=name)
    assert grads["weights"].keys() == case["weights"].keys()
    for name, weight in case["weights"].items():
        expected = central_difference(lambda: loss(case), weight)
        np.testing.assert_allclose(grads["weights"][name], expected, rtol=1e-7, atol=1e-8, err_msg=name)


@PEEPHOLES
def test_gradients_at_every_step_equal_finite_differences(peephole):
    """h_t is moved and the later steps follow; c_t is moved and its own o_t and h_t follow too."""
    case = make_case(peephole=peephole)
    tape = forward(case)
    grads = backward(case, tape)
    p_o = case["weights"]["weight_peephole"][2] if peephole else 0.0
    for t in range(SIZES[0]):
        h, c, c_saved = tape["output"][t].copy(), tape["cells"][t].copy(), tape["cells"][t]
        o = tape["gates"][t, :, 3]
        z_o = np.log(o / (1 - o))
        later = {**case, "x": case["x"][t + 1 :], "d_output": case["d_output"][t + 1 :]}

        def rest(h=h, c=c, t=t, later=later):
            return float(np.sum(case["d_output"][t] * h)) + loss({**later, "h_0": h, "c_0": c})

        def rest_from_cell(c=c, c_saved=c_saved, z_o=z_o, rest=rest):
            h = np.tanh(c) / (1 + np.exp(-(z_o + p_o * (c - c_saved))))
            return rest(h=h, c=c)

        for name, function, state in (("hidden", rest, h), ("cells", rest_from_cell, c)):
            expected = central_difference(function, state)
            np.testing.assert_allclose(grads[name][t], expected, rtol=1e-7, atol=1e-8, err_msg=f"{name} {t}")


@KINDS
@pytest.mark.parametrize("sizes", [SIZES, (1, 1, 1, 1), (7, 2, 3, 1), (3, 5, 6, 4)], ids=str)
def test_values_and_gradients_equal_torch(bias, sizes):
    torch = pytest.importorskip("torch")
    case = make_case(sizes, bias=bias, peephole=False, seed=1)
    layer = torch.nn.LSTM(sizes[2], sizes[3], bias=bias, dtype=torch.float64)
    layer.load_state_dict({name + "_l0": torch.tensor(w) for name, w in case["weights"].items()})
    x, h_0, c_0 = (torch.tensor(case[k], requires_grad=True) for k in INPUTS)
    d_output, d_h_n, d_c_n = (torch.tensor(case[k]) for k in ERRORS)
    output, (h_n, c_n) = layer(x, (h_0[None], c_0[None]))
    torch.autograd.backward([output, h_n, c_n], [d_output, d_h_n[None], d_c_n[None]])

    tape = forward(case)
    grads = backward(case, tape)
    pairs = [(tape["output"], output), (tape["h_n"], h_n[0]), (tape["c_n"], c_n[0])]
    pairs += [(grads["x"], x.grad), (grads["h_0"], h_0.grad), (grads["c_0"], c_0.grad)]
    pairs += [(grads["weights"][name], getattr(layer, name + "_l0").grad) for name in case["weights"]]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-11, atol=1e-13)


@KINDS
@PEEPHOLES
def test_values_and_gradients_equal_a_torch_loop(bias, peephole):
    """Automatic differentiation of the textbook loop, with the gradient at every h_t and c_t."""
    torch = pytest.importorskip("torch")
    case = make_case(bias=bias, peephole=peephole, seed=2)
    x, h_0, c_0 = (torch.tensor(case[k], requires_grad=True) for k in INPUTS)
    weights = {name: torch.tensor(w, requires_grad=True) for name, w in case["weights"].items()}
    d_output, d_h_n, d_c_n = (torch.tensor(case[k]) for k in ERRORS)
    b = weights["bias_ih"] + weights["bias_hh"] if bias else torch.zeros(4 * SIZES[3], dtype=torch.float64)
    p_i, p_f, p_o = weights["weight_peephole"] if peephole else torch.zeros(3, SIZES[3], dtype=torch.float64)

    h, c, hidden, cells, gates = h_0, c_0, [], [], []
    for x_t in x:
        z = torch.nn.functional.linear(x_t, weights["weight_ih"], b) + h @ weights["weight_hh"].T
        z_i, z_f, z_g, z_o = z.chunk(4, dim=1)
        i, f, g = torch.sigmoid(z_i + p_i * c), torch.sigmoid(z_f + p_f * c), torch.tanh(z_g)
        c = f * c + i * g
        o = torch.sigmoid(z_o + p_o * c)
        h = o * torch.tanh(c)
        h.retain_grad()
        c.retain_grad()
        hidden, cells, gates = [*hidden, h], [*cells, c], [*gates, torch.stack([i, f, g, o], dim=1)]
    torch.autograd.backward([torch.stack(hidden), h, c], [d_output, d_h_n, d_c_n])

    tape = forward(case)
    grads = backward(case, tape)
    pairs = [(tape["h_n"], h), (tape["c_n"], c), (tape["gates"], torch.stack(gates))]
    pairs += [(tape["output"], torch.stack(hidden)), (tape["cells"], torch.stack(cells))]
    pairs += [(grads["x"], x.grad), (grads["h_0"], h_0.grad), (grads["c_0"], c_0.grad)]
    pairs += [(grads["hidden"], torch.stack([h.grad for h in hidden]))]
    pairs += [(grads["cells"], torch.stack([c.grad for c in cells]))]
    pairs += [(grads["weights"][name], w.grad) for name, w in weights.items()]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-11, atol=1e-13)


@KINDS
@PEEPHOLES
@pytest.mark.parametrize("sizes", [(0, 3, 2, 4), (3, 0, 2, 4), (3, 2, 0, 4), (0, 0, 0, 1)], ids=str)
def test_empty_dimensions(bias, peephole, sizes):
    case = make_case(sizes, bias=bias, peephole=peephole)
    tape = forward(case)
    grads = backward(case, tape)
    steps, batch, _, hidden = sizes
    assert tape["output"].shape == tape["cells"].shape == (steps, batch, hidden)
    assert tape["gates"].shape == (steps, batch, 4, hidden)
    assert grads["x"].shape == case["x"].shape
    assert grads["hidden"].shape == grads["cells"].shape == (steps, batch, hidden)
    for name, weight in case["weights"].items():
        assert grads["weights"][name].shape == weight.shape
    if steps == 0:
        for value, given in (("h_n", "h_0"), ("c_n", "c_0")):
            np.testing.assert_array_equal(tape[value], case[given])
            assert not np.shares_memory(tape[value], case[given])
        np.testing.assert_array_equal(grads["h_0"], case["d_h_n"])
        np.testing.assert_array_equal(grads["c_0"], case["d_c_n"])
    if steps == 0 or batch == 0:
        assert all(not np.any(gradient) for gradient in grads["weights"].values())


def test_no_inputs_is_the_same_as_inputs_of_zero():
    case = make_case((3, 2, 0, 4))
    wide = {**case, "x": np.zeros((3, 2, 1)), "weights": {**case["weights"], "weight_ih": np.ones((16, 1))}}
    tape, wide_tape = forward(case), forward(wide)
    np.testing.assert_allclose(tape["output"], wide_tape["output"], rtol=1e-14)
    np.testing.assert_allclose(backward(case, tape)["h_0"], backward(wide, wide_tape)["h_0"], rtol=1e-14)


def test_a_sequence_cut_in_two_gives_the_same_values_and_gradients():
    case = make_case()
    tape = forward(case)
    grads = backward(case, tape)
    zero = np.zeros_like(case["h_0"])
    first = {**case, "x": case["x"][:2], "d_output": case["d_output"][:2]}
    first_tape = forward(first)
    second = {**case, "x": case["x"][2:], "d_output": case["d_output"][2:]}
    second |= {"h_0": first_tape["h_n"], "c_0": first_tape["c_n"]}
    second_tape = forward(second)
    second_grads = backward(second, second_tape)
    first_grads = backward({**first, "d_h_n": second_grads["h_0"], "d_c_n": second_grads["c_0"]}, first_tape)
    alone = backward({**first, "d_h_n": zero, "d_c_n": zero}, first_tape)

    for name in ("output", "cells", "gates"):
        np.testing.assert_allclose(
            tape[name], np.concatenate([first_tape[name], second_tape[name]]), rtol=1e-13
        )
    for name in ("x", "hidden", "cells"):
        joined = np.concatenate([first_grads[name], second_grads[name]])
        np.testing.assert_allclose(grads[name], joined, rtol=1e-12)
    for name in ("h_0", "c_0"):
        np.testing.assert_allclose(grads[name], first_grads[name], rtol=1e-12)
        assert not np.allclose(grads[name], alone[name])
    for name, gradient in grads["weights"].items():
        total = first_grads["weights"][name] + second_grads["weights"][name]
        np.testing.assert_allclose(gradient, total, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 3e-6), (np.float64, 1e-14), (np.longdouble, 0)]
)
def test_computes_in_the_dtype_of_its_inputs(dtype, tolerance):
    case = make_case(dtype=dtype)
    tape = forward(case)
    grads = backward(case, tape)
    exact = {name: array.astype(np.longdouble) for name, array in case.items() if name != "weights"}
    exact["weights"] = {name: array.astype(np.longdouble) for name, array in case["weights"].items()}
    exact_tape = forward(exact)
    exact_grads = backward(exact, exact_tape)
    pairs = [(tape[name], exact_tape[name]) for name in tape]
    pairs += [(grads[name], exact_grads[name]) for name in grads if name != "weights"]
    pairs += [(grads["weights"][name], exact_grads["weights"][name]) for name in case["weights"]]
    for ours, expected in pairs:
        assert ours.dtype == dtype
        assert np.linalg.norm((ours - expected).ravel()) <= tolerance * np.linalg.norm(expected.ravel())


def test_inputs_are_only_read():
    case = make_case()
    tape = forward(case)
    arrays = (
        [case[name] for name in (*INPUTS, *ERRORS)] + list(case["weights"].values()) + list(tape.values())
    )
    for array in arrays:
        array.flags.writeable = False
    copies = [array.copy() for array in arrays]
    forward(case)
    grads = backward(case, tape)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert not np.shares_memory(grads["weights"]["bias_ih"], grads["weights"]["bias_hh"])


def test_nan_goes_forward_in_time_and_stays_in_its_row():
    case = make_case()
    clean = forward(case)
    case["x"][1, 2, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tape = forward(case)
        grads = backward(case, tape)
    for name in ("output", "cells", "gates"):
        assert np.isnan(tape[name][1:, 2]).all()
        np.testing.assert_allclose(tape[name][0], clean[name][0], rtol=1e-14)
        np.testing.assert_allclose(tape[name][:, :2], clean[name][:, :2], rtol=1e-14)
    assert np.isnan(grads["h_0"][2]).all()
    assert np.isfinite(grads["h_0"][:2]).all()
    assert all(np.isnan(gradient).any() for gradient in grads["weights"].values())


@pytest.mark.parametrize(
    "name", ["x", "h_0", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole"]
)
def test_nan_reaches_output_and_gradients_from_everywhere(name):
    case = make_case()
    (case if name in case else case["weights"])[name].flat[0] = np.nan
    tape = forward(case)
    assert np.isnan(tape["h_n"]).any()
    assert np.isnan(backward(case, tape)["h_0"]).any()


def test_infinity_saturates():
    """An infinite input opens and closes gates as a huge one does; an infinite cell gives tanh(c) = 1."""
    case = make_case()
    case["x"][0, 0, 0] = 1e9
    huge = forward(case)
    case["x"][0, 0, 0] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(forward(case)["output"], huge["output"], rtol=1e-13)
    plain = make_case(peephole=False)
    plain["c_0"][0, 0] = np.inf
    tape = forward(plain)
    assert np.isinf(tape["cells"][:, 0, 0]).all()
    np.testing.assert_array_equal(tape["output"][:, 0, 0], tape["gates"][:, 0, 3, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_sigmoid(dtype):
    limit = np.finfo(dtype)
    z = np.linspace(np.log(limit.tiny) * 0.99, 40, 1001, dtype=dtype)
    with np.errstate(all="raise"):
        ours = reference.sigmoid(z)
    assert ours.dtype == dtype
    exact = np.exp(z.astype(np.longdouble))
    np.testing.assert_allclose(ours, exact / (1 + exact), rtol=8 * float(limit.eps))
    assert (np.diff(ours) >= 0).all()
    assert (ours[z < -1] > 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ends = reference.sigmoid(np.array([-np.inf, limit.min, 0, limit.max, np.inf, np.nan], dtype))
    np.testing.assert_array_equal(ends, np.array([0, 0, 0.5, 1, 1, np.nan], dtype))


def test_closed_gates_keep_the_relative_accuracy_of_their_gradient():
    """At z = -80 a gate is 1.8e-35; its float32 gradient is as exact as that of an open gate."""
    case = make_case(peephole=False, dtype=np.float32)
    case["weights"]["bias_ih"][:5] = -80
    grads = backward(case, forward(case))["weights"]["bias_ih"][:5]
    case = {name: array.astype(np.float64) for name, array in case.items() if name != "weights"} | {
        "weights": {name: array.astype(np.float64) for name, array in case["weights"].items()}
    }
    exact = backward(case, forward(case))["weights"]["bias_ih"][:5]
    assert np.all(grads != 0)
    np.testing.assert_allclose(grads, exact, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x", (4, 3)),
        ("h_0", (5, 3)),
        ("h_0", (1, 5)),
        ("c_0", (3, 1)),
        ("weight_ih", (20, 1)),
        ("weight_hh", (20, 4)),
        ("bias_ih", (5,)),
        ("bias_hh", (1, 20)),
        ("weight_peephole", (5, 3)),
    ],
    ids=str,
)
def test_a_wrong_shape_is_named(name, shape):
    case = make_case()
    (case if name in case else case["weights"])[name] = np.zeros(shape)
    with pytest.raises(ValueError, match=f"^{name}: expected shape"):
        forward(case)


@pytest.mark.parametrize("name", ["output", "cells", "gates", "d_output", "d_h_n", "d_c_n"])
def test_a_wrong_shape_in_backward_is_named(name):
    case = make_case()
    tape = forward(case)
    holder = case if name in case else tape
    holder[name] = holder[name][:1]
    with pytest.raises(ValueError, match=f"^{name}: expected shape"):
        backward(case, tape)


def test_other_errors_are_named():
    case = make_case()
    with pytest.raises(TypeError, match=r"^x: expected a floating dtype, got int64"):
        forward({**case, "x": case["x"].astype(np.int64)})
    with pytest.raises(ValueError, match=r"^h_0: expected H >= 1"):
        forward(make_case((2, 3, 4, 0)))
    for wrong in (
        {"weight_ih": case["weights"]["weight_ih"]},
        {**case["weights"], "weight_hx": np.zeros((2, 5))},
    ):
        with pytest.raises(KeyError, match="weight_h"):
            forward({**case, "weights": wrong})
