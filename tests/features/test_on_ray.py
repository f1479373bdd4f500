"""Extraction on Ray: the local engine's bytes, whoever is killed; here on one machine with 2 workers."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import time
from functools import partial

import psutil
import pytest
import torch
from PIL import Image
from torch import nn

from sing_utils import SingError
from sing_utils.features.engine import Compute
from sing_utils.features.extraction import extract
from sing_utils.features.fitting import fit_stores
from sing_utils.features.on_ray import (
    Place,
    _Pool,
    connected,
    ray_engine,
    ray_map,
    require_ray,
    without_networks,
)
from sing_utils.models.classifiers import load_classifier
from sing_utils.sources.by_name import open_source

ray = pytest.importorskip("ray")
LITE = "efficientnet_lite0"


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this process with 2 CPUs; nothing of it is left afterwards."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import this file
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    with connected():
        yield
        assert ray.is_initialized()
    assert ray.is_initialized()  # whoever found it running leaves it running
    ray.shutdown()
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    psutil.wait_procs(left, timeout=10)
    assert not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


class Mean:
    """Features are means of pixels; slow, so that there is time to be killed, and it notes who it is."""

    def __init__(self, notes, *, deadly="", width=3, name="mean"):
        self.identity, self.width = {"name": name}, width
        self.notes, self.deadly = notes, deadly

    def prepare(self, image):
        if self.deadly and image.width == 13:  # kills whoever decodes it, but only once
            try:
                (self.notes / "decoding").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return torch.tensor(list(image.resize((8, 8)).tobytes()), dtype=torch.float32)

    def compute(self, batch):
        if self.deadly:
            (self.notes / f"computing-{os.getpid()}").touch()
            time.sleep(0.15)
        return {"features": batch[:, : self.width] / 7}


def write_pictures(folder, make_picture, count, junk=()):
    for i in range(count):
        make_picture(folder / f"{i:03d}.png", seed=i, size=(5 + i, 9))
        if i in junk:
            (folder / f"{i:03d}.png").write_bytes(b"junk")
    return folder


def same_files(a, b):
    names = sorted(p.name for p in a.iterdir())
    assert names == sorted(p.name for p in b.iterdir())
    assert "manifest.json" in names
    assert len(names) > 3
    return [name for name in names if (a / name).read_bytes() != (b / name).read_bytes()] == []


# ---------------------------------------------------------------------------------- on a cluster


def test_a_real_classifier_gives_the_same_store_to_the_last_bit(cluster, tmp_path, make_picture):
    """Rejects, a batch without a readable picture and a short last batch included."""
    pictures = write_pictures(tmp_path / "pictures", make_picture, 22, junk=(3, 8, 9, 10, 11))
    load = partial(load_classifier, LITE)
    options = {"batch_size": 4, "shard_rows": 8, "progress": False}
    extract(load(), pictures, tmp_path / "local", workers=0, **options)
    store = extract(load(), pictures, tmp_path / "ray", engine=ray_engine(load, actors=2), **options)
    assert same_files(tmp_path / "local", tmp_path / "ray")
    assert (len(store), len(store.rejects)) == (17, 5)


def test_killed_workers_lose_and_double_nothing(cluster, tmp_path, make_picture):
    """One of two actors is killed while it computes, and a process while it decodes."""
    pictures = write_pictures(tmp_path / "pictures", make_picture, 40)
    options = {"batch_size": 2, "shard_rows": 7, "progress": False}
    extract(Mean(tmp_path), pictures, tmp_path / "local", workers=0, **options)

    load, killed = partial(Mean, tmp_path, deadly="yes"), []
    whole = ray_engine(load, actors=2)

    def engine(*arguments):
        for i, result in enumerate(whole(*arguments)):
            yield result
            pids = [int(p.name.partition("-")[2]) for p in tmp_path.glob("computing-*")]
            if not killed and len(pids) == 2 and i > 2:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

    store = extract(load(), pictures, tmp_path / "ray", engine=engine, **options)
    assert len(killed) == 1
    assert (tmp_path / "decoding").exists()
    assert len(list(tmp_path.glob("computing-*"))) == 3  # the two, and who came for the killed one
    assert same_files(tmp_path / "local", tmp_path / "ray")
    assert len(store) == 40


def test_another_model_in_the_actors_is_refused(cluster, tmp_path, make_picture):
    pictures = write_pictures(tmp_path / "pictures", make_picture, 2)
    engine = ray_engine(partial(Mean, tmp_path, name="another"), actors=1)
    with pytest.raises(SingError, match="in an actor on .* has name another, expected mean as here"):
        extract(Mean(tmp_path), pictures, tmp_path / "ray", engine=engine, progress=False)
    assert not (tmp_path / "ray" / "manifest.json").exists()


def test_a_fit_on_ray_has_the_bits_of_a_local_one(cluster, tmp_path, make_picture):
    pictures = write_pictures(tmp_path / "pictures", make_picture, 30)
    options = {"shard_rows": 8, "workers": 0, "progress": False}
    f = extract(Mean(tmp_path, width=5), pictures, tmp_path / "f", **options)
    z = extract(Mean(tmp_path, width=4), pictures, tmp_path / "z", **options)
    local, there = fit_stores(f, z), fit_stores(f, z, mapper=ray_map())
    assert torch.equal(local.weight, there.weight)
    assert local.report == there.report


def test_mapping_keeps_the_order_and_reads_little_ahead(cluster, tmp_path):
    read = []

    def items():
        for i in range(9):
            read.append(i)
            yield i

    def square(i):
        time.sleep(0.2 if i == 0 else 0)
        if i == 4 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return i * i, torch.get_num_threads()

    results = ray_map(ahead=3)(square, items())
    assert next(results) == (0, torch.get_num_threads())
    assert read == [0, 1, 2]
    assert [x for x, _ in results] == [1, 4, 9, 16, 25, 36, 49, 64]
    assert (tmp_path / "killed").exists()


def test_a_mistake_in_a_worker_is_the_same_mistake_here(cluster):
    def refuse(x):
        raise SingError(f"{x} is no good, expected another: choose one.")

    with pytest.raises(SingError, match="^7 is no good, expected another: choose one.$"):
        list(ray_map()(refuse, [7]))
    with pytest.raises(ZeroDivisionError, match="division by zero"):  # a bug keeps its traceback
        list(ray_map()(lambda x: 1 / x, [0]))


# ----------------------------------------------------------------------------------- the actors


@pytest.fixture
def resources(monkeypatch):
    """Pretend a cluster of machines."""

    def pretend(*machines):
        total = {}
        for machine in machines:
            for kind, amount in machine.items():
                total[kind] = total.get(kind, 0.0) + amount
        monkeypatch.setattr(ray, "cluster_resources", lambda: total)
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": m} for m in machines])
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    return pretend


CPU, GPU = Compute("cpu", "float32"), Compute("cuda", "bfloat16")


def test_actors_fill_the_cluster(resources):
    resources({"CPU": 16.0}, {"CPU": 8.0})
    assert _Pool.of(CPU, None, None) == _Pool(actors=6, gpus=0, cpus=3.0, threads=4)  # 24 / 4
    assert _Pool.of(CPU, 2, None).actors == 2
    resources({"CPU": 2.0}, {"CPU": 2.0})  # machines smaller than this one
    assert _Pool.of(CPU, None, None) == _Pool(actors=2, gpus=0, cpus=1.5, threads=2)
    resources({"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 2.0})
    assert _Pool.of(GPU, None, None) == _Pool(actors=6, gpus=1, cpus=0, threads=1)
    assert _Pool.of(GPU, None, 0.5).actors == 12


def test_gpus_that_do_nothing_are_mentioned(resources, capsys):
    resources({"CPU": 8.0, "GPU": 4.0})
    assert _Pool.of(CPU, None, None).gpus == 0
    assert "GPUs are not used" in capsys.readouterr().err
    with pytest.raises(SingError, match="actors is 0, expected at least 1"):
        ray_engine(Mean, actors=0)


@pytest.mark.parametrize(
    ("compute", "actors", "gpus", "message"),
    [
        (CPU, 3, None, "3 actors of 4 threads are wanted, expected at most 2"),
        (CPU, None, 1, "1 GPUs, but `extract` computes on the CPU"),
        (GPU, None, None, "1 GPUs and the cluster has 0"),
        (GPU, None, 0, "0 GPUs and the cluster has 0"),
    ],
)
def test_actors_that_do_not_fit(resources, compute, actors, gpus, message):
    resources({"CPU": 8.0})
    with pytest.raises(SingError, match=message):
        _Pool.of(compute, actors, gpus)


def test_ray_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for need in (require_ray, lambda: ray_engine(Mean)):
        with pytest.raises(SingError, match="needs the library `ray`"):
            need()


# ----------------------------------------------------------------------------------- connecting


@pytest.fixture
def started(monkeypatch):
    """Addresses at which a Ray was started or looked for; none is."""
    addresses = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: addresses.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: addresses.append("shutdown"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return addresses


@pytest.fixture
def listener():
    """The address of a port where somebody listens, and of one where nobody does."""
    with socket.create_server(("127.0.0.1", 0)) as open_port, socket.create_server(("127.0.0.1", 0)) as other:
        closed = other.getsockname()[1]
        other.close()
        yield f"127.0.0.1:{open_port.getsockname()[1]}", f"127.0.0.1:{closed}"


def test_which_ray_is_used(started, listener, monkeypatch, tmp_path):
    there, nowhere = listener
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))

    def used(address=None):
        started.clear()
        with connected(address):
            assert started[-1] != "shutdown"
        assert started.pop() == "shutdown"  # an own one is ended; a cluster goes on without this process
        return started

    assert used() == ["local"]
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text(nowhere)  # of a cluster that was killed
    assert used() == ["local"]
    note.write_text(there)
    assert used() == ["auto"]
    monkeypatch.setenv("RAY_ADDRESS", there)
    assert used() == [there]
    assert used("local") == ["local"]


def test_a_cluster_that_is_not_there_is_an_error_at_once(started, listener, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", listener[1])
    with (
        pytest.raises(SingError, match=f"no Ray answers at {listener[1]} .nobody listens there."),
        connected(),
    ):
        pass
    assert started == []


# --------------------------------------------------------------------------- the same everywhere


def test_a_worker_that_differs_is_refused(tmp_path, make_picture, monkeypatch):
    pictures = write_pictures(tmp_path / "pictures", make_picture, 1)
    monkeypatch.chdir(tmp_path)
    place = Place.here(open_source("pictures"))  # a relative path
    monkeypatch.chdir("/")
    place.enter()
    assert os.getcwd() == str(tmp_path)
    (pictures / "000.png").rename(tmp_path / "elsewhere.png")
    with pytest.raises(SingError, match=r"sees no pictures/000.png, expected the pictures at the same path"):
        place.enter()
    with pytest.raises(SingError, match="has torch .*, expected 1.0 as here"):
        Place(str(tmp_path), None, place.software | {"torch": "1.0"}).enter()


def test_decoding_needs_no_network():
    classifier = load_classifier(LITE)
    data = without_networks(classifier)
    there = pickle.loads(data)
    image = Image.new("RGB", (50, 60), "red")
    assert torch.equal(there.prepare(image), classifier.prepare(image))
    assert not isinstance(there.model, nn.Module)
    assert len(data) < 6e6 < sum(4 * p.numel() for p in classifier.model.parameters())


def test_an_extractor_that_can_not_travel_is_named():
    with pytest.raises(SingError, match="stuck can't be sent to another process .*cannot pickle"):
        without_networks(type("Stuck", (), {"identity": {"name": "stuck"}, "__reduce__": _stuck})())


def _stuck(_):
    raise TypeError("cannot pickle it")
