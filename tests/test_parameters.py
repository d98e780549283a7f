"""Parameters: one flat vector under many names, its start, its copies."""

import copy
import pickle

import numpy as np
import pytest

import bptt

I, H = 5, 4


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("peephole", [True, False])
def test_names_and_shapes(bias, peephole):
    parameters = bptt.LSTM(I, H, bias=bias, peephole=peephole).parameters
    expected = {"weight_ih_l0": (4 * H, I), "weight_hh_l0": (4 * H, H)}
    expected |= {"bias_ih_l0": (4 * H,), "bias_hh_l0": (4 * H,)} if bias else {}
    expected |= {"weight_peephole_l0": (3, H)} if peephole else {}
    assert {name: array.shape for name, array in parameters.items()} == expected == parameters.shapes
    assert list(parameters) == list(expected)
    assert len(parameters) == len(expected)
    assert "weight_ih_l0" in parameters
    assert "weight_ih" not in parameters


def test_names_are_those_of_torch():
    torch = pytest.importorskip("torch")
    for bias in (True, False):
        peer = {name: tuple(p.shape) for name, p in torch.nn.LSTM(I, H, bias=bias).named_parameters()}
        assert bptt.LSTM(I, H, bias=bias).parameters.shapes == peer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_views_of_one_aligned_vector(dtype):
    for units in (1, 3, 7, 64):
        parameters = bptt.LSTM(I, units, peephole=True, dtype=dtype).parameters
        flat = parameters.flat
        assert flat.ctypes.data % 64 == 0
        assert flat.dtype == dtype
        assert flat.size == sum(array.size for array in parameters.values())
        flat[...] = np.arange(flat.size)
        np.testing.assert_array_equal(np.concatenate([a.reshape(-1) for a in parameters.values()]), flat)
        for array in parameters.values():
            assert np.shares_memory(array, flat)
            assert array.flags.c_contiguous
            assert array.flags.writeable
            array[...] = -1
        assert (flat == -1).all()


def test_assignment_copies_in_after_a_check():
    layer = bptt.LSTM(I, H, seed=0)
    parameters = layer.parameters
    view = parameters["bias_ih_l0"]
    parameters["bias_ih_l0"] = np.arange(4 * H)
    np.testing.assert_array_equal(view, np.arange(4 * H))
    parameters["bias_ih_l0"] -= 1.5
    np.testing.assert_array_equal(view, np.arange(4 * H) - 1.5)
    assert parameters["bias_ih_l0"] is view
    for wrong in (0.0, np.zeros(4 * H + 1), np.zeros((1, 4 * H))):
        with pytest.raises(ValueError, match=r"^bias_ih_l0: expected shape"):
            parameters["bias_ih_l0"] = wrong
    for wrong in ("text", None, np.zeros(4 * H, bool), np.zeros(4 * H, complex), np.zeros(4 * H, object)):
        with pytest.raises(TypeError, match=r"^bias_ih_l0: "):
            parameters["bias_ih_l0"] = wrong
    with pytest.raises(KeyError):
        parameters["other"] = np.zeros(3)
    with pytest.raises((TypeError, AttributeError)):
        del parameters["bias_ih_l0"]


def test_start_is_uniform_and_reproducible():
    layer = bptt.LSTM(30, 100, seed=7)
    flat = layer.parameters.flat
    assert abs(flat).max() <= 0.1
    assert abs(flat).max() > 0.0999
    assert abs(flat.mean()) < 1e-3
    assert flat.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.01)
    np.testing.assert_array_equal(bptt.LSTM(30, 100, seed=7).parameters.flat, flat)
    np.testing.assert_array_equal(bptt.LSTM(30, 100, seed=np.random.default_rng(7)).parameters.flat, flat)
    wide = bptt.LSTM(30, 100, seed=7, dtype=np.float64).parameters.flat
    np.testing.assert_array_equal(wide.astype(np.float32), flat)
    assert not np.array_equal(bptt.LSTM(30, 100, seed=8).parameters.flat, flat)
    assert not np.array_equal(bptt.LSTM(30, 100).parameters.flat, bptt.LSTM(30, 100).parameters.flat)


def test_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    bptt.LSTM(I, H, seed=0)
    bptt.LSTM(I, H)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_state_dict_copies_both_ways():
    layer, other = bptt.LSTM(I, H, seed=0), bptt.LSTM(I, H, seed=1)
    state = layer.state_dict()
    assert all(type(array) is np.ndarray for array in state.values())
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.parameters.flat, layer.parameters.flat)
    for array in state.values():
        array[...] = 0
    assert layer.parameters.flat.all()
    assert other.parameters.flat.all()
    other.load_state_dict({name: array.tolist() for name, array in layer.parameters.items()})
    np.testing.assert_array_equal(other.parameters.flat, layer.parameters.flat)


@pytest.mark.parametrize("dtype", ["f8", "f2", ">f4", "i4", "u1", "g"])
def test_load_converts_any_real_dtype(dtype):
    layer = bptt.LSTM(I, H, seed=0)
    values = {
        name: np.arange(array.size).reshape(array.shape).astype(dtype)
        for name, array in layer.parameters.items()
    }
    layer.load_state_dict(values)
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(array, values[name].astype(np.float32))
        assert array.dtype == np.float32


def test_load_takes_torch_parameters():
    torch = pytest.importorskip("torch")
    peer, layer = torch.nn.LSTM(I, H), bptt.LSTM(I, H)
    layer.load_state_dict(dict(peer.named_parameters()))
    np.testing.assert_array_equal(layer.parameters["weight_hh_l0"], peer.weight_hh_l0.detach().numpy())
    peer.load_state_dict({name: torch.from_numpy(array) for name, array in layer.state_dict().items()})


def test_load_takes_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    layer = bptt.LSTM(I, H, seed=0)
    short = {name: array.astype(ml_dtypes.bfloat16) for name, array in layer.parameters.items()}
    layer.load_state_dict(short)
    for name, array in layer.parameters.items():
        np.testing.assert_array_equal(array, short[name].astype(np.float32))


def test_load_of_own_arrays_in_another_order():
    layer = bptt.LSTM(H, H, seed=0)
    before = layer.state_dict()
    swapped = dict(layer.parameters)
    swapped["weight_ih_l0"], swapped["weight_hh_l0"] = swapped["weight_hh_l0"], swapped["weight_ih_l0"]
    layer.load_state_dict(swapped)
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"], before["weight_hh_l0"])
    np.testing.assert_array_equal(layer.parameters["weight_hh_l0"], before["weight_ih_l0"])


def test_load_that_fails_changes_nothing():
    layer = bptt.LSTM(I, H, seed=0)
    before = layer.parameters.flat.copy()
    good = {name: array + 1 for name, array in layer.state_dict().items()}
    missing = {name: array for name, array in good.items() if name != "bias_hh_l0"}
    for wrong, error, text in [
        (missing, ValueError, "state_dict: missing bias_hh_l0"),
        (good | {"weight_ih_l1": 0}, ValueError, "state_dict: unknown weight_ih_l1"),
        (good | {"bias_hh_l0": np.zeros(3)}, ValueError, "bias_hh_l0: expected shape"),
        (good | {"bias_hh_l0": np.zeros(4 * H, complex)}, TypeError, "bias_hh_l0: expected real numbers"),
        (good | {"bias_hh_l0": np.zeros(4 * H, bool)}, TypeError, "bias_hh_l0: expected real numbers"),
        (good | {"bias_hh_l0": None}, TypeError, "bias_hh_l0: expected an array"),
        (list(good.items()), TypeError, "state_dict: expected a mapping"),
        (None, TypeError, "state_dict: expected a mapping"),
    ]:
        with pytest.raises(error, match=f"^{text}"):
            layer.load_state_dict(wrong)
    np.testing.assert_array_equal(layer.parameters.flat, before)


def test_copies_are_apart_and_aligned():
    parameters = bptt.LSTM(I, H, seed=0).parameters
    for twin in (pickle.loads(pickle.dumps(parameters)), copy.deepcopy(parameters), copy.copy(parameters)):
        np.testing.assert_array_equal(twin.flat, parameters.flat)
        assert twin.flat.ctypes.data % 64 == 0
        assert np.shares_memory(twin["bias_hh_l0"], twin.flat)
        assert not np.shares_memory(twin.flat, parameters.flat)
        assert twin.flat.flags.writeable
        assert twin != parameters
    assert repr(parameters).startswith("Parameters(float32, 176 numbers: weight_ih_l0: (16, 5)")
