"""PyTorch for what its modules have not: loops over the steps. Imported in their own processes only."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from .cases import Case
from .contenders import Task
from .peer_torch import UNKNOWN, Torch, cell_of, inference, refuse, training

__all__ = ["CellLoop", "CompiledLoop", "Loop", "ScriptedLoop"]

torch: Any = import_module("torch")

OTHERS = ("lengths", "bidirectional", "proj_size", *(name for name in UNKNOWN if name != "peephole"))


class CellLoop(Torch):
    """A loop over nn.LSTMCell: the state is multiplied by 0 where an episode begins."""

    def _run(self, case: Case) -> tuple[Any, Any]:
        refuse(case, *(name for name in UNKNOWN if name != "resets"), "lengths", "bidirectional", "proj_size")
        resets = case.reset_steps()
        if case.cell != "LSTM" or case.layers > 1 or resets is None:
            raise ValueError("the loop over cells is for one LSTM layer with resets")
        cell = cell_of(case, 0)
        zero = torch.zeros(case.B, case.H, dtype=cell.weight_hh.dtype)
        keep = list(torch.from_numpy(~resets)[..., None].to(zero.dtype))

        def run(x: Any) -> Any:
            h = c = zero
            outputs = []
            for x_t, keep_t in zip(x.unbind(0), keep, strict=True):
                h, c = cell(x_t, (h * keep_t, c * keep_t))
                outputs.append(h)
            return torch.stack(outputs), (h[None], c[None])

        return cell, run

    def training(self, case: Case) -> Task:
        cell, run = self._run(case)
        names, parameters = zip(*cell.named_parameters(), strict=True)
        return training(case, run, [f"{name}_l0" for name in names], parameters)


class Loop(Torch):
    """A loop with peepholes as people write it."""

    def _made(self) -> Any:
        return peephole_loop

    def _loop(self, case: Case) -> tuple[Any, dict[str, Any]]:
        """Return the loop as a function of x, and its weights by name."""
        refuse(case, *OTHERS)
        if case.cell != "LSTM" or case.layers > 1 or not case.peephole:
            raise ValueError("the loop is for one LSTM layer with peepholes")
        weights = {name: torch.from_numpy(array) for name, array in case.weights().items()}
        loop = self._made()

        def run(x: Any) -> Any:
            output, h_n, c_n = loop(x, *weights.values())
            return output, (h_n[None], c_n[None])

        return run, weights

    def forward(self, case: Case) -> Task:
        return inference(case, self._loop(case)[0])

    def training(self, case: Case) -> Task:
        run, weights = self._loop(case)
        for weight in weights.values():
            weight.requires_grad_()
        return training(case, run, weights, weights.values())


class ScriptedLoop(Loop):
    """The same, scripted."""

    def _made(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scripting is deprecated, and still what many use
            return torch.jit.script(peephole_loop)


class CompiledLoop(Loop):
    """The same, unrolled by torch.compile: minutes before the first call for a hundred steps."""

    def _made(self) -> Any:
        torch._dynamo.reset()
        return torch.compile(peephole_loop, dynamic=False)


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
