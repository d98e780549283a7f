"""Options of the cells: projection, clips, recurrent dropout, zoneout, the GRU's reset before the product."""

import copy
import pickle

import numpy as np
import pytest

import bptt
import oracle
from bptt.reference.draws import hits, key
from test_sequences import assert_close, draw, given_state, pair, spans_of, train

EVERYTHING = {
    "proj_size": 3,
    "peephole": True,
    "coupled": True,
    "cell_clip": 0.6,
    "proj_clip": 0.25,
    "recurrent_dropout": 0.4,
    "zoneout": 0.3,
    "activations": ("hard_sigmoid", "softsign", "tanh"),
}
CELLS = {
    "projection": (bptt.LSTM, {"proj_size": 3}),
    "projection, peephole": (bptt.LSTM, {"proj_size": 2, "peephole": True, "bias": False}),
    "clips": (bptt.LSTM, {"proj_size": 3, "proj_clip": 0.2, "cell_clip": 0.7}),
    "recurrent dropout": (bptt.LSTM, {"recurrent_dropout": 0.4}),
    "zoneout": (bptt.LSTM, {"zoneout": 0.3, "peephole": True, "cell_clip": 0.5}),
    "zoneout of a projection": (bptt.LSTM, {"zoneout": 0.2, "proj_size": 4, "proj_clip": 0.2}),
    "everything": (bptt.LSTM, EVERYTHING),
    "reset before": (bptt.GRU, {"reset_after": False}),
    "reset before, no bias": (bptt.GRU, {"reset_after": False, "bias": False}),
}
FORMS = [(1, False), (2, False), (1, True), (2, True)]
SHAPES = [(7, 5, 3, 6), (12, 9, 6, 21), (1, 1, 2, 5), (5, 33, 4, 17), (20, 2, 1, 40), (9, 4, 70, 67)]


NATIVE = pytest.mark.skipif(not bptt.variants(), reason="the compiled core is not built")


@pytest.fixture(params=["reference", pytest.param("native", marks=NATIVE)])
def core(request):
    with bptt.backend(request.param):
        yield request.param


def case(cell, layers=1, bidirectional=False, sizes=(7, 5, 3, 6), dtype=np.float64, seed=0, **more):
    """Return a layer, an input, states, errors and gradients of last states, and the generator."""
    T, B, I, H = sizes
    rng = np.random.default_rng(seed)
    kind, settings = CELLS[cell]
    layer = kind(I, H, layers, bidirectional=bidirectional, dtype=dtype, seed=seed, **settings | more)
    P, parts = getattr(layer, "proj_size", 0) or H, layers * (1 + bidirectional)
    widths = (P, H) if kind is bptt.LSTM else (P,)
    x, errors = draw(rng, T, B, I).astype(dtype), draw(rng, T, B, P * (1 + bidirectional)).astype(dtype)
    state, d_state = (tuple(draw(rng, parts, B, w).astype(dtype) for w in widths) for _ in "01")
    return layer, x, state, errors, d_state, rng


def trained(layer, x, state, errors, d_state, rng=None, **spans):
    """Return what `train` does, with a seed of draws."""
    if rng is None:
        return train(layer, x, state, errors, d_state, **spans)

    class Drawing:
        """The layer, but that its forward pass has that seed."""

        backward = layer.backward

        @staticmethod
        def forward(*given, **named):
            return layer.forward(*given, **named, rng=rng)

    return train(Drawing, x, state, errors, d_state, **spans)


def seeds_of(layer, rng):
    """Return the seed of each part: what the generator gives where no dropout between layers comes first."""
    parts = layer.num_layers * (1 + layer.bidirectional)
    generator = np.random.default_rng(rng)
    return [int(generator.integers(2**64, dtype=np.uint64)) for _ in range(parts)]


@pytest.mark.parametrize("spans", ["none", "lengths", "resets", "both"])
@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_against_autograd_row_by_row(core, cell, layers, bidirectional, spans):
    layer, x, state, errors, d_state, rng = case(cell, layers, bidirectional, seed=layers)
    given = spans_of(rng, 7, 5, spans in ("lengths", "both"), spans in ("resets", "both"))
    draws = isinstance(layer, bptt.LSTM) and bool(layer.recurrent_dropout or layer.zoneout)
    for seed in (None, 3) if draws else (None,):
        found = trained(layer, x, state, errors, d_state, rng=seed, **given)
        seeds = None if seed is None else seeds_of(layer, seed)
        expected = oracle.train(layer, x, state, errors, d_state, **given, seeds=seeds)
        assert_close({name: found[name] for name in expected}, expected, 1e-12)
        assert set(found) - set(expected) <= {"gates"}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
def test_projection_against_torch(core, layers, bidirectional, bias, packed):
    torch = pytest.importorskip("torch")
    layer, x, state, errors, d_state, _ = case("projection", layers, bidirectional, bias=bias, seed=2)
    lengths = np.array([3, 7, 1, 5, 7]) if packed else None
    twin = torch.nn.LSTM(3, 6, layers, bias, bidirectional=bidirectional, proj_size=3, dtype=torch.float64)
    assert list(layer.state_dict()) == list(twin.state_dict())
    twin.load_state_dict({name: torch.from_numpy(a) for name, a in layer.state_dict().items()})
    inputs = [torch.from_numpy(a).requires_grad_() for a in (x, *state)]
    given = inputs[0]
    if packed:
        given = torch.nn.utils.rnn.pack_padded_sequence(given, torch.tensor(lengths), enforce_sorted=False)
    output, (h_n, c_n) = twin(given, tuple(inputs[1:]))
    if packed:
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, total_length=7)
    torch.autograd.backward([output, h_n, c_n], [torch.from_numpy(a) for a in (errors, *d_state)])
    found = train(layer, x, state, errors, d_state, lengths=lengths)
    expected = {"output": output, "h_n": h_n, "c_n": c_n}
    expected |= dict(zip(("d_x", "d_h_0", "d_c_0"), (a.grad for a in inputs), strict=True))
    expected |= {f"d_{name}": p.grad for name, p in twin.named_parameters()}
    expected = {name: a.detach().numpy() for name, a in expected.items()}
    assert_close({name: found[name] for name in expected}, expected, 1e-12)


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("cell", CELLS)
def test_finite_differences(core, cell, seed):
    layer, x, state, errors, d_state, rng = case(cell, 2, True, (5, 4, 2, 5), seed=5)
    given = {"lengths": np.array([2, 5, 0, 4]), "resets": rng.random((5, 4)) < 0.3}
    found = trained(layer, x, state, errors, d_state, rng=seed, **given)

    def loss():
        tape = layer.forward(x, given_state(state), rng=seed, **given)
        ends = zip(pair(tape.state), d_state, strict=True)
        return (tape.output * errors).sum() + sum((a * b).sum() for a, b in ends)

    pairs = [(x, found["d_x"]), *((a, found[f"d_{n}_0"]) for n, a in zip("hc", state, strict=False))]
    pairs += [(layer.parameters[name], found[f"d_{name}"]) for name in layer.parameters]
    for array, gradient in pairs:
        for index in rng.choice(array.size, min(array.size, 8), replace=False):
            at = np.unravel_index(index, array.shape)
            keep, step = array[at], 1e-6
            array[at] = keep + step
            above = loss()
            array[at] = keep - step
            slope = (above - loss()) / (2 * step)
            array[at] = keep
            assert abs(slope - gradient[at]) < 1e-7 * max(1, abs(slope))


@NATIVE
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_kernels_against_the_reference(cell, sizes, layers, bidirectional, threads):
    for dtype, tolerance in ((np.float32, 2e-5), (np.float64, 1e-12)):
        layer, *arrays, rng = case(cell, layers, bidirectional, sizes, dtype, seed=sum(sizes))
        given = spans_of(rng, *sizes[:2], True, True)
        wide = [tuple(b.astype("d") for b in a) if isinstance(a, tuple) else a.astype("d") for a in arrays]
        for seed in (None, 1):
            with bptt.backend("reference"):
                expected = trained(layer.astype(np.float64), *wide, rng=seed, **given)
            for split in (0, 2, 3):
                for hoist in (1, 2):
                    bptt._core.plan_hint(split, hoist)
                    try:
                        with bptt.num_threads(threads):
                            found = trained(layer, *arrays, rng=seed, **given)
                    finally:
                        bptt._core.plan_hint(0, 0)
                    assert_close(found, expected, tolerance)


@NATIVE
@pytest.mark.parametrize("variant", bptt.variants())
@pytest.mark.parametrize("cell", CELLS)
def test_every_variant(cell, variant):
    layer, *arrays, rng = case(cell, 2, True, (9, 11, 5, 37), np.float32, seed=1)
    given = spans_of(rng, 9, 11, True, True)
    with bptt.backend("reference"):
        expected = trained(layer.astype(np.float64), *arrays, rng=2, **given)
    active = bptt.active_variant()
    try:
        bptt.use_variant(variant)
        assert_close(trained(layer, *arrays, rng=2, **given), expected, 2e-5)
    finally:
        bptt.use_variant(active)


@NATIVE
@pytest.mark.parametrize("cell", CELLS)
def test_bits_of_a_row_are_those_of_the_row_alone(cell):
    layer, x, *_, rng = case(cell, 2, True, (13, 21, 6, 24), np.float32)
    lengths = rng.integers(0, 14, 21)
    for threads in (1, 2):
        with bptt.num_threads(threads):
            output, states = layer(x, lengths=lengths)
        for b, n in enumerate(lengths):
            alone, states_alone = layer(x[:n, b : b + 1])
            np.testing.assert_array_equal(output[:n, b], alone[:, 0])
            for found, expected in zip(pair(states), pair(states_alone), strict=True):
                np.testing.assert_array_equal(found[:, b], expected[:, 0])


@NATIVE
@pytest.mark.parametrize("cell", CELLS)
def test_threads_change_no_bit_of_a_training_step(cell):
    layer, *arrays, rng = case(cell, 2, True, (12, 9, 6, 40), np.float32)
    given = spans_of(rng, 12, 9, True, True)
    for seed in (None, 4):
        with bptt.num_threads(1):
            one = trained(layer, *arrays, rng=seed, **given)
        with bptt.num_threads(2):
            two = trained(layer, *arrays, rng=seed, **given)
        for name, array in one.items():
            np.testing.assert_array_equal(array, two[name], err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_is_never_read(core, cell):
    layer, x, state, errors, d_state, _ = case(cell, 2, True)
    lengths = np.array([0, 7, 3, 5, 1])
    clean = trained(layer, x, state, errors, d_state, rng=1, lengths=lengths)
    for b, n in enumerate(lengths):
        x[n:, b], errors[n:, b] = np.nan, np.nan
    found = trained(layer, x, state, errors, d_state, rng=1, lengths=lengths)
    for name, array in found.items():
        np.testing.assert_array_equal(array, clean[name], err_msg=name)
    for b, n in enumerate(lengths):
        for name in ("output", "d_x"):
            assert not found[name][n:, b].any()


@pytest.mark.parametrize("cell", CELLS)
def test_inference_engine_and_stream(core, cell):
    layer, x, state, *_ = case(cell, 2, dtype=np.float32)
    output, states = layer(x, given_state(state))
    tape = layer.forward(x, given_state(state))
    np.testing.assert_array_equal(tape.output, output)
    engine = layer.freeze()
    for other in (engine, pickle.loads(pickle.dumps(engine)), pickle.loads(pickle.dumps(layer)),
                  copy.deepcopy(layer)):  # fmt: skip
        again, found = other(x, given_state(state))
        np.testing.assert_array_equal(again, output)
        for a, b in zip(pair(found), pair(states), strict=True):
            np.testing.assert_array_equal(a, b)
    stream = engine.stream(5)
    stream.state = given_state(state)
    steps = [stream.step(x[0]), stream.step(x[1], out=np.empty_like(output[0]))]
    np.testing.assert_allclose(steps, output[:2], rtol=0, atol=0 if core == "native" else 1e-6)
    twin = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(twin.run(x[2:]), stream.run(x[2:]))
    for a, b in zip(pair(stream.state), pair(states), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0 if core == "native" else 1e-6)
    single = engine.stream()
    assert single.step(x[0, 0]).shape == output.shape[2:]
    with pytest.raises(ValueError, match="out: expected shape"):
        single.step(x[0, 0], out=np.empty(99, np.float32))


@pytest.mark.parametrize("cell", CELLS)
def test_empty(core, cell):
    for T, B in ((0, 4), (4, 0), (0, 0)):
        layer, x, state, errors, d_state, _ = case(cell, 2, True, (T, B, 2, 5))
        found = trained(layer, x, state, errors, d_state, rng=0)
        assert found["output"].shape == errors.shape
        np.testing.assert_array_equal(found["h_n"], state[0])
        np.testing.assert_array_equal(found["d_h_0"], d_state[0])
        assert not any(found[f"d_{name}"].any() for name in layer.parameters)


def test_clips_hold_and_pass_no_gradient(core):
    layer, x, state, errors, *_ = case("clips", seed=4, proj_clip=0.05)
    tape = layer.forward(x, state)
    assert np.abs(tape.cells).max() == layer.cell_clip
    assert np.abs(tape.output).max() == layer.proj_clip
    gradients = layer.backward(tape, errors, truncate=1)  # what reaches an h_t is its own error alone
    stopped = (np.abs(tape.output) == layer.proj_clip).all(axis=2)
    assert stopped.any()
    assert not stopped.all()
    assert (gradients.input.any(axis=2) == ~stopped).all()


@pytest.mark.parametrize("cell", ["clips", "everything"])
def test_clips_that_hold_nothing_change_nothing(core, cell):
    layer, x, state, *_ = case(cell, cell_clip=1e9, proj_clip=1e9)
    free, *_ = case(cell, cell_clip=None, proj_clip=None)
    np.testing.assert_array_equal(layer(x, state)[0], free(x, state)[0])


@pytest.mark.parametrize("cell", ["recurrent dropout", "zoneout", "everything"])
def test_truncation_draws_what_the_forward_pass_drew(core, cell):
    """A block's last inputs get the same gradient as without truncation from the block's own errors."""
    layer, x, state, errors, _, _ = case(cell, 2, sizes=(8, 4, 3, 6))
    tape = layer.forward(x, state, rng=9, lengths=[8, 8, 6, 5])
    blocks = layer.backward(tape, errors, truncate=4, steps=True)
    whole = layer.backward(tape, errors, steps=True)
    early = layer.backward(tape, np.where(np.arange(8)[:, None, None] < 4, errors, 0), steps=True)
    for found, last, first in ((blocks.input, whole.input, early.input),
                               (blocks.hidden[1], whole.hidden[1], early.hidden[1]),
                               (blocks.cells[0], whole.cells[0], early.cells[0])):  # fmt: skip
        np.testing.assert_allclose(found[4:], last[4:], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found[:4], first[:4], rtol=1e-12, atol=1e-13)
    deep = layer.backward(tape, errors, truncate=(3, 8))
    np.testing.assert_allclose(deep.parameters.flat, whole.parameters.flat, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", ["recurrent dropout", "zoneout", "everything"])
def test_a_seed_draws_the_same_and_no_seed_nothing(core, cell):
    layer, x, state, *_ = case(cell, 2, True, (6, 30, 3, 8), np.float32)
    plain = layer(x, state)[0]
    np.testing.assert_array_equal(layer.forward(x, state).output, plain)
    first, second = layer.forward(x, state, rng=7), layer.forward(x, state, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(first.output, second.output)
    assert (first.output != plain).any()
    assert (first.output != layer.forward(x, state, rng=8).output).any()
    with bptt.num_threads(1):
        np.testing.assert_array_equal(layer.forward(x, state, rng=7).output, first.output)
    generator = np.random.default_rng(7)
    assert (layer.forward(x, state, rng=generator).output == first.output).all()
    assert (layer.forward(x, state, rng=generator).output != first.output).any()


def test_dropout_between_layers_draws_first(core):
    """The masks of a seed are those of a layer without the new options, which draws nothing else."""
    settings = {"dropout": 0.5, "num_layers": 3, "seed": 0}
    x = np.ones((4, 3, 2), np.float32)
    alone = bptt.LSTM(2, 5, **settings).forward(x, rng=1)
    both = bptt.LSTM(2, 5, **settings, zoneout=0.25).forward(x, rng=1)
    for a, b in zip(alone._kept.masks, both._kept.masks, strict=True):
        np.testing.assert_array_equal(a, b)
    generators = [np.random.default_rng(1) for _ in range(2)]
    bptt.LSTM(2, 5, **settings).forward(x, rng=generators[0])
    generators[1].random(2 * 4 * 3 * 5, np.float32)
    assert generators[0].random() == generators[1].random()


def test_zoneout_keeps_units_at_its_rate(core):
    T, B, H, p = 20, 10, 100, 0.3
    layer = bptt.LSTM(2, H, zoneout=p, dtype=np.float64, seed=0)
    x = np.random.default_rng(0).standard_normal((T, B, 2))
    tape = layer.forward(x, rng=1)
    kept = {}
    for name, steps in (("c", tape.cells[0]), ("h", tape.hidden[0])):
        kept[name] = steps[1:] == steps[:-1]
        n = kept[name].size
        assert abs(kept[name].sum() - n * p) < 4 * np.sqrt(n * p * (1 - p))
    both = (kept["c"] & kept["h"]).mean()
    assert abs(both - p * p) < 4 * np.sqrt(p * p * (1 - p * p) / kept["c"].size)  # independent of each other


def test_recurrent_dropout_is_one_mask_a_row(core):
    """Recurrent weights that copy h_{t-1} into g show the mask, the same one at every step of a row."""
    T, B, H, p = 4, 6, 50, 0.4
    settings = {"activations": ("sigmoid", "identity", "identity"), "bias": False, "dtype": np.float64}
    layer = bptt.LSTM(1, H, recurrent_dropout=p, **settings)
    layer.parameters.flat[...] = 0
    layer.parameters["weight_hh_l0"][2 * H : 3 * H] = np.eye(H)
    h_0, c_0 = np.random.default_rng(0).uniform(1, 2, (1, B, H)), np.zeros((1, B, H))
    tape = layer.forward(np.zeros((T, B, 1)), (h_0, c_0), rng=3)
    dropped = tape.gates[0, :, :, 2] == 0
    assert (dropped == dropped[0]).all()
    assert (dropped[0, 0] != dropped[0, 1]).any()
    assert abs(dropped[0].mean() - p) < 4 * np.sqrt(p * (1 - p) / (B * H))
    scaled = np.where(dropped[0], 0, h_0[0] / (1 - p))
    np.testing.assert_allclose(tape.gates[0, 0, :, 2], scaled, rtol=1e-14)


@pytest.mark.parametrize("p", [0.0, 2**-32, 0.05, 0.5, 0.999, 1.0])
def test_generator_is_that_of_integers(p):
    rng = np.random.default_rng(0)
    for seed in (0, 1, 2**64 - 1, int(rng.integers(2**64, dtype=np.uint64))):
        for kind, t in ((1, 0), (2, 5), (3, 2**40 + 1)):
            found = hits(seed, kind, t, 7, 11, p)
            expected = [[oracle.hit(seed, kind, t, b * 11 + j, p) for j in range(11)] for b in range(7)]
            np.testing.assert_array_equal(found, expected)


def test_generator_has_these_values():
    assert [key(0, 1, 0), key(2**64 - 1, 2, 1)] == [0x5E41AB087439611E, 0xE9FD6049D65AF21E]
    found = hits(12345, 3, 6, 2, 16, 0.5).astype(int)
    assert ["".join(map(str, row)) for row in found] == ["1101101101010011", "1011011001001001"]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_draws_have_their_rate_and_no_pattern(p):
    """Over seeds and steps: the rate, and no correlation of neighbouring units, rows, steps, kinds, seeds."""
    T, B, N = 16, 32, 64
    kinds = np.array([[[hits(seed, kind, t, B, N, p) for t in range(T)] for kind in (2, 3)]
                      for seed in range(8)])  # fmt: skip
    n, deviation = kinds.size, np.sqrt(p * (1 - p))
    assert abs(kinds.mean() - p) < 4 * deviation / np.sqrt(n)
    centred = (kinds - p) / deviation
    for axis in range(5):
        for apart in (1, 2, 3) if axis != 1 else (1,):
            ahead = np.take(centred, range(apart, kinds.shape[axis]), axis)
            back = np.take(centred, range(kinds.shape[axis] - apart), axis)
            assert abs((ahead * back).mean()) < 4.5 / np.sqrt(back.size), (axis, apart)


@pytest.mark.parametrize("cell", ["everything", "reset before"])
def test_settings_copies_and_names(cell):
    layer, *_ = case(cell, 2, True)
    twin = layer.astype(np.float32)
    assert repr(twin) == repr(layer).replace(", dtype=float64", "")
    for name in CELLS[cell][1]:
        assert getattr(twin, name) == CELLS[cell][1][name]
        assert f"{name}=" in repr(layer)
    other = type(layer)(3, 6, 2, bidirectional=True, dtype=np.float64, **CELLS[cell][1])
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other.parameters.flat, layer.parameters.flat)


def test_shapes_of_a_projection(core):
    layer = bptt.LSTM(3, 6, 2, bidirectional=True, peephole=True, proj_size=2)
    kinds = {"weight_ih": (24, 4), "weight_hh": (24, 2), "bias_ih": (24,), "bias_hh": (24,)}
    kinds |= {"weight_peephole": (3, 6), "weight_hr": (2, 6)}
    ends = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    assert list(layer.parameters) == [kind + end for end in ends for kind in kinds]
    for kind, shape in kinds.items():
        assert layer.parameters[f"{kind}_l1_reverse"].shape == shape
    assert layer.parameters["weight_ih_l0"].shape == (24, 3)
    assert layer.freeze().proj_size == 2
    with pytest.raises(ValueError, match=r"weight_hr_l0: expected shape \(P, H\) = \(2, 6\), got \(6, 2\)"):
        layer.parameters["weight_hr_l0"] = np.zeros((6, 2))
    with pytest.raises(
        ValueError, match=r"weight_hh_l1: expected shape \(4\*H, P\) = \(24, 2\), got \(24, 6\)"
    ):
        layer.parameters["weight_hh_l1"] = np.zeros((24, 6))


def test_arrays_of_a_projection_are_checked(core):
    layer, x = bptt.LSTM(3, 6, 2, proj_size=2), np.zeros((4, 5, 3), np.float32)
    h, c = np.zeros((2, 5, 2), np.float32), np.zeros((2, 5, 6), np.float32)
    tape = layer.forward(x, (h, c))
    assert repr(tape) == "Tape(T=4, B=5, H=6, float32)"
    with pytest.raises(
        ValueError, match=r"^h_0: expected shape \(L\*D, B, P\) = \(2, 5, 2\), got \(2, 5, 6\)"
    ):
        layer(x, (c, c))
    with pytest.raises(
        ValueError, match=r"^c_0: expected shape \(L\*D, B, H\) = \(2, 5, 6\), got \(2, 5, 2\)"
    ):
        layer(x, (h, h))
    with pytest.raises(ValueError, match=r"^h_0: expected shape \(L\*D, P\) = \(2, 2\), got \(2, 6\)"):
        layer(x[:, 0], (c[:, 0], c[:, 0]))
    with pytest.raises(ValueError, match=r"^d_output: expected shape \(T, B, P\) = \(4, 5, 2\)"):
        layer.backward(tape, np.zeros((4, 5, 6), np.float32))
    both = bptt.LSTM(3, 6, bidirectional=True, proj_size=2, batch_first=True)
    tape = both.forward(x)
    assert tape.output.shape == (4, 5, 4)
    with pytest.raises(ValueError, match=r"^d_output: expected shape \(B, T, 2\*P\) = \(4, 5, 4\)"):
        both.backward(tape, np.zeros((4, 5, 12), np.float32))


def test_initial_weights_of_a_projection():
    torch_like = bptt.init.torch(bptt.LSTM(3, 64, proj_size=40), seed=1)
    for array in torch_like.parameters.values():
        assert 0.9 / 8 < np.abs(array).max() <= 1 / 8
    keras_like = bptt.init.keras(bptt.LSTM(3, 64, proj_size=40, dtype=np.float64), seed=1).parameters
    bound = np.sqrt(6 / 104)
    assert 0.95 * bound < np.abs(keras_like["weight_hr_l0"]).max() <= bound
    W = keras_like["weight_hh_l0"]
    np.testing.assert_allclose(W.T @ W, np.eye(40), atol=1e-12)
