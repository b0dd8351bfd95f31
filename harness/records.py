"""The data model: what was asked, of whom, on which examples, and what came out. Frozen; no torch, no paths."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any

from harness.errors import UserError

SCHEMA = 3
"""Version of the record and manifest format; a reader refuses a newer one and migrates an older one."""
MIXED = "+search-bfloat16"
"""How the implementation of a task in mixed precision ends: another search may find something else."""

NORMS = ("Linf", "L2", "L1")
DEFENCES = ("static", "stochastic", "dynamic", "non-differentiable", "detector")
"""What a submission may do when it is asked; suites have entries for some kinds only."""
SMALLEST_EPS = Fraction(1, 10**6)
"""Less than sixteen steps of a float32 pixel near 1 cannot be told from rounding."""
LARGEST_EPS = {"Linf": 1, "L2": 10**6, "L1": 10**6}
"""No two images are further apart; L2 and L1 leave room for any size of image."""


def eps_label(value: Fraction) -> str:
    """The one spelling of a budget: ``8/255`` for multiples of 1/255, else a decimal, else a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    if 255 % value.denominator == 0:
        return f"{value * 255}/255"
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return f"{float(value):.12g}" if rest == 1 else f"{value.numerator}/{value.denominator}"


@dataclass(frozen=True, order=True)
class ThreatModel:
    """A norm and an exact budget; 8/255, 0.031 and 0.03 are three different threat models."""

    norm: str
    """One of ``NORMS``."""
    eps: str
    """Budget in units of [0, 1] pixels, spelt by ``eps_label``."""

    @classmethod
    def parse(cls, norm: str, eps: str) -> ThreatModel:
        """Build from user text; ``UserError`` when the norm is unknown or ``eps`` is not a positive fraction."""
        names = {name.lower(): name for name in NORMS}
        if norm.lower() not in names:
            raise UserError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
        try:
            value = Fraction(eps.strip())
        except (ValueError, ZeroDivisionError):
            value = Fraction(0)
        if value <= 0:
            raise UserError(f"eps: expected a positive fraction such as '8/255' or '0.5', got {eps!r}")
        found = names[norm.lower()]
        if not SMALLEST_EPS <= value <= LARGEST_EPS[found]:
            hint = f": write '{eps}/255' for {eps} of 255 levels" if found == "Linf" and eps.isdigit() else ""
            raise UserError(
                f"eps: expected {float(SMALLEST_EPS):g} to {LARGEST_EPS[found]:g} in {found}, since float32 pixels lie "
                f"in [0, 1], got {eps!r}{hint}"
            )
        return cls(found, eps_label(value))

    @property
    def value(self) -> float:
        """The budget as a float."""
        return float(Fraction(self.eps))

    def __str__(self) -> str:
        return f"{self.norm}-{self.eps}"


@dataclass(frozen=True)
class Task:
    """One thing measured on a submission; its ``key`` is the recipe's public name."""

    name: str
    """``clean``, ``cost``, the attack's recipe, e.g. ``pgd-20``, the probe's name, e.g. ``c1-output``, or a corruption
    and its severity, e.g. ``gaussian_noise-3``."""
    kind: str
    """``clean``, ``attack``, ``cost``, ``probe`` or ``corruption``."""
    attack: str = ""
    """Name in the attack registry; empty unless ``kind`` is ``attack``."""
    params: dict[str, Any] = field(default_factory=dict)
    """Every parameter of the attack except the budget; of a corruption its name, severity and data set."""
    threat: ThreatModel | None = None
    """Budget; None for ``clean``, ``cost`` and probes that need none."""
    implementation: str = ""
    """Who computes it, with a version, e.g. ``rampart-pgd-1`` or ``pyautoattack-0.2.0``."""
    cascade: str = ""
    """Name of the cascade this task is a member of, e.g. ``autoattack``; empty for a task of its own."""
    after: tuple[str, ...] = ()
    """Keys of the earlier members; only examples that survived all of them are attempted. For a probe: keys of the
    tasks whose records it reads."""

    @property
    def precision(self) -> str:
        """``mixed`` when the attack searches in bfloat16 and every success is decided in float32, else ``full``."""
        return "mixed" if self.implementation.endswith(MIXED) else "full"

    @property
    def key(self) -> str:
        """``pgd-20@Linf-8/255``, ``fog-3@cifar10-c``; ``clean`` and ``cost`` are bare."""
        if self.kind == "corruption":
            return f"{self.name}@{self.params['dataset']}"
        return f"{self.name}@{self.threat}" if self.threat else self.name


@dataclass(frozen=True)
class Shard:
    """One task on one span of examples of one submission: the smallest piece of work that is saved."""

    submission: str
    dataset: str
    """Public name, e.g. ``cifar10`` or ``cifar10-sample``."""
    task: Task
    start: int
    """First index in the data set's order."""
    stop: int
    """One past the last index."""


@dataclass(frozen=True)
class Identity:
    """What a record's numbers depend on besides the task; a record with another identity is stale."""

    checkpoint: str
    """sha256 of the checkpoint file; empty when the submission has none."""
    source: str
    """sha256 of the submission's code and of the card's fields that change the network."""
    data: str
    """sha256 of the span's images and labels."""
    seed: int
    """Seed of the run; with the example's index it fixes every random draw."""


class Status(StrEnum):
    """How a shard ended."""

    OK = "ok"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Example:
    """What happened to one example."""

    index: int
    """Position in the data set."""
    label: int
    clean_prediction: int
    """Class predicted for the image itself; -1 when a logit was not finite."""
    adversarial_prediction: int
    """Class predicted, in a fresh forward, for the perturbed image when it lies inside the budget, else for the
    image itself; -1 when a logit was not finite. For the clean task it equals ``clean_prediction``, for a corruption
    it is the class predicted for the corrupted image."""
    attempted: bool
    """Whether the attack was given this example."""
    linf: float
    """Linf distance of the image the attack returned; inf when a minimum-norm attack found none."""
    l2: float
    """L2 distance of the same image."""
    margin: float
    """Logit of the label minus the largest other logit, at the image that decided ``adversarial_prediction``."""
    forwards: int
    """Forward passes that this example took part in."""
    backwards: int
    """Backward passes that this example took part in."""
    l1: float | None = None
    """L1 distance of the same image, where the budget is in L1."""

    def distance(self, norm: str) -> float | None:
        """Distance in ``norm`` of the image the attack returned; None where it was not recorded."""
        return {"Linf": self.linf, "L2": self.l2, "L1": self.l1}[norm]

    @property
    def correct(self) -> bool:
        """The image itself is classified as labelled."""
        return self.clean_prediction == self.label

    @property
    def robust(self) -> bool:
        """Classified as labelled before and after the attack."""
        return self.correct and self.adversarial_prediction == self.label

    @property
    def correct_after(self) -> bool:
        """The other image is classified as labelled, whatever became of the image itself: a corruption's accuracy."""
        return self.adversarial_prediction == self.label

    @property
    def consistent(self) -> bool:
        """The attack did not change the predicted class."""
        return self.adversarial_prediction == self.clean_prediction


@dataclass(frozen=True)
class Timing:
    """Speed of one operation: median and interquartile range over repeats after a warm-up."""

    examples_per_second: float
    low: float
    """First quartile of the repeats."""
    high: float
    """Third quartile of the repeats."""
    repeats: int


@dataclass(frozen=True)
class Footprint:
    """What a network costs; measured by the engine in a process that holds nothing else."""

    parameters: int
    macs: int
    """Multiply-accumulates of one forward pass of one image."""
    forward: Timing
    forward_backward: Timing
    """Forward pass and gradient with respect to the input."""
    peak_inference_bytes: int
    """Most memory taken beyond the libraries, classifying batches."""
    peak_attack_bytes: int
    """The same while gradients with respect to the input are computed."""


@dataclass(frozen=True)
class Cost:
    """What a shard took; measured by the engine."""

    seconds: float
    forwards: int
    """Sum over examples of forward passes."""
    backwards: int
    """Sum over examples of backward passes."""
    batch_size: int


@dataclass(frozen=True)
class Environment:
    """Where a shard ran."""

    python: str
    torch: str
    platform: str
    """Operating system and machine type."""
    hardware: str
    """Name of the processor or accelerator the network ran on."""
    device: str
    """``cpu`` or ``cuda``."""
    threads: int
    """Processor threads of the worker."""
    dtype: str
    harness: str
    """Version of this package."""
    commit: str
    """git commit of the harness, empty outside a checkout."""
    dirty: bool
    """Whether the checkout had uncommitted changes."""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the other packages that can change a number."""
    optimisations: tuple[str, ...] = ()
    """What the worker did to the network to make it faster, each checked to leave the logits as they were."""


@dataclass(frozen=True)
class Failure:
    """Why a shard has no numbers."""

    kind: str
    """A short word: ``died``, ``timeout``, ``memory``, ``raised``, ``contract``, ``breach``, ``upstream``, ..."""
    message: str
    """One line for a person."""


@dataclass(frozen=True)
class Finding:
    """What a check says about a submission or some of its columns."""

    check: str
    """Identifier of the check, e.g. ``C2``."""
    title: str
    """The check's name in a few words."""
    kind: str
    """Class of the evidence: ``witness``, ``existence``, ``protocol``, ``symptom`` or ``information``."""
    verdict: str
    """``pass``, ``warn``, ``fail``, ``unknown`` (it could not run) or ``not-applicable``."""
    columns: tuple[str, ...] = ()
    """Task keys the finding speaks about; empty: the submission as a whole."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The numbers that were judged."""
    threshold: str = ""
    """What they were held against, with its source."""
    evidence: str = ""
    """One sentence for a person: what was seen, or why it is unknown or not applicable."""


@dataclass(frozen=True)
class Record:
    """The outcome of one shard."""

    shard: Shard
    identity: Identity
    status: Status
    environment: Environment
    cost: Cost
    examples: tuple[Example, ...] = ()
    """One row per example of the span when ``status`` is ok and the task looks at examples, else empty; a probe without
    witnesses has none."""
    footprint: Footprint | None = None
    """Set by the cost task alone."""
    measurements: dict[str, Any] = field(default_factory=dict)
    """Raw numbers of a probe, plain data; checks judge them. A probe that attacks has ``examples`` as well."""
    nonfinite_gradients: int = 0
    """Rows of gradients with a value that was not finite, of all that the attack asked for."""
    failure: Failure | None = None
    """Set when ``status`` is not ok."""
    mismatches: int = 0
    """Examples whose prediction changed when it was asked again in another batch layout."""
    adversarial_sha256: str = ""
    """Hash of the file of adversarial examples beside the record; empty when there is none."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Candidate:
    """A submission as a run saw it."""

    id: str
    card: dict[str, Any]
    """The submission card, as plain data."""
    checkpoint: str
    """As in ``Identity``."""
    source: str
    """As in ``Identity``."""
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Manifest:
    """What one run was asked to do; written before the first shard, so that nothing asked for goes missing."""

    created: str
    """UTC time, ISO 8601."""
    suite: str
    dataset: str
    classes: int
    n: int
    """Examples evaluated, always the first ones of the data set."""
    full: int
    """Examples the data set holds; ``n`` below it marks the run as partial."""
    spans: tuple[tuple[int, int, str], ...]
    """(start, stop, sha256 of the span's images and labels) of every shard."""
    seed: int
    candidates: tuple[Candidate, ...]
    class_names: tuple[str, ...] = ()
    schema: int = SCHEMA
