"""A Ray to work on: an existing cluster or one of this process; and functions that are mapped over it.

    with connected():
        list(ray_map()(abs, [-1, 2]))  # [1, 2], each computed in some process of the cluster

Nothing is left running that was started here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.method.translator import TranslatorFitter
from sing_utils.sources.folders import PictureSource


def require_ray() -> Any:
    """The library `ray`, told to be quiet and to report to nobody.

    Raises:
        SingError: if it is missing.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise SingError(
            "work on Ray needs the library `ray`, which is missing: pip install -e '.[ray]'."
        ) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised too
    return ray


# ---------------------------------------------------------------------------------- connecting


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Be connected to a Ray: the one in use already, a cluster, or one of this process until the end.

    What is raised in a worker is raised here as what it was there.

    Args:
        address: of a cluster, or "local"; None: RAY_ADDRESS, else a cluster that runs on this machine, else
            "local", a Ray of this process alone.

    Raises:
        SingError: without Ray, for a cluster that can't be reached, and if Ray gives up.
    """
    ray = require_ray()
    if ray.is_initialized():
        with _as_it_was_there():
            yield
        return
    _connect(address or os.environ.get("RAY_ADDRESS") or "")
    try:
        with _as_it_was_there():
            yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    if not address:
        return _start("auto" if _is_running_here() else "local")
    reason = "nobody listens there"
    if _answers(address):
        try:
            return _start(address)
        except SingError:
            raise
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
    raise SingError(
        f"no Ray answers at {address} ({reason}), expected a cluster: check the address, `ray status` and "
        "RAY_AUTH_MODE=token, or unset RAY_ADDRESS to use this machine alone."
    )


def _is_running_here() -> bool:
    """Whether this machine is part of a cluster; not one that ended without saying so."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return note.is_file() and _answers(note.read_text().strip())


def _answers(address: str) -> bool:
    """Whether somebody listens at host:port; Ray itself would wait for minutes to find out."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:  # another kind of address, which Ray knows
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError:
        return False
    return True


def _start(address: str) -> None:
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options |= {"num_cpus": cores, "include_dashboard": False}
    ray.init(address=address, **options)


@contextlib.contextmanager
def _as_it_was_there() -> Iterator[None]:
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        if cause := _sing_error(error):
            raise cause from None
        if isinstance(error, ray.exceptions.RayTaskError):  # a bug in what ran there: all of it is shown
            raise
        raise _gave_up(error) from None
    except ray.data.exceptions.ExecutionTimeoutError as error:  # of Ray Data: half an hour without a result
        raise _gave_up(error) from None


def _sing_error(error: BaseException) -> SingError | None:
    """The mistake of a user that is behind an error of a worker."""
    import ray

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SingError) and not isinstance(cause, ray.exceptions.RayError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return None


def _gave_up(error: BaseException) -> SingError:
    reason = " ".join(str(error).split())[:200]
    return SingError(
        f"Ray gave up ({type(error).__name__}: {reason}), expected workers that live: look at `ray status` "
        "and at their memory; run again with the same arguments, it resumes."
    )


def largest_node(resource: str) -> float:
    """The most that one machine of the cluster has of a resource, such as "CPU"."""
    import ray

    return max((node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)


def threads_of_a_task() -> int:
    """As many as this process has, since their number may change the last bits; less on small machines."""
    return max(1, min(torch.get_num_threads(), int(largest_node("CPU"))))


# ------------------------------------------------------------------------------ the same everywhere


@dataclass(frozen=True)
class Place:
    """What must be the same where work is sent: the working folder, the pictures, the software.

    Attributes:
        folder: in which relative paths start.
        file: one of the source's; None if it has none that is there.
        software: versions of what changes the numbers; a store's key names them.
    """

    folder: str
    file: Path | None
    software: dict[str, str]

    @classmethod
    def here(cls, source: PictureSource) -> Place:
        """That of this process."""
        file = next(iter(source.files), None)
        return cls(os.getcwd(), file if file is not None and file.exists() else None, _software())

    def enter(self) -> None:
        """Make it that of a worker.

        Raises:
            SingError: if the worker's machine differs.
        """
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        if self.file is not None and not self.file.exists():
            raise SingError(
                f"the worker {socket.gethostname()} sees no {self.file}, expected the pictures at the same "
                "path on every machine: put them on a file system that all of them share."
            )
        for name, there in _software().items():
            if there != self.software.get(name):
                raise SingError(
                    f"the worker {socket.gethostname()} has {name} {there}, expected "
                    f"{self.software.get(name)} as here: install the same on every machine."
                )


def _software() -> dict[str, str]:
    libraries = {name: version(name) for name in ("torch", "torchvision", "pillow")}
    return libraries | {"machine": platform.machine()}


# ---------------------------------------------------------------------------------------- mapping


def ray_map(
    *, address: str | None = None, ahead: int | None = None
) -> Callable[[Callable[..., Any], Iterable[Any]], Iterator[Any]]:
    """Like the built-in `map`, in Ray tasks: results in order, few items at a time.

    It is a `fitting.Mapper`. A task whose process dies is run again. A task has as many threads as this
    process, so that machines of one kind compute the same bits.

    Args:
        address: as in `connected`.
        ahead: items sent before a result is taken; None: twice what the cluster can run at a time.
    """
    ray = require_ray()

    def mapper(function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        with connected(address):
            threads = threads_of_a_task()
            task = ray.remote(num_cpus=threads)(_with_threads)
            most = ahead or 2 * max(1, int(ray.cluster_resources().get("CPU", 1) // threads))
            call, waiting = ray.put(function), deque[Any]()
            for item in items:
                waiting.append(task.remote(threads, call, item))
                if len(waiting) >= most:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())

    return mapper


def _with_threads(threads: int, function: Callable[..., Any], item: Any) -> Any:
    torch.set_num_threads(threads)
    return function(item)


def gram_on_ray(pairs: Iterable[tuple[Tensor, Tensor]], *, address: str | None = None) -> TranslatorFitter:
    """`fitting.gram_of_shards`, each shard's sums in a Ray task, merged here in order: the same bits.

    Args:
        pairs: features f (B, m) and targets z (B, n), a shard each.
        address: as in `connected`.

    Raises:
        SingError: without a shard, or for rows that do not pair up.
    """
    from sing_utils.features.fitting import gram_of_shards  # not above: workers that extract need not load it

    total: TranslatorFitter | None = None
    for one in ray_map(address=address)(_gram_of_shard, pairs):
        if total is None:
            total = one
        else:
            total.merge(one)
    return gram_of_shards([]) if total is None else total  # of no shard: raises


def _gram_of_shard(pair: tuple[Tensor, Tensor]) -> TranslatorFitter:
    from sing_utils.features.fitting import gram_of_shards

    return gram_of_shards([pair])
