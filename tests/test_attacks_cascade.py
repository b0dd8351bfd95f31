"""AutoAttack as the suites define it, against exact truths: the members in turn, each on what the ones before left."""

import pytest
import torch
from attack_models import distance
from oracles import linear_problem, relu_problem

from harness import suites
from harness.attacks import find_attack
from harness.attacks.randomness import ExampleGenerators
from harness.records import ThreatModel

QUERIES = {"square": {"queries": 500}}
"""Fewer than the suites': the search needs no gradient, but time."""


def cascade(suite, model, x, y, norm, eps, seed=0):
    """Who is robust after the cascade of ``suite``, bool (N,), with every adversarial example checked."""
    threat = ThreatModel(norm, repr(eps))
    tasks = suites.expand(
        suites.load(suite), [threat], implementation=lambda name, norm: find_attack(name).implementation(norm)
    )
    members = [task for task in tasks if task.cascade.startswith("autoattack")]
    assert len(members) == {"standard": 4, "autoattack-plus": 6}[suite]
    alive = model(x).argmax(1) == y
    for task in members:
        rows = alive.nonzero().squeeze(1)
        if not len(rows):
            break
        generators = ExampleGenerators.for_examples(seed, task.key, rows.tolist())
        found = find_attack(task.attack).run(
            model,
            x[rows],
            y[rows],
            eps=eps,
            norm=norm,
            generator=generators,
            **(task.params | QUERIES.get(task.attack, {})),
        )
        fooled = model(found).argmax(1) != y[rows]
        assert found.min() >= 0 and found.max() <= 1
        assert (distance(found, x[rows], norm)[fooled] <= eps * (1 + 1e-5) + 1e-6).all()
        alive[rows[fooled]] = False
    return alive


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_robust_set_of_a_linear_model_is_found_to_the_example(norm, classes):
    problem = linear_problem(classes, norm, seed=20 + classes, n=10)
    for share in (0.3, 0.7):
        eps = problem.eps(share, clearance=0.005)
        robust = cascade("standard", problem.model, problem.x, problem.y, norm, eps)
        assert torch.equal(robust, problem.distances > eps)
        assert 0 < int(robust.sum()) < len(robust)


@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_plus_finds_it_too(norm):
    problem = linear_problem(4, norm, seed=30, n=8)
    eps = problem.eps(0.5, clearance=0.005)
    assert torch.equal(
        cascade("autoattack-plus", problem.model, problem.x, problem.y, norm, eps), problem.distances > eps
    )


def test_no_provably_robust_point_of_a_relu_network_is_claimed_and_nearly_all_others_are_found():
    there = found = 0
    for norm in ("Linf", "L1"):
        for seed in range(10, 12):
            model, x, y, exists, eps, _ = relu_problem(seed, norm=norm)
            fallen = ~cascade("standard", model, x, y, norm, eps)
            assert not (fallen & ~exists).any()
            there, found = there + int(exists.sum()), found + int(fallen.sum())
    assert there > 10 and found >= 0.99 * there
