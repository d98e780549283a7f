"""The adding problem: two numbers of a long sequence are marked; say their sum after the last step.

    python examples/adding.py --plot adding.png

Measured: mean squared error after 1200 batches of 32 sequences over 300 steps (always saying 1: 0.1667):
tanh RNN 0.2102, RNN with orthogonal weights 0.2125, GRU 0.0002, LSTM 0.0005, LSTM with peepholes 0.0004.
All have about as many parameters. The gradients of the RNNs vanish, by 0.62 and 0.95 per step.
"""

import sys

import numpy as np

import bptt
from tasks import Model, adding, arguments, curves, save, train

CHANCE = 1 / 6  # mean squared error of always saying 1


def contenders(hidden, length, seed):
    """Return layers by name; the plain one has more units, so that all have about as many parameters."""
    return {
        "tanh RNN": bptt.RNN(2, 2 * hidden, seed=seed),
        "RNN, orthogonal weights": bptt.init.keras(bptt.RNN(2, 2 * hidden), seed),
        "GRU, chrono biases": bptt.init.chrono(bptt.GRU(2, hidden, seed=seed), length, seed),
        "LSTM": bptt.init.chrono(bptt.LSTM(2, hidden, seed=seed), length, seed),
        "LSTM with peepholes": bptt.init.chrono(bptt.LSTM(2, hidden, peephole=True, seed=seed), length, seed),
    }


def main(argv=None):
    args = arguments(__doc__.splitlines()[0], length=300, steps=1200, hidden=32, rows=32, seed=0)
    args = args.parse_args(argv)
    print(
        f"Adding problem over {args.length} steps; mean squared error of the last 50 of {args.steps} batches"
    )
    print(f"  {'saying 1':26s} {CHANCE:.4f}")
    found = {}
    for name, layer in contenders(args.hidden, args.length, args.seed).items():
        rng = np.random.default_rng(args.seed)
        flow = bptt.gradient_flow(layer, adding(args.length, args.rows, rng)[0])
        model = Model(layer, 1, args.seed)
        losses, _, _ = train(model, lambda rng=rng: adding(args.length, args.rows, rng), args.steps, 1e-2)
        found[name] = losses
        before = f"{flow.verdict}, {flow.growth:.3f} per step"
        print(f"  {name:26s} {np.mean(losses[-50:]):.4f}   gradient before training: {before}")
    if args.plot:
        chance = ("saying 1 always", CHANCE)
        title = f"Adding problem, {args.length} steps"
        save(curves(title, found, "mean squared error", chance, log=True), args.plot)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
