"""Memory that is used again: never two owners at once, bounded, given back, and bptt's results in it."""

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import bptt

blocks = pytest.importorskip("bptt._blocks", reason="the compiled core is not built")

BIG = 1 << 20


@pytest.fixture
def fresh():
    """Nothing kept before, the default bound after."""
    blocks.keep(0)
    blocks.keep(256)
    yield
    blocks.keep(0)
    blocks.keep(256)


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0,), (3, 0, 5), (7,), (2, 3, 4), (513, 37), (40, 3, 4, 129)])
def test_an_array_like_any_other(shape, dtype, fresh):
    array = blocks.empty(shape, dtype)
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.aligned
    assert array.flags.writeable
    array[...] = 3
    assert (array == 3).all()


def test_large_arrays_start_on_cache_lines(fresh):
    assert all(address(blocks.empty((BIG + n,), np.float32)) % 64 == 0 for n in range(5))


def test_vectors_of_any_size_start_on_cache_lines(fresh):
    for count in (0, 1, 56, 100_000):
        for dtype in (np.float32, np.float64):
            vector = blocks.empty_vector(count, np.dtype(dtype))
            assert (vector.shape, vector.dtype) == ((count,), dtype)
            assert vector.ctypes.data % 64 == 0
            assert vector.flags.writeable


def test_used_again_when_nobody_needs_it(fresh):
    first = blocks.empty((BIG,), np.float32)
    where = address(first)
    view = first.reshape(2, -1)[1:, ::3]
    del first
    gc.collect()
    second = blocks.empty((BIG,), np.float32)
    assert address(second) != where, "a view still looks at it"
    del view
    assert blocks.kept_memory() >= 4 * BIG
    assert address(blocks.empty((BIG - 100,), np.float32)) == where


def test_live_arrays_never_overlap(fresh):
    rng = np.random.default_rng(0)
    live = []
    for n in range(2000):
        array = blocks.empty((int(rng.integers(1, 60000)),), np.float32)
        array[...] = n
        live.append((n, array))
        if len(live) > 12:
            m, old = live.pop(int(rng.integers(len(live))))
            assert (old == m).all()
    assert all((array == n).all() for n, array in live)


def test_bound(fresh):
    blocks.keep(8)
    arrays = [blocks.empty((BIG // 4,), np.float32) for _ in range(20)]
    assert blocks.kept_memory() == 0
    del arrays
    assert 4e6 < blocks.kept_memory() <= 8e6
    del_me = blocks.empty((10 * BIG,), np.float32)
    del del_me  # above the bound by itself
    assert blocks.kept_memory() <= 8e6
    blocks.keep(0)
    assert blocks.kept_memory() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is freed")
def test_above_the_bound_it_is_lent(fresh):
    """It counts no more, and serves the next call as long as the system has no other use for it."""
    import resource  # not on Windows

    blocks.keep(30)  # and 120 MB lent

    def fill(number):
        # More than 32 MB: below, the C library may have pages of earlier arrays in hand.
        large = [blocks.empty((12 * BIG,), np.float32) for _ in range(2)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for n, array in enumerate(large):
            array[...] = number + n
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        assert all((array == number + n).all() for n, array in enumerate(large))
        return faults

    first = fill(1)
    assert blocks.kept_memory() == 0
    again = fill(3)
    assert again < first / 2, "the same pages again"
    blocks.keep(0)
    assert fill(5) > 2 * again + 10, "new ones, huge or not: the system may have no huge ones at first"


def test_goes_back_when_others_are_taken(fresh):
    large = blocks.empty((BIG,), np.float32)
    del large
    for _ in range(300):
        blocks.empty((5000,), np.float32)
    assert blocks.kept_memory() < 1e6


def test_many_threads_at_once(fresh):
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(400):
            array = blocks.empty((int(rng.integers(4096, 40000)),), np.float64)
            array[...] = seed
            if not (array == seed).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_outlive_the_next_call(fresh):
    """What one call returned is not scratch of the next one."""
    layer = bptt.LSTM(30, 50, seed=0)
    x = np.random.default_rng(1).standard_normal((40, 8, 30)).astype(np.float32)
    tape = layer.forward(x)
    gradients = layer.backward(tape, np.ones_like(tape.output))
    arrays = [tape.output, tape.cells, tape.gates, gradients.input, gradients.parameters.flat]
    copies = [array.copy() for array in arrays]
    for _ in range(5):
        other = layer.forward(2 * x)
        layer.backward(other, np.ones_like(other.output))
        layer(x)
    assert all((array == copy).all() for array, copy in zip(arrays, copies, strict=True))


def test_too_large_is_a_memory_error(fresh):
    with pytest.raises(MemoryError):
        blocks.empty((1 << 46,), np.float64)
    assert blocks.empty((BIG,), np.float32).nbytes == 4 * BIG


def test_environment():
    code = """
    import numpy as np, bptt
    from bptt._blocks import kept_memory
    layer = bptt.LSTM(30, 50)
    layer.forward(np.zeros((40, 8, 30), np.float32))
    print(kept_memory())
    """
    environment = {**os.environ, "BPTT_KEEP_MB": "0"}
    lines = "\n".join(line.strip() for line in code.splitlines())
    answer = subprocess.run([sys.executable, "-c", lines], env=environment, capture_output=True, check=True)
    assert int(answer.stdout) == 0


def test_environment_that_means_nothing():
    environment = {**os.environ, "BPTT_KEEP_MB": "lots"}
    answer = subprocess.run([sys.executable, "-c", "import bptt"], env=environment, capture_output=True)
    assert answer.returncode == 1
    assert b"BPTT_KEEP_MB: expected megabytes, 0 to 1000000, got 'lots'" in answer.stderr


def test_memory_is_carved_within_its_bounds():
    """What the parameters and tensors stand on refuses shapes that lie, and vectors of anything else."""

    class Lying(list):
        def __len__(self):
            return 2

    flat = np.zeros(400, np.float32)
    for shapes in ([Lying([1] * 20)], [(401,)], [(200,), (201,)], [(-1,)]):
        with pytest.raises(ValueError, match="shape"):
            blocks.carve(flat, shapes)
    for other in (np.zeros(4, ">f4"), np.zeros(4, object), np.zeros(8, np.float32)[::2]):
        with pytest.raises(ValueError, match="flat"):
            blocks.carve(other, [(2,)])
    with pytest.raises(ValueError, match="shape"):
        blocks.array_at(flat.ctypes.data, Lying([1] * 20), False, flat)
    with pytest.raises(ValueError, match="address"):
        blocks.array_at(0, (3,), False, None)
    first, rest = blocks.carve(flat, [(2, 3), (394,)])
    rest[0] = first[1, 2] = 7
    assert flat[5] == flat[6] == 7
    flat.flags.writeable = False
    assert not blocks.carve(flat, [(3,)])[0].flags.writeable
    seen = blocks.array_at(flat.ctypes.data, (2, 200), False, flat)
    assert seen.shape == (2, 200)
    assert seen[0, 5] == 7
