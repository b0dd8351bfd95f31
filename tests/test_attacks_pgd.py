"""What PGD keeps, drops and tests on its way, and where its random starts lie."""

import pytest
import torch
from attack_models import Linear, RowByRow, distance, images
from torch import nn

from harness.attacks.geometry import Ball
from harness.attacks.losses import LOSSES, cross_entropy, margin, misclassified
from harness.attacks.pgd import pgd
from harness.attacks.randomness import ExampleGenerators


class Recording(nn.Module):
    """Keeps every image it is asked about."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.queries = inner, []

    def forward(self, x):
        self.queries.append(x.detach().clone())
        return self.inner(x)


class Waves(Linear):
    """Class 0 always wins; the other logits go up and down along every direction."""

    def forward(self, x):
        waves = torch.sin(20 * super().forward(x))
        return torch.cat([torch.full_like(waves[:, :1], 2.0), waves], 1)


class Valley(nn.Module):
    """Two classes; the image is class 1 only while the mean of its pixels is between ``low`` and ``high``."""

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        outside = torch.maximum(self.low - mean, mean - self.high)
        # Beyond the valley the loss keeps growing towards larger means, so PGD walks through and on.
        return torch.stack([torch.sign(outside.detach()) * 1e-3, 1e-3 * mean], 1)


def test_a_misclassified_iterate_is_kept_although_the_path_goes_on_through():
    x, y = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, dtype=torch.int64)
    model = Recording(Valley(0.515, 0.525))
    x_adv = pgd(model, x, y, eps=0.05, steps=5, step_size=0.01, random_start=False)
    assert torch.allclose(x_adv, torch.full_like(x, 0.52), atol=1e-6)
    # The clean image, the start, and two steps: the example has left once it is misclassified.
    assert len(model.queries) == 4


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_start_and_the_last_iterate_are_tested(steps):
    x, y = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, dtype=torch.int64)
    last = Valley(0.5 + 0.01 * steps - 0.005, 1.0)
    assert misclassified(last(pgd(last, x, y, eps=0.1, steps=steps, step_size=0.01, random_start=False)), y).all()
    short = Valley(0.5 + 0.01 * steps + 0.005, 1.0)
    assert not misclassified(short(pgd(short, x, y, eps=0.1, steps=steps, step_size=0.01, random_start=False)), y).any()

    generators = ExampleGenerators.for_examples(0, "t", [0])
    start = Ball(x, "Linf", 0.05).sample(ExampleGenerators.for_examples(0, "t", [0]))
    at_start = Valley(float(start.mean()) - 1e-7, float(start.mean()) + 1e-7)
    assert torch.equal(pgd(at_start, x, y, eps=0.05, steps=steps, generator=generators), start)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_a_survivor_gets_its_iterate_of_highest_loss(loss, norm):
    model, x = Recording(Waves()), images(16)
    y, eps = torch.zeros(16, dtype=torch.int64), 0.02 if norm == "Linf" else 0.3
    x_adv = pgd(model, x, y, eps=eps, norm=norm, steps=12, step_size=eps, restarts=2, loss=loss)
    not_the_last = 0
    for row in range(16):
        seen = torch.stack([query[row] for query in model.queries[1:]])
        values = LOSSES[loss](model.inner(seen), y[row].expand(len(seen)))
        assert len(seen) == 2 * 13
        (chosen,) = (seen == x_adv[row]).flatten(1).all(1).nonzero().squeeze(1).tolist()[:1]
        assert values[chosen] >= values.max() - 1e-5
        not_the_last += bool(values[chosen] > max(values[12], values[25]) + 1e-3)
    assert not_the_last >= 3, "the last iterates would do as well"


def test_finished_examples_leave_the_batch_and_never_touch_the_others():
    model, x = Recording(Linear()), images(30)
    y = model(x).argmax(1)
    eps = model.inner.eps_between(x, y, "Linf")
    model.queries.clear()
    generators = ExampleGenerators.for_examples(0, "pgd", range(30))
    x_adv = pgd(model, x, y, eps=eps, steps=10, loss="margin", restarts=3, generator=generators)
    sizes = [len(query) for query in model.queries]
    robust = model.inner.exact_distance(x, y, "Linf") > eps
    assert sizes[0] == 30 and sizes[1:] == sorted(sizes[1:], reverse=True)
    assert sizes[-1] == int(robust.sum())
    assert len(sizes) == 1 + 3 * 11
    broken = misclassified(model.inner(x_adv), y)
    assert torch.equal(broken, ~robust)
    # No finished example is asked about again.
    for row in broken.nonzero().squeeze(1):
        asked = [step for step, query in enumerate(model.queries) if (query == x_adv[row]).flatten(1).all(1).any()]
        assert len(asked) == 1
        later = torch.cat(model.queries[asked[0] + 1 :]) if asked[0] + 1 < len(sizes) else x[:0]
        assert not ((later - x[row]).flatten(1).abs().amax(1) <= eps + 1e-6).any()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_more_restarts_and_more_steps_never_help_the_defender(norm):
    model, x = RowByRow(), images(40)
    y = model(x).argmax(1)
    eps = 8e-4 if norm == "Linf" else 1e-2

    def attack(restarts, steps=3):
        generators = ExampleGenerators.for_examples(0, "pgd", range(40))
        return pgd(model, x, y, eps=eps, norm=norm, steps=steps, restarts=restarts, generator=generators)

    one, four = attack(1), attack(4)
    broken_by_one, broken_by_four = misclassified(model(one), y), misclassified(model(four), y)
    assert not (broken_by_one & ~broken_by_four).any()
    assert torch.equal(one[broken_by_one], four[broken_by_one])
    both = ~broken_by_four
    assert (cross_entropy(model(four), y)[both] >= cross_entropy(model(one), y)[both]).all()
    assert (cross_entropy(model(four), y)[both] > cross_entropy(model(one), y)[both]).any()
    assert int(broken_by_one.sum()) < 40
    more = misclassified(model(attack(1, steps=6)), y)
    assert not (broken_by_one & ~more).any(), "the first steps are the same"


def test_tiny_gradients_move_the_image_as_far_as_large_ones():
    class Faint(Linear):
        def forward(self, x):
            return super().forward(x) * 1e-25

    x = images(8)
    y = Linear()(x).argmax(1)
    faint = pgd(Faint(), x, y, eps=1e-3, norm="L2", steps=3, loss="margin", random_start=False)
    assert torch.allclose(faint, pgd(Linear(), x, y, eps=1e-3, norm="L2", steps=3, loss="margin", random_start=False))


def test_random_starts_are_uniform_in_the_ball():
    x = torch.full((4000, 1, 2, 2), 0.5)
    generators = ExampleGenerators.for_examples(0, "start", range(4000))
    linf = (Ball(x, "Linf", 0.1).sample(generators) - x) / 0.1
    assert linf.abs().max() <= 1 + 1e-6
    assert abs(float(linf.mean())) < 0.02 and abs(float(linf.var()) - 1 / 3) < 0.01
    l2 = distance(Ball(x, "L2", 0.1).sample(generators), x, "L2") / 0.1
    assert l2.max() <= 1 + 1e-6
    # In a ball of 4 dimensions the 4th power of the radius is uniform.
    assert abs(float((l2**4).mean()) - 0.5) < 0.02 and abs(float((l2**4).var()) - 1 / 12) < 0.01
    for norm in ("Linf", "L2"):
        edge = Ball(torch.zeros(50, 1, 2, 2), norm, 0.1).sample(generators.select(torch.arange(50)))
        assert edge.min() == 0 and edge.max() <= 0.1 + 1e-6


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_projection_keeps_what_is_inside_and_brings_the_rest_to_the_border(norm):
    x = images(20, low=0.0, high=1.0)
    ball = Ball(x, norm, 0.1)
    near = x + (0.05 if norm == "Linf" else 0.05 / 192**0.5)
    inside = near.clamp(0, 1)
    assert torch.allclose(ball.project_(inside.clone()), inside, atol=1e-7)
    far = ball.project_(x + 5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert far.min() >= 0 and far.max() <= 1
    assert (distance(far, x, norm) <= 0.1 + 1e-6).all()
    middle = Ball(images(20), norm, 0.1)
    moved = middle.project_(images(20) + 5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(distance(moved, images(20), norm), torch.tensor(0.1).double(), atol=1e-5)
    rows = torch.tensor([3, 7])
    assert torch.equal(middle.select(rows).project_(moved[rows].clone()), middle.project_(moved.clone())[rows])


def test_losses_by_hand():
    logits, y = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 1.0]]), torch.tensor([0, 2])
    assert margin(logits, y).tolist() == [-1.0, 2.0]
    expected = torch.logsumexp(logits, 1) - torch.tensor([2.0, 1.0])
    assert torch.allclose(cross_entropy(logits, y), expected)
    assert misclassified(logits, y).tolist() == [False, True]
    for bad in (float("nan"), float("inf"), -float("inf")):
        spoilt = torch.tensor([[9.0, bad, 0.0]])
        assert misclassified(spoilt, torch.tensor([0])).all()
