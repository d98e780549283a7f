"""An RNN whose gradients explode, with and without the cures.

    python examples/exploding.py --plot exploding.png

After 64 bits the one of some steps ago is to be said. The recurrent weights start
with a spectral radius well above 1.

Measured: right answers in the last 50 of 600 batches of 32, SGD with momentum (guessing: 50 %): no cure
61.3 %, clip_grad_norm_(1) 100 %, truncate=10 alone 50.1 %, both 100 %. The largest norm of the gradient was
5.9e3.
"""

import sys

import numpy as np

import bptt
from tasks import Model, arguments, curves, recalling, save, train

RADIUS = 2.0
GENTLE = 0.2  # times the usual input weights: a strong input would saturate the units and stop the chaos
CHANCE = float(np.log(2))


def exploding(hidden, seed):
    layer = bptt.RNN(1, hidden, seed=seed)
    layer.parameters["weight_ih_l0"] *= GENTLE
    weight = np.random.default_rng(seed).standard_normal((hidden, hidden))
    layer.parameters["weight_hh_l0"] = weight * (RADIUS / np.abs(np.linalg.eigvals(weight)).max())
    return layer


def last_bit(lag, rows, rng):
    """Return bits (T, B, 1), and the one that stood `lag` steps before the last."""
    x, bits = recalling(lag, rows, rng)
    return x, bits[-1:]


def main(argv=None):
    parser = arguments(__doc__.splitlines()[0], lag=3, steps=600, hidden=64, rows=32, seed=0)
    args = parser.parse_args(argv)
    cures = {
        "no cure": {"max_norm": np.inf},
        "clip_grad_norm_(1)": {"max_norm": 1.0},
        "truncate=10": {"max_norm": np.inf, "truncate": 10},
        "truncate=10, clip_grad_norm_(1)": {"max_norm": 1.0, "truncate": 10},
    }
    x, _ = last_bit(args.lag, args.rows, np.random.default_rng(args.seed))
    flow = bptt.gradient_flow(exploding(args.hidden, args.seed), x)
    print(f"RNN of {args.hidden} units, spectral radius {RADIUS}: {flow.verdict}, {flow.growth:.3f} per step")
    print(f"Bit of {args.lag} steps ago; mean of the last 50 of {args.steps} batches; guessing {CHANCE:.3f}")
    found = {}
    for name, cure in cures.items():
        rng = np.random.default_rng(args.seed)
        model = Model(exploding(args.hidden, args.seed), 2, args.seed)
        optimizer = bptt.optim.SGD(model.parameters, lr=0.1, momentum=0.9)
        batch = lambda rng=rng: last_bit(args.lag, args.rows, rng)  # noqa: E731
        losses, right, norms = train(model, batch, args.steps, optimizer=optimizer, **cure)
        found[name] = losses
        shown = f"{np.mean(losses[-50:]):.3f} nats, {np.mean(right[-50:]):6.1%} right"
        print(f"  {name:32s} {shown}, largest norm {norms.max():.1e}")
    if args.plot:
        title = f"RNN with spectral radius {RADIUS}: bit of {args.lag} steps ago"
        save(curves(title, found, "nats", ("guessing", CHANCE), log=True), args.plot)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
