"""How many threads a call may use: a policy of pure functions, and the setting of the process.

The default is min(OMP_NUM_THREADS or CPU affinity, OMP_THREAD_LIMIT, cgroup quota, physical cores): more
threads than the quota pays for stall at every barrier, and two hyperthreads share one set of FMA units. The
readers take the root of the file system as an argument, so that they can be tested on fake files.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from . import _check

__all__ = ["Policy", "get_num_threads", "num_threads", "policy", "set_num_threads"]

MAX_THREADS = 1024
ROOT = Path("/")


@dataclass(frozen=True)
class Policy:
    """The default thread count, and what led to it; None where nothing is known.

    Attributes
    ----------
    threads : int
        The default count.
    reason : str
        What set it, in English.
    environment : int or None
        OMP_NUM_THREADS.
    limit : int or None
        OMP_THREAD_LIMIT.
    affinity : int
        CPUs that this process may run on.
    quota : float or None
        CPUs that the control group may use.
    cores : int or None
        Physical cores among those CPUs.
    """

    threads: int
    reason: str
    environment: int | None
    limit: int | None
    affinity: int
    quota: float | None
    cores: int | None


def policy(cpus: Iterable[int], environment: Mapping[str, str], root: Path = ROOT) -> Policy:
    """Return the default thread count and its reason.

    Parameters
    ----------
    cpus : iterable of int
        The CPUs that this thread may run on.
    environment : mapping of str to str
        The environment variables.
    root : Path
        Where ``proc`` and ``sys`` are.
    """
    allowed, note = unbound_cpus(set(cpus), environment, root)
    omp = positive(environment.get("OMP_NUM_THREADS"))
    limit = positive(environment.get("OMP_THREAD_LIMIT"))
    quota = cgroup_quota(root)
    cores = physical_cores(allowed, root)
    bounds = [("OMP_NUM_THREADS", omp) if omp else (note or "CPU affinity", len(allowed))]
    bounds += [("OMP_THREAD_LIMIT", limit)] if limit else []
    bounds += [("cgroup CPU quota", max(1, int(quota)))] if quota is not None else []
    bounds += [("physical cores", cores)] if cores else []
    reason, threads = min(bounds, key=lambda bound: bound[1])
    return Policy(max(1, min(threads, MAX_THREADS)), reason, omp, limit, len(allowed), quota, cores)


def positive(text: str | None) -> int | None:
    """Read the first number of an OpenMP list such as "4" or "4,2"; None if there is no positive one."""
    match = re.match(r"\s*\+?(\d{1,9})\s*(,|$)", text or "")
    return (int(match[1]) or None) if match else None


def unbound_cpus(cpus: set[int], environment: Mapping[str, str], root: Path = ROOT) -> tuple[set[int], str]:
    """Undo the binding of this thread to one place by an OpenMP library that was loaded before.

    With OMP_PROC_BIND or OMP_PLACES set, loading such a library (torch's) narrows the affinity of the main
    thread to the first place; the control group's CPUs, or all that are online, are what it had before.
    Returns the CPUs and a note for `Policy.reason`, empty if nothing was undone.
    """
    bound = environment.get("OMP_PROC_BIND", "").strip().lower()
    asked = bound not in ("", "false") or (not bound and environment.get("OMP_PLACES", "").strip())
    if not asked:
        return cpus, ""
    for path in _cpuset_files(root):
        wider = cpu_list(_read(path))
        if len(wider) > len(cpus) and wider >= cpus:
            return wider, "CPUs of the machine, as OMP_PROC_BIND has bound this thread to fewer"
    return cpus, ""


def _cpuset_files(root: Path) -> Iterator[Path]:
    base = root / "sys/fs/cgroup"
    for group in _cgroup_folders(base, _cgroups(root).get("", "")):
        yield group / "cpuset.cpus.effective"
    for group in _cgroup_folders(base / "cpuset", _cgroups(root).get("cpuset", "")):
        yield group / "cpuset.effective_cpus"
        yield group / "cpuset.cpus"
    yield root / "sys/devices/system/cpu/online"


def cpu_list(text: str) -> set[int]:
    """Read a Linux CPU list such as "0-3,8"; empty if it is not one."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match:
            cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return cpus


def cgroup_quota(root: Path = ROOT) -> float | None:
    """Return how many CPUs the control group may use, the least of it and its parents; None if no limit.

    Version 2 says it in ``cpu.max``, version 1 in ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``. In a
    container the path of the group may be the host's, so folders that do not exist are passed over.
    """
    groups, base = _cgroups(root), root / "sys/fs/cgroup"
    quotas: list[float | None] = []
    for folder in (base, base / "unified"):
        for group in _cgroup_folders(folder, groups.get("", "")):
            quota, _, period = _read(group / "cpu.max").partition(" ")
            quotas.append(_ratio(quota, period))
    for folder in (base / "cpu", base / "cpu,cpuacct", base / "cpuacct,cpu"):
        for group in _cgroup_folders(folder, groups.get("cpu", "")):
            quotas.append(_ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")))
    return min((quota for quota in quotas if quota is not None), default=None)


def _ratio(quota: str, period: str) -> float | None:
    try:
        ratio = int(quota) / int(period)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return ratio if ratio > 0 else None


def _cgroups(root: Path) -> dict[str, str]:
    """Return the path of this process's group by controller; version 2 stands under the empty name."""
    groups: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            groups.setdefault(controller, path)
    return groups


def _cgroup_folders(base: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group under its mount point, then those of its parents up to the mount point."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for depth in range(len(parts), -1, -1):
        yield base.joinpath(*parts[:depth])


def physical_cores(cpus: Iterable[int], root: Path = ROOT) -> int | None:
    """Count the physical cores that `cpus` belong to; None if the system does not say."""
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list")
        if not siblings.strip():
            return None
        cores.add(siblings.strip())
    return len(cores) or None


def _read(path: Path) -> str:
    """Return the text of a small file, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


@functools.cache
def default_policy() -> Policy:
    """Return the policy of this process, found once, at first use."""
    if hasattr(os, "sched_getaffinity"):
        cpus: Iterable[int] = os.sched_getaffinity(0)
    else:
        cpus = range(os.cpu_count() or 1)
    return policy(cpus, os.environ)


_process: int | None = None
_context: ContextVar[int | None] = ContextVar("bptt_num_threads", default=None)


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, in the whole process.

    Parameters
    ----------
    n : int
        At least 1, at most 1024. Small problems take fewer: never more than pay off. Results do not depend
        on it.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer from 1 to 1024.

    Examples
    --------
    >>> import bptt
    >>> before = bptt.get_num_threads()
    >>> bptt.set_num_threads(1)
    >>> bptt.get_num_threads()
    1
    >>> bptt.set_num_threads(before)
    """
    global _process
    _process = _count(n)


def get_num_threads() -> int:
    """Return how many threads a call may use here and now.

    Returns
    -------
    int
        From ``with num_threads(n)``, else from `set_num_threads`, else the default:
        min(OMP_NUM_THREADS or CPU affinity, OMP_THREAD_LIMIT, cgroup quota, physical cores).

    Examples
    --------
    >>> import bptt
    >>> bptt.get_num_threads() >= 1
    True
    """
    return _context.get() or _process or default_policy().threads


def set_by() -> str:
    """Return what overrides the default count here and now; empty if nothing does."""
    return "num_threads" if _context.get() else "set_num_threads" if _process else ""


def num_threads(n: int) -> AbstractContextManager[None]:
    """Return a context in which calls of this thread (or asyncio task) use at most `n` threads.

    Parameters
    ----------
    n : int
        As for `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer from 1 to 1024.

    Examples
    --------
    >>> import bptt
    >>> with bptt.num_threads(1):
    ...     bptt.get_num_threads()
    1
    """
    return _limited(_count(n))


@contextmanager
def _limited(n: int) -> Iterator[None]:
    token = _context.set(n)
    try:
        yield
    finally:
        _context.reset(token)


def _count(n: int) -> int:
    n = _check.size("n", n)
    if n > MAX_THREADS:
        raise ValueError(f"n: expected at most {MAX_THREADS} threads, got {n}")
    return n
