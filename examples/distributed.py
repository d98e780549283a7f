"""Data-parallel training on several processes, which survives the death of one of them.

    torchrun --standalone --nproc-per-node 2 --max-restarts 1 examples/distributed.py --kill-at 25

Two workers train a GRU of bptt under PyTorch's DistributedDataParallel (gloo). In step 25 one of them is
killed; torchrun starts both again, they go on from the last checkpoint, and the losses are those of
``python examples/distributed.py``, which does all in one process (largest difference 1e-7 over 60 steps).

The task: each row is two tracks of numbers, one of which marks two steps; their numbers are to be added.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import bptt.torch

STEPS_OF_A_ROW, ROWS, HIDDEN = 40, 64, 32


class Adder(nn.Module):
    """A GRU and the sum that it believes in at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = bptt.torch.GRU(2, HIDDEN)
        self.readout = nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, h_n = self.recurrent(x)
        return self.readout(h_n[-1])[:, 0]


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the whole batch of a step, the same in every process: x (T, B, 2) and the sums (B,)."""
    generator = torch.Generator().manual_seed(step)
    numbers = torch.rand(STEPS_OF_A_ROW, ROWS, generator=generator)
    marks = torch.zeros_like(numbers)
    half = STEPS_OF_A_ROW // 2
    for start in (0, half):
        at = torch.randint(start, start + half, (1, ROWS), generator=generator)
        marks.scatter_(0, at, 1.0)
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(0)


def save(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint, whole or not at all."""
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def train(options: argparse.Namespace, rank: int, workers: int) -> list[float]:
    """Train from the checkpoint if there is one; return the losses of all steps."""
    torch.manual_seed(0)
    model = Adder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses: list[float] = []
    if options.checkpoint.exists():
        state = torch.load(options.checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses = state["losses"]
        if rank == 0:
            print(f"goes on after step {len(losses)}", file=sys.stderr)
    parallel = DistributedDataParallel(model) if workers > 1 else model
    for step in range(len(losses), options.steps):
        if step == options.kill_at and rank == workers - 1 and first_attempt():
            os.kill(os.getpid(), signal.SIGKILL)
        x, sums = batch(step)
        share = slice(rank, None, workers)
        loss = nn.functional.mse_loss(parallel(x[:, share]), sums[share])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(over_workers(loss.detach(), workers))
        if rank == 0 and (step + 1) % options.save_every == 0:
            save(
                options.checkpoint,
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses},
            )
    return losses


def first_attempt() -> bool:
    """Whether torchrun has not yet started the workers again."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"


def meet(rank: int, workers: int) -> None:
    """Connect to the other workers of this attempt; torchrun's store still has the addresses of the last."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = distributed.PrefixStore(f"attempt {attempt}", distributed.TCPStore(address, port))
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=workers)


def over_workers(loss: torch.Tensor, workers: int) -> float:
    """Return the mean over the workers' equal shares."""
    if workers > 1:
        distributed.all_reduce(loss)
        loss /= workers
    return float(loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--kill-at", type=int, default=-1, help="step in which the last worker is killed, once"
    )
    parser.add_argument("--save-every", type=int, default=10)
    parser.add_argument("--checkpoint", type=Path, help="file to save to and to go on from")
    parser.add_argument("--losses", type=Path, help="file for the losses, as JSON")
    options = parser.parse_args()
    workers, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if options.checkpoint is None:
        run = os.environ.get("TORCHELASTIC_RUN_ID", str(os.getpid()))
        options.checkpoint = Path(f"distributed-{run}.pt")
    if workers > 1:
        meet(rank, workers)
    losses = train(options, rank, workers)
    if rank == 0:
        for step in range(0, len(losses), max(1, len(losses) // 10)):
            print(f"step {step:4d}  loss {losses[step]:.6f}")
        if options.losses:
            options.losses.write_text(json.dumps(losses))
    if workers > 1:
        distributed.destroy_process_group()
        leave()


def leave() -> None:
    """End this worker without taking Python down first.

    DistributedDataParallel keeps gloo's threads alive beyond ``destroy_process_group``. One that still has to
    free something of Python's, the tensor of the last all_reduce, say, asks for the interpreter's lock, and
    aborts the process when the interpreter is already being torn down (pytorch/pytorch#179291).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
