"""Spectra, Jacobians and Lyapunov exponents: against NumPy, finite differences, autograd, eigenvalues."""

import numpy as np
import pytest

import bptt
from bptt.flow import dynamics, recurrent_spectra

CELLS = {
    "lstm": (bptt.LSTM, {}),
    "peephole": (bptt.LSTM, {"peephole": True, "activations": ("hard_sigmoid", "softsign", "tanh")}),
    "coupled": (bptt.LSTM, {"coupled": True, "cell_clip": 0.9}),
    "projected": (bptt.LSTM, {"proj_size": 3, "zoneout": 0.1}),
    "gru": (bptt.GRU, {}),
    "original gru": (bptt.GRU, {"reset_after": False}),
    "tanh": (bptt.RNN, {}),
    "identity": (bptt.RNN, {"nonlinearity": "identity"}),
}
FORMS = [(1, False), (2, False), (2, True)]


def width(layer):
    """The size of h: H, or P of a projection."""
    return getattr(layer, "proj_size", 0) or layer.hidden_size


def case(cell, layers=1, bidirectional=False, T=9, B=3, I=2, H=4, seed=0, **more):
    kind, settings = CELLS[cell]
    rng = np.random.default_rng(seed)
    settings = settings | more | {"dtype": np.float64, "seed": seed}
    layer = kind(I, H, layers, bidirectional=bidirectional, **settings)
    layer.parameters.flat[...] = rng.standard_normal(layer.parameters.flat.size) * 0.6
    parts = layers * (1 + bidirectional)
    sizes = (width(layer), H) if kind is bptt.LSTM else (H,)
    states = tuple(rng.standard_normal((parts, B, size)) * 0.5 for size in sizes)
    return layer, rng.standard_normal((T, B, I)), states if len(states) == 2 else states[0]


def linear(weight, **settings):
    H = len(weight)
    layer = bptt.RNN(1, H, nonlinearity="identity", bias=False, dtype=np.float64, **settings)
    for name in layer.parameters:
        if name.startswith("weight_hh"):
            layer.parameters[name] = weight
    return layer


def top_state(states, d, D):
    return [s[-D + d] for s in (states if isinstance(states, tuple) else (states,))]


@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_jacobian_against_finite_differences(cell, layers, bidirectional):
    """h_s of the top layer is moved by hand: the steps after it run again from there."""
    layer, x, state = case(cell, layers, bidirectional)
    T, B, _ = x.shape
    H, D = width(layer), 1 + bidirectional
    tape = layer.forward(x, state)
    below = x if layers == 1 else np.concatenate(list(tape.hidden[-2 * D : -D]), 2)
    for t, s in [(7, 2), (3, 2), (5, -1), (4, 4), (2, 6), (0, T - 1)] + [(6, T)] * bidirectional:
        found = bptt.jacobian(layer, x, t, s, state)
        expected = np.eye(D * H)[None].repeat(B, 0) if s == t else np.zeros((B, D * H, D * H))
        for d in range(D):
            first, last = (s, t) if not d else (T - 1 - s, T - 1 - t)
            if first >= last:
                continue
            suffix = f"_l{layers - 1}{'_reverse' * d}"
            kind, settings = CELLS[cell]
            alone = kind(below.shape[2], layer.hidden_size, dtype=np.float64, **settings)
            for name in alone.parameters:
                alone.parameters[name] = layer.parameters[name.removesuffix("_l0") + suffix]
            course = [a[layers * D - D + d][:: 1 - 2 * d] for a in (tape.hidden, tape.cells) if a is not None]
            start = [
                a[first] if first >= 0 else b for a, b in zip(course, top_state(state, d, D), strict=True)
            ]
            steps = below[:: 1 - 2 * d][first + 1 : last + 1]

            def end(move, alone=alone, steps=steps, start=start):
                h, *c = start
                moved = [(h + move)[None], *(a[None] for a in c)]
                return alone(steps, tuple(moved) if c else moved[0])[0][-1]

            e = 1e-6
            for k, move in enumerate(np.eye(H) * e):
                slope = (end(move) - end(-move)) / (2 * e)
                expected[:, d * H : (d + 1) * H, d * H + k] = slope
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8, err_msg=f"t={t}, s={s}")


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_jacobian_against_autograd(kind):
    torch = pytest.importorskip("torch")
    layer, x, state = case({"LSTM": "lstm", "GRU": "gru", "RNN": "tanh"}[kind], B=2)
    twin = getattr(torch.nn, kind)(2, 4, dtype=torch.float64)
    twin.load_state_dict({name: torch.from_numpy(a) for name, a in layer.state_dict().items()})
    h, *c = (torch.from_numpy(s) for s in (state if kind == "LSTM" else (state,)))
    given = torch.from_numpy(x)

    def last(h):
        return twin(given[:6], (h, *c) if c else h)[0][-1]

    full = torch.autograd.functional.jacobian(last, h)  # (B, H, 1, B, H)
    expected = np.stack([full[b, :, 0, b].numpy() for b in range(2)])
    np.testing.assert_allclose(bptt.jacobian(layer, x, 5, -1, state), expected, rtol=1e-10, atol=1e-13)


def test_jacobian_of_a_linear_layer_is_a_power_and_blocks_change_nothing(monkeypatch):
    weight = np.random.default_rng(0).standard_normal((3, 3))
    x = np.ones((8, 2, 1), np.float32)
    found = bptt.jacobian(linear(weight), x, 6, 1)
    np.testing.assert_allclose(
        found, np.broadcast_to(np.linalg.matrix_power(weight, 5), (2, 3, 3)), rtol=1e-12
    )
    assert bptt.jacobian(linear(weight), x[:, 0], 6, 1).shape == (3, 3)
    monkeypatch.setattr(dynamics, "BLOCK_BYTES", 1)
    np.testing.assert_array_equal(bptt.jacobian(linear(weight), x, 6, 1), found)


def test_jacobian_takes_batch_first_and_float32():
    layer, x, state = case("gru")
    other = bptt.GRU(2, 4, batch_first=True, dtype=np.float32)
    other.load_state_dict(layer.state_dict())
    found = bptt.jacobian(other, x.astype(np.float32).swapaxes(0, 1), 7, 2, state.astype(np.float32))
    np.testing.assert_allclose(found, bptt.jacobian(layer, x, 7, 2, state), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 0), "t: expected 0 to 8, got 9"),
        ((-1, 0), "t: expected at least 0, got -1"),
        ((3, -2), "s: expected at least -1, got -2"),
        ((3, 9), "s: expected -1 to 8, got 9"),
    ],
)
def test_jacobian_checks_steps(arguments, message):
    layer, x, _ = case("tanh")
    with pytest.raises(ValueError, match=f"^{message}"):
        bptt.jacobian(layer, x, *arguments)


def test_lyapunov_exponents_of_a_linear_layer_are_its_eigenvalues():
    rng = np.random.default_rng(1)
    values = np.array([1.3, -0.9, 0.4, 0.05])
    basis = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    layer = linear(basis @ np.diag(values) @ np.linalg.inv(basis))
    x = rng.standard_normal((400, 2, 1))
    expected = np.log(np.abs(values))
    np.testing.assert_allclose(bptt.lyapunov_exponents(layer, x), expected, atol=1e-6)
    np.testing.assert_allclose(bptt.lyapunov_exponents(layer, x, 2), expected[:2], atol=1e-6)
    spiral = linear(0.7 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]]))
    np.testing.assert_allclose(bptt.lyapunov_exponents(spiral, x[:, 0]), np.log([0.7, 0.7]), atol=1e-12)


@pytest.mark.parametrize("cell", sorted(CELLS.keys() - {"coupled"}))  # its clipped cell loses directions
def test_sum_of_all_exponents_is_the_mean_logarithm_of_the_determinant(cell, monkeypatch):
    layer, x, state = case(cell, B=2, T=12)
    layer.parameters.flat[...] *= 0.5
    states = state if isinstance(state, tuple) else (state,)
    split = [width(layer)] if len(states) == 2 else []
    total, e = 0.0, 1e-6
    for b in range(2):
        now = [s[:, b : b + 1] for s in states]
        for x_t in x[:, b : b + 1]:

            def step(flat, x_t=x_t):
                given = [part[None, None] for part in np.split(flat, split)]
                _, after = layer(x_t[None], tuple(given) if len(given) == 2 else given[0])
                return np.concatenate(after if len(given) == 2 else [after], 2)[0, 0]

            flat = np.concatenate([part[0, 0] for part in now])
            slopes = [(step(flat + m) - step(flat - m)) / (2 * e) for m in np.eye(len(flat)) * e]
            total += np.log(np.abs(np.linalg.det(np.stack(slopes)))) / (2 * len(x))
            now = [part[None, None] for part in np.split(step(flat), split)]
    found = bptt.lyapunov_exponents(layer, x, state=state, discard=0)
    assert len(found) == sum(s.shape[2] for s in states)
    assert (np.diff(found) <= 0).all()
    assert found.sum() == pytest.approx(total, rel=1e-6)
    monkeypatch.setattr(dynamics, "BLOCK_BYTES", 1000)
    np.testing.assert_allclose(bptt.lyapunov_exponents(layer, x, state=state, discard=0), found, rtol=1e-9)


def test_lyapunov_exponents_of_a_stack_are_those_of_its_layers():
    layer, x, _ = case("gru", 2, T=40, I=4)
    lower, upper = bptt.GRU(4, 4, dtype=np.float64), bptt.GRU(4, 4, dtype=np.float64)
    for n, one in enumerate((lower, upper)):
        for name in one.parameters:
            one.parameters[name] = layer.parameters[name.replace("_l0", f"_l{n}")]
    apart = [bptt.lyapunov_exponents(lower, x), bptt.lyapunov_exponents(upper, lower(x)[0])]
    np.testing.assert_allclose(
        bptt.lyapunov_exponents(layer, x), np.sort(np.concatenate(apart))[::-1], atol=1e-12
    )
    both, _, _ = case("tanh", 1, True, T=40)
    turned = bptt.RNN(2, 4, dtype=np.float64)
    for name in turned.parameters:
        turned.parameters[name] = both.parameters[f"{name}_reverse"]
    _, x, _ = case("tanh", T=40)
    backwards = bptt.lyapunov_exponents(turned, x[::-1])
    assert np.abs(bptt.lyapunov_exponents(both, x)[:, None] - backwards).min(0).max() < 1e-12


def test_growth_is_the_largest_exponent():
    """The gradient goes back by the factors by which a disturbance goes ahead."""
    layer = bptt.RNN(4, 32, dtype=np.float64, seed=0)
    rng = np.random.default_rng(0)
    layer.parameters["weight_hh_l0"] = rng.standard_normal((32, 32)) * (2 / np.sqrt(32))
    x = 0.3 * rng.standard_normal((300, 4, 4))
    growth = bptt.gradient_flow(layer, x).growth
    assert growth == pytest.approx(np.exp(bptt.lyapunov_exponents(layer, x, 1)[0]), rel=0.05)
    assert growth > 1.05


def test_lost_directions_and_checks():
    layer = linear(np.zeros((2, 2)))
    assert bptt.lyapunov_exponents(layer, np.ones((5, 1))).tolist() == [-np.inf, -np.inf]
    for arguments, message in [
        ((np.ones((0, 1)),), "x: expected at least one step and one row, got T=0, B=1"),
        ((np.ones((3, 1)), 3), "k: expected at most the size of the state, 2, got 3"),
        ((np.ones((3, 1)), 0), "k: expected at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            bptt.lyapunov_exponents(layer, *arguments)
    with pytest.raises(ValueError, match=r"^discard: expected less than T = 3, got 3"):
        bptt.lyapunov_exponents(layer, np.ones((3, 1)), discard=3)
    for function in (bptt.spectral_radius, recurrent_spectra):
        with pytest.raises(TypeError, match=r"^layer: expected an LSTM, GRU or RNN"):
            function(np.ones((2, 2)))


def test_spectra():
    weight = np.random.default_rng(0).standard_normal((5, 5))
    layer = linear(weight)
    radius = np.abs(np.linalg.eigvals(weight)).max()
    assert bptt.spectral_radius(layer) == pytest.approx(radius, rel=1e-12)
    [spectrum] = recurrent_spectra(layer)
    assert spectrum.name == "weight_hh_l0"
    np.testing.assert_allclose(spectrum.singular_values, np.linalg.svd(weight)[1], rtol=1e-12)
    assert "may explode" in spectrum.conclusion
    [spectrum] = recurrent_spectra(linear(weight / (1.01 * spectrum.singular_values[0])))
    assert "gradients vanish on any data" in spectrum.conclusion
    gated = bptt.GRU(2, 3, 2, bidirectional=True, dtype=np.float64, seed=0)
    spectra = recurrent_spectra(gated)
    assert [s.name for s in spectra[:4]] == [
        *(f"weight_hh_l0[{g}]" for g in "rzn"),
        "weight_hh_l0_reverse[r]",
    ]
    block = gated.parameters["weight_hh_l1_reverse"][3:6]
    assert spectra[10].radius == pytest.approx(np.abs(np.linalg.eigvals(block)).max(), rel=1e-12)
    assert spectra[10].bound is None
    assert "no bound" in spectra[10].conclusion
    assert bptt.spectral_radius(gated) == max(s.radius for s in spectra)
    layer.parameters["weight_hh_l0"][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"^weight_hh_l0: expected finite numbers"):
        bptt.spectral_radius(layer)
