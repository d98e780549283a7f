"""States, gates and gradients of an LSTM with chrono biases over steps and units: the gallery's heat maps.

python examples/heat_maps.py --plot maps.png
"""

import sys

import numpy as np

import bptt
from tasks import arguments, save


def main(argv=None):
    args = arguments(__doc__.splitlines()[0], steps=80, hidden=32, seed=0).parse_args(argv)
    layer = bptt.init.chrono(bptt.LSTM(4, args.hidden, seed=args.seed), max(3, args.steps), args.seed)
    bias = layer.parameters["bias_ih_l0"].reshape(4, -1)
    bias[:] = bias[:, np.argsort(bias[1])]  # units in the order of their memory
    x = np.random.default_rng(args.seed).standard_normal((args.steps, 2, 4)).astype(np.float32)
    flow = bptt.gradient_flow(layer, x)
    print(flow.report())
    if args.plot:
        save(flow.heat_maps(), args.plot)
    return [flow.lags]


if __name__ == "__main__":
    main(sys.argv[1:])
