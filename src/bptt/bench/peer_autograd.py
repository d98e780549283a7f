"""A training step through autograd: torch.nn's module, bptt's, the bare layer, the least that is possible.

All run in one process, in turns: what is asked is how much of the speed of the bare layer its module keeps.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import bptt

from .cases import Case
from .clock import TURN, calls_of, samples
from .contenders import Bptt, Results, Task
from .contest import MIN_TURNS, Row, compare
from .peer_torch import Module, Torch

__all__ = ["CONTENDERS", "medians"]

torch: Any = import_module("torch")

CONTENDERS = ("torch", "bptt", "bptt.torch", "least")


def medians(case: Case, of_input: bool, threads: int, seconds: float) -> dict[str, float]:
    """Return the median seconds of a step of each of `CONTENDERS`, their results compared before.

    "least" is a step of the bare layer and one through a function of autograd that does nothing: what a
    module costs that only hands arrays over. In one call, as each finds the caches as the other leaves them.

    Parameters
    ----------
    case : Case
    of_input : bool
        Whether the modules are asked for the gradient of their input, which the bare layer always computes.
    threads : int
        Of both libraries.
    seconds : float
        To spend on each.

    Raises
    ------
    ContenderError
        If a result of the module or of the bare layer is not torch.nn's.
    """
    bptt.set_num_threads(threads)
    tasks = {
        "torch": through(case, Torch(threads)._module(case), of_input),
        "bptt": Bptt(threads).training(case),
        "bptt.torch": through(case, Module(threads)._module(case), of_input),
    }
    expected = tasks["torch"].results()
    for name in ("bptt", "bptt.torch"):
        compare(Row(name, threads), (Torch.tolerance, tasks[name].results()), expected)
    calls = {name: task.call for name, task in tasks.items()}
    nothing, bare = nothing_of(case, of_input), calls["bptt"]
    return in_turns({**calls, "least": lambda: (bare(), nothing())}, seconds)


def through(case: Case, module: Any, of_input: bool) -> Task:
    """Return the task of a training step as a user of PyTorch writes it."""
    x = torch.from_numpy(case.input()).requires_grad_(of_input)
    d_output = torch.from_numpy(case.output_gradient())

    def call() -> Any:
        x.grad = None
        module.zero_grad(set_to_none=True)
        output = module(x)[0]
        output.backward(d_output)
        return output

    def results() -> Results:
        found = {"output": call().detach(), **({"d_input": x.grad} if of_input else {})}
        found |= {f"d_{name}": parameter.grad for name, parameter in module.named_parameters()}
        return {name: tensor.numpy() for name, tensor in found.items()}

    return Task(call, results)


def nothing_of(case: Case, of_input: bool) -> Callable[[], Any]:
    """Return a step through a function of autograd that has its results and gradients beforehand."""
    module: Any = Torch(0)._module(case)
    x = torch.from_numpy(case.input())
    results = [tensor.detach().numpy() for tensor in flat(module(x))]
    gradients = [tensor.detach().numpy() for tensor in (x, *module.parameters())]

    class Nothing(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            return tuple(map(torch.from_numpy, results))

        @staticmethod
        def backward(ctx: Any, *errors: Any) -> Any:
            return tuple(map(torch.from_numpy, gradients))

    module.forward = lambda x: Nothing.apply(x, *module.parameters())
    return through(case, module, of_input).call


def flat(result: Any) -> tuple[Any, ...]:
    """Return the output and the states of a module."""
    output, state = result
    return (output, *state) if isinstance(state, tuple) else (output, state)


def in_turns(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Return the median seconds of each call, spending so many on each."""
    estimates = {name: min(samples(call, 2, 1)) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(max(MIN_TURNS, round(seconds / TURN))):
        for name, call in calls.items():
            group = calls_of(estimates[name])
            count = max(1, round(TURN / (group * estimates[name])))
            found[name] += samples(call, count, group)
    return {name: statistics.median(times) for name, times in found.items()}
