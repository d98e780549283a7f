"""PyTorch as a contender: its own modules. Imported in its own processes only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any

import bptt

from .cases import Case
from .contenders import Contender, Results, Task, first_steps, states

__all__ = ["Module", "Torch", "inference", "refuse", "training"]

torch: Any = import_module("torch")
warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")  # a row says so

UNKNOWN = ("peephole", "resets", "recurrent_dropout", "zoneout", "truncate", "step_clip")  # to torch.nn


class Torch(Contender):
    """PyTorch: nn.LSTM, nn.GRU, nn.RNN under inference_mode, or with autograd; their cells for streams.

    Rows of unequal length go through a PackedSequence; packing and padding again are part of the work.
    """

    package = "torch"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if threads:
            torch.set_num_threads(threads)

    def _module(self, case: Case) -> Any:
        refuse(case, *UNKNOWN)
        names = ("num_layers", "bidirectional", *(["proj_size"] if case.proj_size else []))
        settings = {name: value for name, value in case.settings().items() if name in names}
        kind = getattr(torch.nn, case.cell)
        module = kind(case.I, case.H, dtype=getattr(torch, case.dtype), **settings)
        module.load_state_dict({name: torch.from_numpy(v) for name, v in case.weights().items()})
        return module

    def _run(self, case: Case) -> tuple[Any, Any]:
        """Return the module, and it as a function of x (T,B,I) to output and state."""
        module, lengths = self._module(case), case.row_lengths()
        if lengths is None:
            return module, module
        rnn, steps = torch.nn.utils.rnn, torch.from_numpy(lengths)

        def run(x: Any) -> Any:
            output, state = module(rnn.pack_padded_sequence(x, steps, enforce_sorted=False))
            return rnn.pad_packed_sequence(output, total_length=case.T)[0], state

        return module, run

    def forward(self, case: Case) -> Task:
        return inference(case, self._run(case)[1])

    def training(self, case: Case) -> Task:
        module, run = self._run(case)
        names, parameters = zip(*module.named_parameters(), strict=True)
        return training(case, run, names, parameters)

    def stream(self, case: Case) -> Task:
        refuse(case, *UNKNOWN, "bidirectional", "proj_size")
        cells, x = [cell_of(case, layer) for layer in range(case.layers)], torch.from_numpy(case.input())
        zero = torch.zeros(case.B, case.H, dtype=x.dtype)
        kept: list[Any] = [(zero, zero) if case.cell == "LSTM" else zero] * case.layers
        steps = list(x)

        @torch.inference_mode()  # type: ignore[untyped-decorator]
        def call(t: int = 0) -> Any:
            h = steps[t]
            for layer, cell in enumerate(cells):
                kept[layer] = cell(h, kept[layer])
                h = kept[layer][0] if case.cell == "LSTM" else kept[layer]
            return h

        return Task(call, partial(first_steps, lambda t: call(t).numpy()))


class Module(Torch):
    """bptt's module in place of torch.nn's: the same work through PyTorch."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if threads:
            bptt.set_num_threads(threads)

    def _module(self, case: Case) -> Any:
        return import_module("bptt.torch").accelerate(super()._module(case))

    def stream(self, case: Case) -> Task:
        raise ValueError("the module has no streams")


def refuse(case: Case, *options: str) -> None:
    """Raise ValueError if a case asks for an option that a contender has not."""
    asked = [name for name in options if getattr(case, name)]
    if asked:
        raise ValueError(f"{case.cell} with {asked[0]} is not there")


def cell_of(case: Case, layer: int) -> Any:
    """Return a layer of a case as nn.LSTMCell, nn.GRUCell or nn.RNNCell."""
    ending = f"_l{layer}"
    given = {k.removesuffix(ending): v for k, v in case.weights().items() if k.endswith(ending)}
    kind = getattr(torch.nn, f"{case.cell}Cell")
    cell = kind(given["weight_ih"].shape[1], case.H, dtype=getattr(torch, case.dtype))
    cell.load_state_dict({name: torch.from_numpy(array) for name, array in given.items()})
    return cell


def inference(case: Case, run: Callable[[Any], Any]) -> Task:
    """Return the task of a function of x (T,B,I) to the output and the state, without autograd."""
    call = torch.inference_mode()(partial(run, torch.from_numpy(case.input())))

    def results() -> Results:
        output, state = call()
        return {"output": output.numpy(), **states(state)}

    return Task(call, results)


def training(case: Case, run: Callable[[Any], Any], names: Iterable[str], parameters: Iterable[Any]) -> Task:
    """Return the task of such a function and of the gradients by autograd."""
    x = torch.from_numpy(case.input()).requires_grad_()
    d_output, wanted = torch.from_numpy(case.output_gradient()), (x, *parameters)

    def call() -> Any:
        output = run(x)[0]
        return output, torch.autograd.grad(output, wanted, d_output)

    def results() -> Results:
        output, (d_input, *gradients) = call()
        by_name = {f"d_{k}": v.numpy() for k, v in zip(names, gradients, strict=True)}
        return {"output": output.detach().numpy(), "d_input": d_input.numpy(), **by_name}

    return Task(call, results)
