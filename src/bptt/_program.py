"""Programs: what the core is to do, stage after stage, gathered first and run by one call into C."""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

from numpy.typing import NDArray

from ._check import Layout
from ._memory import empty
from ._threads import get_num_threads

__all__ = ["Program", "Room", "cell_of"]

Array: TypeAlias = "NDArray[Any]"

STAGES = 32768  # of one call: some 2 KB each; more are run in several


class Program:
    """Stages of the core: calls, pairs of calls, and moves of numbers between them.

    Nothing has been computed before `run` returns: what stages read is filled by the stages before them.
    """

    __slots__ = ("_packs", "_stages", "cell", "core", "layout", "threads")

    def __init__(self, core: Any, layout: Layout) -> None:
        self.core, self.layout, self.threads = core, layout, get_num_threads()
        self.cell = cell_of(core, layout.cell)
        self._stages: list[Any] = []
        self._packs: dict[int, Any] = {}

    def forward(self, *given: Any, **more: Any) -> Any:
        """Return the core's call of a part forward, for `add`."""
        return self.core.forward_call(self.cell, self.threads, *given, **more)

    def backward(self, *given: Any, **more: Any) -> Any:
        """Return the core's call of a part backward, for `add`."""
        return self.core.backward_call(self.cell, self.threads, *given, **more)

    def packed(self, n: int, weights: Any) -> Any:
        """Return the weights of part n, packed once for all stages."""
        if n not in self._packs:
            self._packs[n] = self.core.pack(self.cell, self.threads, weights)
        return self._packs[n]

    def add(self, *calls: Any) -> None:
        """Add a call, or two that do not depend on one another."""
        self._add(calls if len(calls) > 1 else calls[0])

    def move(
        self,
        to: Array,
        source: Array | None = None,
        *,
        scale: Array | None = None,
        lengths: Array | None = None,
        turned: bool = False,
        add: bool = False,
        order: Array | None = None,
        back: bool = False,
    ) -> None:
        """Add the move of `source` (T, B, N), or zeros, times `scale`, to the array `to`, or onto it.

        Past the lengths of rows, if there are any, zeros are moved. Turned, the steps come from the last to
        the first, inside the lengths. With an order row order[b] of the source goes to row b; `back`: row b
        to row order[b].
        """
        self._add(self.core.move(self.threads, to, source, scale, lengths, turned, add, order, back))

    def run(self) -> None:
        """Run the stages that there are, and forget them."""
        stages, self._stages = self._stages, []
        if stages:
            self.core.run(*stages)

    def _add(self, stage: Any) -> None:
        if len(self._stages) == STAGES:
            self.run()
        self._stages.append(stage)


class Room:
    """Memory for arrays of stages that follow one another: had when first asked for, then used again."""

    __slots__ = ("_dtype", "_memory", "_numbers")

    def __init__(self, numbers: int, dtype: Any) -> None:
        self._memory: dict[Any, Array] = {}
        self._numbers, self._dtype = numbers, dtype

    def __call__(self, name: Any, shape: tuple[int, ...]) -> Array:
        """Return the array of that name in a shape of no more numbers than there is room for."""
        if name not in self._memory:
            self._memory[name] = empty((self._numbers,), self._dtype)
        return self._memory[name][: math.prod(shape)].reshape(shape)


@functools.lru_cache(maxsize=256)
def cell_of(core: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the cell with its options as that core takes it."""
    return core.Cell(*arguments)
