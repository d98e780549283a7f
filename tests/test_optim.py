"""SGD and Adam against torch.optim."""

import copy
import pickle

import numpy as np
import pytest

import bptt
from bptt.optim import SGD, Adam

SIZES = (
    9,
    30,
)  # more parameters than one block of the walk holds would take long; the block is lowered instead


def arrays(seed, dtype, *shapes):
    rng = np.random.default_rng(seed)
    return {f"p{n}": rng.standard_normal(shape).astype(dtype) for n, shape in enumerate(shapes)}


CASES = [
    pytest.param("SGD", {"lr": 0.1}, id="sgd"),
    pytest.param("SGD", {"lr": 0.05, "momentum": 0.9}, id="momentum"),
    pytest.param("Adam", {}, id="adam"),
    pytest.param(
        "Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}, id="adam-decay"
    ),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("flat", [False, True])
def test_agrees_with_torch(monkeypatch, name, options, dtype, flat):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(bptt.optim, "BLOCK", 100)
    layer = bptt.LSTM(*SIZES, dtype=dtype, seed=0)
    parameters = layer.parameters if flat else layer.state_dict()
    peers = [torch.nn.Parameter(torch.tensor(array.copy())) for array in parameters.values()]
    theirs = getattr(torch.optim, name)(peers, **options)
    ours = getattr(bptt.optim, name)(parameters, **options)
    rng = np.random.default_rng(1)
    for step in range(20):
        gradients = layer.parameters.empty_like()
        gradients.flat[...] = rng.standard_normal(gradients.flat.size) * 10.0 ** rng.integers(-6, 3)
        before = gradients.flat.copy()
        for peer, gradient in zip(peers, gradients.values(), strict=True):
            peer.grad = torch.tensor(gradient.copy())
        theirs.step()
        ours.step(gradients if flat or step % 2 else dict(gradients))
        np.testing.assert_array_equal(gradients.flat, before)
    epsilon = np.finfo(dtype).eps
    for array, peer in zip(parameters.values(), peers, strict=True):
        np.testing.assert_allclose(array, peer.detach().numpy(), rtol=100 * epsilon, atol=100 * epsilon)


def test_trains_a_layer_and_a_dict_together(backend):
    layer = bptt.LSTM(3, 8, seed=0)
    head = {"weight": np.zeros((8, 1), np.float32), "bias": np.zeros(1, np.float32)}
    optimizer = Adam([layer.parameters, head], lr=0.02)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 16, 3)).astype(np.float32)
    target = x.cumsum(axis=0)[..., :1] * 0.3

    def loss_and_step():
        tape = layer.forward(x)
        error = tape.output @ head["weight"] + head["bias"] - target
        d = (2 / error.size * error).astype(np.float32)
        d_head = {"bias": d.sum(axis=(0, 1)), "weight": np.tensordot(tape.output, d, ((0, 1), (0, 1)))}
        gradients = layer.backward(tape, d @ head["weight"].T)
        bptt.clip_grad_norm_([gradients, d_head], 5.0)
        optimizer.step([gradients, d_head])
        return float((error**2).mean())

    losses = [loss_and_step() for _ in range(80)]
    assert losses[-1] < 0.2 * losses[0]


def test_gradients_of_another_order_or_kind_fit():
    layer = bptt.LSTM(3, 4, seed=0)
    tape = layer.forward(np.ones((5, 2, 3), np.float32))
    gradients = layer.backward(tape, np.ones((5, 2, 4), np.float32))
    expected = layer.parameters.flat - 0.5 * gradients.parameters.flat
    reverse = dict(reversed(list(gradients.parameters.items())))
    for given in (gradients, gradients.parameters, reverse, [gradients], (reverse,)):
        twin = copy.deepcopy(layer)
        SGD(twin.parameters, 0.5).step(given)
        np.testing.assert_array_equal(twin.parameters.flat, expected)


def test_strided_parameters_change_in_place():
    base = np.ones((3, 4))
    weights = {"w": base.T, "v": np.ones(6)[::2], "scalar": np.ones(())}
    gradients = {"w": np.arange(12.0).reshape(4, 3), "v": np.ones(3), "scalar": np.ones(())}
    Adam(weights, 0.0).step(gradients)
    SGD(weights, 1.0, momentum=0.5).step(gradients)
    assert weights["scalar"] == 0
    np.testing.assert_array_equal(base, 1 - np.arange(12.0).reshape(4, 3).T)
    np.testing.assert_array_equal(weights["v"], 0)


def test_learning_rate_may_change_between_steps():
    weights = {"w": np.zeros(3)}
    for optimizer, expected in [(SGD(weights, 1.0), -2.0), (Adam(weights, 1.0), -2.0)]:
        weights["w"][...] = 0
        optimizer.lr = 2.0
        optimizer.step({"w": np.ones(3)})
        np.testing.assert_allclose(weights["w"], expected, rtol=1e-6)


def test_pickled_together_they_stay_together():
    layer = bptt.LSTM(3, 4, seed=0)
    optimizer = Adam(layer.parameters)
    gradients = layer.parameters.empty_like()
    gradients.flat[...] = 1
    optimizer.step(gradients)
    twin, its_optimizer = pickle.loads(pickle.dumps((layer, optimizer)))
    for one in (optimizer, its_optimizer):
        one.step(gradients)
    np.testing.assert_array_equal(twin.parameters.flat, layer.parameters.flat)


def test_arguments_that_do_not_fit():
    layer = bptt.LSTM(3, 4, seed=0)
    good = layer.parameters.empty_like()
    good.flat[...] = 1
    before = layer.parameters.flat.copy()
    optimizer = Adam(layer.parameters)
    wrong = [
        {"weight_ih_l0": np.zeros((16, 3), np.float32)},
        dict(good) | {"extra": np.zeros(1, np.float32)},
        dict(good) | {"bias_ih_l0": np.zeros(15, np.float32)},
        dict(good) | {"bias_ih_l0": np.zeros(16)},
        bptt.LSTM(3, 5).parameters,
        bptt.LSTM(3, 4, dtype=np.float64).parameters,
        [good, good],
        [],
        None,
        good.flat,
        "gradients",
    ]
    for given in wrong:
        with pytest.raises((TypeError, ValueError), match=r"^gradients"):
            optimizer.step(given)
    np.testing.assert_array_equal(layer.parameters.flat, before)
    assert optimizer.steps == 0
    for parameters in (None, [1], {"w": [1.0]}, {"w": np.arange(3)}, layer.freeze().parameters):
        with pytest.raises(TypeError, match=r"^parameters"):
            SGD(parameters, 0.1)
    for options in (
        {"lr": -1},
        {"betas": (1.0, 0.9)},
        {"betas": 0.9},
        {"eps": -1},
        {"weight_decay": -1},
        {"lr": "1"},
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{next(iter(options))}"):
            Adam(layer.parameters, **options)
    with pytest.raises(ValueError, match=r"^momentum: "):
        SGD(layer.parameters, 0.1, momentum=-1)
