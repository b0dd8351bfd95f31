"""The Square Attack's schedule, shapes, moves and progress, against pyautoattack's by number."""

import math
import tomllib
from pathlib import Path

import pytest
import torch
from attack_models import Linear, distance, images
from safetensors.torch import load_file
from torch import nn

from harness import datasets
from harness.attacks.losses import margin
from harness.attacks.randomness import ExampleGenerators
from harness.attacks.square import NORMS, square
from harness.attacks.square_moves import MOVES, L2Moves, row_sums
from harness.attacks.square_shapes import bumps, draw, share, sides, tiles
from harness.models import LocalModel
from submissions.architectures import slim_resnet

CARD = Path(__file__).resolve().parents[1] / "submissions" / "fgsm-rs-1222" / "submission.toml"


def streams(rows, seed=7):
    return ExampleGenerators.for_examples(seed, "square", [int(row) for row in rows])


def reference(norm, **options):
    from pyautoattack.square import SquareAttack

    found = SquareAttack(None, norm=norm, eps=1.0, p_init=0.8, resc_schedule=False, device="cpu", **options)
    return found


@pytest.mark.parametrize("p_init", [0.8, 0.3])
def test_the_schedule_is_the_references_at_every_query(p_init):
    theirs = reference("Linf", n_queries=12_000)
    theirs.p_init = p_init
    assert [share(move, p_init) for move in range(12_000)] == [theirs.p_selection(move) for move in range(12_000)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("moves", [37, 700])
def test_a_rescaled_schedule_is_the_references_and_windows_fit(norm, moves):
    theirs = reference(norm, n_queries=moves)
    theirs.rescale_schedule = True
    for height, width in ((32, 32), (8, 20)):
        found = []
        for move in range(moves):
            side = max(round(math.sqrt(theirs.p_selection(move) * height * width)), 1 if norm == "Linf" else 3)
            side += norm != "Linf" and side % 2 == 0
            found.append(min(side, height, width))
        assert sides(moves, height, width, norm, 0.8, rescale=True) == found
        assert found[0] > found[-1] == (1 if norm == "Linf" else 3)


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 11, 29])
def test_bumps_are_the_references(norm, side):
    upright, turned = bumps(side, norm)
    theirs = reference(norm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [theirs.eta(side).double() for _ in range(20)]
    for shape in (upright, turned):
        assert any(torch.allclose(shape, one, atol=1e-6) for one in drawn)
    assert torch.equal(turned, upright.T)


def test_the_start_is_a_grid_of_signed_bumps():
    start = tiles(streams(range(40)), (3, 32, 32), "L2")
    assert start.shape == (40, 3, 32, 32)
    assert not start[:, :, 0].any() and not start[:, :, :, -1].any(), "5 tiles of 6 pixels, one pixel left on each side"
    cells = start[:, :, 1:31, 1:31].unfold(2, 6, 6).unfold(3, 6, 6)
    assert torch.allclose(cells.square().sum((4, 5)), torch.ones(40, 3, 5, 5).double())
    shape = bumps(6, "L2")
    kinds = torch.stack([shape[0], -shape[0], shape[1], -shape[1]])
    distances = (cells[..., None, :, :] - kinds).abs().amax((-1, -2))
    kind = distances.argmin(-1)
    assert distances.amin(-1).max() < 1e-12
    assert ((kind // 2).amax(1) == (kind // 2).amin(1)).all(), "channels are turned together"
    shares = torch.bincount(kind.flatten(), minlength=4) / kind.numel()
    assert (shares - 0.25).abs().max() < 0.05


def test_windows_may_lie_anywhere_and_every_place_is_equally_likely():
    chosen = [1, 3, 5] * 40
    draws = draw(streams(range(300)), chosen, (2, 5, 8), 2, torch.device("cpu"))
    assert draws.corners.shape == (120, 2, 300) and draws.signs.shape == (120, 300, 2)
    for kind, side in enumerate((1, 3, 5)):
        at = draws.corners[kind::3].flatten()
        places = torch.bincount(at // 8 * 100 + at % 8, minlength=500).view(5, 100)
        inside = places[: 5 - side + 1, : 8 - side + 1]
        assert inside.sum() == at.numel(), "within the image"
        assert (inside / at.numel() * inside.numel() - 1).abs().max() < 0.15
    assert abs(float(draws.signs.float().mean()) - 0.5) < 0.01
    assert abs(float(draws.turned.float().mean()) - 0.5) < 0.02
    part = draws.select(torch.tensor([7, 3]))
    assert torch.equal(part.corners, draws.corners[:, :, [7, 3]]) and torch.equal(part.turned, draws.turned[:, [7, 3]])


def test_a_row_is_summed_alike_alone_and_in_company_by_any_number_of_threads():
    values = torch.rand(5, 200_000, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found += [row_sums(values), torch.cat([row_sums(row[None]) for row in values])]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(sums, found[0]) for sums in found)


def proposed(moves, draws, move, side, kind=0):
    """The candidates of every row for one move."""
    rows = torch.arange(len(moves.best))
    return moves.propose(rows, draws.pairs(torch.full_like(rows, move), rows), side, kind, torch.zeros_like(rows))


def taken(moves, rows, points):
    """Take the candidates of some rows that are in the ball; which they were."""
    inside = rows[moves.within(rows, points[rows])]
    moves.take(inside, points[inside])
    return inside


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_moves_spend_the_whole_budget(norm):
    x, eps = images(20, low=0.0, high=1.0), 5.0
    moves = MOVES[norm](x, eps)
    generators = streams(range(20))
    moves.start(generators)
    assert (distance(moves.best.view_as(x), x, norm) > (0.95 if norm == "L1" else 0.7) * eps).all()
    for side in (7, 5, 3):
        draws = draw(generators, [side] * 30, x.shape[1:], moves.windows, x.device)
        for move in range(30):
            asked = proposed(moves, draws, move, side, move % moves.kinds)
            lengths = distance(asked.view_as(x), x, norm)
            assert (lengths <= eps * (1 + 1e-5)).all()
            # What [0, 1] cuts off is not spent: that of one window in L1, and of every pixel in L2.
            assert lengths.median() > (0.99 if norm == "L1" else 0.7) * eps and lengths.min() > 0.5 * eps
            assert len(taken(moves, torch.arange(0, 20, 2), asked)) == 10


def leaning(rows=6, eps=0.5):
    """Moves of L2 on grey images that no pixel of a perturbation of ``eps`` brings to a border, and one draw."""
    moves, generators = L2Moves(images(rows), eps), streams(range(rows))
    moves.start(generators)
    return moves, draw(generators, [3, 3], (3, 8, 8), 2, torch.device("cpu"))


def test_every_second_l2_move_adds_a_bump_and_shrinks_the_whole():
    (moves, draws), x, eps = leaning(), images(6), 0.5
    before = (moves.best - x.flatten(1)).view_as(x)
    after = proposed(moves, draws, 1, 3, kind=1).view_as(x) - x
    assert torch.allclose(distance(after + x, x, "L2"), torch.full((6,), eps).double(), rtol=1e-5)
    for row in range(6):
        top, left = divmod(int(draws.corners[1, 0, row]), 8)
        window = torch.zeros(8, 8, dtype=torch.bool)
        window[top : top + 3, left : left + 3] = True
        rest = ~window & (before[row].abs().amin(0) > 1e-3)
        shrunk = (after[row] / before[row])[:, rest]
        assert shrunk.std() < 1e-3 and 0.5 < shrunk.mean() < 1.5
        bump = (after[row] / shrunk.mean() - before[row])[:, window]
        assert torch.allclose(bump.norm(dim=1), torch.full((3,), 0.5 * eps / 3**0.5), rtol=1e-3), "each channel alike"


def test_a_bump_grows_with_success_and_one_in_five_keeps_its_length():
    moves, draws = leaning()
    for turn in range(5):
        kind = torch.full((6,), -1)
        kind[[4, 1]] = 1 if turn == 2 else -1
        # A move of the paper's, refused or taken, and then one of ours.
        moves.settle(torch.tensor([[1, 0]]).expand(6, 2), torch.full((6,), -1 if turn else 0))
        moves.settle(torch.stack([torch.zeros(6, dtype=torch.int64), (kind < 0).long()], 1), kind)
    assert torch.allclose(moves._reach[[1, 4]], torch.full((2,), 0.5)), "the paper's moves do not count"
    assert torch.allclose(moves._reach[[0, 2, 3, 5]], torch.full((4,), 0.5 * 1.5 ** (-5 / 4)))
    moves.keep(torch.tensor([4, 0]))
    assert torch.allclose(moves._reach, torch.tensor([0.5, 0.5 * 1.5 ** (-5 / 4)]))
    draws, rows = draws.select(torch.tensor([4, 0])), torch.arange(2)
    ahead = moves.propose(rows, draws.pairs(rows * 0 + 1, rows), 3, 1, torch.tensor([0, 3]))
    moves.settle(torch.tensor([[0, 0], [3, 3]]), torch.tensor([-1, -1]))
    assert torch.equal(proposed(moves, draws, 1, 3, kind=1), ahead), "refusals were foreseen"
    moves.settle(torch.tensor([[0, 100], [0, 100]]), torch.tensor([-1, -1]))
    assert torch.allclose(moves._reach, torch.full((2,), 0.01))


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("factor", [1.1, 1.5])
def test_l2_finds_more_than_with_the_papers_move_alone(monkeypatch, classes, factor):
    model, x = Linear(classes, seed=classes), images(30)
    y = model(x).argmax(1)
    exact = model.exact_distance(x, y, "L2")
    eps = factor * float(exact.median())

    def broken():
        x_adv = square(model, x, y, norm="L2", eps=eps, queries=1000, generator=streams(range(30)))
        found = model(x_adv).argmax(1) != y
        assert not (found & (exact > eps)).any()
        return int(found.sum())

    ours = broken()
    both = L2Moves.propose
    monkeypatch.setattr(
        L2Moves, "propose", lambda moves, rows, draws, side, kind, refused: both(moves, rows, draws, side, 0, refused)
    )
    assert ours > broken()


class Watched(nn.Module):
    """The margins at every question; the label's logit is raised so far that no example falls and leaves."""

    def __init__(self, model, y):
        super().__init__()
        self.model, self.y, self.margins = model, y, []

    def forward(self, x):
        with torch.no_grad():
            logits = self.model(x)
        self.margins.append(margin(logits, self.y))
        return logits + 100.0 * nn.functional.one_hot(self.y, logits.shape[1])

    def curve(self, queries):
        """Highest margin so far after each query, the image itself left out: (queries, N)."""
        return torch.stack(self.margins[1 : queries + 1]).cummax(0).values


@pytest.fixture(scope="module")
def bundled():
    """A network of the repository and images of the embedded sample that it classifies right."""
    card = tomllib.loads(CARD.read_text())
    model = slim_resnet.build(**card.get("kwargs", {}))
    model.load_state_dict(load_file(CARD.with_name(card["checkpoint"]["file"])))
    model = LocalModel(model)
    x, y = datasets.load("cifar10-sample").tensors(0, 20)
    right = model(x).argmax(1) == y
    return model, x[right][:12], y[right][:12]


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 16 / 255), ("L2", 2.0), ("L1", 40.0)])
def test_losses_rise_and_examples_fall_as_in_pyautoattack(bundled, norm, eps, monkeypatch):
    from pyautoattack.square import SquareAttack

    monkeypatch.setattr(MOVES[norm], "ahead", 1)
    model, x, y = bundled
    queries, seeds = 60, 4
    ours, theirs = [], []
    for seed in range(seeds):
        watched = Watched(model, y)
        square(watched, x, y, norm=norm, eps=eps, queries=queries, generator=streams(range(len(x)), seed))
        ours.append(watched.curve(queries))
        watched = Watched(model, y)
        options = {"resc_schedule": False, "device": "cpu"}
        peer = SquareAttack(watched, norm=norm, eps=eps, n_queries=queries - 1, seed=seed, **options)
        with torch.random.fork_rng(devices=[]):
            peer.perturb(x, y)
        theirs.append(watched.curve(queries))
    ours, theirs = torch.stack(ours), torch.stack(theirs)
    for query in (0, 15, queries - 1):
        means = [curves[:, query].mean(1) for curves in (ours, theirs)]
        error = math.sqrt(sum(float(mean.var()) / seeds for mean in means))
        gap = float(means[0].mean() - means[1].mean())
        # Windows are drawn once per image here and once per batch there, whose mean therefore varies more.
        assert abs(gap) <= 4 * error, (query, gap, error)
    fallen, expected = (curves[:, -1].gt(0).sum(1).float() for curves in (ours, theirs))
    assert 0 < float(expected.mean()) < len(x)
    assert float(fallen.mean()) >= float(expected.mean()) - 1
