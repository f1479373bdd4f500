"""Extraction and fits on many machines, with Ray: the same numbers as here, elsewhere.

::

    load = partial(load_classifier, "torchvision:resnet50@IMAGENET1K_V1")
    store = extract(load(), "/data/imagenet", "store/", engine=ray_engine(load))
    T = fit_stores(store, targets, encoder=encoder, mapper=ray_map())

Pictures are decoded in Ray tasks and go to actors, each of which holds one model. What travels is a batch
of the same `plan` that the local engine follows, so the results are the same to the last bit where the
machines are alike. This process alone writes the store. Nothing is left running that was started here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sing_utils.errors import SingError, reason
from sing_utils.features.batches import Batch, BatchResult, Engine, Extractor, decode_batch
from sing_utils.features.engine import Compute, compute_batch, cores
from sing_utils.features.extraction import software
from sing_utils.sources.folders import PictureSource

_DECODING = 0.25  # of each core: decoding takes less than a model does
_MOST_BATCHES = 8  # a task, so that Ray's own work for each task does not count
_TASKS_AN_ACTOR = 16  # at least, if there are so many batches: all actors then end at about the same time


def ray_engine(
    load: Callable[[], Extractor],
    *,
    actors: int | None = None,
    num_gpus: float | None = None,
    address: str | None = None,
    precision: str = "auto",
    device: str | None = None,
) -> Engine:
    """An engine that decodes in Ray tasks and computes in Ray actors, one model each.

    If the process of a task or an actor dies, another one is started and does its batches again.

    Args:
        load: makes the model in an actor, such as `partial(load_classifier, "timm:resnet18.a1_in1k")`; the
            same model that `extract` is called with, which is checked.
        actors: how many; None: one a GPU, or one for as many CPUs as this process has threads.
        num_gpus: of each actor; None: 1 if `extract` computes on "cuda", else 0.
        address: of a cluster; None: RAY_ADDRESS, else one that runs on this machine, else a Ray of this
            process alone, which ends with the extraction.
        precision: as `extract` is called with.
        device: as `extract` is called with.

    Raises:
        SingError: without Ray; while it runs, for a cluster that can't be reached or has no room, and for
            workers with another model, other software or other files than here.
    """
    require_ray()
    if actors is not None and actors < 1:
        raise SingError(f"actors is {actors}, expected at least 1, which holds the model: leave it out.")

    def engine(
        extractor: Extractor, source: PictureSource, batches: Sequence[Batch]
    ) -> Iterator[BatchResult]:
        compute = Compute.of(extractor, precision, device=device)
        with connected(address):
            pool = _Pool.of(compute, actors, num_gpus)
            for row in _stages(load, extractor, source, batches, compute, pool).iter_rows():
                yield row["batch"]

    return engine


@dataclass(frozen=True)
class _Pool:
    """The actors: how many, and what each takes of the cluster."""

    actors: int
    gpus: float
    cpus: float
    threads: int

    @classmethod
    def of(cls, compute: Compute, actors: int | None, gpus: float | None) -> _Pool:
        import ray

        there = ray.cluster_resources()
        has = there.get("GPU", 0.0)
        if compute.device == "cuda":
            gpus = 1.0 if gpus is None else gpus
            if not 0 < gpus <= has:
                raise SingError(
                    f"each actor is to have {gpus:g} GPUs and the cluster has {has:g}, expected some of "
                    "those: add a machine with a GPU, or extract with device='cpu' on a machine without."
                )
            return cls(actors or int(has // gpus), gpus, 0.0, 1)
        if gpus:
            raise SingError(
                f"each actor is to have {gpus:g} GPUs, but `extract` computes on the CPU, expected none: run "
                "where there is a GPU too, or give both device='cuda'."
            )
        if has:
            print("ray: the cluster's GPUs are not used, as this process has none.", file=sys.stderr)
        threads = threads_of_a_task()
        most = max(1, int(there.get("CPU", 1.0) // threads))
        if actors is not None and actors > most:
            raise SingError(
                f"{actors} actors of {threads} threads are wanted, expected at most {most} on the cluster's "
                f"{there.get('CPU', 0):g} CPUs: ask for fewer, or set OMP_NUM_THREADS to less."
            )
        return cls(actors or most, 0.0, threads * (1 - _DECODING), threads)


def _stages(
    load: Callable[[], Extractor],
    extractor: Extractor,
    source: PictureSource,
    batches: Sequence[Batch],
    compute: Compute,
    pool: _Pool,
) -> Any:
    """The Ray data set whose rows are the results; it computes while they are taken."""
    import ray
    import ray.data

    place = Place.here(source)
    shared = ray.put((place, source, batches, without_networks(extractor)))
    few = min(_MOST_BATCHES, max(1, len(batches) // (pool.actors * _TASKS_AN_ACTOR)))
    numbers = [{"number": i} for i in range(len(batches))]
    rows = ray.data.from_items(numbers, override_num_blocks=-(-len(batches) // few))
    rows.context.enable_progress_bars = rows.context.print_on_execution_start = False
    rows.context.raise_original_map_exception = True  # else a worker's mistake arrives without its class
    decoded = rows.map(partial(_decode, shared), num_cpus=_DECODING)
    model: Any = _Model
    return decoded.map(
        model,
        fn_constructor_args=(load, dict(extractor.identity), compute, pool.threads, place),
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(batches))),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )


def _decode(shared: Any, row: dict[str, Any]) -> dict[str, Any]:
    """The first stage, in a task."""
    source, batches, extractor = _received(shared)
    return {"batch": decode_batch(source, batches[row["number"]], extractor.prepare)}


@lru_cache(maxsize=1)
def _received(shared: Any) -> tuple[PictureSource, Sequence[Batch], Any]:
    """What all tasks of an extraction need, fetched once in each process."""
    import ray

    place, source, batches, extractor = ray.get(shared)
    place.enter()
    torch.set_num_threads(1)
    return source, batches, pickle.loads(extractor)


@dataclass(eq=False)
class _Model:
    """The second stage, in an actor: one model, loaded when its first batch comes.

    Not before, because Ray replaces an actor that dies at work, but not one that dies while it is made.
    """

    load: Callable[[], Extractor]
    identity: dict[str, str]
    compute: Compute
    threads: int
    place: Place

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"batch": compute_batch(self.extractor, row["batch"], self.compute)}

    @cached_property
    def extractor(self) -> Extractor:
        """The model, if it is the one whose results are wanted."""
        self.place.enter()
        torch.set_num_threads(self.threads)
        extractor = self.load()
        own = dict(extractor.identity) | {"device": Compute.of(extractor).device}
        wanted = self.identity | {"device": self.compute.device}
        for key in {**wanted, **own}:
            if own.get(key) != wanted.get(key):
                raise SingError(
                    f"the model in an actor on {socket.gethostname()} has {key} {str(own.get(key))[:100]}, "
                    f"expected {str(wanted.get(key))[:100]} as here: let `load` make the same model as "
                    "`extract` is given."
                )
        return extractor


# ------------------------------------------------------------------ extractors that only prepare


class _NoNetwork:
    """Stands for a network where pictures are only decoded."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def without_networks(extractor: Extractor) -> bytes:
    """An extractor that can `prepare` but not `compute`, for processes that decode.

    Networks are left out because a process that decodes has no use for their gigabytes, and tensors on a
    GPU because it may have none.

    Raises:
        SingError: if it can't be sent to another process.

    >>> class Net(nn.Module):
    ...     identity = {"name": "net"}
    ...     big = nn.Linear(1000, 1000)
    ...     def prepare(self, image): return 1
    >>> len(without_networks(Net())) < 10_000
    True
    """
    from ray import cloudpickle

    class Pickler(cloudpickle.CloudPickler):
        def reducer_override(self, x: Any) -> Any:
            is_network = isinstance(x, nn.Module) and x is not extractor and _has_weights(x)
            if is_network or (isinstance(x, Tensor) and x.device.type != "cpu"):
                return _NoNetwork, ()
            return super().reducer_override(x)

    own = [m for name, m in list(sys.modules.items()) if name.startswith("sing_own_")]
    for module in own:  # from `file:PATH.py`: other processes have no such module
        cloudpickle.register_pickle_by_value(module)
    file = io.BytesIO()
    try:
        Pickler(file).dump(extractor)
    except Exception as error:  # whatever an object's own way to be sent raises
        raise SingError(
            f"{extractor.identity.get('name', 'the model')} can't be sent to another process "
            f"({reason(error)}), expected one that can: make its transform from "
            "functions and classes of a module."
        ) from None
    return file.getvalue()


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


# ---------------------------------------------------------------------------------- connecting


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
    why = "nobody listens there"
    if _answers(address):
        try:
            return _start(address)
        except SingError:
            raise
        except (ConnectionError, ValueError, RuntimeError) as error:
            why = reason(error)
    raise SingError(
        f"no Ray answers at {address} ({why}), expected a cluster: check the address, `ray status` and "
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
        options |= {"num_cpus": cores(), "include_dashboard": False}
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
    return SingError(
        f"Ray gave up ({reason(error, most=200)}), expected workers that live: look at `ray status` "
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
        return cls(os.getcwd(), file if file is not None and file.exists() else None, software())

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
        for name, there in software().items():
            if there != self.software.get(name):
                raise SingError(
                    f"the worker {socket.gethostname()} has {name} {there}, expected "
                    f"{self.software.get(name)} as here: install the same on every machine."
                )


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
