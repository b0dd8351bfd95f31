"""The submission card: what ``submission.toml`` may say, checked field by field. Nothing of a submission is run."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

import harness.submission.known as known  # noqa: PLR0402 - the package itself imports this file
import harness.submission.values as values  # noqa: PLR0402 - the package itself imports this file
from harness.errors import CardError
from harness.records import ThreatModel
from harness.submission.explain import explain
from harness.submission.values import FAMILIES

CARD = "submission.toml"
"""Name of the card in a submission's folder."""

_LARGEST = 1_000_000

Line = Annotated[str, AfterValidator(values.line)]
Norm = Annotated[str, AfterValidator(values.norm)]
Eps = Annotated[str, BeforeValidator(values.eps)]
Share = Annotated[float, AfterValidator(values.share)]
_LISTED = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
_ONE_OR_MORE = BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
_HYPHENATED = BeforeValidator(lambda value: value.replace(" ", "-") if isinstance(value, str) else value)


class Table(BaseModel):
    """A table of the card: fixed fields, exact types, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Threat(Table):
    """A threat model the submission asks to be judged under."""

    norm: Norm
    eps: Eps
    """Exact: text, or a number that stands for the decimal digits it is typed with."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.norm == "Linf" and self.threat.value > 1:
            hint = f"; write '{self.eps}/255' for {self.eps} of 255 levels" if self.eps.isdigit() else ""
            raise ValueError(f"expected eps of at most 1 for Linf, since pixels lie in [0, 1], got {self.eps}{hint}")
        return self

    @property
    def threat(self) -> ThreatModel:
        """As the rest of the harness knows it."""
        return ThreatModel(self.norm, self.eps)


class Checkpoint(Table):
    """Where the weights are."""

    file: Annotated[str, AfterValidator(values.inner_path)] | None = None
    """Path inside the submission's folder; with neither this nor ``url``: the published weights of a known model."""
    url: Annotated[str, AfterValidator(values.url)] | None = None
    """Address they are downloaded from, once."""
    sha256: Annotated[str, AfterValidator(values.sha256)]
    """Of the whole file."""
    key: Line | None = None
    """Entry of a ``torch.save`` file that holds the state dict, e.g. ``state_dict``; absent: the file is one."""
    strip_prefix: Line | None = None
    """Taken off the front of the names in the state dict, e.g. ``module.``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.file is not None and self.url is not None:
            raise ValueError("expected either file or url, got both")
        return self


class Claim(Threat):
    """An accuracy that was published for the submission."""

    robust_accuracy: Share
    """Share of all examples, in [0, 1]."""
    natural_accuracy: Share | None = None
    """Share of all examples, in [0, 1]."""
    attack: Line
    """What the robust accuracy was measured with, in the claimant's words."""


def _different(value: tuple[Threat, ...]) -> tuple[Threat, ...]:
    if len({item.threat for item in value}) < len(value):
        raise ValueError(f"expected different threat models, got {', '.join(str(item.threat) for item in value)}")
    return value


Datasets = tuple[Annotated[str, AfterValidator(values.dataset)], ...]
Threats = Annotated[tuple[Threat, ...], _LISTED, AfterValidator(values.not_empty), AfterValidator(_different)]
TrainingData = Annotated[Literal["none", "extra-real", "synthetic"], _HYPHENATED]


class Card(Table):
    """What a submission says about itself; only the fields without a default are needed."""

    id: Annotated[str, AfterValidator(values.submission_id)]
    """The folder's name."""
    title: Line
    dataset: Annotated[Datasets, _ONE_OR_MORE, _LISTED, AfterValidator(values.datasets)]
    """What the network is made for: one of ``FAMILIES`` or a list of them."""
    entry: Annotated[str, AfterValidator(values.entry)]
    """What builds the network, e.g. ``model.py:build``, or names it (``harness.hubs.FORMS``)."""
    threat_models: Threats
    kwargs: Annotated[dict[str, Any], AfterValidator(values.keywords)] = Field(default_factory=dict)
    """Keyword arguments for the entry."""
    checkpoint: Checkpoint | None = None
    """Absent: the entry returns the finished network, or its published weights are meant."""
    authors: Annotated[tuple[Line, ...], _LISTED] = ()
    architecture: Line | None = None
    """As its authors name it."""
    paper: Line | None = None
    """Address of the paper."""
    venue: Line | None = None
    year: Annotated[int, Field(ge=1950, le=2100)] | None = None
    licence: Line | None = None
    """Of the weights, as an SPDX name where there is one."""
    training_data: TrainingData | None = None
    """Data beyond the training split; absent: not said."""
    defence: Literal["static", "stochastic", "dynamic", "non-differentiable", "detector"] = "static"
    forward_passes: Annotated[int, Field(ge=1)] = 1
    """Evaluations of the network that one prediction takes."""
    claims: Annotated[tuple[Claim, ...], _LISTED] = ()
    notes: Annotated[str, AfterValidator(values.paragraphs)] | None = None
    contact: Line | None = None
    supersedes: Annotated[str, AfterValidator(values.submission_id)] | None = None
    """Id of the submission that this one replaces."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.checkpoint
        wrong = known.problem(
            self.entry, datasets=self.dataset, kwargs=self.kwargs,
            checkpoint=None if given is None else given.model_dump(exclude_none=True),
        )  # fmt: skip
        if wrong:
            raise ValueError(wrong)
        return self

    @property
    def datasets(self) -> tuple[str, ...]:
        """Data set families the network is made for."""
        return self.dataset

    @property
    def classes(self) -> int | None:
        """Classes of its data sets; None when they do not say."""
        return next((classes for name in self.dataset if (classes := FAMILIES[name]) is not None), None)

    @property
    def threats(self) -> tuple[ThreatModel, ...]:
        """The threat models, as the rest of the harness knows them."""
        return tuple(item.threat for item in self.threat_models)

    def plain(self) -> dict[str, Any]:
        """The card as plain data, ready for JSON, without the fields that say nothing."""
        data = self.model_dump(mode="json", exclude_none=True)
        return {name: value for name, value in data.items() if value not in ({}, [], "")}


def fits(card: Card, dataset: str) -> bool:
    """Whether a submission may be run on ``dataset``: a data set of its families, or any ``npz:`` file."""
    family = "npz" if dataset.startswith("npz:") else dataset.partition("-")[0]
    return family == "npz" or family in card.datasets


class _Typed(float):
    """A TOML number with a fraction that remembers how it was typed, since 0.1 is no binary fraction."""

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


def _exact_eps(tables: object) -> None:
    """Put the typed digits in the place of every ``eps`` of a list of tables."""
    for table in tables if isinstance(tables, list) else ():
        if isinstance(table, dict) and isinstance(table.get("eps"), _Typed):
            table["eps"] = table["eps"].text


def read_card(path: Path, *, hint: Callable[[dict[str, Any]], str] | None = None) -> Card:
    """Read and check one card; ``CardError``, in one line, names the file and every field that is wrong.

    ``hint`` may add to that line, given the tables as they were read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CardError(f"{path}: could not be read: {error.strerror or error}") from None
    if len(content) > _LARGEST:
        raise CardError(f"{path}: expected at most {_LARGEST:,} bytes, got {len(content):,}")
    try:
        data = tomllib.loads(content.decode("utf-8-sig"), parse_float=_Typed)
    except UnicodeDecodeError as error:
        raise CardError(f"{path}: expected UTF-8 text, got byte {content[error.start]:#04x} at {error.start}") from None
    except RecursionError:
        raise CardError(f"{path}: expected TOML, got too many levels of lists or tables") from None
    except ValueError as error:
        raise CardError(f"{path}: expected TOML, got an error: {error}") from None
    _exact_eps(data.get("threat_models"))
    _exact_eps(data.get("claims"))
    try:
        return Card.model_validate(data)
    except ValidationError as error:
        raise CardError(f"{path}: {explain(error, Card)}{hint(data) if hint else ''}") from None
