"""Extraction and the translator's sums on many machines, with Ray: the same numbers, elsewhere.

    engine = ray_engine(partial(load_classifier, "torchvision:resnet50@IMAGENET1K_V1"))
    store = extract(classifier, "/data/imagenet", "store/", engine=engine)
    T = fit_stores(store, targets, encoder=encoder, mapper=ray_map())

Pictures are decoded in Ray tasks and go to actors, each of which holds one model. What travels is a batch
of the same `plan` that the local engine computes, so the results are the same to the last bit where the
machines and their threads are alike (see book/cluster.md). The calling process alone writes the store.

What travels keeps every bit, and its layout in memory:

>>> x = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
>>> decoded = unload(load_up(Decoded(Batch(0, 0, range(2)), ["…", "…"], ["", ""], {"tower": x})))
>>> y = decoded.prepared["tower"]
>>> torch.equal(x, y), x.stride() == y.stride()
(True, True)
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import platform
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sing_utils.batches import Batch, BatchResult, Decoded, Engine, Extractor, decode_batch, map_tensors
from sing_utils.computing import Compute, compute_batch
from sing_utils.errors import SingError
from sing_utils.fitting import gram_of_shards
from sing_utils.sources import PictureSource
from sing_utils.translator import TranslatorFitter

_RETRIES = 4  # of one task whose process died; one that always dies must end at some time
_DECODING = 0.25  # of each core of the cluster; decoding takes less than the model does
_MOST_BATCHES = 8  # a task, so that Ray's own work for each task does not count
_TASKS_AN_ACTOR = 16  # at least, as long as there are so many batches; the actors then end together


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

    A task or actor whose process dies is started again and its batches are computed again, a few times.

    Args:
        load: makes the model in an actor, such as `partial(load_classifier, "timm:resnet18.a1_in1k")`; it
            must make the model that `extract` is called with, which is checked.
        actors: how many; None: as many as the cluster has room for now.
        num_gpus: of each actor; None: 1 where `extract` computes on "cuda", else 0.
        address: of a cluster; None: RAY_ADDRESS, else one that runs on this machine, else a Ray of this
            process alone, which ends with the extraction.
        precision: as `extract` is called with.
        device: as `extract` is called with.

    Raises:
        SingError: without Ray; when the engine runs, for a cluster that can't be reached or has no room,
            workers with other software, weights or files than here, and a batch that kills its process.
    """
    _require_ray()
    if actors is not None and actors < 1:
        raise SingError(f"actors is {actors}, expected at least 1 that computes.")

    def engine(
        extractor: Extractor, source: PictureSource, batches: Sequence[Batch]
    ) -> Iterator[BatchResult]:
        compute = Compute.of(extractor, precision, device=device)
        with connected(address), _as_sing_errors():
            pool = _Pool.of(compute, actors, num_gpus)
            for row in _stages(load, extractor, source, batches, compute, pool).iter_rows():
                yield unload(row)

    return engine


def ray_map(
    *, address: str | None = None, ahead: int | None = None
) -> Callable[[Callable[..., Any], Iterable[Any]], Iterator[Any]]:
    """Like the built-in `map`, in Ray tasks: results in order, few items at a time; a `fitting.Mapper`.

    A task gets as many threads as this process has, so that it computes the same bits.

    Args:
        address: as in `ray_engine`.
        ahead: items that are sent before the first result is taken; None: twice what the cluster runs.
    """
    ray = _require_ray()

    def mapper(function: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        with connected(address), _as_sing_errors():
            threads = min(torch.get_num_threads(), int(_largest_node("CPU")))
            task = ray.remote(num_cpus=threads, max_retries=_RETRIES)(_with_threads)
            most = ahead or 2 * max(1, int(ray.cluster_resources().get("CPU", 1) // threads))
            call, waiting = ray.put(function), deque[Any]()
            for item in items:
                waiting.append(task.remote(threads, call, item))
                if len(waiting) >= most:
                    yield ray.get(waiting.popleft())
            while waiting:
                yield ray.get(waiting.popleft())

    return mapper


def gram_on_ray(pairs: Iterable[tuple[Tensor, Tensor]], *, address: str | None = None) -> TranslatorFitter:
    """`fitting.gram_of_shards` with each shard's sums in a Ray task; merged here, in order.

    Args:
        pairs: of features f (B, m) and targets z (B, n), a shard each.
        address: as in `ray_engine`.

    Raises:
        SingError: as `gram_of_shards` and `ray_engine`.
    """
    total: TranslatorFitter | None = None
    for one in ray_map(address=address)(_gram_of_shard, pairs):
        if total is None:
            total = one
        else:
            total.merge(one)
    return gram_of_shards([]) if total is None else total  # the former raises


def _gram_of_shard(pair: tuple[Tensor, Tensor]) -> TranslatorFitter:
    return gram_of_shards([pair])


def _with_threads(threads: int, function: Callable[..., Any], item: Any) -> Any:
    torch.set_num_threads(threads)
    return function(item)


# ------------------------------------------------------------------------------ the two stages


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
        gpus = (1.0 if compute.device == "cuda" else 0.0) if gpus is None else gpus
        if (compute.device == "cuda") != (gpus > 0):
            raise SingError(
                f"{gpus:g} GPUs an actor do not go with computing on {compute.device}, expected "
                f"{'some' if compute.device == 'cuda' else 'none'}: leave num_gpus out, or give `extract` "
                "and `ray_engine` another device."
            )
        if gpus > there.get("GPU", 0):
            raise SingError(
                f"an actor wants {gpus:g} GPUs and the cluster has {there.get('GPU', 0):g}, expected as many "
                "or more: add a machine with a GPU, or extract on CPUs with device='cpu'."
            )
        if gpus:
            return cls(actors or int(there["GPU"] // gpus), gpus, 0.0, 1)
        if there.get("GPU", 0):
            _say("the cluster's GPUs are not used, because this process has none and computes on its CPU.")
        # As many threads as here, because their number may change the last bits.
        threads = min(torch.get_num_threads(), int(_largest_node("CPU")))
        most = max(1, int(there["CPU"] // threads))
        if actors is not None and actors > most:
            raise SingError(
                f"{actors} actors of {threads} threads do not fit into the cluster's {there['CPU']:g} CPUs, "
                f"expected at most {most}: ask for fewer, or set OMP_NUM_THREADS to less."
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
    """The Ray data set whose rows are results; it computes while they are taken."""
    import ray
    import ray.data

    place = _Place.here(source)
    shared = ray.put((place, source, _without_networks(extractor)))
    few = min(_MOST_BATCHES, max(1, len(batches) // (pool.actors * _TASKS_AN_ACTOR)))
    rows = ray.data.from_items([{"batch": b} for b in batches], override_num_blocks=-(-len(batches) // few))
    decoded = rows.map(
        partial(_decode, shared), num_cpus=_DECODING, ray_remote_args_fn=lambda: {"max_retries": _RETRIES}
    )
    return decoded.map(
        _Model,
        fn_constructor_args=(load, dict(extractor.identity), compute, pool.threads, place),
        compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(batches))),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": _RETRIES},
    )


def _decode(shared: Any, row: dict[str, Any]) -> dict[str, Any]:
    """The first stage, in a task."""
    source, extractor = _received(shared)
    return load_up(decode_batch(source, row["batch"], extractor.prepare))


@lru_cache(maxsize=1)
def _received(shared: Any) -> tuple[PictureSource, Any]:
    """What all tasks of an extraction need, fetched once in each process."""
    import ray

    place, source, extractor = ray.get(shared)
    place.enter()
    torch.set_num_threads(1)
    return source, pickle.loads(extractor)


class _Model:
    """The second stage, in an actor: one model, loaded when its first batch comes.

    Not before, because Ray starts an actor again whose process dies, but not while it is being made.
    """

    def __init__(
        self,
        load: Callable[[], Extractor],
        identity: dict[str, str],
        compute: Compute,
        threads: int,
        place: _Place,
    ) -> None:
        self.load, self.identity, self.compute, self.threads, self.place = (
            load, identity, compute, threads, place,
        )  # fmt: skip

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return load_up(compute_batch(self.extractor, unload(row), self.compute))

    @cached_property
    def extractor(self) -> Extractor:
        """The model, if it is the one whose results are wanted."""
        self.place.enter()
        torch.set_num_threads(self.threads)
        extractor = self.load()
        own = dict(extractor.identity) | {"device": Compute.of(extractor).device}
        wanted = self.identity | {"device": self.compute.device}
        if differ := [key for key in {**own, **wanted} if own.get(key) != wanted.get(key)]:
            raise SingError(
                f"the model in an actor on {socket.gethostname()} has another {', '.join(differ)} than here "
                f"({own.get(differ[0])}, expected {wanted.get(differ[0])}): load the same model in both."
            )
        return extractor


@dataclass(frozen=True)
class _Place:
    """Where this process runs and what it sees, which must be the same wherever it sends work."""

    folder: str
    file: Path | None  # one of the source's
    software: dict[str, str]

    @classmethod
    def here(cls, source: PictureSource) -> _Place:
        file = next(iter(source.files), None)
        return cls(os.getcwd(), file if file is not None and file.exists() else None, _software())

    def enter(self) -> None:
        """Work in the same folder, so that relative paths mean the same."""
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        host, software = socket.gethostname(), _software()
        if self.file is not None and not self.file.exists():
            raise SingError(
                f"the worker {host} sees no {self.file}, expected the pictures at the same path on every "
                "machine: put them on a file system that all machines share."
            )
        if differ := [name for name in software if software[name] != self.software.get(name)]:
            name = differ[0]
            raise SingError(
                f"the worker {host} has {name} {software[name]}, expected {self.software.get(name)} as here: "
                "install the same on every machine."
            )


def _software() -> dict[str, str]:
    """What changes the numbers; a store's key names it, so it must be true of every worker."""
    libraries = {name: version(name) for name in ("torch", "torchvision", "pillow")}
    return libraries | {"machine": platform.machine()}


# ------------------------------------------------------------------------------ what travels


def load_up(item: Decoded | BatchResult) -> dict[str, Any]:
    """A batch as a row of a Ray data set: the bytes of its tensors, and all the rest."""
    data: list[np.ndarray[Any, Any]] = []

    def take(x: Tensor) -> Tensor:
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            x = x.contiguous()
        data.append(x.as_strided((x.numel(),), (1,)).view(torch.uint8).numpy())
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")

    field = "prepared" if isinstance(item, Decoded) else "tensors"
    rest = replace(item, **{field: map_tensors(take, getattr(item, field))})
    return {"rest": rest, "data": np.concatenate([np.empty(0, np.uint8), *data])}


def unload(row: dict[str, Any]) -> Any:
    """What `load_up` was given."""
    item, data, start = row["rest"], row["data"], 0

    def fill(x: Tensor) -> Tensor:
        nonlocal start
        size = x.numel() * x.element_size()
        part = np.array(data[start : start + size])  # a copy, since a model may write into its input
        start += size
        return torch.from_numpy(part).view(x.dtype).as_strided(x.shape, x.stride())

    field = "prepared" if isinstance(item, Decoded) else "tensors"
    return replace(item, **{field: map_tensors(fill, getattr(item, field))})


class _NoNetwork:
    """Stands for a network where pictures are only decoded."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def _without_networks(extractor: Extractor) -> bytes:
    """An extractor that can `prepare` but not `compute`, to be sent to every process that decodes.

    Raises:
        SingError: if it can't be sent.
    """
    from ray import cloudpickle

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
        def reducer_override(self, x: Any) -> Any:
            network = isinstance(x, nn.Module) and next(x.parameters(), None) is not None
            if network or (isinstance(x, Tensor) and x.device.type != "cpu"):
                return _NoNetwork, ()
            return super().reducer_override(x)

    file = io.BytesIO()
    try:
        Pickler(file).dump(extractor)
    except Exception as error:  # whatever an object's own way to be sent raises
        raise SingError(
            f"{extractor.identity.get('name', 'the model')} can't be sent to another process "
            f"({' '.join(str(error).split())[:120]}), expected one that can: make its transform from "
            "functions and classes of a module."
        ) from None
    return file.getvalue()


# ------------------------------------------------------------------------------ Ray itself


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Be connected to a Ray: the one that this process uses already, a cluster, or an own one until the end.

    Args:
        address: as in `ray_engine`.

    Raises:
        SingError: without Ray, or for a cluster that can't be reached.
    """
    ray = _require_ray()
    if ray.is_initialized():
        yield
        return
    wanted = address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        _start(wanted)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if wanted != "auto":
            raise SingError(
                f"no Ray answers at {wanted} ({' '.join(str(error).split())[:120]}), expected a cluster: check "
                "the address and `ray status`, or unset RAY_ADDRESS to use this machine alone."
            ) from None
        _start("local")
    try:
        yield
    finally:
        ray.shutdown()


def _start(address: str) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        quiet |= {"num_cpus": cores, "include_dashboard": False}
    ray.init(address=address, **quiet)


@contextlib.contextmanager
def _as_sing_errors() -> Iterator[None]:
    """What was raised in a worker, as what it was there; and a process that died again and again."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise _sing_error(error) from None


def _sing_error(error: BaseException) -> BaseException:

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SingError):
            return SingError(str(cause))
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error


def _require_ray() -> Any:
    """The library, told to be quiet.

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
            "extraction on Ray needs the library `ray`, which is missing: pip install 'sing_utils[ray]'."
        ) from None
    return ray


def _largest_node(resource: str) -> float:
    import ray

    return max((n["Resources"].get(resource, 0.0) for n in ray.nodes() if n["Alive"]), default=1.0) or 1.0


def _say(text: str) -> None:
    print(f"ray: {text}", file=sys.stderr, flush=True)
