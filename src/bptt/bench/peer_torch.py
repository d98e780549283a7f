"""PyTorch as a contender. Imported in its own processes only."""

from __future__ import annotations

import warnings
from functools import partial
from importlib import import_module
from typing import Any

import bptt

from .cases import Case
from .contenders import Contender, Results, Task, first_steps

__all__ = ["Module", "Torch", "TorchScript"]

torch: Any = import_module("torch")


class Torch(Contender):
    """PyTorch: nn.LSTM under inference_mode, or with autograd; nn.LSTMCell, the faster one, for streams."""

    package = "torch"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if threads:
            torch.set_num_threads(threads)

    def _module(self, kind: Any, case: Case, suffix: str) -> Any:
        if case.peephole:
            raise ValueError("nn.LSTM has no peepholes")
        module = kind(case.I, case.H, dtype=getattr(torch, case.dtype))
        module.load_state_dict({k + suffix: torch.from_numpy(v) for k, v in case.weights().items()})
        return module

    def forward(self, case: Case) -> Task:
        module, x = self._module(torch.nn.LSTM, case, "_l0"), torch.from_numpy(case.input())
        call = torch.inference_mode()(partial(module, x))

        def results() -> Results:
            output, (h_n, c_n) = call()
            return {"output": output.numpy(), "h_n": h_n[0].numpy(), "c_n": c_n[0].numpy()}

        return Task(call, results)

    def training(self, case: Case) -> Task:
        module = self._module(torch.nn.LSTM, case, "_l0")
        names, parameters = zip(*module.named_parameters(), strict=True)
        return training(case, lambda x: module(x)[0], [k.removesuffix("_l0") for k in names], parameters)

    def stream(self, case: Case) -> Task:
        cell, x = self._module(torch.nn.LSTMCell, case, ""), torch.from_numpy(case.input())
        state = [torch.zeros(case.B, case.H, dtype=x.dtype) for _ in "hc"]
        steps = list(x)

        @torch.inference_mode()  # type: ignore[untyped-decorator]
        def call(t: int = 0) -> Any:
            state[:] = cell(steps[t], state)
            return state[0]

        return Task(call, partial(first_steps, lambda t: call(t).numpy()))


class Module(Torch):
    """bptt's module in place of nn.LSTM: the same work through PyTorch."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if threads:
            bptt.set_num_threads(threads)

    def _module(self, kind: Any, case: Case, suffix: str) -> Any:
        return import_module("bptt.torch").accelerate(super()._module(kind, case, suffix))

    def stream(self, case: Case) -> Task:
        raise ValueError("the module has no streams")


def training(case: Case, outputs: Any, names: Any, parameters: Any) -> Task:
    """Return the task of a function of x (T,B,I) to the outputs (T,B,H) and of the gradients by autograd."""
    x = torch.from_numpy(case.input()).requires_grad_()
    d_output = torch.from_numpy(case.output_gradient())

    def call() -> Any:
        output = outputs(x)
        return output, torch.autograd.grad(output, (x, *parameters), d_output)

    def results() -> Results:
        output, (d_input, *gradients) = call()
        by_name = {f"d_{k}": v.numpy() for k, v in zip(names, gradients, strict=True)}
        return {"output": output.detach().numpy(), "d_input": d_input.numpy(), **by_name}

    return Task(call, results)


class TorchScript(Torch):
    """PyTorch for what nn.LSTM has not: a scripted loop over the steps, with peepholes."""

    def _loop(self, case: Case) -> tuple[Any, list[str], list[Any]]:
        given = case.weights()
        if not case.peephole:
            raise ValueError("the scripted loop is for peepholes")
        weights = [torch.from_numpy(array) for array in given.values()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scripting is deprecated, and still what is fastest
            return torch.jit.script(peephole_loop), list(given), weights

    def forward(self, case: Case) -> Task:
        loop, _, weights = self._loop(case)
        call = torch.inference_mode()(partial(loop, torch.from_numpy(case.input()), *weights))
        return Task(
            call, lambda: {k: v.numpy() for k, v in zip(("output", "h_n", "c_n"), call(), strict=True)}
        )

    def training(self, case: Case) -> Task:
        loop, names, weights = self._loop(case)
        for weight in weights:
            weight.requires_grad_()
        return training(case, lambda x: loop(x, *weights)[0], names, weights)


# Without annotations every argument is a tensor to the compiler of scripts.
def peephole_loop(x, weight_ih, weight_hh, bias_ih, bias_hh, weight_peephole):  # type: ignore[no-untyped-def]
    """Return output (T,B,H), h_n, c_n (B,H)."""
    products = torch.matmul(x, weight_ih.t()) + (bias_ih + bias_hh)
    h = torch.zeros([x.size(1), weight_hh.size(1)], dtype=x.dtype)
    c = h
    p_i, p_f, p_o = weight_peephole.unbind(0)
    transposed = weight_hh.t()
    outputs = []
    for t in range(x.size(0)):
        z_i, z_f, z_g, z_o = torch.addmm(products[t], h, transposed).chunk(4, 1)
        i, f = torch.sigmoid(z_i + p_i * c), torch.sigmoid(z_f + p_f * c)
        c = f * c + i * torch.tanh(z_g)
        h = torch.sigmoid(z_o + p_o * c) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs), h, c
