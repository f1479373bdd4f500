"""The commands of `sing` that work on feature stores and heads: extract, fit, analyze, export-head."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from sing_utils.errors import SingError


def extract(
    images: Annotated[
        str,
        typer.Option(
            help="A folder, .csv of labels, ImageNet, .tar, .parquet or hf:NAME[@REVISION][#SPLIT]."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the feature store.")],
    classifier: Annotated[
        str | None,
        typer.Option(help="Whose features to keep: timm:, torchvision:, hf:, file:PATH.py:FUNCTION, ..."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Whose image embeddings to keep: embedded, karlo or open_clip:MODEL/PRETRAINED."),
    ] = None,
    select_classes: Annotated[
        list[str] | None, typer.Option(help="Only this label; give it again for more.")
    ] = None,
    per_class: Annotated[
        int | None, typer.Option(min=1, help="At most so many pictures of each label, in each split.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or uint8.")] = "float32",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures a forward pass; default: what fits.")
    ] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Pictures a shard.")] = 1024,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode pictures; default: one a core, less one.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto (16 bits on a GPU), float32, bfloat16 or float16.")
    ] = "auto",
    engine: Annotated[str, typer.Option(help="local, or ray for many machines.")] = "local",
) -> None:
    """Extract features (or embeddings) of pictures into a resumable store."""
    from sing_utils.features import extraction
    from sing_utils.models.classifiers import load_classifier, require_classifier
    from sing_utils.models.encoders import load_encoder, require_encoder
    from sing_utils.models.judges import is_tower_of
    from sing_utils.models.networks import PACKAGED
    from sing_utils.sources.by_name import open_source
    from sing_utils.sources.folders import described

    if (classifier is None) == (encoder is None):
        raise SingError("expected exactly one of --classifier and --encoder: give one of them.")
    if classifier is not None:
        require_classifier(classifier)
    else:
        require_encoder(str(encoder))
    source = open_source(images)  # before a model is loaded
    if select_classes or per_class:
        source = source.select(select_classes or None, per_label=per_class)
    load: Any = partial(load_classifier, classifier) if classifier else partial(load_encoder, str(encoder))
    chosen = _engine(engine, load, precision)
    typer.echo(described(source))
    store = extraction.extract(
        load(),
        source,
        out,
        dtype=dtype,
        batch_size=batch_size,
        shard_rows=shard_rows,
        workers=workers,
        precision=precision,
        engine=chosen,
    )
    typer.echo(f"{len(store)} pictures in {out}, {len(store.rejects)} rejected.")
    identity = store.manifest["extractor"]
    if classifier and "signs" in identity and (on := [t for t in PACKAGED if is_tower_of(t, identity)]):
        typer.echo(
            f"{classifier} is built on {', '.join(on)}: the embedded encoder will judge it without it."
        )
    for row in store.rejects.head(5).itertuples():
        typer.echo(f"  rejected: {row.path}: {row.reason}", err=True)


def _engine(name: str, load: Any, precision: str) -> Any:
    """An engine by name; None is the local one. `load` makes the model, wherever it is called."""
    if not _is_ray(name):
        return None
    from sing_utils.features.on_ray import ray_engine

    return ray_engine(load, precision=precision)


def _is_ray(engine: str) -> bool:
    """Whether the engine is Ray, and it is there."""
    if engine not in ("local", "ray"):
        raise SingError(f"unknown engine {engine!r}, expected local or ray.")
    if engine == "ray" and find_spec("ray") is None:
        raise SingError("--engine ray needs the library `ray`: pip install -e '.[ray]'.")
    return engine == "ray"


def fit(
    features: Annotated[Path, typer.Option(help="Feature store of a classifier.")],
    targets: Annotated[Path, typer.Option(help="Store of an encoder, of the same pictures.")],
    out: Annotated[Path, typer.Option(help="File to write, such as T.safetensors.")],
    encoder: Annotated[
        str | None, typer.Option(help="Whose store the targets are; needed if it has several towers.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split's pictures; give it again for more.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the pictures that chooses the ridge.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    engine: Annotated[str, typer.Option(help="local, or ray: on a cluster.")] = "local",
) -> None:
    """Fit a translator on two feature stores, shard by shard."""
    from sing_utils.features.fitting import fit_stores
    from sing_utils.features.store import FeatureStore
    from sing_utils.files import require_place, write_whole
    from sing_utils.models.encoders import load_encoder
    from sing_utils.sources.folders import clean_split

    store, embeddings = FeatureStore.open(features), FeatureStore.open(targets)
    require_place(out, size=4 * store.width("features") * max(map(embeddings.width, embeddings.names)))
    if embeddings.names == ["features"]:
        raise SingError(
            f"--targets {targets} holds a classifier's features, expected an encoder's store: extract one "
            "with `sing extract --encoder`."
        )
    rows = store.index["split"].isin([clean_split(s) for s in split]).to_numpy() if split else None
    judge = None if encoder is None else load_encoder(encoder)
    fitting = partial(fit_stores, store, embeddings, encoder=judge, rows=rows, held_out=held_out, seed=seed)
    if _is_ray(engine):
        from sing_utils.features.on_ray import connected, ray_map

        with connected():  # once for both passes over the shards
            T = fitting(mapper=ray_map())
    else:
        T = fitting()
    write_whole(out, T.save)
    assert T.report is not None
    typer.echo(
        f"{out}: fitted on {T.report.n_fit} pictures; on {T.report.n_held_out} held out: "
        f"cosine {T.report.held_out_cosine:.3f}, R² {T.report.held_out_r2:.3f}."
    )
    if left := T.meta.get("left out"):
        typer.echo(f"Left out of the encoder: {left}, on which this classifier is built.")
    elif store.unsaid:
        typer.echo(store.unsaid)


def pack(
    out: Annotated[Path, typer.Option(help="Folder of the feature store.")],
    features: Annotated[
        Path | None, typer.Option(help="Features (N, m) of a classifier: .npy, .npz, .pt or .safetensors.")
    ] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Or embeddings (N, n) of an encoder.")] = None,
    table: Annotated[
        Path | None,
        typer.Option(help=".csv or .parquet: path, label, split of each row; default: of the same name."),
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Store of the same pictures, whose rows and order to take.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model; default: the file's.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or uint8.")] = "float32",
) -> None:
    """Make a feature store of arrays that were computed elsewhere, for `sing fit` and `sing run`."""
    from sing_utils.features.store import FeatureStore
    from sing_utils.measure.analyze_files import open_array, read_rows, rows_like

    file = features or embeddings
    if file is None or None not in (features, embeddings):
        raise SingError("expected exactly one of --features and --embeddings: give one of them.")
    tensor = "embeddings" if features is None else "features"
    array, other = open_array(file, tensor), None if like is None else FeatureStore.open(like)
    beside = (file.with_suffix(kind) for kind in (".csv", ".tsv", ".parquet"))
    table = table or next((t for t in beside if t.is_file()), None)
    if table is None and (other is None or len(array) != len(other)):
        raise SingError(
            f"nothing says what the {len(array)} rows of {file} show, expected --table FILE with a column "
            f"path (and label, split), or {file.stem}.csv beside it, or --like STORE of as many rows."
        )
    if other is not None:
        array = array if table is None else array[rows_like(read_rows(table), other)]
    index = read_rows(table) if other is None else other.index  # type: ignore[arg-type]
    store = FeatureStore.from_arrays(out, {tensor: array}, index, name=name or file.stem, dtype=dtype)
    labels = store.index["label"].nunique()
    typer.echo(f"{len(store)} rows of {store.width(tensor)} numbers in {out}, of {labels} labels.")
    if store.unsaid:
        typer.echo(store.unsaid)


def analyze(
    head: Annotated[Path, typer.Option(help="safetensors with weight (c, m) and perhaps bias (c,).")],
    features: Annotated[
        Path, typer.Option(help="Feature store, or .npy, .npz, .pt or .safetensors of (N, m).")
    ],
    translator: Annotated[
        Path | None, typer.Option(help="One that was fitted here, or a published best.pt: adds IS.")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="safetensors with embeddings (K, n) of texts: adds AS.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Or the encoder that embeds the prompts.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A text; give it again for more.")] = None,
    with_bias: Annotated[
        bool, typer.Option("--with-bias", help="Add a published translator's bias; the paper has none.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables, as Parquet.")] = None,
) -> None:
    """Analyse a head and features without their model: null energy, certificate, IS and AS."""
    from sing_utils.measure.analyze import analyze as analyze_files
    from sing_utils.measure.analyze_files import read_embeddings
    from sing_utils.models.encoders import load_encoder

    if (encoder is None) != (not prompt) or (embeddings is not None and prompt):
        raise SingError("expected either --embeddings, or --encoder with --prompt: give one of them.")
    texts = {} if embeddings is None else read_embeddings(embeddings)
    if encoder is not None and prompt:
        texts = dict(zip(prompt, load_encoder(encoder).encode_text(prompt), strict=True))
    found = analyze_files(head, features, translator=translator, texts=texts, with_bias=with_bias, out=out)
    typer.echo(found.text)
    if out is not None:
        typer.echo(f"Tables: {', '.join(sorted(p.name for p in out.glob('*.parquet')))} in {out}")


def export_head(
    classifier: Annotated[str, typer.Option(help="Whose head to write.")],
    out: Annotated[Path, typer.Option(help="File to write, such as head.safetensors.")],
) -> None:
    """Write a classifier's last linear layer, for `sing analyze`."""
    from sing_utils.execute.needs import head_bytes
    from sing_utils.files import require_place, write_whole
    from sing_utils.models.classifiers import load_classifier, require_classifier

    require_classifier(classifier)
    require_place(out, size=2**20 + head_bytes(classifier))  # before its weights are fetched
    head = load_classifier(classifier).head
    write_whole(out, head.save)
    typer.echo(f"{out}: {head.weight.shape[0]} classes x {head.weight.shape[1]} features of {classifier}.")
