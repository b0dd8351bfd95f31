"""Suites as data, and the plan: what is done, stale, failed or still to do."""

from collections import Counter
from dataclasses import replace

import pytest

from harness import plan, suites
from harness.errors import UnknownNameError, UserError
from harness.plan import State, Work
from harness.records import Candidate, Failure, Manifest, Status, Task, ThreatModel

LINF = ThreatModel("Linf", "8/255")


def _expand(name: str, *threats: ThreatModel, only=()):
    return suites.expand(
        suites.load(name), threats or (LINF,), implementation=lambda attack, norm: f"{attack}-{norm}-1", only=only
    )


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_starts_clean_and_names_each_task_once(name) -> None:
    tasks = _expand(name)
    assert tasks[0].key == "clean"
    assert len({task.key for task in tasks}) == len(tasks)
    assert all(task.threat == LINF for task in tasks if task.kind == "attack")


def test_the_standard_suite_is_the_published_recipe() -> None:
    tasks = _expand("standard")
    keys = [task.key for task in tasks if task.kind != "probe"]
    assert keys == [
        "clean", "fgsm@Linf-8/255", "pgd-20@Linf-8/255", "pgd-100-5@Linf-8/255", "deepfool@Linf-8/255",
        "budget@Linf-8/255", "apgd-ce@Linf-8/255", "apgd-t@Linf-8/255", "fab-t@Linf-8/255", "square@Linf-8/255", "cost",
    ]  # fmt: skip
    members = [task for task in _expand("standard") if task.cascade == "autoattack"]
    assert [task.after for task in members] == [
        (), ("apgd-ce@Linf-8/255",), ("apgd-ce@Linf-8/255", "apgd-t@Linf-8/255"),
        ("apgd-ce@Linf-8/255", "apgd-t@Linf-8/255", "fab-t@Linf-8/255"),
    ]  # fmt: skip


def test_step_sizes_are_exact_multiples_of_eps() -> None:
    by_name = {task.name: task for task in _expand("standard")}
    assert by_name["pgd-20"].params["step_size"] == 2 / 255
    assert by_name["pgd-100-5"].params["step_size"] == float(8 / 2550)


def test_two_threat_models_are_two_sets_of_attacks_and_one_of_the_rest() -> None:
    keys = [task.key for task in _expand("quick", LINF, ThreatModel("L2", "0.5"))]
    assert keys.count("clean") == keys.count("cost") == 1
    assert "pgd-20@Linf-8/255" in keys and "pgd-20@L2-0.5" in keys


def test_a_cascade_member_brings_the_members_before_it() -> None:
    assert [task.name for task in _expand("standard", only=("apgd-t",))] == ["clean", "apgd-ce", "apgd-t"]


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown suite 'quik': did you mean 'quick'"):
        suites.load("quik")
    with pytest.raises(UnknownNameError, match="unknown attack 'pgd20': did you mean 'pgd-20'"):
        _expand("quick", only=("pgd20",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = 3", "expected at least one"),
        ("[[tasks]]\nname = 'a'\nattak = 'pgd'", "unknown field 'attak'"),
        ("[[tasks]]\nattack = 'pgd'", "name: expected a name"),
        ("[[tasks]]\nname = 'a'", "attack: expected the name of an attack"),
        ("[[tasks]]\nname = 'a'\nkind = 'dance'", "kind: expected attack, clean, "),
        ("[[tasks", "expected a suite in TOML"),
    ],
)
def test_a_suite_file_says_what_is_wrong(tmp_path, text, message) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        suites.load(str(path))


def test_spans_lie_on_one_grid() -> None:
    assert plan.spans(250) == [(0, 100), (100, 200), (200, 250)]
    assert plan.spans(1000)[:2] == plan.spans(250)[:2]
    assert plan.spans(20) == [(0, 20)]


def _manifest() -> Manifest:
    candidate = Candidate("model", {}, "c", "s", _expand("standard"))
    return Manifest(
        "now", "standard", "cifar10", 10, 250, 10000, ((0, 100, "a"), (100, 200, "b"), (200, 250, "c")), 0, (candidate,)
    )


def test_cost_is_one_shard_and_everything_else_covers_all_examples() -> None:
    works = plan.wanted(_manifest())
    by_kind = Counter(work.shard.task.kind for work in works)
    assert by_kind == {"clean": 3, "attack": 9 * 3, "cost": 1}
    assert {work.identity.data for work in works} == {"a", "b", "c"}


def test_a_probe_is_one_shard_over_all_examples_and_knows_them_by_one_digest() -> None:
    probe = Task("c1-output", "probe", params={})
    manifest = _manifest()
    candidate = replace(manifest.candidates[0], tasks=(probe,))
    (work,) = plan.wanted(replace(manifest, candidates=(candidate,)))
    assert (work.shard.start, work.shard.stop) == (0, 250)
    other = replace(manifest, candidates=(candidate,), spans=(*manifest.spans[:2], (200, 250, "d")))
    (changed,) = plan.wanted(other)
    assert work.identity.data not in {"a", "b", "c", changed.identity.data}


def test_states(make_record) -> None:
    record = make_record()
    work = Work(record.shard, record.identity)
    assert plan.state(work, None) is State.TODO
    assert plan.state(work, record) is State.DONE
    assert plan.state(work, replace(record, identity=replace(record.identity, seed=1))) is State.STALE
    other = replace(record.shard, task=replace(record.shard.task, params={"steps": 21}))
    assert plan.state(work, replace(record, shard=other)) is State.STALE
    failed = replace(record, status=Status.ERROR, failure=Failure("died", "x"), examples=())
    assert plan.state(work, failed) is State.FAILED


@pytest.mark.parametrize(
    ("identity", "task", "told"),
    [
        ({}, {}, ""),
        ({"seed": 1}, {}, "another seed"),
        ({"checkpoint": "x"}, {}, "another checkpoint"),
        ({"source": "x"}, {}, "other source code"),
        ({"data": "x"}, {}, "other images"),
        ({"seed": 1}, {"params": {"steps": 21}}, "another recipe"),
        ({}, {"implementation": "rampart-pgd-0"}, "another implementation (rampart-pgd-0)"),
        ({}, {"implementation": "rampart-pgd-1+search-bfloat16"}, "mixed precision"),
    ],
)
def test_what_makes_a_record_stale_is_told(make_record, identity, task, told) -> None:
    record = make_record()
    other = replace(record.shard, task=replace(record.shard.task, **task))
    found = replace(record, shard=other, identity=replace(record.identity, **identity))
    assert plan.difference(Work(record.shard, record.identity), found) == told


def test_two_suites_share_the_first_member_of_their_cascades(make_record) -> None:
    quick, standard = (next(task for task in _expand(name) if task.name == "apgd-ce") for name in ("quick", "standard"))
    assert quick != standard
    record = make_record()
    stored = replace(record, shard=replace(record.shard, task=quick))
    assert plan.state(Work(replace(record.shard, task=standard), record.identity), stored) is State.DONE
    alone = replace(standard, cascade="")
    assert plan.state(Work(replace(record.shard, task=alone), record.identity), stored) is State.STALE


def test_a_member_runs_again_when_one_before_it_must(make_record) -> None:
    works = plan.wanted(_manifest())
    records = {
        (work.shard.task.key, work.shard.start): make_record(shard=work.shard, identity=work.identity) for work in works
    }
    assert plan.outstanding(works, lambda shard: records[shard.task.key, shard.start]) == []
    del records["apgd-t@Linf-8/255", 100]
    left = plan.outstanding(works, lambda shard: records.get((shard.task.key, shard.start)))
    assert [(work.shard.task.name, work.shard.start) for work in left] == [
        ("apgd-t", 100),
        ("fab-t", 100),
        ("square", 100),
    ]
