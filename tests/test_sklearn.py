"""bptt.sklearn: the estimators against scikit-learn's own checks, torch and finite differences."""

import ast
import doctest
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import bptt

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from bptt.sklearn import SequenceClassifier, SequenceRegressor, estimators
from bptt.sklearn.losses import cross_entropy, squared_error
from bptt.sklearn.network import CELLS, POOLINGS, Network

BOTH = [SequenceClassifier, SequenceRegressor]


def walks(count, seed=0, features=2):
    """Return sequences of unequal length whose steps drift up in every other one, their labels and drifts."""
    rng = np.random.default_rng(seed)
    drifts = np.where(np.arange(count) % 2, 0.5, -0.5) + 0.1 * rng.standard_normal(count)
    X = [rng.normal(drift, 1, (rng.integers(8, 25), features)) for drift in drifts]
    return X, np.where(drifts > 0, "up", "down"), drifts


def small(kind, **settings):
    return kind(**{"hidden_size": 8, "max_iter": 25, "random_state": 0} | settings)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # its own, y with inf
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", BOTH)
def test_checks_of_scikit_learn(kind, dtype):
    # Weights against repetitions: equal but for the order of sums, which the check allows to matter by 1e-7.
    rounding = {"check_sample_weight_equivalence_on_dense_data": "the order of sums in float32"}
    results = check_estimator(
        kind(hidden_size=8, max_iter=60, dtype=dtype),
        expected_failed_checks=rounding if dtype == "float32" else {},
        on_skip=None,
    )
    assert len(results) > 40
    others = {r["check_name"] for r in results if r["status"] != "passed"}
    assert others <= {"check_array_api_input", *(rounding if dtype == "float32" else ())}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
def test_gradients_against_finite_differences(cell, pooling, layers, bidirectional):
    rng = np.random.default_rng(3)
    stack = {"num_layers": layers, "bidirectional": bidirectional, "dtype": np.float64}
    network = Network.made(cell, (3, 4, 5), pooling, 0.0, rng, **stack)
    network.head["bias"][...] = rng.standard_normal(5)
    x, lengths = rng.standard_normal((6, 4, 3)), np.array([2, 6, 0, 5])
    weights = rng.random(4)
    for loss, targets in (
        (cross_entropy, rng.integers(0, 5, 4)),
        (squared_error, rng.standard_normal((4, 5))),
    ):
        slope = partial(loss, targets, weights)
        value, (of_layer, of_head) = network.gradients(x, lengths, slope, rng)
        assert value == pytest.approx(slope(network(x, lengths))[0], rel=1e-12)
        found = [of_layer.parameters.flat, *of_head.values()]
        parameters = [network.layer.parameters.flat, *network.head.values()]
        for array, gradient in zip(parameters, found, strict=True):
            for place in rng.integers(0, array.size, 8):
                index = np.unravel_index(place, array.shape)
                kept, values = array[index], []
                for step in (1e-6, -1e-6):
                    array[index] = kept + step
                    values.append(slope(network(x, lengths))[0])
                array[index] = kept
                assert gradient[index] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-8)


def test_learns_as_torch_does():
    torch = pytest.importorskip("torch")
    X, y, _ = walks(6, features=3)
    weights = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 1.5])
    model = SequenceClassifier(
        5, standardize=False, max_norm=0.3, alpha=0.01, batch_size=6, dtype="float64", random_state=1
    )
    model._begin(X, y, weights)  # the weights before the first step
    network = model._training.network
    lstm = torch.nn.LSTM(3, 5, dtype=torch.float64)
    head = torch.nn.Linear(5, 2, dtype=torch.float64)
    lstm.load_state_dict({k: torch.from_numpy(a) for k, a in network.layer.state_dict().items()})
    head.load_state_dict({k: torch.from_numpy(a.copy()) for k, a in network.head.items()})
    parameters = [*lstm.parameters(), *head.parameters()]
    adam = torch.optim.Adam(parameters, lr=0.01, weight_decay=0.01)
    packed = torch.nn.utils.rnn.pack_sequence([torch.from_numpy(x) for x in X], enforce_sorted=False)
    labels, scale = torch.tensor((y == "up").astype(int)), torch.from_numpy(weights / weights.mean())
    for _ in range(5):
        adam.zero_grad()
        scores = head(lstm(packed)[1][0][-1])
        losses = torch.nn.functional.cross_entropy(scores, labels, reduction="none")
        (scale * losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.3)
        adam.step()
        model.partial_fit(X, y, sample_weight=weights)
    scores = head(lstm(packed)[1][0][-1])
    expected = torch.softmax(scores, 1).detach().numpy()
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("cell", CELLS)
def test_learns_sequences_of_unequal_length(cell, pooling):
    X, y, drifts = walks(200)
    settings = {
        "cell": cell,
        "pooling": pooling,
        "bidirectional": cell == "gru",
        "num_layers": 1 + (cell == "rnn"),
    }
    classifier = small(SequenceClassifier, **settings).fit(X[:150], y[:150])
    assert classifier.score(X[150:], y[150:]) > 0.85
    assert list(classifier.classes_) == ["down", "up"]
    probabilities = classifier.predict_proba(X[150:])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.log(probabilities), classifier.predict_log_proba(X[150:]))
    assert np.array_equal(classifier.classes_[probabilities.argmax(axis=1)], classifier.predict(X[150:]))
    regressor = small(SequenceRegressor, **settings).fit(X[:150], drifts[:150])
    assert regressor.score(X[150:], drifts[150:]) > 0.5


def test_forms_of_input():
    rng = np.random.default_rng(0)
    array, y = rng.standard_normal((300, 6, 3)), rng.standard_normal(300)
    model = small(SequenceRegressor, max_iter=2).fit(array, y)
    expected = model.predict(array)
    boxed = np.empty(300, object)
    boxed[:] = list(array)
    forms = [
        list(array),
        tuple(array),
        boxed,
        array.tolist(),
        np.asfortranarray(array),
        array[:, ::-1][:, ::-1],
    ]
    for form in forms:
        assert np.array_equal(model.predict(form), expected)
        assert np.array_equal(clone(model).fit(form, y).predict(form), expected)
    assert model.n_features_in_ == 3
    assert np.array_equal(model.predict([array[7]]), expected[7:8])  # alone, the same bits
    # Longer ones around it, and the steps past its end, change nothing.
    mixed = [array[7], rng.standard_normal((50, 3)), array[7, :0]]
    assert np.array_equal(model.predict(mixed)[0], expected[7])


def test_a_table_is_sequences_of_one_feature():
    rng = np.random.default_rng(0)
    table, y = rng.standard_normal((40, 7)), rng.standard_normal(40)
    model = small(SequenceRegressor, max_iter=2).fit(table, y)
    assert model.n_features_in_ == 7
    expected = model.predict(table)
    assert np.array_equal(model.predict(table[:, :, None]), expected)
    assert np.array_equal(model.predict(list(table)), expected)
    assert np.array_equal(model.predict(table.tolist()), expected)
    assert model.predict([table[0, :3], table[1]])[1] == expected[1]
    with pytest.raises(ValueError, match="X has 6 features, but SequenceRegressor is expecting 7"):
        model.predict(table[:, :6])
    with pytest.raises(ValueError, match="X has 2 features, but SequenceRegressor is expecting 1"):
        model.predict(np.zeros((3, 4, 2)))
    again = clone(model).fit(table[:, :, None], y)
    assert again.n_features_in_ == 1
    assert np.array_equal(again.predict(table), expected)
    assert again.predict(table[:, :6]).shape == (40,)


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.standard_normal((20, 4)), columns=list("abcd"))
    y = rng.standard_normal(20)
    model = small(SequenceRegressor, max_iter=2).fit(frame, y)
    assert list(model.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("abdc")])
    column = pandas.Series([row.to_numpy() for _, row in frame.iterrows()])
    assert np.array_equal(model.predict(column), model.predict(frame))
    model.fit(column, y)
    assert model.n_features_in_ == 1
    assert not hasattr(model, "feature_names_in_")


def test_several_outputs_and_their_scale():
    X, _, drifts = walks(200)
    y = np.stack([1e6 + 1e3 * drifts, -1e-3 * drifts, np.full(200, 7.0)], axis=1)
    model = small(SequenceRegressor).fit(X, y)
    found = model.predict(X)
    assert found.shape == (200, 3)
    assert model.n_outputs_ == 3
    for k in range(2):
        assert np.corrcoef(found[:, k], y[:, k])[0, 1] > 0.8
    np.testing.assert_allclose(found[:, 2], 7, atol=0.5)
    assert clone(model).fit(X, drifts).predict(X).shape == (200,)
    assert clone(model).fit(X, drifts[:, None]).predict(X).shape == (200, 1)
    with pytest.raises(ValueError, match=r"^y: expected shape \(N, 3\), as in the first call, got \(200,\)"):
        model.partial_fit(X, drifts)


@pytest.mark.parametrize("labels", [[False, True], [3, -1], [1.0, 2.0], np.array(["a", "b"], object)])
def test_labels_of_any_type(labels):
    X, y, _ = walks(60)
    y = np.array(labels)[(y == "up").astype(int)]
    model = small(SequenceClassifier).fit(X, y)
    assert model.score(X, y) > 0.8
    assert model.predict(X).dtype == y.dtype


def test_standardised_features():
    X, y, _ = walks(100)
    scale, shift = np.array([1e4, 1e-3]), np.array([1e6, 5.0])
    shifted = [x * scale + shift for x in X]
    plain = small(SequenceClassifier, dtype="float64").fit(X, y).predict_proba(X)
    found = small(SequenceClassifier, dtype="float64").fit(shifted, y).predict_proba(shifted)
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert small(SequenceClassifier).fit(shifted, y).score(shifted, y) > 0.9  # in float32 too
    constant = [np.concatenate([x, np.full((len(x), 1), 3.0)], axis=1) for x in X]
    assert small(SequenceClassifier).fit(constant, y).score(constant, y) > 0.9


@pytest.mark.parametrize("kind", BOTH)
def test_weight_zero_is_absence(kind):
    X, y, drifts = walks(30)
    y = y if kind is SequenceClassifier else drifts
    weights = np.arange(30) % 3.0
    model = partial(small, kind, batch_size=1000, max_iter=5, dtype="float64")
    rows = np.repeat(np.arange(30), weights.astype(int))
    one = model().fit(X, y, sample_weight=weights).predict(X)
    other = model().fit([X[row] for row in rows], y[rows]).predict(X)
    if kind is SequenceRegressor:
        np.testing.assert_allclose(one, other, atol=1e-9)
    assert np.array_equal(one, other) or kind is SequenceRegressor
    for wrong in (-weights, np.zeros(30), weights[:5]):
        with pytest.raises(ValueError, match=r"weight|inconsistent"):
            model().fit(X, y, sample_weight=wrong)


def test_early_stopping_keeps_the_best():
    rng = np.random.default_rng(0)
    X, y = [rng.standard_normal((rng.integers(3, 9), 4)) for _ in range(80)], np.arange(80) % 2  # only noise
    model = small(
        SequenceClassifier, early_stopping=True, validation_fraction=0.25, n_iter_no_change=7, max_iter=300
    ).fit(X, y)
    curve = model.validation_loss_curve_
    assert 7 < model.n_iter_ == len(curve) == len(model.loss_curve_) < 300
    assert model.best_loss_ == min(curve) < curve[-1]
    # The same training, ended where it was best, has the same weights.
    ended = clone(model).set_params(max_iter=int(np.argmin(curve)) + 1).fit(X, y)
    assert np.array_equal(ended.predict_proba(X), model.predict_proba(X))
    without = small(SequenceClassifier, tol=10.0, n_iter_no_change=3, max_iter=300).fit(X, y)
    assert without.n_iter_ == 4
    model.set_params(early_stopping=False, max_iter=1).fit(X, y)
    for other in (without, model):
        assert not hasattr(other, "validation_loss_curve_")


@pytest.mark.parametrize("kind", BOTH)
def test_partial_fit_goes_on_after_pickling(kind):
    X, y, drifts = walks(60)
    y = y if kind is SequenceClassifier else drifts
    model = small(kind, dropout=0.3, num_layers=2, batch_size=7)
    for _ in range(3):
        model.partial_fit(X, y)
    twin = pickle.loads(pickle.dumps(model))
    before = model.predict(X)
    assert np.array_equal(twin.predict(X), before)
    for _ in range(3):
        model.partial_fit(X, y)
        twin.partial_fit(X, y)
    found = model._training.network.layer.parameters.flat
    assert np.array_equal(found, twin._training.network.layer.parameters.flat)
    assert model.n_iter_ == len(model.loss_curve_) == 6
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    fresh = clone(model).fit(X, y)
    assert np.array_equal(model.fit(X, y).predict(X), fresh.predict(X))  # fit forgets what was learnt before


def test_partial_fit_and_classes():
    X, y, _ = walks(20)
    model = small(SequenceClassifier).partial_fit(X[1:2], y[1:2], classes=["up", "down", "sideways"])
    assert list(model.classes_) == ["down", "sideways", "up"]
    assert model.partial_fit(X, y).predict_proba(X).shape == (20, 3)
    for estimator in (model, small(SequenceClassifier)):
        with pytest.raises(ValueError, match=r"^y: expected labels among classes .*, got .*'over'"):
            estimator.partial_fit(X[:1], ["over"], classes=["up", "down"])
    with pytest.raises(NotFittedError):  # what failed left nothing behind to predict with
        estimator.predict(X)


def test_dropout_is_for_training_only():
    X, y, _ = walks(40)
    model = small(SequenceClassifier, dropout=0.5, max_iter=3).fit(X, y)
    assert np.array_equal(model.predict_proba(X), model.predict_proba(X))
    plain = small(SequenceClassifier, max_iter=3).fit(X, y)
    assert not np.array_equal(model.predict_proba(X), plain.predict_proba(X))


def test_pipeline_and_grid():
    X, y, _ = walks(60)
    halved = FunctionTransformer(lambda X: [x[::2] for x in X])
    pipeline = make_pipeline(halved, small(SequenceClassifier))
    grid = GridSearchCV(
        pipeline, {"sequenceclassifier__cell": ["gru", "rnn"], "sequenceclassifier__max_iter": [1, 15]}, cv=3
    )
    grid.fit(X, y)
    assert grid.best_params_["sequenceclassifier__max_iter"] == 15
    assert grid.best_score_ > 0.8
    assert grid.score(X, y) > 0.8
    scores = cross_val_score(small(SequenceClassifier), X, y, cv=3, scoring="roc_auc")
    assert scores.min() > 0.9


def test_same_seed_same_numbers():
    X, y, _ = walks(40)
    one, two, other = (
        small(SequenceClassifier, random_state=seed).fit(X, y).predict_proba(X) for seed in (4, 4, 5)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    state = np.random.RandomState(4)
    assert np.array_equal(small(SequenceClassifier, random_state=state).fit(X, y).predict_proba(X), one)


@pytest.mark.parametrize("tqdm", [False, True])
def test_progress(tqdm, capsys, monkeypatch):
    X, y, _ = walks(10)
    if tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    small(SequenceClassifier, max_iter=3, verbose=1, early_stopping=True, validation_fraction=0.4).fit(X, y)
    out, err = capsys.readouterr()
    assert ("3/3" in err) == tqdm
    assert ("SequenceClassifier: epoch 3/3, loss 0." in out) == (not tqdm)
    assert "validation 0." in out + err
    small(SequenceClassifier, max_iter=3).fit(X, y)
    assert capsys.readouterr() == ("", "")


def test_wrong_arguments():
    X, y, _ = walks(6)
    wrong = [
        ([x if n != 2 else x[:, :1] for n, x in enumerate(X)], r"^X\[2\]: expected I = 2 features, .* got 1"),
        ([x if n != 3 else x[None] for n, x in enumerate(X)], r"^X\[3\]: expected shape \(T, I\)"),
        ([x if n != 1 else x * np.nan for n, x in enumerate(X)], "contains NaN"),
        ([x * 1e300 for x in X], "float32"),
        (np.zeros((0, 3, 2)), "0 sample"),
        (np.zeros((6, 3, 0)), "0 feature"),
        (np.zeros((6, 3, 2, 1)), r"dim 4|4"),
        (X[:5], "inconsistent numbers of samples"),
        ([], "0 sample|Expected 2D array"),
        ([np.full(x.shape, "a") for x in X], "numeric|could not convert"),
    ]
    for given, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            SequenceClassifier(standardize=False).fit(given, y)
    for setting in (
        {"cell": "lstn"},
        {"batch_size": 0},
        {"dropout": 1.0},
        {"hidden_size": 2.5},
        {"max_norm": 0},
    ):
        with pytest.raises(ValueError, match=f"The '{next(iter(setting))}' parameter"):
            SequenceClassifier(**setting).fit(X, y)
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=r"^training: the loss became"),
    ):
        small(SequenceRegressor, learning_rate=1e38, max_iter=9).fit(X, np.arange(6.0))


def test_scikit_learn_is_imported_on_demand_only():
    code = """
import sys, bptt
assert "sklearn" not in sys.modules and "bptt.sklearn" not in sys.modules
sys.modules["sklearn"] = None
try:
    import bptt.sklearn
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'bptt[sklearn]'" in result.stdout, result.stderr


def test_examples_in_docstrings_run():
    assert doctest.testmod(estimators).attempted > 10
    assert doctest.testmod(estimators).failed == 0


def test_a_sequence_of_no_steps_is_the_zero_state():
    X, y, _ = walks(10)
    X[4] = X[4][:0]
    model = small(SequenceClassifier, max_iter=2).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()
    bias = model._training.network.head["bias"].astype(float)
    np.testing.assert_allclose(model.predict_proba(X)[4], np.exp(bias) / np.exp(bias).sum(), rtol=1e-6)


def test_it_knows_the_public_api_only():
    folder = Path(bptt.sklearn.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert node.module in modules
            elif isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= {"bptt", "numpy", "sklearn"}
