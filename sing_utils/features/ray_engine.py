"""Extraction on many machines, with Ray Data: the same numbers as the local engine's, elsewhere.

::

    load = partial(load_classifier, "torchvision:resnet50@IMAGENET1K_V1")
    store = extract(load(), "/data/imagenet", "store/", engine=ray_engine(load))
    T = fit_stores(store, targets, encoder=encoder, mapper=ray_map())

Pictures are decoded in Ray tasks and go to actors, each of which holds one model. What travels is a batch
of the same `plan` that the local engine follows, so the results are the same to the last bit where the
machines are alike. This process alone writes the store.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import torch

from sing_utils.errors import SingError
from sing_utils.features.batches import Batch, BatchResult, Engine, Extractor, decode_batch
from sing_utils.features.computing import Compute, compute_batch
from sing_utils.features.ray_cluster import (
    Place,
    connected,
    gram_on_ray,
    ray_map,
    require_ray,
    threads_of_a_task,
)
from sing_utils.features.ray_transit import load_up, preparing, unload, without_networks
from sing_utils.sources.folders import PictureSource

__all__ = ["gram_on_ray", "ray_engine", "ray_map"]

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
                yield unload(row)

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
    return load_up(decode_batch(source, batches[row["number"]], extractor.prepare))


@lru_cache(maxsize=1)
def _received(shared: Any) -> tuple[PictureSource, Sequence[Batch], Any]:
    """What all tasks of an extraction need, fetched once in each process."""
    import ray

    place, source, batches, extractor = ray.get(shared)
    place.enter()
    torch.set_num_threads(1)
    return source, batches, preparing(extractor)


class _Model:
    """The second stage, in an actor: one model, loaded when its first batch comes.

    Not before, because Ray replaces an actor that dies at work, but not one that dies while it is made.
    """

    def __init__(
        self,
        load: Callable[[], Extractor],
        identity: dict[str, str],
        compute: Compute,
        threads: int,
        place: Place,
    ) -> None:
        self.load, self.identity, self.compute = load, identity, compute
        self.threads, self.place = threads, place

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
        for key in {**wanted, **own}:
            if own.get(key) != wanted.get(key):
                raise SingError(
                    f"the model in an actor on {socket.gethostname()} has {key} {str(own.get(key))[:100]}, "
                    f"expected {str(wanted.get(key))[:100]} as here: let `load` make the same model as "
                    "`extract` is given."
                )
        return extractor
