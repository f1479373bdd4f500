"""What of a run decides whether its numbers can be set beside the paper's: classifiers, encoder, photos."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from sing_utils.published import Needs, Published
from sing_utils.results import Results

# CLIP ViT-L/14 with OpenAI's weights: the paper's, and Karlo's. Other weights make another space.
_ENCODERS = ("karlo", "open_clip:ViT-L-14")
_PROMPT = "an image of a {}"


@dataclass(frozen=True)
class RunFacts:
    """Facts of one run, from its record (run.json) and its tables.

    Attributes:
        results: of the run.
        published: what the paper says.
        apart: whether to take every classifier as the run's own: for claims where it is not comparable.
    """

    results: Results
    published: Published = field(repr=False)
    apart: bool = False

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The profile as it was resolved for the run; empty for a run that was made without a record."""
        found = self.results.record.get("parameters")
        return found if isinstance(found, dict) else {}

    @property
    def rehearsal(self) -> bool:
        """Whether weights were random, so that no number means anything."""
        noted = self.results.record.get("rehearsal", self.parameters.get("rehearse"))
        return bool(noted) if noted is not None else self.results.run.endswith("-rehearsal")

    @property
    def profile(self) -> str:
        """Name of the profile."""
        return str(self.results.record.get("profile") or self.parameters.get("name") or self.results.run)

    @property
    def level(self) -> float:
        """Confidence level of the run's intervals."""
        return float(self.parameters.get("confidence", 0.95))

    @cached_property
    def sources(self) -> dict[str, str]:
        """The run's classifiers by name: what was loaded for each."""
        given = self.parameters.get("classifiers")
        if isinstance(given, dict):
            return {str(name): str(source) for name, source in given.items()}
        sources = self.parameters.get("classifier_sources") or {}
        names = list(self._column("heads", "classifier")) if given is None else given
        return {str(name): str(sources.get(name, name)) for name in names}

    @cached_property
    def classes(self) -> set[str]:
        """Names of the classes of the run's photos."""
        return set(self._column("photos", "class")) or set(self._column("class_medians", "class"))

    @property
    def encoder(self) -> str:
        """Name of the vision–language encoder; "" if it is not recorded."""
        return str(self.parameters.get("encoder") or "")

    @cached_property
    def named(self) -> dict[str, str]:
        """Published name -> this run's name, for classifiers that come from the published weights."""
        if self.apart:
            return {}
        by_source = {source: name for name, source in self.sources.items()}
        found = {name: by_source.get(c.source) for name, c in self.published.classifiers.items()}
        return {name: own for name, own in found.items() if own is not None}

    def of(self, table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
        """Rows of the published classifiers among `names`, under their published names; all rows if none."""
        own = {self.named[name]: name for name in names if name in self.named}
        if not own:
            return table
        rows = table[table["classifier"].isin(own)]
        return rows.assign(classifier=rows["classifier"].map(own))

    def unlike(self, needs: Needs) -> str:
        """Why numbers of this run can't be compared with the paper's, in one clause; "" if they can."""
        return ", ".join(
            filter(
                None,
                [
                    self._other_classifiers(needs),
                    self._other_encoder() if needs.encoder else "",
                    self._other_classes() if needs.classes else "",
                    self._other_step() if needs.step else "",
                ],
            )
        )

    def _other_classifiers(self, needs: Needs) -> str:
        wanted = needs.all_of or needs.any_of
        found = [name for name in wanted if name in self.named]
        if len(found) == len(wanted) or (needs.any_of and found):
            return ""
        return f"only {_and(found)} of {len(wanted)} needed classifiers" if found else "other classifiers"

    def _other_encoder(self) -> str:
        if self.encoder.partition(":")[0] == _ENCODERS[0]:
            return ""
        if self.encoder.startswith(_ENCODERS[1]) and self.encoder.endswith("/openai"):
            return ""
        return f"another encoder ({self.encoder})" if self.encoder else "an encoder that is not recorded"

    def _other_classes(self) -> str:
        wanted = self.published.classes
        if self.parameters.get("prompt_template", _PROMPT) != _PROMPT:
            return "other prompts"
        if self.classes == wanted:
            return ""
        shared = len(self.classes & wanted)
        return f"photos of other classes ({shared} of the paper's {len(wanted)})"

    def _other_step(self) -> str:
        steps, wanted = self.results.get("steering"), self.published.numbers["step"].values["IS"]
        source = self.parameters.get("source_class") or "sports car"
        if steps is None or not len(steps):
            return "no step"
        first = steps.iloc[0]
        if (source, first["target"], float(first["IS"])) == ("sports car", "jellyfish", wanted):
            return ""
        return f"another step ({source} to {first['target']} at IS = {first['IS']:g}°)"

    def _column(self, table: str, column: str) -> list[str]:
        found = self.results.get(table)
        return [] if found is None or column not in found else list(dict.fromkeys(found[column].astype(str)))


def needed(needs: Needs) -> str:
    """The condition of a comparison as a sentence; "" if there is none."""
    parts = []
    if needs.all_of:
        parts.append(f"{_and(needs.all_of)} from the published weights")
    if needs.any_of:
        one = "" if len(needs.any_of) == 1 else "at least one of "
        parts.append(f"{one}{_and(needs.any_of)} from the published weights")
    if needs.encoder:
        parts.append("OpenAI's CLIP ViT-L/14 as the encoder")
    if needs.classes:
        parts.append("photos of the paper's 16 classes and its class prompts")
    if needs.step:
        parts.append("steps from sports car toward a jellyfish at IS = 40°")
    return f"Not comparable without {'; '.join(parts)}." if parts else ""


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
