"""How far truncated backpropagation reaches: the lag that is learned against the truncation.

    python examples/truncation.py --plot truncation.png

An LSTM says the bit of `lag` steps ago, trained with ``truncate=(k/2, k)``: every error flows back at
least k/2 and at most k - 1 steps.

Measured, right answers after 300 batches of 32 (guessing: 50 %): 99 % and more at every lag below k, but
73.2 % at lag 16 with k = 32, which is not done learning; 51 to 62 % at every lag from k on.
"""

import sys

import numpy as np

import bptt
from bptt.flow.pictures import figure
from tasks import Model, arguments, recalling, save, train

LAGS = (1, 2, 4, 8, 16)
DEPTHS = (2, 4, 8, 16, 32)


def main(argv=None):
    parser = arguments(__doc__.splitlines()[0], steps=300, hidden=32, rows=32, seed=0)
    args = parser.parse_args(argv)
    print(f"Share of right answers in the last 20 of {args.steps} batches (guessing 50 %)")
    print("  truncation k  " + "".join(f"  lag {lag:<3d}" for lag in LAGS))
    found = np.zeros((len(DEPTHS), len(LAGS)))
    for row, k in enumerate(DEPTHS):
        for column, lag in enumerate(LAGS):
            rng = np.random.default_rng(args.seed)
            layer = bptt.init.chrono(bptt.LSTM(1, args.hidden, seed=args.seed), 2 * LAGS[-1], args.seed)
            model = Model(layer, 2, args.seed)
            batch = lambda rng=rng, lag=lag: recalling(lag, args.rows, rng)  # noqa: E731
            _, right, _ = train(model, batch, args.steps, 1e-2, truncate=(k // 2, k))
            found[row, column] = np.mean(right[-20:])
        print(f"  {k:<14d}" + "".join(f"  {share:7.1%}" for share in found[row]))
    if args.plot:
        draw(found, args.plot)
    return found


def draw(found, path):
    drawn = figure(5.4, 4.0)
    ax = drawn.subplots()
    image = ax.imshow(found, origin="lower", vmin=0.5, vmax=1, cmap="viridis", aspect="auto")
    for (row, column), share in np.ndenumerate(found):
        colour = "black" if share > 0.8 else "white"
        ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(len(LAGS)), LAGS)
    ax.set_yticks(range(len(DEPTHS)), DEPTHS)
    ax.set_xlabel("lag: steps between what is asked and when")
    ax.set_ylabel("truncate=(k/2, k): k")
    ax.set_title("Share of right answers", fontsize=11)
    drawn.colorbar(image, ax=ax, pad=0.01)
    save(drawn, path)


if __name__ == "__main__":
    main(sys.argv[1:])
