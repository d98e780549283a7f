"""The layer: values and gradients in every arrangement of axes; what may be done to a layer and a tape."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bptt

T, B, I, H = 7, 3, 5, 6
KINDS = [
    pytest.param({}, id="plain"),
    pytest.param({"bias": False}, id="no-bias"),
    pytest.param({"peephole": True}, id="peephole"),
    pytest.param({"peephole": True, "bias": False}, id="peephole-no-bias"),
]
TOLERANCE = {np.float32: {"rtol": 2e-5, "atol": 2e-6}, np.float64: {"rtol": 1e-12, "atol": 1e-13}}


def draw(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def problem(layer, seed=0):
    """Return x, (h_0, c_0), d_output, (d_h_n, d_c_n) for the sizes above, in the layer's dtype."""
    dtype = layer.dtype
    state = draw(1, B, H, dtype=dtype, seed=seed + 1), draw(1, B, H, dtype=dtype, seed=seed + 2)
    d_state = draw(1, B, H, dtype=dtype, seed=seed + 3), draw(1, B, H, dtype=dtype, seed=seed + 4)
    return draw(T, B, I, dtype=dtype, seed=seed), state, draw(T, B, H, dtype=dtype, seed=seed + 5), d_state


def oracle(layer, x, state, d_output, d_state):
    """Return forward and backward results of the specification in float64."""
    wide = [np.asarray(a, np.float64) for a in (x, state[0][0], state[1][0])]
    weights = {name.removesuffix("_l0"): a.astype(np.float64) for name, a in layer.parameters.items()}
    forward = bptt.reference.lstm_forward(*wide, weights)
    output, _, _, cells, gates = forward
    errors = [np.asarray(a, np.float64) for a in (d_output, d_state[0][0], d_state[1][0])]
    return forward, bptt.reference.lstm_backward(*wide, weights, output, cells, gates, *errors)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(backend, kind, dtype):
    layer = bptt.LSTM(I, H, dtype=dtype, seed=1, **kind)
    x, state, d_output, d_state = problem(layer)
    (output, h_n, c_n, cells, gates), expected = oracle(layer, x, state, d_output, d_state)
    d_x, d_h_0, d_c_0, d_weights, hidden, all_cells = expected

    def close(got, want):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, **TOLERANCE[dtype])

    got, (got_h, got_c) = layer(x, state)
    close(got, output)
    close(got_h, h_n[None])
    close(got_c, c_n[None])
    tape = layer.forward(x, state)
    for one, two in zip((got, got_h, got_c), (tape.output, *tape.state), strict=True):
        np.testing.assert_array_equal(one, two)
    close(tape.hidden, output[None])
    close(tape.cells, cells[None])
    close(tape.gates, gates[None])
    grads = layer.backward(tape, d_output, d_state, steps=True)
    close(grads.input, d_x)
    close(grads.state[0], d_h_0[None])
    close(grads.state[1], d_c_0[None])
    close(grads.hidden, hidden[None])
    close(grads.cells, all_cells[None])
    assert list(grads.parameters) == list(layer.parameters)
    for name, array in grads.parameters.items():
        close(array, d_weights[name.removesuffix("_l0")])
    assert layer.backward(tape, d_output, d_state).hidden is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [True, False])
def test_agrees_with_torch(backend, batched, batch_first, bias):
    torch = pytest.importorskip("torch")
    peer = torch.nn.LSTM(I, H, bias=bias, batch_first=batch_first)
    layer = bptt.LSTM(I, H, bias=bias, batch_first=batch_first, seed=3)
    layer.load_state_dict(peer.state_dict())
    shape = (T,) if not batched else (B, T) if batch_first else (T, B)
    x = draw(*shape, I)
    state = tuple(draw(*((1, B, H) if batched else (1, H)), seed=seed) for seed in (1, 2))
    d_output, d_state = draw(*shape, H, seed=3), tuple(2 * s for s in state)

    leaves = [torch.tensor(a, requires_grad=True) for a in (x, *state)]
    output, (h_n, c_n) = peer(leaves[0], (leaves[1], leaves[2]))
    loss = sum(
        (torch.tensor(d) * y).sum() for d, y in zip((d_output, *d_state), (output, h_n, c_n), strict=True)
    )
    loss.backward()

    def close(got, want):
        assert got.shape == tuple(want.shape)
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=2e-5, atol=2e-6)

    got, got_state = layer(x, state)
    tape = layer.forward(x, state)
    grads = layer.backward(tape, d_output, d_state)
    for one, two in zip((got, *got_state), (output, h_n, c_n), strict=True):
        close(one, two)
    for one, leaf in zip((grads.input, *grads.state), leaves, strict=True):
        close(one, leaf.grad)
    for name, parameter in peer.named_parameters():
        close(grads.parameters[name], parameter.grad)


def test_takes_torch_tensors(backend):
    torch = pytest.importorskip("torch")
    layer = bptt.LSTM(I, H, seed=0)
    x, state, _, _ = problem(layer)
    got, _ = layer(torch.tensor(x), tuple(torch.tensor(s) for s in state))
    np.testing.assert_array_equal(got, layer(x, state)[0])
    with pytest.raises(TypeError, match=r"^x: .*grad"):
        layer(torch.tensor(x, requires_grad=True))


def test_batch_first_and_unbatched_are_views_of_the_same_numbers(backend):
    layer, first = bptt.LSTM(I, H, seed=1), bptt.LSTM(I, H, batch_first=True, seed=1)
    x, state, d_output, d_state = problem(layer)
    tape, tape_first = layer.forward(x, state), first.forward(x.swapaxes(0, 1), state)
    np.testing.assert_array_equal(tape_first.output, tape.output.swapaxes(0, 1))
    np.testing.assert_array_equal(tape_first.hidden, tape.hidden)
    grads = layer.backward(tape, d_output, d_state)
    grads_first = first.backward(tape_first, d_output.swapaxes(0, 1), d_state)
    np.testing.assert_array_equal(grads_first.input, grads.input.swapaxes(0, 1))
    np.testing.assert_array_equal(grads_first.state[1], grads.state[1])
    np.testing.assert_array_equal(grads_first.parameters.flat, grads.parameters.flat)

    one = layer.forward(x[:, :1], [s[:, :1] for s in state])
    alone = layer.forward(x[:, 0], [s[:, 0] for s in state])
    assert alone.output.shape == (T, H)
    assert alone.state[0].shape == (1, H)
    assert alone.gates.shape == (1, T, 1, 4, H)
    np.testing.assert_array_equal(alone.output, one.output[:, 0])
    grads_one = layer.backward(one, d_output[:, :1], [d[:, :1] for d in d_state])
    grads_alone = layer.backward(alone, d_output[:, 0], [d[:, 0] for d in d_state])
    assert grads_alone.input.shape == (T, I)
    np.testing.assert_array_equal(grads_alone.input, grads_one.input[:, 0])
    np.testing.assert_array_equal(grads_alone.state[0], grads_one.state[0][:, 0])


def test_missing_gradients_are_zero_and_absent_states_too(backend):
    layer = bptt.LSTM(I, H, seed=1)
    x, state, d_output, (d_h, d_c) = problem(layer)
    zero, zeros = np.zeros_like(d_h), np.zeros_like(d_output)
    tape = layer.forward(x, state)
    for given, full in [
        ((None, (d_h, d_c)), (zeros, (d_h, d_c))),
        ((d_output, None), (d_output, (zero, zero))),
        ((d_output, (None, d_c)), (d_output, (zero, d_c))),
        ((d_output, (d_h, None)), (d_output, (d_h, zero))),
        ((None, None), (zeros, (zero, zero))),
    ]:
        got, want = layer.backward(tape, *given), layer.backward(tape, *full)
        np.testing.assert_array_equal(got.parameters.flat, want.parameters.flat)
        np.testing.assert_array_equal(got.input, want.input)
    np.testing.assert_array_equal(layer(x)[0], layer(x, (zero, zero))[0])
    np.testing.assert_array_equal(layer(x, (state[0], None))[0], layer(x, (state[0], zero))[0])


def test_backward_twice_gives_the_same_bits(backend):
    layer = bptt.LSTM(I, H, peephole=True, seed=1)
    x, state, d_output, d_state = problem(layer)
    tape = layer.forward(x, state)
    first, second = (layer.backward(tape, d_output, d_state, steps=True) for _ in range(2))
    assert first.parameters.flat.tobytes() == second.parameters.flat.tobytes()
    assert first.input.tobytes() == second.input.tobytes()
    assert first.cells.tobytes() == second.cells.tobytes()
    assert not np.shares_memory(first.parameters.flat, second.parameters.flat)


def test_backward_uses_the_parameters_of_its_own_time(backend):
    layer = bptt.LSTM(I, H, seed=1)
    x, state, d_output, d_state = problem(layer)
    tape = layer.forward(x, state)
    before = layer.backward(tape, d_output, d_state).input
    layer.parameters["weight_ih_l0"] *= 2
    np.testing.assert_allclose(layer.backward(tape, d_output, d_state).input, 2 * before, rtol=1e-5)


def test_gradients_can_be_changed_and_tapes_cannot(backend):
    layer = bptt.LSTM(I, H, seed=1)
    x, state, d_output, _ = problem(layer)
    tape = layer.forward(x, state)
    for array in (tape.output, *tape.state, tape.hidden, tape.cells, tape.gates):
        with pytest.raises(ValueError, match=r"read-only"):
            array[...] = 0
    grads = layer.backward(tape, d_output, steps=True)
    for array in (grads.input, *grads.state, grads.parameters.flat, grads.hidden, grads.cells):
        array[...] = 0


def test_a_tape_of_another_layer_raises(backend):
    layer, other = bptt.LSTM(I, H, seed=1), bptt.LSTM(I, H, seed=1)
    x, state, d_output, _ = problem(layer)
    tape = layer.forward(x, state)
    for wrong in (other, copy.deepcopy(layer), layer.astype(np.float64), bptt.LSTM(I, H + 1)):
        with pytest.raises(ValueError, match=r"^tape: "):
            wrong.backward(tape)
    with pytest.raises(TypeError, match=r"^tape: "):
        layer.backward(tape.output)
    together, its_tape = pickle.loads(pickle.dumps((layer, tape)))
    np.testing.assert_array_equal(
        together.backward(its_tape, d_output).parameters.flat, layer.backward(tape, d_output).parameters.flat
    )


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize(
    "sizes", [(0, B, I, H), (T, 0, I, H), (T, B, 0, H), (0, 0, 0, 1), (T, B, I, 1), (1, 1, 1, 1)]
)
def test_zero_and_one_as_sizes(backend, sizes, peephole):
    steps, rows, inputs, units = sizes
    layer = bptt.LSTM(inputs, units, peephole=peephole, seed=1)
    state = draw(1, rows, units), draw(1, rows, units, seed=1)
    output, (h_n, c_n) = layer(draw(steps, rows, inputs), state)
    assert output.shape == (steps, rows, units)
    tape = layer.forward(draw(steps, rows, inputs), state)
    np.testing.assert_array_equal(tape.output, output)
    d_output, d_state = np.ones_like(output), (2 * state[0], 3 * state[1])
    grads = layer.backward(tape, d_output, d_state, steps=True)
    _, expected = oracle(layer, draw(steps, rows, inputs), state, d_output, d_state)
    np.testing.assert_allclose(grads.input, expected[0], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(grads.state[1][0], expected[2], rtol=2e-5, atol=2e-6)
    for name, array in grads.parameters.items():
        np.testing.assert_allclose(array, expected[3][name.removesuffix("_l0")], rtol=2e-5, atol=2e-6)
    if steps == 0:
        np.testing.assert_array_equal(h_n, state[0])
        np.testing.assert_array_equal(c_n, state[1])
        assert not np.shares_memory(h_n, state[0])
    with pytest.raises(ValueError, match=r"^hidden_size: "):
        bptt.LSTM(inputs, 0)


def test_many_steps_without_a_row_end_at_once(backend):
    layer = bptt.LSTM(1, 1, seed=0)
    x = np.empty((2**50, 0, 1), np.float32)
    tape = layer.forward(x)
    assert tape.output.shape == layer(x)[0].shape == layer.freeze()(x)[0].shape == (2**50, 0, 1)
    assert not layer.backward(tape).parameters.flat.any()


def spread(array, how):
    """Return an array equal to `array` with unusual strides, alignment, byte order or permissions."""
    if how == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if how == "negative":
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if how == "fortran":
        return np.asfortranarray(array)
    if how == "big-endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if how == "read-only":
        frozen = array.copy()
        frozen.flags.writeable = False
        return frozen
    raw = np.zeros(array.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(array.tobytes(), np.uint8)
    odd = raw[1:].view(array.dtype).reshape(array.shape)
    assert not odd.flags.aligned
    return odd


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("how", ["strided", "negative", "fortran", "big-endian", "read-only", "misaligned"])
def test_any_strides_alignment_and_byte_order(backend, how, batch_first):
    layer = bptt.LSTM(I, H, batch_first=batch_first, seed=1)
    x, state, d_output, d_state = problem(layer)
    if batch_first:
        x, d_output = (np.ascontiguousarray(a.swapaxes(0, 1)) for a in (x, d_output))
    odd_x, odd_d = spread(x, how), spread(d_output, how)
    odd_state, odd_d_state = tuple(spread(s, how) for s in state), tuple(spread(d, how) for d in d_state)
    inputs = (odd_x, odd_d, *odd_state, *odd_d_state)
    before = [a.tobytes() for a in inputs]

    odd = layer.forward(odd_x, odd_state)
    plain = layer.forward(x, state)
    np.testing.assert_array_equal(odd.output, plain.output)
    np.testing.assert_array_equal(layer(odd_x, odd_state)[0], plain.output)
    got, want = layer.backward(odd, odd_d, odd_d_state), layer.backward(plain, d_output, d_state)
    np.testing.assert_array_equal(got.input, want.input)
    np.testing.assert_array_equal(got.parameters.flat, want.parameters.flat)
    np.testing.assert_array_equal(got.state[0], want.state[0])
    assert [a.tobytes() for a in inputs] == before

    other = bptt.LSTM(I, H, batch_first=batch_first, seed=2)
    other.load_state_dict({name: spread(a, how) for name, a in layer.parameters.items()})
    np.testing.assert_array_equal(other(x, state)[0], plain.output)


def test_zero_strides(backend):
    layer = bptt.LSTM(I, H, seed=1)
    row, ones = draw(I), np.ones((T, B, H), np.float32)
    tape = layer.forward(np.broadcast_to(row, (T, B, I)))
    same = layer.forward(np.tile(row, (T, B, 1)))
    np.testing.assert_array_equal(tape.output, same.output)
    got = layer.backward(tape, np.broadcast_to(np.float32(1), (T, B, H)))
    np.testing.assert_array_equal(got.parameters.flat, layer.backward(same, ones).parameters.flat)


def test_memory_map_and_read_only_weights(backend, tmp_path):
    layer = bptt.LSTM(I, H, seed=1)
    x, state, d_output, _ = problem(layer)
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    expected = layer(x, state)[0]
    gradient = layer.backward(layer.forward(x, state), d_output).parameters.flat
    layer.parameters.flat.flags.writeable = False
    for array in layer.parameters.values():
        array.flags.writeable = False
    np.testing.assert_array_equal(layer(mapped, state)[0], expected)
    tape = layer.forward(mapped, state)
    np.testing.assert_array_equal(layer.backward(tape, d_output).parameters.flat, gradient)


def test_lists_and_dlpack(backend):
    class OnlyDLPack:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **arguments):
            return self.array.__dlpack__(**arguments)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    layer = bptt.LSTM(2, H, seed=1)
    x = np.array([[[0.5, -1.0]], [[2.0, 0.25]]], np.float32)
    expected = layer(x)[0]
    np.testing.assert_array_equal(layer(x.tolist())[0], expected)
    np.testing.assert_array_equal(layer(OnlyDLPack(x))[0], expected)
    np.testing.assert_array_equal(
        layer.astype(np.float64)(x)[0], layer.astype(np.float64)(x.astype(np.float64))[0]
    )


def test_weights_changed_in_place_count_at_the_next_call(backend):
    layer, other = bptt.LSTM(I, H, seed=1), bptt.LSTM(I, H, seed=2)
    x, state, d_output, _ = problem(layer)
    engine = layer.freeze()
    old, engine_old = layer(x, state)[0], engine(x, state)[0]
    layer.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(layer(x, state)[0], other(x, state)[0])
    layer.parameters["weight_hh_l0"][0] += 1
    other.parameters.flat[4 * H * I : 4 * H * I + H] += 1
    np.testing.assert_array_equal(layer(x, state)[0], other(x, state)[0])
    bptt.optim.SGD(layer.parameters, 0.1).step(layer.backward(layer.forward(x, state), d_output))
    assert not np.array_equal(layer(x, state)[0], other(x, state)[0])
    assert not np.array_equal(layer(x, state)[0], old)
    np.testing.assert_array_equal(engine(x, state)[0], engine_old)


def test_pickle_copy_and_astype(backend):
    layer = bptt.LSTM(I, H, peephole=True, batch_first=True, seed=1)
    x = draw(B, T, I)
    expected = layer(x)[0]
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), layer.astype(np.float32)):
        assert repr(twin) == repr(layer) == "LSTM(5, 6, batch_first=True, peephole=True)"
        np.testing.assert_array_equal(twin(x)[0], expected)
        twin.parameters.flat[...] = 0
        assert not twin(x)[0].any()
    np.testing.assert_array_equal(layer(x)[0], expected)
    wide = layer.astype(np.float64)
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide.parameters.flat, layer.parameters.flat.astype(np.float64))
    np.testing.assert_allclose(wide(x)[0], expected, rtol=2e-5, atol=2e-6)


def test_settings_are_fixed():
    layer = bptt.LSTM(I, H, seed=1)
    for name in ("input_size", "hidden_size", "batch_first", "dtype", "parameters"):
        with pytest.raises(AttributeError, match=name):
            setattr(layer, name, getattr(layer, name))


def test_results_of_a_call_are_the_callers_own(backend):
    layer = bptt.LSTM(I, H, seed=1)
    x, state, _, _ = problem(layer)
    output, (h_n, c_n) = layer(x, state)
    kept = output.copy()
    layer(2 * x, (h_n, c_n))
    np.testing.assert_array_equal(output, kept)
    output[...] = h_n[...] = c_n[...] = 0


def test_concurrent_training_on_one_layer_gives_the_serial_bits(backend):
    layer = bptt.LSTM(I, H, seed=1)
    problems = [problem(layer, seed=10 * n) for n in range(8)]

    def train(given):
        x, state, d_output, d_state = given
        with bptt.backend(backend):
            return layer.backward(layer.forward(x, state), d_output, d_state).parameters.flat.tobytes()

    expected = [train(given) for given in problems]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train, problems * 5)) == expected * 5


def test_no_memory_is_a_memory_error_and_the_next_call_works(backend):
    layer = bptt.LSTM(I, H, seed=1)
    x, state, _, _ = problem(layer)
    expected = layer(x, state)[0]
    with pytest.raises(MemoryError):
        layer(np.broadcast_to(np.float32(1), (2**45, B, I)))
    with pytest.raises(MemoryError):
        bptt.LSTM(0, H).forward(np.empty((2**45, B, 0), np.float32))
    with pytest.raises(MemoryError):
        bptt.LSTM(2**45, H)
    np.testing.assert_array_equal(layer(x, state)[0], expected)


@pytest.mark.parametrize("name", bptt.variants() or (None,))
@pytest.mark.parametrize("H", [7, 24, 40])
@pytest.mark.parametrize("make", [bptt.LSTM, bptt.GRU, bptt.RNN])
def test_no_inputs(make, H, name):
    """Biases alone drive it, and each has its gradient, wherever its memory has been before."""
    layer, x = make(0, H, seed=H), np.zeros((9, 5, 0), np.float32)
    errors = np.random.default_rng(0).standard_normal((9, 5, H)).astype(np.float32)
    with bptt.backend("reference"):
        expected = layer.backward(layer.forward(x), errors).parameters.flat
    before = bptt.active_variant()
    if name:
        bptt.use_variant(name)
    try:
        tape = layer.forward(x)
        for _ in range(3):
            found = layer.backward(tape, errors).parameters.flat
            np.testing.assert_allclose(found, expected, 1e-4, 1e-5)
            found[...] = np.nan  # what the next one may be given
            del found
    finally:
        if name:
            bptt.use_variant(before)
