"""What the paper says, carried as data: its claims, its numbers, and where its public code differs.

The files are in data/published; an unknown key in one is an error that names it.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sing_utils.checkout import project_root
from sing_utils.errors import SingError, reason, unknown

FOLDER = Path("data/published")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Classifier(_Entry):
    """A published classifier: what to load, features m, null dimension, side of its input in pixels."""

    source: str
    width: int
    null_dimension: int
    pixels: int


class Numbers(_Entry):
    """Published numbers of one kind, by classifier, class or name.

    Attributes:
        what: is measured.
        unit: of the values; "" for plain numbers.
        where: they are published.
        got: how they came here.
        note: what else to know.
        errors: how far a value may be off: one for all, or by name; values without one are exact.
        values: by name.
    """

    what: str
    unit: str
    where: str
    got: Literal["printed", "read by eye", "computed"]
    note: str = ""
    errors: float | dict[str, float]
    values: dict[str, float] = Field(min_length=1)

    @model_validator(mode="after")
    def _errors_of_values(self) -> Numbers:
        for name in self.errors if isinstance(self.errors, dict) else ():
            if name not in self.values:
                raise ValueError(f"errors: there is no value {name!r}")
        return self

    def error(self, name: str) -> float:
        """How far a value may be off."""
        return self.errors.get(name, 0.0) if isinstance(self.errors, dict) else self.errors

    @property
    def widest(self) -> float:
        """An interval wider than this, half the span of the values, holds no information."""
        return (max(self.values.values()) - min(self.values.values())) / 2


class Needs(_Entry):
    """Without what a run's number cannot be compared with the paper's.

    Attributes:
        any_of: published classifiers of which the run must have one, from the published weights.
        all_of: published classifiers that the run must have, from the published weights.
        encoder: whether it must be the paper's.
        classes: whether the photos must be of the paper's classes.
        step: whether the steering must be that of Table 1.
    """

    any_of: list[str] = []
    all_of: list[str] = []
    encoder: bool = False
    classes: bool = False
    step: bool = False

    @property
    def words(self) -> str:
        """The conditions in one sentence; "" if there are none."""
        one = "one of " if len(self.any_of) > 1 else ""
        parts = [
            f"{one}{', '.join(self.all_of or self.any_of)} with the published weights"
            if self.all_of or self.any_of
            else "",
            "OpenAI's CLIP ViT-L/14 as the encoder" if self.encoder else "",
            "photos of the paper's 16 classes and its prompts" if self.classes else "",
            "steps from sports car toward a jellyfish at IS = 40°" if self.step else "",
        ]
        needed = "; ".join(filter(None, parts))
        return f"Not comparable without {needed}." if needed else ""


class Compare(_Entry):
    """A table's numbers beside published ones.

    Attributes:
        table: of the run.
        numbers: their name in numbers.yaml.
        by: column of the names of these numbers.
        where: column -> value, of the rows that count.
        column: of the values; "low" and "high" beside it are their intervals, unless `sd` is given.
        sd: column of standard deviations, where values are means.
        n: column of their numbers of rows.
    """

    table: str
    numbers: str
    by: str
    where: dict[str, str] = {}
    column: str = "value"
    sd: str = ""
    n: str = ""


class Claim(_Entry):
    """One claim, figure or table of the paper. See the head of claims.yaml.

    Attributes:
        id: of its row in a run's table `findings`.
        group: identity (holds by construction), measured (by any run), or paper (needs its models).
        where: in the paper.
        claim: in our words.
        page: notebook that its numbers come from.
        rule: how the verdict follows from numbers.
        needs: without what it is not comparable.
        finding: id of another row whose words to show; "": its own.
        compare: its numbers with published ones.
        never: why no run can be compared.
        checked: by what else than a run, for an identity.
        note: what a reader should know besides.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    group: Literal["identity", "measured", "paper"]
    where: str
    claim: str
    page: str = Field(pattern=r"^[0-9a-z_]+$")
    rule: str = ""
    needs: Needs = Needs()
    finding: str = ""
    compare: Compare | None = None
    never: str = ""
    checked: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> Claim:
        if sum(map(bool, (self.rule, self.compare, self.never, self.checked))) != 1:
            raise ValueError("expected one of rule, compare, never and checked")
        return self

    @property
    def how(self) -> str:
        """How it is judged, in words: the rule, and without what it is not comparable."""
        rule = f"Never comparable: {self.never}" if self.never else self.rule or self.checked
        if self.compare:
            rule = _COMPARED.format(by=self.compare.by)
        return " ".join(filter(None, [rule, self.needs.words]))


_COMPARED = (
    "A {by} agrees if the interval of its value overlaps the published value ± its error, differs if not; "
    "one that is wider than half the span of the published values is undecided. Together, agrees if nine in "
    "ten of the decided ones do, differs if fewer than half do, else undecided."
)


class Difference(_Entry):
    """One point where the paper and its public code differ, what this book does, and whom it follows."""

    item: str
    paper: str
    code: str
    ours: str
    follows: Literal["paper", "code", "both", "neither"]


_T = TypeVar("_T", bound=_Entry)


class Published:
    """Everything in data/published, each file read and checked when it is first asked for.

    A file that is missing, or has an unknown or ill-typed key, is a `SingError` that names it.

    Args:
        root: of the checkout; None: the one around the working folder.

    >>> table_1 = Published().numbers["table-1"]
    >>> table_1.values["DINO-ViT"], table_1.error("DINO-ViT"), round(table_1.widest, 2)
    (5.0, 0.59, 3.69)
    """

    def __init__(self, root: Path | None = None) -> None:
        self.folder = (root or project_root()) / FOLDER

    @cached_property
    def claims(self) -> list[Claim]:
        """In the file's order."""
        entries = self._read("claims.yaml", list)
        claims = [_validated(Claim, entry, "claims.yaml") for entry in entries]
        for name, count in Counter(claim.id for claim in claims).items():
            if count > 1:
                raise SingError(f"claims.yaml: the id {name!r} occurs twice, expected each once.")
        return claims

    def claim(self, name: str) -> Claim:
        """One claim by its id.

        Raises:
            SingError: for one that is none; the message names the nearest.
        """
        by_id = {claim.id: claim for claim in self.claims}
        if name not in by_id:
            raise unknown("claim", name, list(by_id), where="claims.yaml")
        return by_id[name]

    @cached_property
    def numbers(self) -> dict[str, Numbers]:
        """Published numbers by their name."""
        entries = self._read("numbers.yaml", dict)
        return {name: _validated(Numbers, entry, "numbers.yaml", name) for name, entry in entries.items()}

    @cached_property
    def differences(self) -> list[Difference]:
        """Between the paper and its public code."""
        file = "code_differences.yaml"
        return [_validated(Difference, entry, file) for entry in self._read(file, list)]

    @cached_property
    def classifiers(self) -> dict[str, Classifier]:
        """The paper's classifiers and those of its later version, by the paper's names."""
        file = "classifiers.yaml"
        groups = self._read(file, dict).values()
        return {n: _validated(Classifier, entry, file, n) for group in groups for n, entry in group.items()}

    @cached_property
    def classes(self) -> set[str]:
        """Names of the paper's 16 classes, those of Figure 4."""
        return set(self.numbers["figure-4-resnet50"].values)

    def _read(self, name: str, kind: type) -> Any:
        try:
            found = yaml.safe_load((self.folder / name).read_text(encoding="utf-8"))
        except OSError:
            raise SingError(f"{FOLDER}/{name} is missing: restore it from the repository.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SingError(f"{name} is not valid YAML: {reason(error)}.") from None
        if not isinstance(found, kind):
            raise SingError(f"{name} holds a {type(found).__name__}, expected a {kind.__name__}.")
        return found


def _validated(kind: type[_T], entry: Any, file: str, name: str = "") -> _T:
    label = name or (entry.get("id") or entry.get("item") if isinstance(entry, dict) else None) or "an entry"
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown("key", key, list(kind.model_fields), where=f"{file}: {label}") from None
        raise SingError(f"{file}: {label}: {key or 'entry'}: {first['msg']}.") from None
