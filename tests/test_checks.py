"""Arguments that do not fit: each raises TypeError or ValueError, by its name, and changes nothing."""

import re
import warnings

import numpy as np
import pytest

import bptt

T, B, I, H = 4, 3, 5, 6


@pytest.fixture(scope="module")
def layer():
    return bptt.LSTM(I, H, seed=0)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


ARGUMENTS = {
    "x": (T, B, I),
    "h_0": (1, B, H),
    "c_0": (1, B, H),
    "d_output": (T, B, H),
    "d_h_n": (1, B, H),
    "d_c_n": (1, B, H),
}


def give(layer, name, value):
    """Call the layer, forward and backward, with one argument replaced."""
    arrays = {key: zeros(*shape) for key, shape in ARGUMENTS.items()} | {name: value}
    tape = layer.forward(arrays["x"], (arrays["h_0"], arrays["c_0"]))
    layer.backward(tape, arrays["d_output"], (arrays["d_h_n"], arrays["d_c_n"]))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_rank_names_the_argument(layer, name):
    give(layer, name, zeros(*ARGUMENTS[name]))
    for rank in range(7):
        if rank != 3:
            last = ARGUMENTS[name][-1:]
            shape = ((1,) * rank + last)[-rank:] if rank else ()
            if name == "x" and rank == 2:  # the unbatched form; then the state does not fit
                with pytest.raises(ValueError, match=r"^h_0: "):
                    give(layer, name, zeros(T, I))
                continue
            with pytest.raises(ValueError, match=f"^{name}: expected shape"):
                give(layer, name, zeros(*shape))


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("change", [-1, 1, "zero"])
def test_dimensions_that_disagree_name_an_argument(layer, name, axis, change):
    shape = list(ARGUMENTS[name])
    shape[axis] = 0 if change == "zero" else shape[axis] + change
    named = name
    if name == "x" and axis < 2:  # x says T and B, so the others disagree
        named = "h_0" if axis == 1 else "d_output"
    with pytest.raises(ValueError, match=f"^{named}: expected shape"):
        give(layer, name, zeros(*shape))


def test_messages_give_letters_and_numbers(layer):
    with pytest.raises(ValueError, match=re.escape("x: expected shape (T, B, I) = (4, 3, 5), got (4, 3, 2)")):
        layer(zeros(T, B, 2))
    with pytest.raises(ValueError, match=re.escape("x: expected shape (T, I) = (4, 5), got (4, 2)")):
        layer(zeros(T, 2))
    with pytest.raises(
        ValueError, match=re.escape("c_0: expected shape (L*D, B, H) = (1, 3, 6), got (1, 3, 7)")
    ):
        layer(zeros(T, B, I), (zeros(1, B, H), zeros(1, B, H + 1)))
    text = "weight_hh_l0: expected shape (4*H, H) = (24, 6), got (24, 3)"
    with pytest.raises(ValueError, match=re.escape(text)):
        layer.load_state_dict({**layer.state_dict(), "weight_hh_l0": zeros(24, 3)})
    first = bptt.LSTM(I, H, batch_first=True)
    with pytest.raises(ValueError, match=re.escape("x: expected shape (B, T, I) = (4, 3, 5), got (4, 3, 2)")):
        first(zeros(T, B, 2))
    tape = first.forward(zeros(B, T, I))
    with pytest.raises(ValueError, match=re.escape("(B, T, H) = (3, 4, 6), got (4, 3, 6)")):
        first.backward(tape, zeros(T, B, H))


@pytest.mark.parametrize("batch_first", [False, True])
def test_batch_major_state_raises_and_never_broadcasts(batch_first):
    layer = bptt.LSTM(I, H, batch_first=batch_first, seed=0)
    x = zeros(2, 2, I)
    for shape in [(2, 1, H), (1, 1, H), (2, H), (1, H), (H,), (2, 2, H)]:
        with pytest.raises(ValueError, match=r"^h_0: expected shape"):
            layer(x, (zeros(*shape), zeros(1, 2, H)))
        with pytest.raises(ValueError, match=r"^d_c_n: expected shape"):
            layer.backward(layer.forward(x), None, (None, zeros(*shape)))
    with pytest.raises(ValueError, match=r"^h_0: "):
        layer(zeros(T, I), (zeros(1, 1, H), zeros(1, 1, H)))


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize(
    "dtype", ["i4", "i8", "u1", "?", "f2", "f8", "g", "c8", "c16", "O", "U1", "S1", "M8[s]", "V4"]
)
def test_bad_dtypes_name_the_argument_and_the_dtype(layer, name, dtype):
    with pytest.raises(TypeError, match=rf"^{name}: expected float32, got "):
        give(layer, name, np.zeros(ARGUMENTS[name], dtype))


def test_float64_into_float32_names_both_dtypes(layer):
    with pytest.raises(TypeError, match=r"^x: expected float32, got float64 .*astype"):
        layer(zeros(T, B, I, dtype=np.float64))
    wide = bptt.LSTM(I, H, dtype=np.float64)
    assert wide(zeros(T, B, I))[0].dtype == np.float64
    with pytest.raises(TypeError, match=r"^x: expected float64, got float16"):
        wide(zeros(T, B, I, dtype=np.float16))
    with pytest.raises(
        TypeError, match=r"^x: expected float64, got longdouble|^x: expected float64, got float128"
    ):
        wide(zeros(T, B, I, dtype=np.longdouble))


@pytest.mark.parametrize(
    "value", [None, "text", b"bytes", 1.0, object(), {"a": 1}, [[1.0], [1.0, 2.0]], [None]]
)
def test_values_that_are_no_arrays_name_the_argument(layer, value):
    with pytest.raises((TypeError, ValueError), match=r"^x: "):
        layer(value)


def test_masked_arrays_raise(layer):
    with pytest.raises(TypeError, match=r"^x: .*mask"):
        layer(np.ma.masked_array(zeros(T, B, I), mask=True))


def test_an_array_method_that_fails_is_named(layer):
    class Broken:
        def __array__(self, *args, **kwargs):
            raise RuntimeError("no data")

    with pytest.raises(TypeError, match=r"^x: cannot be read as an array: no data"):
        layer(Broken())


@pytest.mark.parametrize("state", [zeros(2, 1, B, H), (zeros(1, B, H),), [zeros(1, B, H)] * 3, "hc", 5, {}])
def test_a_state_that_is_no_pair_raises(layer, state):
    with pytest.raises(TypeError, match=r"^state: expected a pair"):
        layer(zeros(T, B, I), state)
    with pytest.raises(TypeError, match=r"^d_state: expected a pair"):
        layer.backward(layer.forward(zeros(T, B, I)), None, state)


@pytest.mark.parametrize(
    "shape", [(2**30, 2**30, 1), (2**40, 2**20, 0), (2**59, 1, 2), (2**59, 0, 1), (0, 2**59, 2)]
)
def test_products_of_sizes_beyond_64_bits(shape):
    layer = bptt.LSTM(shape[2], 2, seed=0)
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0, 0, 0))  # takes no memory
    for call in (layer, layer.forward, layer.freeze()):
        with pytest.raises(ValueError, match=r"^x: sizes too large, T=\d+, B=\d+"):
            call(x)


def test_sizes_of_a_layer_beyond_64_bits():
    for inputs, units in [(2**62, 1), (1, 2**31), (2**63, 2**63), (2**100, 1)]:
        with pytest.raises(ValueError, match=r"^hidden_size: sizes too large"):
            bptt.LSTM(inputs, units)
    with pytest.raises(ValueError, match=r"^batch_size: sizes too large"):
        bptt.LSTM(1, 1).freeze().stream(2**62)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("input_size", -1, ValueError),
        ("input_size", 2.0, TypeError),
        ("input_size", True, TypeError),
        ("input_size", "5", TypeError),
        ("input_size", None, TypeError),
        ("hidden_size", 0, ValueError),
        ("hidden_size", -3, ValueError),
        ("hidden_size", np.float64(3), TypeError),
        ("num_layers", 0, ValueError),
        ("num_layers", 1.5, TypeError),
        ("bias", 1, TypeError),
        ("bias", "no", TypeError),
        ("batch_first", None, TypeError),
        ("dropout", -0.1, ValueError),
        ("dropout", 1.1, ValueError),
        ("dropout", np.nan, ValueError),
        ("dropout", "0.5", TypeError),
        ("dropout", True, TypeError),
        ("bidirectional", 1, TypeError),
        ("proj_size", H, ValueError),
        ("proj_size", H + 1, ValueError),
        ("proj_size", 1.0, TypeError),
        ("proj_size", -1, ValueError),
        ("peephole", 1, TypeError),
        ("cell_clip", -1.0, ValueError),
        ("cell_clip", "3", TypeError),
        ("proj_clip", 1.0, ValueError),
        ("recurrent_dropout", 1.0, ValueError),
        ("recurrent_dropout", -0.5, ValueError),
        ("zoneout", 1, ValueError),
        ("zoneout", 2.0, ValueError),
        ("zoneout", "half", TypeError),
        ("activations", ("sigmoid", "tanh"), ValueError),
        ("activations", "tanh", ValueError),
        ("activations", (1, 2, 3), ValueError),
        ("dtype", np.float16, TypeError),
        ("dtype", np.int32, TypeError),
        ("dtype", "nonsense", TypeError),
        ("dtype", None, TypeError),
    ],
)
def test_settings_that_do_not_fit_are_named(name, value, error):
    with pytest.raises(error, match=f"^{name}"):
        bptt.LSTM(**{"input_size": I, "hidden_size": H, name: value})


def test_what_a_setting_needs_is_said():
    with pytest.raises(ValueError, match=rf"^proj_size: expected less than hidden_size = {H}, got {H}$"):
        bptt.LSTM(I, H, proj_size=H)
    with pytest.raises(ValueError, match=r"^proj_clip: expected a projection to clip, got proj_size=0"):
        bptt.LSTM(I, H, proj_clip=1.0)
    with pytest.raises(ValueError, match=r"^zoneout: expected a number at least 0 and below 1, got 1$"):
        bptt.LSTM(I, H, zoneout=1)
    with pytest.raises(TypeError, match=r"^reset_after: expected True or False, got int 0$"):
        bptt.GRU(I, H, reset_after=0)


def test_call_arguments_not_supported_yet_say_so(layer):
    x = zeros(T, B, I)
    tape = layer.forward(x)
    with pytest.raises(ValueError, match=r"^recompute: expected at least 1, got 0"):
        layer.forward(x, recompute=0)
    with pytest.raises(TypeError, match=r"^recompute: expected an integer, got float 2.5"):
        layer.forward(x, recompute=2.5)
    with pytest.raises(TypeError, match=r"^steps: "):
        layer.backward(tape, steps=2)
    for precision in ("bfloat16", "int8"):
        with pytest.raises(ValueError, match=r"^precision: .* not supported yet"):
            layer.freeze(precision)
    with pytest.raises(ValueError, match=r"^precision: expected"):
        layer.freeze("float16")


def test_dropout_with_one_layer_warns_as_torch_does():
    with pytest.warns(UserWarning, match=r"expects num_layers greater than 1"):
        layer = bptt.LSTM(I, H, dropout=0.5)
    assert layer.dropout == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bptt.LSTM(I, H, dropout=0)


def test_numpy_integers_and_dtype_names_do():
    layer = bptt.LSTM(np.int64(I), np.uint8(H), dtype=">f8", activations=["sigmoid", "tanh", "tanh"])
    assert (layer.input_size, layer.hidden_size, layer.dtype) == (I, H, np.dtype(np.float64))
    assert layer.dtype.isnative
    assert bptt.LSTM(I, H, dtype="float32").dtype == np.float32


def test_seed_errors_come_from_numpy():
    with pytest.raises((TypeError, ValueError)):
        bptt.LSTM(I, H, seed=-1)


def watched(layer, **options):
    gradients = layer.backward(layer.forward(zeros(T, B, I)), zeros(T, B, H))
    bptt.GradientMonitor(layer)(gradients, **options)


def other_rows(layer):
    driver = bptt.TruncatedBPTT(layer, T)
    driver.forward(zeros(T, B, I))
    driver.forward(zeros(T, B + 1, I))


def streamed(layer, *shapes):
    list(bptt.TruncatedBPTT(layer, T).over((zeros(*shape) for shape in shapes), lambda output, _: output))


def drawn(layer, ax):
    pytest.importorskip("matplotlib")
    bptt.gradient_flow(layer, zeros(T, B, I)).plot(ax=ax)


def read_only():
    array = np.ones(3)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("name", "error", "call"),
    [
        ("loss", TypeError, lambda layer: watched(layer, loss="x")),
        ("path", TypeError, lambda layer: bptt.GradientMonitor(layer, 1)),  # else it would write to file 1
        ("path", TypeError, lambda layer: bptt.save(layer, 1)),
        ("path", TypeError, lambda layer: bptt.load(1.5)),
        ("ax", TypeError, lambda layer: drawn(layer, 3)),
        ("grads", ValueError, lambda layer: bptt.clip_grad_norm_([np.ones(3), read_only()], 0.5)),
        ("grads", ValueError, lambda layer: bptt.clip_grad_value_(read_only(), 0.5)),
        ("x", ValueError, lambda layer: bptt.jacobian(layer, zeros(0, B, I), 0, 0)),
        ("x", ValueError, other_rows),
        ("x", ValueError, lambda layer: streamed(layer, (T, B, I), (T, B + 1, I))),
        ("stream", ValueError, lambda layer: streamed(layer, (T + 1, B, I), (T, B + 1, I))),
        ("stream", ValueError, lambda layer: streamed(layer, (T + 1, B, I), (T, I))),
        ("stream", ValueError, lambda layer: streamed(layer, (I,))),
    ],
)
def test_what_stands_around_the_layers_names_its_argument(layer, name, error, call):
    with pytest.raises(error, match=f"^{name}: expected"):
        call(layer)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ((2, 5, I), (5, I), "2, got no batch"),
        ((5, I), (5, 6, I), "no batch, got 5"),
        ((2, 5, I), (3, 5, I), "2, got 3"),
    ],
)
def test_rows_of_blocks_are_counted_batch_first(first, second, told):
    driver = bptt.TruncatedBPTT(bptt.LSTM(I, H, batch_first=True, seed=0), 7)
    driver.forward(zeros(*first))
    with pytest.raises(ValueError, match=f"^x: expected the rows of the blocks before, {told};"):
        driver.forward(zeros(*second))


def test_arrays_that_need_no_clipping_may_be_read_only():
    assert bptt.clip_grad_norm_([read_only()], 9.0) == pytest.approx(3**0.5)


def test_nothing_is_clipped_where_one_array_cannot_be():
    first = np.full(3, 2.0)
    with pytest.raises(ValueError, match="read-only"):
        bptt.clip_grad_value_([first, read_only()], 0.5)
    assert (first == 2.0).all()
