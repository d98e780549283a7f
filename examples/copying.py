"""The copy task: remember five symbols over a long wait, then say them in order.

    python examples/copying.py --plot copying.png

Measured: nats per symbol and right answers in the last 50 of 2000 batches of 32, 50 steps of waiting
(guessing: 2.079, 12.5 %): tanh RNN 1.986, 14.9 %; LSTM with default biases 2.080, 12.5 %; LSTM with chrono
biases 0.051, 98.9 %; GRU with chrono biases 0.228, 91.8 %.
"""

import sys

import numpy as np

import bptt
from tasks import COPIED, SYMBOLS, Model, arguments, copying, curves, save, train

CHANCE = float(np.log(SYMBOLS))


def contenders(hidden, length, seed):
    inputs = SYMBOLS + 2
    return {
        "tanh RNN": bptt.RNN(inputs, 2 * hidden, seed=seed),
        "LSTM, default biases": bptt.LSTM(inputs, hidden, seed=seed),
        "LSTM, chrono biases": bptt.init.chrono(bptt.LSTM(inputs, hidden, seed=seed), length, seed),
        "GRU, chrono biases": bptt.init.chrono(bptt.GRU(inputs, hidden, seed=seed), length, seed),
    }


def main(argv=None):
    parser = arguments(__doc__.splitlines()[0], delay=50, steps=2000, hidden=64, rows=32, seed=0)
    args = parser.parse_args(argv)
    length = args.delay + 2 * COPIED
    print(f"Copy task, {args.delay} steps of waiting; mean of the last 50 of {args.steps} batches")
    print(f"  {'guessing':24s} {CHANCE:.3f} nats, {1 / SYMBOLS:6.1%} right")
    found = {}
    for name, layer in contenders(args.hidden, length, args.seed).items():
        rng = np.random.default_rng(args.seed)
        model = Model(layer, SYMBOLS, args.seed)
        losses, right, _ = train(model, lambda rng=rng: copying(args.delay, args.rows, rng), args.steps, 1e-2)
        found[name] = losses
        print(f"  {name:24s} {np.mean(losses[-50:]):.3f} nats, {np.mean(right[-50:]):6.1%} right")
    if args.plot:
        title = f"Copy task, {COPIED} symbols, {args.delay} steps of waiting"
        save(curves(title, found, "nats per symbol", ("guessing", CHANCE)), args.plot)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
