"""The live explorers: widgets whose arithmetic runs in the page, with or without Python behind them.

    explorer = PairExplorer.of(run)
    explorer.alpha = 1.5                 # moves the slider
    explorer.reading                     # {'IS': ..., 'AS': ...}, degrees, as the page computed them

Their settings are traits, shared by page and Python. In a page without a kernel everything works but
free text and exact pictures, which need the encoder and the decoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import anywidget
import pandas as pd
import torch
import traitlets
from torch import Tensor

from sing_utils.errors import SingError
from sing_utils.live import basis, dial, lens, moves
from sing_utils.live.explorers import features, thumbnails, top_logits, webp
from sing_utils.measure.tables import class_angles
from sing_utils.method.scores import attribute_score, image_score, pairwise_angle
from sing_utils.method.steering import steer
from sing_utils.runs.run import Run
from sing_utils.show import charts_explorers as charts
from sing_utils.show.charts import MIME
from sing_utils.show.findings import number
from sing_utils.show.gallery import image_source

_PAGES = Path(__file__).parent / "pages"
_SHOWN = 8  # phrases at either end of a static picture


def _module(*parts: str) -> str:
    """The page script of an explorer: one module, since a page may have no server to import from."""
    return "".join((_PAGES / f"{part}.js").read_text(encoding="utf-8") for part in ("common", *parts))


class Explorer(anywidget.AnyWidget):
    """What all explorers share.

    Attributes:
        data: what the page computes from.
        prompts: free texts that Python encoded for the page.
        reading: the numbers of the current point, written by the page.
    """

    _css = (_PAGES / "explorers.css").read_text(encoding="utf-8")
    data = traitlets.Dict().tag(sync=True)
    prompts = traitlets.Dict().tag(sync=True)
    reading = traitlets.Dict().tag(sync=True)
    classifier = traitlets.Unicode().tag(sync=True)  # as it opens, the run's first

    def __init__(self, run: Run, *, data: dict[str, Any], **values: Any) -> None:
        super().__init__(**{"data": data, "classifier": data["classifiers"][0]} | values)
        self._run = run
        self.on_msg(self._answer)

    def _answer(self, _widget: Any, message: dict[str, Any], _buffers: Any) -> None:
        """What the page asks: whether anybody is there, a free text, a picture."""
        try:
            if message["kind"] == "hello":
                self.send({"kind": "alive"})
            elif message["kind"] == "prompt":
                text = str(message["text"])
                self.prompts = {**self.prompts, text: self._encode(text)}
            elif message["kind"] == "draw":
                self.send({"kind": "picture", "key": message["key"]}, [self._draw(message)])
        except Exception as error:
            self.send({"kind": "error", "message": str(error) or type(error).__name__})
            if not isinstance(error, SingError):
                raise  # no mistake of the reader's: the log shall have it

    def _encode(self, text: str) -> dict[str, Any]:
        """The numbers of a free text, in the form that `data` has them."""
        raise SingError(f"{type(self).__name__} takes no prompts.")

    def _draw(self, message: dict[str, Any]) -> bytes:
        """A picture of one point, as a WebP file."""
        raise SingError(f"{type(self).__name__} draws no pictures.")

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and a chart of its first state for pages without JavaScript, which names it."""
        shown = super()._repr_mimebundle_(**kwargs)
        if shown is None:
            return None
        chart = self.first_state().to_dict()
        chart["usermeta"] = {"widget": self.model_id}
        return {**shown[0], MIME: chart}, shown[1]

    def first_state(self) -> Any:
        """A static Altair chart of the explorer as it opens."""
        raise NotImplementedError


class _PhotoExplorer(Explorer):
    """What the explorers of one photo share: its menus, free texts and exact pictures."""

    photo = traitlets.Int(0, min=0).tag(sync=True)
    _text: str  # the trait that names a text

    def __init__(self, run: Run, **values: Any) -> None:
        super().__init__(run, **values)
        self.observe(self._ask, self._text)

    def _photo(self, name: str, place: int) -> tuple[str, Tensor]:
        """A photo's class and feature (1, m)."""
        row = moves.offered_photos(self._run).iloc[[place]]
        return row["class"].iloc[0], features(self._run, name, row)

    def _ask(self, change: Any) -> None:
        """A text that Python sets is encoded as one that a page asks for."""
        text, names = change["new"], self.data.get("names", ())
        bare = text.strip("“”") if names else text  # in quotes, no short name is meant
        if text and text not in names and bare not in (*self.data["texts"], *self.prompts):
            self.prompts = {**self.prompts, bare: self._encode(bare)}

    def _draw(self, message: dict[str, Any]) -> bytes:
        name = str(message["classifier"])
        z = self._embedding(name, self._photo(name, int(message["photo"]))[1], message)  # (1, n)
        return webp(self._run.draw(name, z.float(), noise=self._run.seed)[0])

    def _embedding(self, name: str, f: Tensor, message: dict[str, Any]) -> Tensor:
        """What the picture of one point shows, for a feature (1, m): (1, n)."""
        raise NotImplementedError


class PairExplorer(_PhotoExplorer):
    """A photo's feature and its equivalents f - α Π_n f: logits, scores, phrases, pictures.

    Attributes:
        classifier: name of the classifier.
        photo: place of the photo among those that are offered.
        alpha: how much of the null component is taken away; 0 is the original, 1 null removal.
        toward: text of the Attribute Score; empty: the prompt of the photo's class.
    """

    _esm, _text = _module("photo", "pair"), "toward"
    alpha = traitlets.Float(1.0, min=-1.0, max=2.0).tag(sync=True)
    toward = traitlets.Unicode("").tag(sync=True)

    @classmethod
    def of(cls, run: Run) -> Self:
        """The explorer of a run."""
        photos = moves.offered_photos(run)
        return cls(run, data=moves.pair_numbers(run, photos), photo=moves.telling_photo(run, photos))

    def _encode(self, text: str) -> dict[str, Any]:
        return moves.pair_cosines(self._run, moves.offered_photos(self._run), [text])

    def _embedding(self, name: str, f: Tensor, message: dict[str, Any]) -> Tensor:
        return moves.pair_embeddings(self._run, name, f, [float(message["alpha"])])[:, 0]

    def first_state(self) -> Any:
        """The photo with its null component removed."""
        run, name = self._run, self.classifier
        c, f = self._photo(name, self.photo)
        a, b = moves.pair_vectors(run, name, f)
        own, phrases = run.texts(name, [run.prompt(c)]).double(), run.texts(name, run.profile.phrases)
        AS = (pairwise_angle(a, phrases) - pairwise_angle(a - b, phrases))[0]
        z = moves.pair_embeddings(run, name, f, [0.0, 1.0])[0].float()
        IS, AS_own = float(image_score(a, a - b)), float(attribute_score(a, a - b, own))
        return charts.pair(
            top_logits(run, name, f),
            _farthest(run.profile.phrases, AS),
            [image_source(i) for i in run.draw(name, z, noise=run.seed)],
            title=f"Equivalent pair: {c}, {name}",
            subtitle=f"Image Score {number(IS)}°, Attribute Score {number(AS_own, sign=True)}°",
        )


class SteeringExplorer(_PhotoExplorer):
    """A photo's feature after a step in the null space toward a target.

    Attributes:
        classifier: name of the classifier.
        photo: place of the photo among those that are offered.
        target: short name of what is steered toward, or any text; in “quotes”, no short name is meant.
        degrees: the wanted IS.
    """

    _esm, _text = _module("photo", "steering"), "target"
    target = traitlets.Unicode().tag(sync=True)
    degrees = traitlets.Float(40.0, min=0.0, max=float(moves.FARTHEST)).tag(sync=True)

    @classmethod
    def of(cls, run: Run) -> Self:
        """The explorer of a run."""
        photos = moves.offered_photos(run)
        classes = photos["class"].to_list()
        return cls(
            run,
            data=moves.steering_numbers(run, photos),
            photo=classes.index(run.source_class) if run.source_class in classes else 0,
            target=run.targets[0],
            degrees=min(run.degrees, moves.FARTHEST),
        )

    def _encode(self, text: str) -> dict[str, Any]:
        run, photos = self._run, moves.offered_photos(self._run)
        return moves.pack_planes([moves.steering_planes(run, k, photos, [text]) for k in run.classifiers])

    def _embedding(self, name: str, f: Tensor, message: dict[str, Any]) -> Tensor:
        degrees, text = float(message["degrees"]), self._run.texts(name, [str(message["target"])])[0]
        z = moves.steered_embeddings(self._run, name, f, text, degrees)
        if bool(z.isnan().any()):
            raise SingError(f"IS = {degrees:g}° can't be reached from this photo: choose fewer degrees.")
        return z

    def first_state(self) -> Any:
        """AS along the way toward the first target."""
        run, name, T = self._run, self.classifier, self._run.translator(self.classifier)
        c, f = self._photo(name, self.photo)
        target = moves.steering_targets(run).get(self.target, self.target.strip("“”"))
        texts = dict(zip([self.target, c], run.texts(name, [target, run.prompt(c)]), strict=True))
        wanted = torch.arange(0.0, moves.FARTHEST + 1, 2.0, dtype=torch.float64)
        f = f.expand(len(wanted), -1)
        result = steer(f, texts[self.target], T, run.spaces(name), degrees=wanted)
        reached = ~result.IS.isnan()
        z, z_eps = T(f[reached]), T(result.f_eps[reached])
        IS, AS = result.IS[reached], {k: attribute_score(z, z_eps, u.double()) for k, u in texts.items()}
        curves = [pd.DataFrame({"IS": IS, "AS": AS[toward], "toward": toward}) for toward in texts]
        return charts.steering(
            pd.concat(curves),
            title=f"Steering: {c} toward {self.target}, {name}",
            subtitle="Every feature along these lines has the same logits.",
        )


class ConceptLens(Explorer):
    """Hundreds of phrases against the photos of one class.

    Attributes:
        classifier: name of the classifier.
        class_name: name of the class.
        filter: only phrases with these letters are shown.
        order: column by which rows are sorted (phrase, before, after or AS), with "-" the other way.
        phrase: the phrase that is shown in detail; empty: the first one.
    """

    _esm = _module("lens")
    class_name = traitlets.Unicode().tag(sync=True)
    filter = traitlets.Unicode("").tag(sync=True)
    order = traitlets.Unicode("-AS").tag(sync=True)
    phrase = traitlets.Unicode("").tag(sync=True)

    @classmethod
    def of(cls, run: Run) -> Self:
        """The lens of a run, with small pictures of its photos."""
        small = thumbnails(run)
        explorer = cls(run, data=lens.lens_numbers(run, small), class_name=run.concept_classes[0])
        explorer._thumbnails = small
        return explorer

    def _encode(self, text: str) -> dict[str, Any]:
        return lens.lens_table(self._run, self._thumbnails, [text])

    def first_state(self) -> Any:
        """The phrases that move most for the first class."""
        run, name, c = self._run, self.classifier, self.class_name
        texts = run.texts(name, run.profile.phrases)
        before, after, paths = class_angles(run, name, c, texts)
        return charts.lens(
            _farthest(run.profile.phrases, (before - after).mean(0)),
            title=f"Concept lens: {c}, {name}",
            subtitle=f"Those of {len(run.profile.phrases)} phrases that move most; {len(paths)} photos",
        )


class NullSpaceDial(Explorer):
    """A head's spectrum, and what would follow if more of its directions counted as null.

    Attributes:
        classifier: name of the classifier.
        dropped: directions that count as null beyond the exact null space.
    """

    _esm = _module("dial")
    dropped = traitlets.Int(0, min=0).tag(sync=True)

    @classmethod
    def of(cls, run: Run) -> Self:
        """The dial of a run."""
        return cls(run, data=dial.dial_numbers(run))

    def first_state(self) -> Any:
        """The spectrum and the exact null space."""
        spaces = self._run.spaces(self.classifier)
        sigma = spaces.singular_values[: spaces.rank].numpy()
        table = pd.DataFrame({"direction": range(1, len(sigma) + 1), "σ": sigma})
        return charts.dial(
            table,
            spaces.rank,
            spaces.width,
            title=f"Null-space dial: {self.classifier}",
            subtitle=f"{spaces.null_dim} of {spaces.width} directions move no logit at all",
        )


class BasisExplorer(Explorer):
    """The null component of every feature times s, W as it is: scores move, logits do not.

    Attributes:
        classifier: name of the classifier.
        s: how much the null component is stretched; the page goes to the nearest stretch that was measured.
    """

    _esm = _module("basis")
    s = traitlets.Float(1.0).tag(sync=True)

    @classmethod
    def of(cls, run: Run, stretched: pd.DataFrame) -> Self:
        """The explorer of a run.

        Args:
            run: whose classifiers.
            stretched: of `sing_utils.measure.basis.stretches`.
        """
        explorer = cls(run, data=basis.basis_numbers(run, stretched))
        explorer._stretched = stretched
        return explorer

    def first_state(self) -> Any:
        """IS over the stretch."""
        return charts.basis(
            self._stretched,
            title="Same network, another basis",
            subtitle="No logit moves along these lines.",
        )


def _farthest(phrases: list[str], AS: torch.Tensor) -> pd.DataFrame:
    """The phrases with the lowest and the highest AS: phrase, AS."""
    table = pd.DataFrame({"phrase": phrases, "AS": AS.numpy()}).sort_values("AS")
    return pd.concat([table.head(_SHOWN), table.tail(_SHOWN)]).drop_duplicates()
