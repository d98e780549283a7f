"""bptt.torch against torch.nn: results, gradients, modules, the compiler, several processes."""

import argparse
import copy
import doctest
import importlib
import itertools
import json
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bptt

torch = pytest.importorskip("torch")

import bptt.torch  # noqa: E402
from bptt.torch import arrays  # noqa: E402
from bptt.torch.plan import plan_of  # noqa: E402

nn = torch.nn
EXAMPLES = Path(__file__).parent.parent / "examples"
KINDS = ("LSTM", "GRU", "RNN")
FORMS = [(1, False), (2, False), (1, True), (3, True)]


@pytest.fixture(autouse=True)
def _quiet():
    """One thread of PyTorch, whose pool would contend with bptt's; the same random numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def pair(kind, *arguments, dtype=torch.float64, **settings):
    """Return torch.nn's module and ours with the same parameters."""
    theirs = getattr(nn, kind)(*arguments, dtype=dtype, **settings)
    ours = getattr(bptt.torch, kind)(*arguments, dtype=dtype, **settings)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def states_of(module, B, batched=True):
    """Return h_0 and for an LSTM c_0, normal."""
    parts = module.num_layers * (1 + module.bidirectional)
    shape = (parts, B, module.hidden_size) if batched else (parts, module.hidden_size)
    dtype = module.weight_hh_l0.dtype
    return [
        torch.randn(shape, dtype=dtype) for _ in range(1 + isinstance(module, (nn.LSTM, bptt.torch.LSTM)))
    ]


def flat(state):
    return state if isinstance(state, tuple) else (state,)


def flattened(result):
    output, state = result
    return (output, *flat(state))


def error_of(tensor, seed):
    """Return a gradient of the loss for a result: normal, and the same at each call."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def step(module, x, states, **spans):
    """Return every result and every gradient of a training step."""
    x = x.detach().requires_grad_()
    states = [state.detach().requires_grad_() for state in states]
    hx = None if not states else tuple(states) if len(states) == 2 else states[0]
    output, state = module(x, hx, **spans)
    results = (output, *flat(state))
    errors = [error_of(result, n) for n, result in enumerate(results)]
    taken = (x, *states, *module.parameters())
    return [r.detach() for r in results] + list(torch.autograd.grad(results, taken, errors))


def assert_same(ours, theirs, rtol=1e-9, atol=1e-10):
    assert len(ours) == len(theirs)
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_results_and_gradients_are_those_of_torch(kind, layers, bidirectional):
    for batch_first, bias, with_state in itertools.product((False, True), repeat=3):
        theirs, ours = pair(
            kind, 3, 5, layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias
        )
        x = torch.randn(7, 4, 3, dtype=torch.float64)
        states = states_of(theirs, 7 if batch_first else 4) if with_state else []
        assert_same(step(ours, x, states), step(theirs, x, states))


@pytest.mark.parametrize("kind", KINDS)
def test_unbatched_input(kind):
    for batch_first in (False, True):
        theirs, ours = pair(kind, 3, 5, 2, bidirectional=True, batch_first=batch_first)
        x, states = torch.randn(6, 3, dtype=torch.float64), states_of(theirs, 0, batched=False)
        assert_same(step(ours, x, states), step(theirs, x, states))
        assert ours(x)[0].shape == (6, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_float32(kind):
    theirs, ours = pair(kind, 9, 33, 2, dtype=torch.float32)
    x, states = torch.randn(20, 5, 9), states_of(theirs, 5)
    assert_same(step(ours, x, states), step(theirs, x, states), rtol=1e-4, atol=2e-5)


def test_projections():
    for layers, bidirectional in FORMS:
        theirs, ours = pair("LSTM", 3, 5, layers, proj_size=2, bidirectional=bidirectional)
        x, (h_0, c_0) = torch.randn(6, 4, 3, dtype=torch.float64), states_of(theirs, 4)
        assert_same(step(ours, x, [h_0[..., :2], c_0]), step(theirs, x, [h_0[..., :2], c_0]))
        assert list(ours.state_dict()) == list(theirs.state_dict())
    assert type(bptt.torch.accelerate(theirs)) is bptt.torch.LSTM


def test_recurrent_dropout_and_zoneout_draw_from_torch():
    module = bptt.torch.LSTM(3, 5, 2, recurrent_dropout=0.3, zoneout=0.2, dtype=torch.float64)
    plain = bptt.torch.LSTM(3, 5, 2, dtype=torch.float64)
    plain.load_state_dict(module.state_dict())
    x, states = torch.randn(6, 4, 3, dtype=torch.float64), states_of(module, 4)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(step(module, x, states))
    assert_same(found[0], found[1], 0, 0)
    assert not torch.allclose(found[0][0], found[2][0])
    torch.manual_seed(1)
    with torch.no_grad():
        assert torch.equal(module(x, tuple(states))[0], found[0][0])
    seeds = torch.tensor([3, 4])
    weights = [getattr(module, name) for name in module._weight_names]

    def results(x, h, c, *weights):
        given = [x, h, c, list(weights), [], seeds, None, None, module._settings, [0, 0], [-1.0] * 3]
        return torch.ops.bptt.forward(*given)[:3]

    taken = [t.detach().requires_grad_() for t in (x[:3, :2], *(state[:, :2] for state in states))]
    assert torch.autograd.gradcheck(results, (*taken, *weights))


def test_nonlinearities():
    for name in ("tanh", "relu"):
        theirs, ours = pair("RNN", 3, 5, 2, name)
        x, states = torch.randn(6, 4, 3, dtype=torch.float64), states_of(theirs, 4)
        assert_same(step(ours, x, states), step(theirs, x, states))
    linear = bptt.torch.RNN(3, 5, nonlinearity="identity", dtype=torch.float64)
    x = torch.randn(1, 4, 3, dtype=torch.float64)
    expected = x[0] @ linear.weight_ih_l0.T + linear.bias_ih_l0 + linear.bias_hh_l0
    torch.testing.assert_close(linear(x)[0][0], expected)


def packed_step(module, x, lengths, states, enforce_sorted):
    x = x.detach().requires_grad_()
    states = [state.detach().requires_grad_() for state in states]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    output, state = module(packed, tuple(states) if len(states) == 2 else states[0])
    results = (output.data, *flat(state))
    errors = [error_of(result, n) for n, result in enumerate(results)]
    gradients = torch.autograd.grad(results, (x, *states, *module.parameters()), errors)
    order = [t for t in (output.batch_sizes, output.sorted_indices, output.unsorted_indices) if t is not None]
    return [*(r.detach() for r in results), *gradients, *order]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[7, 5, 5, 1], [2, 7, 1, 5]])
def test_packed_sequences(kind, lengths):
    theirs, ours = pair(kind, 3, 5, 2, bidirectional=True)
    x, states = torch.randn(7, 4, 3, dtype=torch.float64), states_of(theirs, 4)
    given = x, torch.tensor(lengths), states, lengths[0] == 7
    assert_same(packed_step(ours, *given), packed_step(theirs, *given))


def test_packed_sequences_take_resets_but_no_lengths():
    ours = bptt.torch.GRU(3, 5, dtype=torch.float64)
    x, lengths = torch.randn(7, 2, 3, dtype=torch.float64), torch.tensor([4, 7])
    resets = torch.zeros(7, 2, dtype=torch.bool)
    resets[2, 0] = resets[3, 1] = True
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    output, h_n = ours(packed, resets=resets)
    expected, expected_h_n = ours(x, lengths=lengths, resets=resets)
    torch.testing.assert_close(nn.utils.rnn.pad_packed_sequence(output)[0], expected)
    torch.testing.assert_close(h_n, expected_h_n)
    with pytest.raises(ValueError, match=r"^lengths: a PackedSequence has its own"):
        ours(packed, lengths=lengths)


def numpy_step(module, layer, x, states, **spans):
    """Return what `step` does, of bptt's own layer with the parameters of a module."""
    layer.load_state_dict(module.state_dict())
    way_back = {name: spans.pop(name) for name in ("truncate", "step_clip") if name in spans}
    arrays_of = [state.numpy() for state in states]
    tape = layer.forward(x.numpy(), tuple(arrays_of) if len(arrays_of) == 2 else arrays_of[0], **spans)
    results = [torch.tensor(array) for array in (tape.output, *flat(tape.state))]
    errors = [error_of(result, n).numpy() for n, result in enumerate(results)]
    d_state = tuple(errors[1:]) if len(errors) == 3 else errors[1]
    gradients = layer.backward(tape, errors[0], d_state, **way_back)
    found = [gradients.input, *flat(gradients.state)]
    found += [gradients.parameters[name] for name, _ in module.named_parameters()]
    return results + [torch.tensor(array) for array in found]


OPTIONS = {
    "peephole": True,
    "coupled": True,
    "cell_clip": 0.6,
    "activations": ["hard_sigmoid", "tanh", "softsign"],
}


@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {}),
        ("LSTM", OPTIONS),
        ("LSTM", {"proj_size": 2, "proj_clip": 0.3, "peephole": True}),
        ("GRU", {}),
        ("GRU", {"reset_after": False}),
        ("RNN", {}),
    ],
)
def test_options_are_those_of_bptt(kind, options, layers, bidirectional):
    settings = {"num_layers": layers, "bidirectional": bidirectional, **options}
    module = getattr(bptt.torch, kind)(3, 5, dtype=torch.float64, **settings)
    layer = getattr(bptt, kind)(3, 5, dtype=np.float64, **settings)
    x, states = torch.randn(7, 4, 3, dtype=torch.float64), states_of(module, 4)
    states[0] = states[0][..., : module.weight_hh_l0.shape[1]].contiguous()
    lengths, resets = np.array([3, 7, 0, 5]), np.zeros((7, 4), bool)
    resets[2, 1] = resets[4, 3] = resets[0, 0] = True
    ways = [{}, {"lengths": lengths}, {"resets": resets}, {"lengths": lengths, "resets": resets}]
    ways += [] if bidirectional else [{"truncate": (2, 3)}, {"truncate": 3, "lengths": lengths}]
    ways += [{"step_clip": 0.05}, {"step_clip": {"hidden": 0.1, "gates": 0.2}}]
    for spans in ways:
        tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in spans.items()}
        wanted = numpy_step(module, layer, x, states, **dict(spans))
        assert_same(step(module, x, states, **tensors), wanted, rtol=0, atol=1e-13)
        for name in ("truncate", "step_clip"):
            tensors.pop(name, None)
        with torch.no_grad():
            output, state = module(x, tuple(states) if len(states) == 2 else states[0], **tensors)
        assert_same([output, *flat(state)], wanted[: 1 + len(states)], rtol=0, atol=0)


def test_peepholes_are_parameters():
    module = bptt.torch.LSTM(3, 5, 2, bidirectional=True, peephole=True)
    assert module.weight_peephole_l1_reverse.shape == (3, 5)
    assert list(dict(module.named_parameters())) == list(module.state_dict())
    assert {name for part in module._all_weights for name in part} == set(module.state_dict())
    assert module.all_weights[3][4] is module.weight_peephole_l1_reverse
    assert 0 < module.weight_peephole_l0.abs().max() <= 5**-0.5


def test_dropout_draws_as_torch_does():
    for kind in KINDS:
        theirs, ours = pair(kind, 3, 5, 3, dropout=0.4, bidirectional=True)
        x, states = torch.randn(7, 4, 3, dtype=torch.float64), states_of(theirs, 4)
        found = []
        for module in (ours, theirs):
            torch.manual_seed(5)
            found.append(step(module, x, states))
        assert_same(*found)
        torch.manual_seed(5)
        with torch.no_grad():  # training mode without a gradient: dropped all the same
            torch.testing.assert_close(
                ours(x, tuple(states) if len(states) == 2 else states[0])[0], found[0][0]
            )
        assert_same(step(ours.eval(), x, states), step(theirs.eval(), x, states))


def test_the_same_seed_gives_the_same_weights():
    for kind in KINDS:
        torch.manual_seed(3)
        theirs = getattr(nn, kind)(3, 5, 2, bidirectional=True)
        torch.manual_seed(3)
        assert_same(
            list(getattr(bptt.torch, kind)(3, 5, 2, bidirectional=True).parameters()),
            list(theirs.parameters()),
        )


def test_empty_sequences_and_batches():
    for T, B in ((0, 3), (4, 0)):
        module = bptt.torch.LSTM(3, 5, 2, bidirectional=True)
        x, states = torch.randn(T, B, 3), states_of(module, B)
        found = step(module, x, states)
        assert found[0].shape == (T, B, 10)
        if not T:
            torch.testing.assert_close(found[1], states[0])
        assert all(torch.equal(g, torch.zeros_like(g)) for g in found[6:])


def test_memory_is_shared_both_ways(monkeypatch):
    module, x = bptt.torch.LSTM(3, 5), torch.randn(7, 4, 3)
    seen = {}

    def forward(core, layout, parts, *given, **more):
        result = original(core, layout, parts, *given, **more)
        seen.update(parts=parts, x=given[0], output=result[0], cells=result[3].cells)
        return result

    original = arrays._forward.forward
    monkeypatch.setattr(arrays._forward, "forward", forward)
    output, _ = module(x)
    pointer = {name: array.ctypes.data for name, array in seen.items() if name != "parts"}
    assert (pointer["x"], pointer["output"]) == (x.data_ptr(), output.data_ptr())
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    for name, array in zip(names, seen["parts"][0], strict=False):
        assert array.ctypes.data == getattr(module, name).data_ptr()
    assert pointer["cells"] in {t.data_ptr() for t in output.grad_fn.saved_tensors if t is not None}
    output.sum().backward()
    start = min(parameter.grad.data_ptr() for parameter in module.parameters())
    ends = max(p.grad.data_ptr() + 4 * p.grad.numel() for p in module.parameters())
    assert ends - start == 4 * sum(
        p.numel() for p in module.parameters()
    )  # one vector, handed on without a copy


def test_without_gradients_nothing_is_kept():
    module, x = bptt.torch.LSTM(3, 5), torch.randn(7, 4, 3)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not module(x)[0].requires_grad
    module.requires_grad_(False)
    assert module(x)[0].grad_fn is None
    assert module(x.requires_grad_())[0].grad_fn is not None


@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_an_input_that_needs_none_is_left_out(kind, layers, bidirectional):
    module = getattr(bptt.torch, kind)(3, 5, layers, bidirectional=bidirectional)
    x = torch.randn(7, 4, 3)
    ways = [{}, {"lengths": torch.tensor([3, 7, 0, 5])}, {"step_clip": 0.05}]
    for spans in ways if bidirectional else [*ways, {"truncate": (2, 3)}]:
        found = []
        for needs in (True, False):
            output, state = module(x.detach().requires_grad_(needs), **spans)
            results = output, flat(state)[0]
            errors = [error_of(result, n) for n, result in enumerate(results)]
            found.append(torch.autograd.grad(results, tuple(module.parameters()), errors))
        assert_same(*found, rtol=0, atol=0)


def test_changes_in_place_before_backward_are_noticed():
    module, x = bptt.torch.LSTM(3, 5), torch.randn(7, 4, 3)
    changes = [
        lambda output: x.mul_(2),
        lambda output: output.detach().mul_(2),
        lambda output: module.weight_hh_l0.detach().add_(1),
    ]
    for change in changes:
        output, (h_n, _) = module(x)
        loss = h_n.sum()
        change(output)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    output, _ = module(x)
    output.sum().backward(retain_graph=True)
    output.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        output.sum().backward()


def test_second_derivatives_are_refused():
    module, x = bptt.torch.GRU(3, 5), torch.randn(7, 4, 3, requires_grad=True)
    (d_x,) = torch.autograd.grad(module(x)[0].sin().sum(), x, create_graph=True)
    assert_same([d_x.detach()], list(torch.autograd.grad(module(x)[0].sin().sum(), x)), rtol=0, atol=0)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        d_x.square().sum().backward()
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        torch.func.grad(lambda x: module(x)[0].sum())(x.detach())


def test_parameters_are_what_is_used():
    theirs, ours = pair("LSTM", 3, 5, 2)
    x = torch.randn(7, 4, 3, dtype=torch.float64)
    for module in (theirs, ours):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(x)[0].square().sum().backward()
            optimizer.step()
        module.weight_ih_l0.data = module.weight_ih_l0.data * 0.5
        module.weight_hh_l1 = nn.Parameter(module.weight_hh_l1.detach() + 1)
    assert_same([ours(x)[0]], [theirs(x)[0]])
    given = {name: parameter.detach() * 0.9 for name, parameter in ours.named_parameters()}
    found = [torch.func.functional_call(module, given, (x,))[0] for module in (ours, theirs)]
    assert_same(found[:1], found[1:])
    assert_same([ours.to(torch.float32)(x.float())[0]], [theirs.to(torch.float32)(x.float())[0]], 1e-4, 1e-5)
    assert ours.to(torch.float64)(x)[0].dtype == torch.float64


def test_copies_and_files(tmp_path):
    module = bptt.torch.LSTM(3, 5, 2, dropout=0.5, peephole=True, cell_clip=2.0).eval()
    x = torch.randn(7, 4, 3)
    torch.save(module, tmp_path / "module.pt")
    twins = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    twins.append(torch.load(tmp_path / "module.pt", weights_only=False))
    twins.append(bptt.torch.LSTM(3, 5, 2, dropout=0.5, peephole=True, cell_clip=2.0).eval())
    twins[-1].load_state_dict(module.state_dict())
    for twin in twins:
        assert torch.equal(twin(x)[0], module(x)[0])
        assert twin.weight_hh_l0.data_ptr() != module.weight_hh_l0.data_ptr()
    layer = bptt.LSTM(3, 5, 2, peephole=True, cell_clip=2.0)
    layer.load_state_dict(module.state_dict())
    assert np.array_equal(layer(x.numpy())[0], module(x)[0].detach().numpy())
    assert repr(bptt.torch.LSTM(3, 5, 2, bidirectional=True)) == repr(nn.LSTM(3, 5, 2, bidirectional=True))


def test_strided_inputs_and_gradients():
    theirs, ours = pair("LSTM", 3, 5)
    x = torch.randn(3, 8, 14, dtype=torch.float64).permute(2, 1, 0)[::2, ::2]
    assert not x.is_contiguous()
    states = [torch.randn(5, 4, 1, dtype=torch.float64).permute(2, 1, 0) for _ in range(2)]
    assert_same(step(ours, x, states), step(theirs, x, states))
    found = []
    for module in (ours, theirs):  # the gradient of a sum has no memory of its own
        given = x.detach().requires_grad_()
        module(given)[0].sum().backward()
        found.append(given.grad)
    assert_same(found[:1], found[1:])


def test_errors():
    with pytest.raises(ValueError, match=r"^device: expected the CPU, got cuda"):
        bptt.torch.LSTM(3, 5, device="cuda")
    with pytest.raises(
        TypeError, match=r"^dtype: expected torch.float32 or torch.float64, got torch.bfloat16"
    ):
        bptt.torch.GRU(3, 5, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"^activations: "):
        bptt.torch.LSTM(3, 5, activations=("sigmoid", "tanh", "cubic"))
    module = bptt.torch.LSTM(3, 5)
    x = torch.randn(7, 4, 3)
    for given, error, text in [
        ((x.double(),), ValueError, "dtype"),
        ((x[..., :2],), RuntimeError, r"input.size\(-1\) must be equal to input_size"),
        ((x[None],), ValueError, "Expected input to be 2D or 3D, got 4D"),
        ((x, (torch.zeros(1, 3, 5), torch.zeros(1, 4, 5))), RuntimeError, "Expected hidden size"),
        ((x, (torch.zeros(1, 4, 5), torch.zeros(4, 1, 5))), RuntimeError, "Expected cell size"),
        ((x, (torch.zeros(1, 4, 5), torch.zeros(1, 4, 5).double())), TypeError, "^c_0: "),
    ]:
        with pytest.raises(error, match=text):
            module(*given)
    for spans, error, text in [
        ({"lengths": torch.tensor([1, 2, 3])}, ValueError, "^lengths: expected shape"),
        ({"lengths": torch.tensor([1, 2, 3, 8])}, ValueError, "^lengths: expected 0 to T"),
        ({"lengths": torch.tensor([1.0, 2, 3, 4])}, TypeError, "^lengths: expected integers"),
        ({"resets": torch.zeros(4, 7, dtype=torch.bool)}, ValueError, "^resets: expected shape"),
        ({"resets": torch.zeros(7, 4)}, TypeError, "^resets: expected bool"),
        ({"truncate": 0}, ValueError, "^truncate: "),
    ]:
        with pytest.raises(error, match=text):
            module(x, **spans)
    with pytest.raises(TypeError, match=r"^weight_ih_l0: expected torch.float32 or torch.float64"):
        bptt.torch.LSTM(3, 5).half()(x.half())
    with pytest.raises(ValueError, match=r"^truncate: has no meaning in a bidirectional layer"):
        bptt.torch.LSTM(3, 5, bidirectional=True)(x, truncate=2)


def test_autocast_leaves_the_layer_its_dtype():
    module, x = bptt.torch.LSTM(3, 5), torch.randn(7, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = module(x.bfloat16())
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, module(x.bfloat16().float())[0])


def test_meta_tensors_give_shapes():
    with torch.device("meta"):
        module = bptt.torch.LSTM(3, 5, 2, bidirectional=True)
        output, (h_n, c_n) = module(torch.empty(7, 4, 3))
    assert (output.shape, h_n.shape, c_n.shape) == ((7, 4, 10), (4, 4, 5), (4, 4, 5))


def operator_arguments(module, x, lengths=None, masks=(), truncate=(0, 0)):
    weights = [getattr(module, name) for name in module._weight_names]
    h_0, *c_0 = states_of(module, x.shape[1])
    c_0 = c_0[0] if c_0 else None
    return [
        x,
        h_0,
        c_0,
        weights,
        list(masks),
        None,
        lengths,
        None,
        module._settings,
        list(truncate),
        [-1.0] * 3,
    ]


@pytest.mark.parametrize(("kind", "layers"), [("LSTM", 1), ("LSTM", 2), ("GRU", 2), ("RNN", 1)])
def test_operators_pass_the_checks_of_torch(kind, layers):
    module = getattr(bptt.torch, kind)(2, 3, layers, bidirectional=layers > 1, dtype=torch.float64)
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    masks = [torch.randint(2, (3, 2, 6)).double() for _ in range(layers - 1)]
    given = operator_arguments(module, x, torch.tensor([1, 3]), masks)
    operators = torch.ops.bptt
    bare = [
        [w.detach() for w in a] if isinstance(a, list) and a and torch.is_tensor(a[0]) else a for a in given
    ]
    torch.library.opcheck(operators.infer.default, [*bare[:4], *bare[6:9]])
    torch.library.opcheck(operators.forward.default, [x.clone().requires_grad_(), *given[1:]])
    output, *_, hidden, cells, gates = operators.forward(*bare)
    back = [torch.randn_like(output), None, None, *bare[:6], output, hidden, cells, gates, *bare[6:]]
    torch.library.opcheck(operators.backward.default, back)
    weights = given[3]
    leaves = [t.detach().requires_grad_() for t in given[:3] if t is not None]

    def results(*tensors):
        states = [*tensors[1 : len(leaves)], None][:2]
        found = operators.forward(tensors[0], *states, list(tensors[len(leaves) :]), *given[4:])
        return found[: 3 if kind == "LSTM" else 2]

    assert torch.autograd.gradcheck(results, (*leaves, *weights))


def test_gradcheck_of_the_module():
    module = bptt.torch.LSTM(2, 3, 2, peephole=True, dtype=torch.float64)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    states = [state.requires_grad_() for state in states_of(module, 2)]
    assert torch.autograd.gradcheck(
        lambda x, h, c, *_: flattened(module(x, (h, c))), (x, *states, *module.parameters())
    )


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_without_breaks_for_any_number_of_steps(backend):
    torch._dynamo.reset()
    module = bptt.torch.LSTM(3, 5, 2, bidirectional=True, batch_first=True)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    for T in (7, 9, 12):
        x, states = torch.randn(4, T, 3), states_of(module, 4)
        lengths = torch.tensor([T, 3, 0, 5])
        assert_same(
            step(compiled, x, states, lengths=lengths), step(module, x, states, lengths=lengths), 0, 1e-6
        )
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[0], module(x)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own
def test_compiled_by_inductor():
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(3, 4), bptt.torch.GRU(4, 5), TakeOutput(), nn.Linear(5, 2))
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for T in (6, 8):
        x = torch.randn(T, 4, 3)
        found = []
        for called in (compiled, model):
            output = called(x)
            gradients = torch.autograd.grad(output, tuple(model.parameters()), error_of(output, 0))
            found.append([output.detach(), *gradients])
        assert_same(*found, rtol=1e-4, atol=1e-5)


class TakeOutput(nn.Module):
    def forward(self, result):
        return result[0]


class Tagger(nn.Module):
    """A realistic model; the second layer stands at two places."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.recurrent = nn.LSTM(6, 5, num_layers=2, bidirectional=True, dropout=0.3, batch_first=True)
        self.again = self.also = nn.GRU(10, 10)
        self.scores = nn.Linear(10, 4)

    def forward(self, words):
        output, _ = self.recurrent(self.embedding(words))
        return self.scores(self.also(self.again(output)[0])[0])


def test_accelerate_and_restore():
    model, words = Tagger(), torch.randint(20, (3, 7))
    model.eval()
    called = []
    model.recurrent.register_forward_hook(lambda *_: called.append(1))
    parameters, names = list(model.parameters()), list(model.state_dict())
    wanted = model(words)
    wanted_gradients = torch.autograd.grad(wanted, parameters, error_of(wanted, 0))
    assert bptt.torch.accelerate(model) is model
    assert type(model.recurrent) is bptt.torch.LSTM
    assert type(model.again) is bptt.torch.GRU
    assert model.again is model.also
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    found = model(words)
    assert found.grad_fn is not None
    assert not model.recurrent.training
    assert_same([found], [wanted], 1e-5, 1e-6)
    assert_same(torch.autograd.grad(found, parameters, error_of(found, 0)), wanted_gradients, 1e-4, 1e-5)
    assert len(called) == 2
    assert_same([copy.deepcopy(model)(words)], [wanted], 1e-5, 1e-6)
    bptt.torch.accelerate(model)  # again: nothing to do
    assert bptt.torch.restore(model) is model
    assert type(model.recurrent) is nn.LSTM
    assert vars(model.recurrent).keys() == vars(Tagger().recurrent).keys()
    assert torch.equal(model(words), wanted)
    layer = nn.RNN(3, 4)
    assert bptt.torch.accelerate(layer) is layer
    assert type(layer) is bptt.torch.RNN
    assert type(bptt.torch.restore(layer)) is nn.RNN


def test_accelerate_keeps_weight_norm():
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.LSTM(3, 5), "weight_hh_l0")
    x = torch.randn(7, 4, 3)
    found = []
    for change in (lambda _: None, bptt.torch.accelerate):
        change(layer)
        layer.weight_hh_l0_g.data *= 1
        output, _ = layer(x)
        found.append([output, *torch.autograd.grad(output, tuple(layer.parameters()), error_of(output, 0))])
    assert type(layer) is bptt.torch.LSTM
    assert len(found[0]) == 6
    assert_same(found[1], found[0], 1e-4, 1e-5)


def test_accelerate_says_what_it_leaves():
    class Mine(nn.LSTM):
        pass

    model = nn.ModuleDict({"mine": Mine(3, 4), "short": nn.GRU(3, 4).bfloat16(), "good": nn.RNN(3, 4)})
    model["shaped"] = nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    with pytest.warns(UserWarning, match=r"^accelerate: left as they are: ") as caught:
        bptt.torch.accelerate(model)
    text = str(caught[0].message)
    assert "mine (Mine is derived from torch.nn's class)" in text
    assert "short (weight_ih_l0: expected torch.float32 or torch.float64, got torch.bfloat16)" in text
    assert "shaped (ParametrizedLSTM is derived" in text
    kinds = {name: type(layer) for name, layer in model.items()}
    assert (kinds["mine"], kinds["short"], kinds["good"]) == (Mine, nn.GRU, bptt.torch.RNN)
    with pytest.warns(UserWarning, match=r"^accelerate: no nn.LSTM, nn.GRU or nn.RNN in Linear"):
        bptt.torch.accelerate(nn.Linear(3, 4))
    own = nn.Sequential(bptt.torch.LSTM(3, 4, peephole=True), bptt.torch.RNN(3, 4, nonlinearity="identity"))
    with pytest.warns(UserWarning, match=r"^restore: left as they are: 0 \(.*; 1 \("):
        bptt.torch.restore(own)
    parametrized = nn.utils.parametrizations.weight_norm(bptt.torch.LSTM(3, 4), "weight_hh_l0")
    parametrized(torch.randn(5, 2, 3))[0].sum().backward()
    assert parametrized.parametrizations.weight_hh_l0.original0.grad is not None


WORKER = """
import os, sys
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
import bptt.torch
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
torch.manual_seed(0)
model = bptt.torch.LSTM(3, 5, 2, bidirectional=True, dtype=torch.float64)
x = torch.randn(7, 6, 3, dtype=torch.float64)
parallel = DistributedDataParallel(model)
parallel(x[:, rank::2])[0].square().mean().backward()
gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
if rank == 0:
    torch.manual_seed(0)
    whole = bptt.torch.LSTM(3, 5, 2, bidirectional=True, dtype=torch.float64)
    torch.randn(7, 6, 3, dtype=torch.float64)
    whole(x)[0].square().mean().backward()
    wanted = torch.cat([parameter.grad.flatten() for parameter in whole.parameters()])
    print(float(gradient.norm()), float((gradient - wanted).abs().max()), flush=True)
distributed.destroy_process_group()
os._exit(0)  # as `leave` of examples/distributed.py, and for the same reason
"""


def test_two_processes_give_the_gradient_of_one(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", WORKER, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    norm, difference = map(float, printed[0][0].split())
    assert norm > 0.01
    assert difference < 1e-15


def example(name):
    """Return what an example defines."""
    if not (EXAMPLES / name).is_file():
        pytest.skip("the examples are not beside the tests")
    return runpy.run_path(str(EXAMPLES / name))


def test_training_goes_on_after_a_worker_is_killed(tmp_path):
    given = ("--steps", 6, "--save-every", 2)
    both = tmp_path / "both.json"
    options = argparse.Namespace(steps=6, save_every=2, kill_at=-1, checkpoint=tmp_path / "alone.pt")
    losses = [example("distributed.py")["train"](options, 0, 1)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    more = ("--kill-at", 3, "--losses", both, "--checkpoint", tmp_path / "both.pt")
    command = [sys.executable, *launcher, EXAMPLES / "distributed.py", *given, *more]
    told = {**os.environ, "PYTHONFAULTHANDLER": "1"}  # where a worker aborted, should one
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, env=told)
    assert result.returncode == 0, result.stderr
    assert "goes on after step 2" in result.stderr
    losses.append(json.loads(both.read_text()))
    assert len(losses[0]) == 6
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_example_accelerate(capsys, monkeypatch):
    arguments = ["--rows", "2", "--length", "5", "--width", "8", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["accelerate.py", *arguments])
    example("accelerate.py")["main"]()
    text = capsys.readouterr().out
    assert text.count("times as fast") == 2
    differences = [
        float(line.split("differ by ")[1].split()[0]) for line in text.splitlines() if "differ" in line
    ]
    assert len(differences) == 2
    assert max(differences) < 1e-5


@pytest.mark.parametrize("module", ["bptt.torch", "bptt.torch.modules", "bptt.torch.swap"])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 1
    assert result.failed == 0


def test_guide_runs():
    guide = EXAMPLES.parent / "docs" / "torch.md"
    if not guide.is_file():
        pytest.skip("the documentation is not beside the tests")
    torch._dynamo.reset()
    blocks = re.findall(r"^```python\n(.*?)^```", guide.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, str(guide), "exec"), {"__name__": "guide"})


def test_plans_refuse_what_bptt_has_not():
    module = bptt.torch.LSTM(3, 5)
    for size in ("5", None, 5.0):
        with pytest.raises(TypeError, match=r"^hidden_size: expected an integer"):
            bptt.torch.LSTM(3, size)
    with pytest.raises(TypeError, match=r"^x: expected torch.float32 or torch.float64, got torch.int64"):
        plan_of(module._settings, torch.int64)
    assert plan_of(module._settings, torch.float64).layout.dtype == np.float64
    with pytest.raises(ValueError, match=r"^zoneout: "):
        bptt.torch.LSTM(3, 5, zoneout=1.5)
    with pytest.raises(ValueError, match=r"^step_clip: "):
        module(torch.ones(2, 1, 3), step_clip=-1.0)


def test_without_torch_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\ntry: import bptt.torch\nexcept ImportError as e: print(e)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.startswith("bptt.torch needs PyTorch: pip install 'bptt[torch]'")


def test_weights_that_lie_elsewhere_are_found():
    """A module keeps the arrays of its weights from call to call: as long as they are where they were."""
    module, x = bptt.torch.LSTM(3, 5), torch.randn(7, 2, 3)
    twin = torch.nn.LSTM(3, 5)

    def check():
        twin.load_state_dict(module.state_dict())
        torch.testing.assert_close(module(x)[0], twin(x)[0])

    check()
    for parameter in module.parameters():  # in place
        parameter.data.mul_(0.5)
    check()
    for parameter in module.parameters():  # in other memory
        parameter.data = parameter.data * 0.5
    check()
    square = module.weight_hh_l0
    square.data = square.data[:5].repeat(4, 1)
    rows = square.data.numpy().reshape(20, 5)
    square.data = torch.from_numpy(rows.T.copy()).t()  # the same shape, strides the other way round
    check()
    square.data = square.data.contiguous()
    check()
    copied = copy.deepcopy(module)
    with torch.no_grad():
        copied.weight_hh_l0.zero_()
    check()
    assert not torch.equal(copied(x)[0], module(x)[0])
    assert copied._last is not module._last
    read = pickle.loads(pickle.dumps(module))
    assert len(pickle.dumps(module)) < 2 * len(pickle.dumps(twin)) + 4000
    torch.testing.assert_close(read(x)[0], module(x)[0])
    module.double()
    assert module(x.double())[0].dtype == torch.float64
    output = module(x.double())[0]
    module.weight_hh_l0.data = torch.zeros(20, 5, dtype=torch.float64)  # the way back reads the old ones
    output.sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    assert not module(x.double())[0].requires_grad


def test_weights_that_are_read_otherwise_are_found():
    """Same memory, another dtype or sign: as on a first call."""
    module, x = bptt.torch.LSTM(3, 4), torch.randn(2, 2, 3)
    module.requires_grad_(False)
    module(x)
    weight = module.weight_hh_l0
    weight.data = weight.data.view(torch.int32)
    with pytest.raises(TypeError, match="weight_hh"):
        module(x)
    weight.data = weight.data.view(torch.float32)
    expected = torch.func.functional_call(module, {"weight_hh_l0": -weight.data}, (x,))[0]
    module(x)
    weight.data = torch._neg_view(weight.data)
    torch.testing.assert_close(module(x)[0], expected)


def test_weights_whose_memory_moves():
    """`share_memory` moves the storage itself, also of what is held; FSDP empties and fills it."""
    module, x = bptt.torch.LSTM(30, 40), torch.randn(20, 17, 30)
    expected = torch.autograd.grad(module(x)[0].sum(), list(module.parameters()))
    output = module(x)[0]
    module.share_memory()
    hold = [torch.full_like(p, float("nan")) for p in module.parameters() for _ in range(3)]
    found = torch.autograd.grad(output.sum(), list(module.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    del hold
    module = bptt.torch.LSTM(30, 40)
    before = module(x)[0]
    for parameter in module.parameters():
        storage, values = parameter.untyped_storage(), parameter.detach().clone()
        size = storage.size()
        storage.resize_(0)
        hold = torch.full_like(values, float("nan"))
        storage.resize_(size)
        with torch.no_grad():
            parameter.copy_(values)
        assert hold.isnan().all()
    torch.testing.assert_close(module(x)[0], before, rtol=0, atol=0)


def test_memory_with_a_sign_to_come():
    """A tensor that PyTorch negates when it is read."""
    module, x = bptt.torch.RNN(3, 4), torch.randn(5, 2, 3)
    minus = torch.complex(torch.zeros_like(x), x).conj().imag
    assert minus.is_neg()
    torch.testing.assert_close(module(minus.contiguous())[0], module(-x)[0])
    torch.testing.assert_close(module(minus)[0], module(-x)[0])
