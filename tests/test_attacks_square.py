"""The Square Attack: no breach of what is known exactly, like pyautoattack's on a network, the same in any batch."""

import math

import pytest
import torch
from attack_models import Linear, RowByRow, distance, images
from torch import nn

from harness.attacks.losses import margin, misclassified
from harness.attacks.randomness import ExampleGenerators
from harness.attacks.square import NORMS, square
from harness.attacks.square_moves import MOVES
from harness.attacks.square_tray import BLOCK
from harness.errors import UserError

EPS = {"Linf": 0.004, "L2": 0.06, "L1": 0.5}


def streams(rows, seed=7):
    return ExampleGenerators.for_examples(seed, "square", [int(row) for row in rows])


def attack(model, x, y, norm, *, rows=None, seed=7, **params):
    rows = range(len(x)) if rows is None else rows
    return square(model, x, y, norm=norm, generator=streams(rows, seed), **params)


@pytest.fixture
def one_at_a_time(monkeypatch):
    """Every question is about the next move of every example."""
    for moves in MOVES.values():
        monkeypatch.setattr(moves, "ahead", 1)


def in_ball(x_adv, x, norm, eps):
    moved = distance(x_adv, x, norm)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (moved <= (eps + 1e-6 if norm == "Linf" else eps * (1 + 1e-5))).all()
    return moved


@pytest.mark.parametrize("classes", [10, 3, 2])
def test_linf_breaks_what_is_clearly_breakable_and_nothing_that_is_robust(classes):
    model, x = Linear(classes, seed=classes), images(30)
    y = model(x).argmax(1)
    exact = model.exact_distance(x, y, "Linf")
    eps = model.eps_between(x, y, "Linf")
    x_adv = attack(model, x, y, "Linf", eps=eps, queries=3000)
    in_ball(x_adv, x, "Linf", eps)
    broken = model(x_adv).argmax(1) != y
    assert not (broken & (exact > eps)).any()
    clear = exact < 0.9 * eps
    assert 5 < int(clear.sum()) < 25
    assert broken[clear].all()
    survivors = x_adv[~broken]
    assert (margin(model(survivors), y[~broken]) > margin(model(x[~broken]), y[~broken])).all(), "the best point found"


@pytest.mark.parametrize("classes", [10, 2])
@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_l2_and_l1_break_nothing_that_is_robust_and_something_within_three_times_the_distance(norm, classes):
    model, x = Linear(classes, seed=classes), images(30)
    y = model(x).argmax(1)
    exact = model.exact_distance(x, y, norm)
    eps = float(exact.median())
    x_adv = attack(model, x, y, norm, eps=eps, queries=400)
    in_ball(x_adv, x, norm, eps)
    broken = model(x_adv).argmax(1) != y
    assert not (broken & (exact > eps)).any()
    assert broken.any()
    far = attack(model, x, y, norm, eps=3 * float(exact.max()), queries=1500)
    assert (model(far).argmax(1) != y).float().mean() >= 0.9


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 2, 3), (2, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_images_of_a_few_pixels_are_attacked_too(norm, shape):
    size = math.prod(shape)
    weight = torch.randn(size, generator=torch.Generator().manual_seed(1)).sign()
    x = 0.5 + 0.1 * torch.linspace(-1, 1, 40).view(-1, 1, 1, 1).expand(-1, *shape)

    def model(images):
        gap = ((images.flatten(1) - 0.5) @ weight).div(size**0.5)
        return torch.stack([gap, -gap], 1)

    y = model(x).argmax(1)
    # Distance to the plane in L2; in L1, where one pixel is as good as another, its sum.
    exact = ((x.flatten(1) - 0.5) @ weight).abs() / (size**0.5 if norm == "L2" else 1)
    eps = 1.5 * float(exact.median())
    x_adv = attack(model, x, y, norm, eps=eps, queries=300)
    in_ball(x_adv, x, norm, eps)
    broken = misclassified(model(x_adv), y)
    assert not broken[exact > eps * (1 + 1e-4)].any() and 0 < int((exact > eps).sum()) < 20
    assert broken[exact < eps / 3].all()


def test_the_last_pixel_is_within_reach():
    class Corner(nn.Module):
        def forward(self, x):
            return torch.stack([torch.full_like(x[:, 0, -1, -1], 0.59), x[:, 0, -1, -1]], 1)

    x = torch.full((20, 3, 8, 8), 0.5)
    x_adv = square(Corner(), x, torch.zeros(20, dtype=torch.int64), eps=0.1, queries=300, p_init=0.01)
    assert (x_adv[:, 0, -1, -1] > 0.59).all()


@pytest.mark.parametrize("norm", NORMS)
def test_batch_size_order_and_the_other_examples_change_nothing(norm):
    model, x = RowByRow(), images(24)
    y = model(x).argmax(1)
    params = {"eps": EPS[norm], "queries": 12, "restarts": 2}
    whole = attack(model, x, y, norm, **params)
    in_ball(whole, x, norm, EPS[norm])
    broken = misclassified(model(whole), y)
    assert 3 <= int(broken.sum()) <= 21, "a test of nothing"
    for size in (1, 7, 24):
        assert torch.equal(attack(model, x, y, norm, batch_size=size, **params), whole)
    for order in (torch.randperm(24, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 23, 2])):
        assert torch.equal(attack(model, x[order], y[order], norm, rows=order, **params), whole[order])
    for row in (0, 13):
        assert torch.equal(attack(model, x[[row]], y[[row]], norm, rows=[row], **params), whole[[row]])
    assert not torch.equal(attack(model, x, y, norm, seed=8, **params), whole)


@pytest.mark.parametrize("norm", NORMS)
def test_moves_asked_about_ahead_end_as_if_they_were_asked_about_in_turn(norm, monkeypatch):
    model, x = RowByRow(), images(24)
    y = model(x).argmax(1)

    def outcome(ahead):
        monkeypatch.setattr(MOVES[norm], "ahead", ahead)
        model.queries.clear()
        found = attack(model, x, y, norm, eps=EPS[norm] / 2, queries=BLOCK + 60, restarts=2)
        return found, len(model.queries), sum(len(query) for query in model.queries)

    whole, questions, rows = outcome(1)
    assert 1 < int(misclassified(model(whole), y).sum()) < 23, "a test of nothing"
    for ahead in (2, 3, 7):
        found, fewer, more = outcome(ahead)
        assert torch.equal(found, whole)
        assert fewer < questions and rows < more < 2 * rows


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("norm", NORMS)
def test_fewer_queries_are_the_beginning_of_a_longer_run(norm):
    x = images(40)
    logits = RowByRow()(x)
    x = x[margin(logits, logits.argmax(1)).argsort()[:3]]
    runs = []
    for queries in (30, BLOCK + 40):
        model = RowByRow()
        y = model(x).argmax(1)
        model.queries.clear()
        attack(model, x, y, norm, eps=EPS[norm] / 20, queries=queries)
        assert [len(query) for query in model.queries] == [3] * (queries + 1)
        runs.append(torch.stack(model.queries))
    short, long = runs
    assert torch.equal(short, long[:31])
    assert len({query.numpy().tobytes() for query in long[BLOCK - 5 :]}) > 20, "another block, other random numbers"


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("norm", NORMS)
def test_the_model_is_asked_once_and_then_at_most_queries_times_and_never_about_the_fallen(norm):
    model, x = RowByRow(), images(40)
    y = model(x).argmax(1)
    model.queries.clear()
    x_adv = attack(model, x, y, norm, eps=EPS[norm], queries=50)
    asked = [len(query) for query in model.queries]
    assert len(asked) == 51 and asked[:2] == [40, 40]
    assert asked == sorted(asked, reverse=True)
    kept = int((~misclassified(model(x_adv), y)).sum())
    assert 0 < kept <= asked[-1] < 40
    assert all(query.min() >= 0 and query.max() <= 1 for query in model.queries)

    model.queries.clear()
    wide = 1.0 if norm == "Linf" else 100.0
    attack(model, x, y, norm, eps=wide, queries=5000)
    assert len(model.queries) < 5001, "it stops when all have fallen"
    model.queries.clear()
    attack(model, x[:2], y[:2], norm, eps=1e-4, queries=6, restarts=3)
    assert len(model.queries) == 1 + 3 * 6
    starts = [model.queries[1 + 6 * restart] for restart in range(3)]
    assert not torch.equal(starts[0], starts[1]) and not torch.equal(starts[1], starts[2])
    model.queries.clear()
    attack(model, x, (y + 1) % 10, norm, eps=wide)
    assert len(model.queries) == 1, "nothing to attack"


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 5, 9), (1, 12, 5), (2, 6, 6), (4, 7, 33), (1, 1, 1), (3, 1, 7), (2, 4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_any_shape_with_black_and_white_pixels(norm, shape, dtype):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(6, *shape, generator=generator, dtype=dtype).mul(1.6).sub(0.3).clamp(0, 1)
    weight = torch.randn(math.prod(shape), 3, generator=generator, dtype=dtype)
    y = (x.flatten(1) @ weight).argmax(1)
    asked = []

    def model(images):
        asked.append(images.clone())
        return images.flatten(1) @ weight + 1e4 * nn.functional.one_hot(y[: len(images)], 3)

    for eps in (0.5, 5.0, 1000.0) if norm != "Linf" else (0.01, 1.0):
        asked.clear()
        in_ball(attack(model, x, y, norm, eps=eps, queries=60), x, norm, eps)
        for query in asked[1:]:
            assert query.min() >= 0 and query.max() <= 1
            # The few bumps of so small an image may cancel each other out.
            assert (query != x).any() or (norm != "Linf" and min(shape[1:]) < 5)
            # A candidate that rounding lengthened may be asked about, but is not taken.
            assert (distance(query, x, norm) <= eps * (1 + 1e-4) + 1e-6 * (norm == "Linf")).all()


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("eps", [1e-7, 1e-5, 1e-3])
def test_a_budget_near_the_precision_of_the_pixels_is_kept(norm, eps):
    model, x = Linear(), images(10)
    y = model(x).argmax(1)
    in_ball(attack(model, x, y, norm, eps=eps, queries=30), x, norm, eps)


class Holes(Linear):
    """One logit is not finite where a quarter of the image has become brighter."""

    def forward(self, x):
        logits = super().forward(x)
        return logits.masked_fill((x[:, 0, :4, :4].mean((1, 2)) > 0.5)[:, None] & (torch.arange(10) == 3), self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("norm", NORMS)
def test_logits_that_are_not_finite_are_a_success(norm, value):
    model, x = Holes(), torch.full((12, 3, 8, 8), 0.5)
    model.value = value
    y = model(x).argmax(1)
    x_adv = attack(model, x, y, norm, eps={"Linf": 1e-3, "L2": 0.05, "L1": 0.3}[norm], queries=200)
    assert x_adv.isfinite().all()
    assert misclassified(model(x_adv), y).all()
    outside = torch.full((12, 3, 8, 8), 0.6)
    assert torch.equal(attack(model, outside, y, norm, eps=0.1), outside), "misclassified already"


@pytest.mark.parametrize("norm", NORMS)
def test_an_approximate_answer_is_never_believed_and_never_in_the_way(norm):
    class Rough(Linear):
        def forward(self, x):
            logits = super().forward(x)
            return logits.masked_fill((x.flatten(1).sum(1) * 1e4).long()[:, None] % 2 == 0, float("nan"))

        def exact(self, x):
            return super().forward(x)

    model, x = Rough(), images(30)
    y = model.exact(x).argmax(1)
    distances = Linear().exact_distance(x, y, norm)
    eps = 1.5 * float(distances.median())
    broken = model.exact(attack(model, x, y, norm, eps=eps, queries=400)).argmax(1) != y
    assert not (broken & (distances > eps)).any()
    assert broken[distances < 0.3 * eps].all() and broken.any()


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_that_tells_labels_alone_is_searched_blindly(norm):
    class Labels(Linear):
        def forward(self, x):
            return nn.functional.one_hot(super().forward(x).argmax(1), 10).float()

    model, x = Labels(), images(30)
    y = model(x).argmax(1)
    distances = Linear().exact_distance(x, y, norm)
    eps = float(distances.max()) * 0.9
    x_adv = attack(model, x, y, norm, eps=eps, queries=100)
    broken = model(x_adv).argmax(1) != y
    assert broken.any() and not (broken & (distances > eps)).any()
    assert torch.equal(x_adv[~broken], x[~broken]), "no point is better than the image: it comes back"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"queries": 0}, "queries"), ({"queries": 2.5}, "queries"), ({"restarts": 0}, "restarts"),
        ({"batch_size": 0}, "batch_size"), ({"batch_size": True}, "batch_size"), ({"p_init": 0.0}, "p_init"),
        ({"p_init": 1.5}, "p_init"), ({"p_init": float("nan")}, "p_init"), ({"eps": 0.0}, "eps"),
        ({"eps": float("inf")}, "eps"), ({"norm": "l2"}, "norm"), ({"x": images(4) * 2}, "[0, 1]"),
        ({"x": (images(4) * 255).to(torch.uint8)}, "float32"), ({"x": images(4).half()}, "float32"),
        ({"x": images(4)[0]}, "(N, C, H, W)"), ({"y": torch.full((4,), 10)}, "0..9"),
        ({"y": torch.zeros(4)}, "int64 (4,)"), ({"model": lambda x: x}, "logits (4, K)"),
        ({"model": lambda x: torch.zeros(len(x), 1)}, "logits (4, K)"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(change, said):
    arguments = {"model": Linear(), "x": images(4), "y": torch.zeros(4, dtype=torch.int64), "eps": 0.01} | change
    with pytest.raises(UserError) as caught:
        square(arguments.pop("model"), arguments.pop("x"), arguments.pop("y"), **arguments)
    message = str(caught.value)
    assert message.startswith("square: ") and said in message and "\n" not in message
    assert "expected" in message and "got" in message


@pytest.mark.parametrize("norm", NORMS)
def test_inputs_and_global_randomness_are_left_alone_and_a_batch_may_be_empty(norm):
    model, x = Linear(), images(6)
    y = model(x).argmax(1)
    before, state = x.clone(), torch.get_rng_state()
    first = attack(model, x, y, norm, eps=EPS[norm], queries=30)
    assert torch.equal(x, before) and torch.equal(state, torch.get_rng_state())
    assert not first.requires_grad and first.data_ptr() != x.data_ptr()
    again = attack(model, x.clone().requires_grad_(), y, norm, eps=EPS[norm], queries=30)
    assert torch.equal(first, again) and not again.requires_grad
    assert attack(model, x[:0], y[:0], norm, eps=0.1).shape == x[:0].shape
    assert attack(model, x, y, norm, eps=EPS[norm], queries=1).shape == x.shape
