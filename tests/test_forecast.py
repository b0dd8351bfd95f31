"""How long a run will take: from two batches, from finished shards, from neither."""

import pytest

from harness.executors.holder import Speed
from harness.forecast import PROBING, STARTING, Forecast
from harness.records import Cost, Shard, Task, ThreatModel

LINF = ThreatModel("Linf", "8/255")


def shard(task, submission="model", n=100):
    return Shard(submission, "cifar10", task, 0, n)


def attack(name, **params):
    return Task(name, "attack", name, params, LINF, "rampart-1")


def test_nothing_is_said_before_anything_is_known():
    forecast = Forecast(10)
    assert forecast.seconds(shard(attack("pgd", steps=20))) is None
    assert forecast.left([shard(attack("pgd", steps=20))]) is None
    assert forecast.left([]) == 0.0


@pytest.mark.parametrize(
    ("name", "params", "forwards", "backwards"),
    [
        ("fgsm", {}, 1, 1),
        ("pgd", {"steps": 20, "restarts": 5}, 100, 100),
        ("apgd-ce", {"steps": 100}, 100, 100),
        ("apgd-ce", {"steps": 100, "eot": 20}, 2000, 2000),
        ("apgd-t", {"steps": 100, "targets": 9}, 900, 900),
        ("apgd-t", {"steps": 100, "targets": 9, "narrow": True}, 12 * 9 + 28 * 3 + 60, 12 * 9 + 28 * 3 + 60),
        ("apgd-t", {"steps": 2, "targets": 9, "narrow": True, "eot": 3}, 30, 30),
        ("fab-t", {"steps": 100, "targets": 3}, 300, 300),
        ("fab", {"steps": 100}, 100, 900),
        ("square", {"queries": 5000}, 5000, 0),
    ],
)
def test_two_batches_and_the_passes_of_an_attack_give_its_time(name, params, forwards, backwards):
    forecast = Forecast(10)
    forecast.hear("model", Speed(forward=0.001, backward=0.002))
    forecast.surviving["model"] = 0.5
    expected = 100 * 0.5 * (forwards * 0.001 + backwards * 0.002) + 4 * 100 * 0.001
    assert forecast.seconds(shard(attack(name, **params))) == pytest.approx(expected)


def test_other_kinds_of_task_have_their_own_passes():
    forecast = Forecast(10)
    forecast.hear("model", Speed(0.001, 0.003))
    assert forecast.seconds(shard(Task("clean", "clean"))) == pytest.approx(0.2)
    assert forecast.seconds(shard(Task("c1-output", "probe"))) == pytest.approx(PROBING * 0.002)
    assert forecast.seconds(shard(Task("cost", "cost"))) > STARTING


def test_finished_shards_know_better(make_record):
    forecast = Forecast(10)
    forecast.hear("model", Speed(10.0, 10.0))
    for seconds in (2.0, 4.0):
        forecast.learn(make_record(cost=Cost(seconds, 1, 1, 64)))
    task = make_record().shard.task
    assert forecast.seconds(shard(task)) == pytest.approx(3.0)
    # Another submission takes as long at the same task until its own speed is known.
    assert forecast.seconds(shard(task, "other")) == pytest.approx(3.0)
    assert forecast.left([shard(task), shard(attack("deepfool"), "other")]) == pytest.approx(6.0)


def test_what_survives_is_learned_from_the_strongest_attack(make_record):
    forecast = Forecast(10)
    forecast.learn(make_record())
    assert forecast.surviving["model"] == 0.5
