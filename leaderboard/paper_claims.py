"""The papers' claims against the board's records: differences on the same images, their tests, and a verdict."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from harness.metrics import mcnemar, proportion
from leaderboard.board import Board, Row
from leaderboard.cells import Cell
from leaderboard.links import page_path
from leaderboard.ranking import SIGNIFICANCE
from leaderboard.shown import judged, percent
from leaderboard.validity import pp

PAPERS = {
    "RCM": ("Xu et al. 2024, TNNLS 36(3):4690–4702", "https://arxiv.org/abs/2202.12435"),
    "JARN": ("Chan et al. 2020, ICLR", "https://arxiv.org/abs/1912.10185"),
}
"""Where each claim is made."""
NO_GAIN = 0.01
"""A gain whose 95 % interval ends below this counts as none."""
AS_GOOD = 0.02
"""A loss whose 95 % interval ends above minus this counts as none."""
NEAR_ZERO = 0.01
"""Accuracy whose 95 % interval ends below this counts as zero."""
SEED = re.compile(r"-s(\d+)$")
"""How the name of a training with another seed ends: ``fgsm-rs-1122-s1``."""
SUPPORTED, NOT, OPEN, MISSING = "supported", "not supported", "undecided at this size", "not measured yet"
TESTS = {
    "greater": "the first of each pair is more robust: a paired difference above 0 with p < 0.05, and no pair at 0 "
    "or below. "
    "Not supported when the interval ends below +1 point",
    "not-greater": "the first of each pair gains nothing: the interval of the paired difference ends below +1 point. "
    "Not supported when it is above 0 with p < 0.05, and no pair at 0 or below",
    "as-good": "the first of each pair loses at most 2 points: the interval of the paired difference begins above −2. "
    "Not supported when it ends below that",
    "less-memory": "peak memory of one forward and backward pass, at least a twentieth less",
    "zero": "accuracy at the largest budget of the curve; its interval ends below 1 %",
    "smoother": "along the gradient's sign, within the budget, the loss bends away from a straight line at most half "
    "as far as the second network's (check I2). Not supported from nine tenths on",
}
"""Kinds of tests, and when a claim counts as supported."""


@dataclass(frozen=True)
class Claim:
    """One claim: an entry of ``paper_claims.toml``."""

    id: str
    paper: str
    says: str
    test: str
    pairs: tuple[tuple[str, str], ...] = ()
    """Submissions to compare, the one that the claim favours first."""
    singles: tuple[str, ...] = ()
    """Submissions that are looked at one by one."""
    note: str = ""
    published: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True)
class Difference:
    """Paired outcomes on n images, over one or more pairs of networks."""

    value: float
    low: float
    """Ends of the 95 % interval, images as the independent units."""
    high: float
    p: float
    """Two-sided: McNemar's exact test for one pair, a z-test over images for several."""
    n: int


@dataclass(frozen=True)
class Line:
    """One pair or network of a claim."""

    names: tuple[str, ...]
    verdict: str
    cells: tuple[str, ...] = ()
    hrefs: tuple[str, ...] = ()


def load_claims(path: Path | None = None) -> tuple[Claim, ...]:
    """The claims in the order of the file; ``ValueError`` for an unknown test or paper."""
    data = tomllib.loads((path or Path(__file__).with_name("paper_claims.toml")).read_text(encoding="utf-8"))
    claims = []
    for entry in data["claims"]:
        lists = {name: tuple(entry.get(name, ())) for name in ("singles", "published")}
        claim = Claim(**{**entry, **lists, "pairs": tuple((first, second) for first, second in entry.get("pairs", ()))})
        if claim.test not in TESTS or claim.paper not in PAPERS:
            raise ValueError(f"{claim.id}: expected a test of {', '.join(TESTS)} and a paper of {', '.join(PAPERS)}")
        claims.append(claim)
    return tuple(claims)


def difference(pairs: Sequence[tuple[Sequence[bool], Sequence[bool]]]) -> Difference:
    """By how much the first of each pair is right more often, all on the same images; ``ValueError`` without any."""
    n = len(pairs[0][0]) if pairs else 0
    if not n or any(len(a) != n or len(b) != n for a, b in pairs):
        raise ValueError("expected outcomes of the same images")
    each = [sum(pair[0][i] - pair[1][i] for pair in pairs) / len(pairs) for i in range(n)]
    mean = sum(each) / n
    error = math.sqrt(sum((value - mean) ** 2 for value in each) / max(1, n - 1) / n)
    wide = NormalDist().inv_cdf(0.975) * error
    if len(pairs) == 1:
        p = mcnemar(*pairs[0])
    else:
        p = 2 * (1 - NormalDist().cdf(abs(mean) / error)) if error else float(mean == 0)
    return Difference(mean, mean - wide, mean + wide, p, n)


def verdict_of(test: str, found: Difference) -> str:
    """What a paired difference says about a claim of the kind ``test``."""
    if test == "greater":
        if found.value > 0 and found.p < SIGNIFICANCE:
            return SUPPORTED
        return NOT if found.high < NO_GAIN else OPEN
    if test == "not-greater":
        if found.value > 0 and found.p < SIGNIFICANCE:
            return NOT
        return SUPPORTED if found.high < NO_GAIN else OPEN
    if test == "as-good":
        if found.low > -AS_GOOD:
            return SUPPORTED
        return NOT if found.high < -AS_GOOD else OPEN
    raise ValueError(f"test: expected greater, not-greater or as-good, got {test!r}")


def _cell(row: Row, quantity: str) -> Cell | None:
    if quantity == "natural":
        return row.natural
    if quantity == "consistency":
        return next((cell for key, cell in row.consistency.items() if key.startswith("pgd-20@")), None)
    return row.standing if row.judgement else row.robust.get(f"autoattack@{row.threat}")


QUANTITIES = ("natural", "consistency", "robust")
HEADS = {
    "natural": ("Natural", "Natural accuracy."),
    "consistency": ("Consistency", "Class unchanged under PGD-20, right or wrong (the paper's measure)."),
    "robust": ("Robust", "Best known robust accuracy: right after AutoAttack, every other attack and every check."),
}


def seeded(names: tuple[str, ...], known: Collection[str]) -> list[tuple[str, ...]]:
    """``names``, and the same trainings with each further seed of which ``known`` has all of them."""
    ends = sorted((SEED.search(name) for name in known), key=lambda found: int(found[1]) if found else 0)
    suffixes = dict.fromkeys(found[0] for found in ends if found)
    more = (tuple(f"{name}{suffix}" for name in names) for suffix in suffixes)
    return [names, *(found for found in more if set(found) <= set(known))]


def _agreed(verdict: str, test: str, changes: Sequence[Difference]) -> str:
    """``verdict`` over several pairs; a gain is none for certain while one of the pairs lost."""
    gain = verdict == {"greater": SUPPORTED, "not-greater": NOT}.get(test)
    return OPEN if gain and any(change.value <= 0 for change in changes) else verdict


def _change(pairs: Sequence[tuple[Row, Row]], quantity: str) -> Difference | None:
    outcomes = []
    for first, second in pairs:
        a, b = _cell(first, quantity), _cell(second, quantity)
        if a is None or b is None or not a.complete or not b.complete:
            return None
        outcomes.append((a.flags, b.flags))
    return difference(outcomes)


def _told(found: Difference | None) -> str:
    if found is None:
        return ""
    low, high = (pp(value).removesuffix(" pp") for value in (found.low, found.high))
    p = "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    return f"{pp(found.value)} ({low} to {high}), p {p}"


def _memory(first: Row, second: Row) -> tuple[str, tuple[str, ...]]:
    one, other = (row.cost.footprint if row.cost else None for row in (first, second))
    if one is None or other is None:
        return MISSING, ()
    a, b = one.peak_attack_bytes, other.peak_attack_bytes
    word = SUPPORTED if a <= 0.95 * b else NOT if a >= b else OPEN
    return word, (f"{a / 2**20:,.0f} against {b / 2**20:,.0f} MiB",)


def _zero(row: Row) -> tuple[str, tuple[str, ...]]:
    if row.curve is None:
        return MISSING, ()
    most = max(map(float, row.curve.task.params["fractions"]))
    stand = row.withstands(most)
    share = proportion(sum(stand), len(stand))
    word = SUPPORTED if share.high < NEAR_ZERO else NOT if share.low > NEAR_ZERO else OPEN
    return word, (f"{percent(share.value, share.n)} % at {judged(most)} times the budget",)


def _smoother(first: Row, second: Row) -> tuple[str, tuple[str, ...]]:
    one, other = _bend(first), _bend(second)
    if one is None or other is None:
        return MISSING, ()
    word = SUPPORTED if one <= 0.5 * other else NOT if one >= 0.9 * other else OPEN
    return word, (f"bend {judged(one)} against {judged(other)}",)


def _bend(row: Row) -> float | None:
    findings = row.judgement.findings if row.judgement else ()
    return next((item.metrics["bend"] for item in findings if item.check == "I2" and "bend" in item.metrics), None)


def _lines(claim: Claim, rows: Mapping[str, Row], slug: str) -> tuple[list[Line], str]:
    """Every pair or network, and the verdict over those that were measured."""

    def line(names: tuple[str, ...], verdict: str, cells: tuple[str, ...]) -> Line:
        return Line(names, verdict, cells, tuple(page_path(slug, name) if name in rows else "" for name in names))

    lines: list[Line] = []
    there: list[tuple[Row, Row]] = []
    robust: list[Difference] = []
    each: Sequence[tuple[str, ...]] = claim.pairs or tuple((name,) for name in claim.singles)
    for names in (run for pair in each for run in seeded(pair, rows)):
        found = [rows[name] for name in names if name in rows]
        if len(found) < len(names):
            lines.append(line(names, MISSING, ()))
        elif claim.test in {"less-memory", "smoother"}:
            lines.append(line(names, *(_memory if claim.test == "less-memory" else _smoother)(*found)))
        elif claim.test == "zero":
            lines.append(line(names, *_zero(found[0])))
        else:
            pair = (found[0], found[1])
            changes = [_change([pair], quantity) for quantity in QUANTITIES]
            known = changes[-1]
            if known:
                there.append(pair)
                robust.append(known)
            word = verdict_of(claim.test, known) if known else MISSING
            lines.append(line(names, word, tuple(map(_told, changes))))
    words = [item.verdict for item in lines if item.verdict != MISSING]
    if not words:
        return lines, MISSING
    if there:
        whole = _change(there, "robust")
        return lines, _agreed(verdict_of(claim.test, whole), claim.test, robust) if whole else MISSING
    return lines, words[0] if len(set(words)) == 1 else OPEN


def page_data(boards: Sequence[Board], claims: Sequence[Claim] | None = None) -> dict[str, Any] | None:
    """Plain data of the page, from the board of most images on which a claim was measured; None without any board.

    More images decide more than more networks do, so a board on a sample gives way to one on the test set. Where
    nothing was measured the board with most of the claims' submissions is shown, None where it has none of them.
    """
    claims = load_claims() if claims is None else claims
    wanted = {name for claim in claims for names in (*claim.pairs, claim.singles) for name in names}

    def weight(found: tuple[Board, list[dict[str, Any]]]) -> tuple[int, int]:
        board, judged_claims = found
        measured = any(claim["measured"] for claim in judged_claims)
        return board.n if measured else 0, len(wanted & {row.id for row in board.rows})

    known = [(board, [_judged(claim, board) for claim in claims]) for board in boards]
    best = max(known, key=weight, default=None)
    if best is None or not weight(best)[1]:
        return None
    names = {name for claim in best[1] for line in claim["lines"] for name in line.names}
    seeds = any(SEED.search(name) for name in names)
    return {"board": best[0], "claims": best[1], "papers": PAPERS, "seeds": seeds}


def _judged(claim: Claim, board: Board) -> dict[str, Any]:
    """One claim on one board, for the template."""
    lines, verdict = _lines(claim, {row.id: row for row in board.rows}, board.slug)
    paired = claim.test in {"greater", "not-greater", "as-good"}
    return {
        "id": claim.id, "paper": claim.paper, "says": claim.says, "note": claim.note, "verdict": verdict,
        "word": verdict.partition(" at ")[0].replace(" ", "-"), "rule": TESTS[claim.test],
        "published": claim.published, "lines": lines, "of": len(lines),
        "measured": sum(item.verdict != MISSING for item in lines),
        "heads": [HEADS[quantity] for quantity in QUANTITIES] if paired else [("Measured", "")],
    }  # fmt: skip
