"""The thread count: the policy on fake files, and the setting."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import bptt
from bptt import _config, _threads


def write(root, files):
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root


def topology(siblings, name="core_cpus_list"):
    return {f"sys/devices/system/cpu/cpu{cpu}/topology/{name}": f"{text}\n" for cpu, text in siblings.items()}


V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n"}, 3),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "250000 50000\n",
                "sys/fs/cgroup/cpu.max": "900000 100000\n",
            },
            5,
        ),
        ({"proc/self/cgroup": "0::/../../host\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": ""}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
        ({"proc/self/cgroup": "nonsense", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n0::/\n",
                f"{V1}/docker/abc/cpu.cfs_quota_us": "200000\n",
                f"{V1}/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n",
                f"{V1}/cpu.cfs_quota_us": "350000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            3.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/x\n0::/x\n",
                "sys/fs/cgroup/unified/x/cpu.max": "600000 100000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "800000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
    ],
)
def test_cgroup_quota(tmp_path, files, quota):
    assert _threads.cgroup_quota(write(tmp_path, files)) == quota


def test_physical_cores(tmp_path):
    root = write(tmp_path, topology({0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}))
    assert _threads.physical_cores({0, 1, 4, 5}, root) == 2
    assert _threads.physical_cores({0, 4}, root) == 1
    assert _threads.physical_cores({0, 1, 7}, root) is None
    assert _threads.physical_cores(set(), root) is None
    root = write(tmp_path / "old", topology({0: "0-1", 1: "0-1"}, "thread_siblings_list"))
    assert _threads.physical_cores({0, 1}, root) == 1


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3\n", {0, 1, 2, 3}),
        ("0,2,8-9", {0, 2, 8, 9}),
        ("", set()),
        ("x", set()),
        ("5", {5}),
        ("3-1", set()),
    ],
)
def test_cpu_list(text, cpus):
    assert _threads.cpu_list(text) == cpus


@pytest.mark.parametrize(
    ("text", "n"),
    [
        (None, None),
        ("", None),
        ("4", 4),
        (" 3 ", 3),
        ("4,2", 4),
        ("0", None),
        ("-2", None),
        ("x", None),
        ("2.5", None),
    ],
)
def test_openmp_numbers(text, n):
    assert _threads.positive(text) == n


EIGHT = topology({cpu: f"{cpu}" for cpu in range(8)})
QUOTA = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}
TINY = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}
PAIRS = topology({cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)})


@pytest.mark.parametrize(
    ("cpus", "environment", "files", "threads", "reason"),
    [
        (range(8), {}, EIGHT, 8, "CPU affinity"),
        (range(8), {}, {}, 8, "CPU affinity"),
        (range(3), {}, EIGHT, 3, "CPU affinity"),
        (range(8), {}, PAIRS, 4, "physical cores"),
        (range(8), {}, EIGHT | QUOTA, 2, "cgroup CPU quota"),
        (range(8), {}, EIGHT | TINY, 1, "cgroup CPU quota"),
        (range(8), {"OMP_NUM_THREADS": "5"}, EIGHT, 5, "OMP_NUM_THREADS"),
        (range(8), {"OMP_NUM_THREADS": "5,2"}, EIGHT, 5, "OMP_NUM_THREADS"),
        (range(8), {"OMP_NUM_THREADS": "64"}, EIGHT, 8, "physical cores"),
        (range(8), {"OMP_NUM_THREADS": "5"}, EIGHT | QUOTA, 2, "cgroup CPU quota"),
        (range(8), {"OMP_NUM_THREADS": "rubbish"}, EIGHT, 8, "CPU affinity"),
        (range(8), {"OMP_THREAD_LIMIT": "1"}, EIGHT, 1, "OMP_THREAD_LIMIT"),
        (range(5000), {}, {}, 1024, "CPU affinity"),
        ((), {}, {}, 1, "CPU affinity"),
    ],
)
def test_policy(tmp_path, cpus, environment, files, threads, reason):
    policy = _threads.policy(cpus, environment, write(tmp_path, files))
    assert (policy.threads, policy.reason) == (threads, reason)


@pytest.mark.parametrize("name", ["OMP_PROC_BIND", "OMP_PLACES"])
def test_binding_by_another_openmp_library_does_not_leave_one_thread(tmp_path, name):
    value = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}[name]
    online = {"sys/devices/system/cpu/online": "0-7\n"}
    policy = _threads.policy({0}, {name: value}, write(tmp_path / "a", EIGHT | online))
    assert policy.threads == policy.affinity == 8
    assert policy.affinity == 8
    policy = _threads.policy(
        {0}, {name: value, "OMP_NUM_THREADS": "4"}, write(tmp_path / "b", EIGHT | online)
    )
    assert (policy.threads, policy.reason) == (4, "OMP_NUM_THREADS")
    group = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpuset.cpus.effective": "0-2\n"}
    policy = _threads.policy({0}, {name: value}, write(tmp_path / "c", EIGHT | online | group))
    assert policy.threads == 3
    assert "OMP_PROC_BIND" in policy.reason
    for off in ({}, {"OMP_PROC_BIND": "false", "OMP_PLACES": "cores"}):
        assert _threads.policy({0}, off, write(tmp_path / "d", EIGHT | online)).threads == 1


def test_set_num_threads_and_the_context():
    default = bptt.get_num_threads()
    try:
        bptt.set_num_threads(3)
        assert bptt.get_num_threads() == 3
        with bptt.num_threads(2):
            assert bptt.get_num_threads() == 2
            with bptt.num_threads(5):
                assert bptt.get_num_threads() == 5
            assert bptt.get_num_threads() == 2
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(bptt.get_num_threads).result() == 3
            assert bptt.config()["threads_reason"] == "num_threads"
        assert bptt.get_num_threads() == 3
        assert bptt.config()["threads_reason"] == "set_num_threads"
        with pytest.raises(KeyError), bptt.num_threads(1):
            raise KeyError
        assert bptt.get_num_threads() == 3
    finally:
        bptt.set_num_threads(default)


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (1025, ValueError),
        (1.0, TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_thread_counts_that_do_not_fit(n, error):
    for function in (bptt.set_num_threads, bptt.num_threads):
        with pytest.raises(error, match=r"^n: expected"):
            function(n)


def threads_of_a_process(code, **environment):
    """Return the default thread count in a process of its own."""
    code += "; import bptt; print(bptt.config()['threads'])"
    command = [sys.executable, "-W", "ignore", "-c", code]
    environment = {n: v for n, v in os.environ.items() if not n.startswith("OMP_")} | environment
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return int(result.stdout)


def test_the_environment_of_a_process_counts():
    assert threads_of_a_process("pass", OMP_NUM_THREADS="1") == 1
    assert threads_of_a_process("pass", OMP_THREAD_LIMIT="1") == 1


def test_torch_imported_first_with_binding_leaves_the_threads():
    pytest.importorskip("torch")
    assert threads_of_a_process("import torch", OMP_PROC_BIND="true") == threads_of_a_process("pass")


def test_openmp_runtimes_are_read_from_the_maps(tmp_path):
    line = "7f00-7f01 r-xp 00000000 00:01 5      "
    paths = [
        "/opt/a b/libgomp.so.1.0.0",
        "/usr/lib/libc.so.6",
        "/x/libiomp5.so",
        "/x/libiomp5.so",
        "/y/libomp-1.so.5",
    ]
    write(
        tmp_path,
        {"proc/self/maps": "".join(f"{line}{path}\n" for path in paths) + "7f02-7f03 rw-p 0 00:00 0\n"},
    )
    expected = ("/opt/a b/libgomp.so.1.0.0", "/x/libiomp5.so", "/y/libomp-1.so.5")
    assert _config.openmp_runtimes(tmp_path) == (expected if sys.platform.startswith("linux") else ())
