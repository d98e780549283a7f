"""Processes, threads and signals. Whatever could hang runs in a process of its own, with a time limit."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import bptt

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="wants a POSIX system")
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="wants /proc")
LIMIT = 60  # seconds

# One problem for each way to divide the work: serial, rows split (two threads have more than a tile each, or
# less), hidden units split with barriers.
COMMON = """
import os, sys, time, threading
import numpy as np
import bptt

SIZES = ((3, 2, 4, 5), (20, 48, 32, 64), (100, 16, 40, 40), (60, 1, 16, 400))

class Case:
    def __init__(self, T, B, I, H):
        self.layer = bptt.LSTM(I, H, seed=H)
        self.engine = self.layer.freeze()
        self.x = np.random.default_rng(T).standard_normal((T, B, I)).astype(np.float32)

    def run(self):
        tape = self.layer.forward(self.x)
        gradients = self.layer.backward(tape, tape.output)
        found = gradients.input, *gradients.state, gradients.parameters.flat
        return b"".join(a.tobytes() for a in (self.engine(self.x)[0], tape.output, *found))

cases = [Case(*sizes) for sizes in SIZES]
with bptt.num_threads(1):
    serial = [case.run() for case in cases]

def check():
    for case, want in zip(cases, serial):
        assert case.run() == want, "other bits than on one thread"

def process_threads():
    return len(os.listdir("/proc/self/task"))

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
"""


def run_python(script, before="", **environment):
    """Run `before`, COMMON and the script in a new interpreter; fail unless it ends well and in time.

    It leads a process group of its own, so that its children end with it if it hangs.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "BPTT_"))}
    env |= {"OPENBLAS_NUM_THREADS": "1"} | environment
    arguments = [sys.executable, "-c", before + COMMON + textwrap.dedent(script)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, env=env, start_new_session=True, **pipes) as child:
        try:
            out, err = child.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            pytest.fail(f"still running after {LIMIT} s: {''.join(map(str, child.communicate()))[-4000:]}")
    assert child.returncode == 0, f"exit status {child.returncode}: {out[-2000:]}{err[-4000:]}"
    return out


def test_fork_after_use():
    """The pool of the parent does not exist in the child: children and theirs work; so does the parent."""
    run_python("""
    bptt.set_num_threads(2)
    check()
    for _ in range(2):
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                check()
                grandchild = os.fork()
                check()
                if grandchild:
                    assert os.waitpid(grandchild, 0)[1] == 0
                os._exit(0)
            children.append(child)
            check()
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    """)


def test_fork_from_a_thread_while_others_run():
    run_python("""
    bptt.set_num_threads(2)
    stop = False
    def work():
        while not stop:
            check()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        child = os.fork()
        if child == 0:
            check()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    stop = True
    for thread in threads:
        thread.join()
    """)


def test_multiprocessing_fork():
    run_python("""
    import multiprocessing
    bptt.set_num_threads(2)
    check()
    def work(n):
        return cases[n % 3].run() == serial[n % 3]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(work, range(12)) == [True] * 12
        check()
    """)


@LINUX
def test_no_memory_for_a_thread():
    """A thread that cannot be made must not end the process: fewer do the work."""
    run_python(
        """
    import resource
    mapped = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGESIZE")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 4_000_000, limits[1]))
    bptt.set_num_threads(2)
    check()
    resource.setrlimit(resource.RLIMIT_AS, limits)
    check()
    """,
        BPTT_KEEP_MB="0",  # what is kept for later calls is not there for anything else
    )


@LINUX
def test_alternating_sizes_keep_threads_and_memory():
    """Teams of changing size would have threads end and start again, and leak in some runtimes."""
    run_python("""
    def rounds(count):
        for n in range(count):
            with bptt.num_threads(1 + n % 3):
                for case in cases[:2]:
                    case.engine(case.x[: 1 + n % 20])
            cases[0].run()
    rounds(100)
    threads, memory = process_threads(), resident()
    rounds(800)
    assert process_threads() <= threads, (threads, process_threads())
    assert resident() < memory + 4e6, (memory, resident())
    """)


@LINUX
def test_one_engine_in_many_threads():
    """The serial bits, from 16 threads at once; threads and memory do not grow, and go when the pool goes."""
    run_python("""
    from concurrent.futures import ThreadPoolExecutor
    bptt.set_num_threads(2)
    bptt._core.plan_hint(2, 0)  # insist on threads from the first call, on a busy machine too
    wanted = [case.engine(case.x)[0].tobytes() for case in cases]
    def work(n):
        case = cases[n % 3]
        return case.engine(case.x)[0].tobytes() == wanted[n % 3]
    before = process_threads()
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(150)))
        threads, memory = process_threads(), resident()
        for _ in range(6):
            assert all(pool.map(work, range(150)))
        assert process_threads() <= threads + 4, (threads, process_threads())
        assert resident() < memory + 16e6, (memory, resident())
    deadline = time.monotonic() + 5
    while process_threads() > before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process_threads() <= before + 2, (before, process_threads())
    """)


def test_concurrent_training():
    """Forward and backward of one layer in many threads, each with its own tape: the serial gradients."""
    run_python("""
    from concurrent.futures import ThreadPoolExecutor
    bptt.set_num_threads(2)
    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(check) for _ in range(18)]:
            future.result()
    """)


def test_no_cpu_time_after_a_call():
    out = run_python("""
    bptt.set_num_threads(2)
    check()
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(1)
    print(time.process_time() - before)
    """)
    assert float(out) < 0.1


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_THREAD_LIMIT": "1"},
        {"OMP_THREAD_LIMIT": "2"},
        {"OMP_DYNAMIC": "true"},
        {"OMP_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "3,2"},
        {"OMP_MAX_ACTIVE_LEVELS": "0"},
        {"OMP_PROC_BIND": "true", "OMP_PLACES": "{0}"},
        {"OMP_WAIT_POLICY": "active"},
        {"OMP_WAIT_POLICY": "passive", "OMP_STACKSIZE": "256k"},
        {"OMP_CANCELLATION": "true", "OMP_SCHEDULE": "dynamic,1"},
    ],
    ids=lambda e: " ".join(f"{k}={v}" for k, v in e.items()),
)
def test_openmp_environment(environment):
    """Fewer threads than asked for, or threads on one core: no deadlock at the barrier, the same bits."""
    run_python(
        """
    check()
    for threads in (2, 4):
        with bptt.num_threads(threads):
            check()
    """,
        **environment,
    )


LONG_CALLS = {
    "forward": "bptt.LSTM(1, 1024, seed=0)(np.zeros((40000, 1, 1), np.float32))",
    "pair": "bptt.LSTM(1, 1024, bidirectional=True, seed=0)(np.zeros((40000, 1, 1), np.float32))",
    "run": "bptt.LSTM(1, 1024, seed=0).freeze().stream().run(np.zeros((40000, 1), np.float32))",
    "backward": "backward(40000, 1, 1, 1024)",
}

# A tape of zeros takes no memory: the pages are not there until they are written.
LONG_BACKWARD = """
def backward(T, B, I, H):
    layer = bptt.LSTM(I, H, seed=0)
    zeros = lambda *shape: np.zeros(shape, np.float32)
    weights = tuple(layer.parameters.get(f"{name}_l0") for name in
        ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "weight_hr"))
    results = tuple(None if a is None else np.empty_like(a) for a in weights)
    tape = (zeros(T, B, I), None, None, zeros(T, B, H), zeros(T, B, H), zeros(T, B, 4, H))
    errors, wanted = (zeros(T, B, H), None, None), (None, None, None, results, None, None)
    bptt._core.backward(bptt._core.Cell("LSTM"), bptt.get_num_threads(), weights, *tape, *errors, *wanted)
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("call", LONG_CALLS)
def test_interrupt_stops_a_long_call(call, threads):
    """Ctrl-C ends a call of many seconds within one, and the next call is as good as ever."""
    script = f"""
import signal, bptt._core
{LONG_BACKWARD}
bptt.set_num_threads({threads})
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
try:
    {LONG_CALLS[call]}
    print("finished before it was interrupted", flush=True)
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
check()
"""
    env = os.environ | {"BPTT_VARIANT": "baseline"}
    arguments = [sys.executable, "-c", COMMON + script]
    child = subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.7)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=LIMIT)
        assert child.returncode == 0, out
        assert float(out) - sent < 1
    finally:
        child.kill()
        child.wait()


def test_other_signals_do_not_disturb_a_call():
    """Handlers run in the middle of a call, may call the library themselves, and the call goes on."""
    run_python(
        """
    import signal
    bptt.set_num_threads(2)
    seen = []
    def handler(*_):
        seen.append(time.monotonic())
        if len(seen) == 1:
            check()
    signal.signal(signal.SIGALRM, handler)
    layer, x = bptt.LSTM(1, 512, seed=0), np.ones((8000, 1, 1), np.float32)
    want = layer(x)[0]
    signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
    start = time.monotonic()
    got = layer(x)[0]
    end = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert np.array_equal(got, want)
    assert any(start + 0.02 < t < end - 0.02 for t in seen), (start, end, seen)
    """,
        BPTT_VARIANT="baseline",
    )


def test_exception_of_a_signal_handler_comes_out():
    run_python(
        """
    import signal
    def handler(*_):
        raise LookupError("from the handler")
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        bptt.LSTM(1, 1024, seed=0)(np.zeros((40000, 1, 1), np.float32))
    except LookupError as error:
        assert str(error) == "from the handler"
    else:
        raise AssertionError("the call finished")
    """,
        BPTT_VARIANT="baseline",
    )


@pytest.mark.parametrize("how", ["idle", "daemon"])
def test_exit_with_a_live_pool(how):
    run_python(
        f"""
    bptt.set_num_threads(2)
    check()
    if {how == "daemon"}:
        layer, x = bptt.LSTM(1, 1024, seed=0), np.zeros((40000, 1, 1), np.float32)
        threading.Thread(target=layer, args=(x,), daemon=True).start()
        time.sleep(0.3)
    """,
        BPTT_VARIANT="baseline",
    )


@LINUX
def test_daemons_outlive_python():
    """A daemon in the middle of a long call must not touch an interpreter that is gone."""
    run_python(
        """
    import subprocess
    code = '''if True:
        import bptt, numpy as np, threading, time
        bptt.set_num_threads(2)
        layer, x = bptt.LSTM(1, 1024, seed=0), np.zeros((40000, 1, 1), np.float32)
        threading.Thread(target=layer, args=(x,), daemon=True).start()
        time.sleep({delay})
    '''
    for _ in range(8):  # three at once: whether it happens is a matter of who runs when
        codes = [code.format(delay=delay) for delay in (0.1, 0.2, 0.3)]
        children = [subprocess.Popen([sys.executable, "-c", text]) for text in codes]
        assert [child.wait() for child in children] == [0, 0, 0]
    """,
        BPTT_VARIANT="baseline",
    )


OTHERS = {
    "torch": "import torch; assert torch.ones(300, 300) @ torch.ones(300, 300) is not None",
    "onnxruntime": """import onnx, onnxruntime
names = [onnx.helper.make_tensor_value_info(name, 1, [300, 300]) for name in "ab"]
node = onnx.helper.make_node("MatMul", ["a", "a"], ["b"])
graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", names[:1], names[1:]), ir_version=8,
    opset_imports=[onnx.helper.make_opsetid("", 17)])
session = onnxruntime.InferenceSession(graph.SerializeToString())
session.run(None, {"a": np.ones((300, 300), np.float32)})""",
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", OTHERS)
def test_import_orders(other, first):
    """With another library's threads in the process, started before or after those of this one."""
    pytest.importorskip(other)
    if other == "onnxruntime":
        pytest.importorskip("onnx")
    use = "import numpy as np\n" + OTHERS[other]
    run_python(
        f"bptt.set_num_threads(2)\ncheck()\n{use}\ncheck()\n{use}\ncheck()\n", f"{use}\n" if first else ""
    )


@pytest.mark.parametrize("name", bptt.variants())
@LINUX
def test_only_a_variant_that_wants_them_asks_for_registers(name):
    """Linux gives a process the registers of AMX when it asks, and then refuses small signal stacks."""
    script = """
        import ctypes
        def permitted():
            mask, arch_prctl, get_permissions = ctypes.c_uint64(0), 158, 0x1022
            failed = ctypes.CDLL(None).syscall(arch_prctl, get_permissions, ctypes.byref(mask))
            return not failed and bool(mask.value >> 18 & 1)

        check()
        bptt.show_config()
        names, active = bptt.variants(), bptt.active_variant()
        assert os.uname().machine != "x86_64" or permitted() == (active == "amx"), active
        if "amx" in names:
            bptt.use_variant("amx")
            assert permitted()
    """
    run_python(script, BPTT_VARIANT=name)


@LINUX
@pytest.mark.skipif("amx" not in bptt.variants(), reason="no tiles here")
def test_a_small_signal_stack_keeps_tiles_away():
    """The next best variant runs; a process that wants tiles by name is told."""
    small = """
import ctypes
stack = ctypes.create_string_buffer(8192)
class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
one = Stack(ctypes.addressof(stack), 0, 8192)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(one), None) == 0
"""
    run_python('check(); assert bptt.active_variant() == "avx512"', small)
    script = """
        try:
            bptt.use_variant("amx")
        except ValueError as error:
            assert "refuses this process its registers" in str(error)
        else:
            raise AssertionError("no error")
        check()
    """
    run_python(script, small, BPTT_VARIANT="avx2")
