"""What the compiled module offers. Arrays are C-contiguous, of one dtype; the callers see to that."""

from typing import Any, Final, NoReturn, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[Any]
_Parameters: TypeAlias = tuple[_Array | None, ...]  # matrices, biases, peepholes, projection

TRUNCATES: Final[bool]
CELLS: Final[dict[str, int]]
ACTIVATIONS: Final[dict[str, int]]

@final
class Cell:
    def __init__(
        self,
        kind: str,
        activations: tuple[str, ...] = (),
        coupled: bool = False,
        cell_clip: float | None = None,
        proj_clip: float | None = None,
        recurrent_dropout: float = 0,
        zoneout: float = 0,
        reset_after: bool = True,
    ) -> None: ...

@final
class Packed:
    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn: ...  # made by pack()
    @property
    def variant(self) -> str: ...
    @property
    def threads(self) -> int: ...

@final
class Sums: ...

@final
class Call:
    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn: ...  # made by forward_call(), backward_call()

@final
class Move:
    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn: ...  # made by move()

@final
class Stream:
    def __init__(self, packs: tuple[Packed, ...], batch_size: int, h: _Array, c: _Array | None) -> None: ...
    def step(self, x: Any, out: _Array | None = None) -> _Array: ...

def pack(cell: Cell, threads: int, parameters: _Parameters) -> Packed: ...
def forward_call(
    cell: Cell,
    threads: int,
    parameters: _Parameters | None,
    packed: Packed | None,
    x: _Array,
    h_0: _Array | None,
    c_0: _Array | None,
    output: _Array | None,
    h_n: _Array,
    c_n: _Array | None,
    cells: _Array | None,
    gates: _Array | None,
    lengths: _Array | None = None,
    resets: _Array | None = None,
    seed: int | None = None,
    first_step: int = 0,
    x_order: _Array | None = None,
    copy: _Array | None = None,
    copy_order: _Array | None = None,
) -> Call: ...
def backward_call(
    cell: Cell,
    threads: int,
    parameters: _Parameters,
    x: _Array,
    h_0: _Array | None,
    c_0: _Array | None,
    output: _Array,
    cells: _Array,
    gates: _Array,
    d_output: _Array | None,
    d_h_n: _Array | None,
    d_c_n: _Array | None,
    d_x: _Array | None,
    d_h_0: _Array | None,
    d_c_0: _Array | None,
    d_parameters: tuple[_Array | None, _Array, _Array | None, _Array | None, _Array | None],
    d_hidden: _Array | None,
    d_cells: _Array | None,
    lengths: _Array | None = None,
    resets: _Array | None = None,
    seed: int | None = None,
    first_step: int = 0,
    step_clip: tuple[float, float, float] | None = None,
    clipped: _Array | None = None,
    norms: _Array | None = None,
    accumulate: bool = False,
    truncate: tuple[int, int] | None = None,
    sums: Sums | None = None,
) -> Call: ...
def forward_layers(
    cell: Cell,
    threads: int,
    parameters: list[_Parameters] | None,
    packs: list[Packed] | None,
    x: _Array,
    h_0: _Array | None,
    c_0: _Array | None,
    keep: bool,
    lengths: _Array | None = None,
    resets: _Array | None = None,
    seeds: list[int] | None = None,
    first_step: int = 0,
    order: _Array | None = None,
) -> tuple[_Array, _Array, _Array | None, _Array | None, _Array | None, _Array | None, _Array | None]: ...
def backward_layers(
    cell: Cell,
    threads: int,
    parameters: list[_Parameters],
    x: _Array,
    h_0: _Array | None,
    c_0: _Array | None,
    hidden: _Array,
    cells: _Array | None,
    gates: _Array | None,
    d_output: _Array | None,
    d_h_n: _Array | None,
    d_c_n: _Array | None,
    of_x: bool,
    flat: _Array,
    lengths: _Array | None = None,
    resets: _Array | None = None,
    seeds: list[int] | None = None,
    first_step: int = 0,
    step_clip: tuple[float, float, float] | None = None,
    truncate: tuple[int, int] | None = None,
    d_hidden: _Array | None = None,
    d_cells: _Array | None = None,
    clipped: _Array | None = None,
    norms: _Array | None = None,
    order: _Array | None = None,
) -> tuple[_Array | None, _Array, _Array | None]: ...
def move(
    threads: int,
    to: _Array,
    source: _Array | None = None,
    scale: _Array | None = None,
    lengths: _Array | None = None,
    turned: bool = False,
    add: bool = False,
    order: _Array | None = None,
    back: bool = False,
) -> Move: ...
def run(*stages: Call | Move | tuple[Call, ...]) -> None: ...
def forward(*arguments: Any, **more: Any) -> None: ...
def backward(*arguments: Any, **more: Any) -> None: ...
def row_norms(threads: int, x: _Array) -> NDArray[np.float64]: ...
def flow(norms: NDArray[np.float64], state: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
def variants() -> tuple[str, ...]: ...
def active_variant() -> str: ...
def use_variant(name: str) -> None: ...
def plan_hint(split: int = 0, hoist: int = 0) -> None: ...
def measure(kind: str, threads: int = 1, nbytes: int = 0) -> float: ...
def build_info() -> dict[str, Any]: ...
