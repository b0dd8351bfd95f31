"""From a run's records to the case that checks look at."""

from dataclasses import replace

import pytest
from leaderboard_results import CLEAN, FGSM, LINF, PGD, Folder, bits, probe

from harness import suites
from harness.judging import judge_candidate, read_case
from harness.probes import PROBES

C1 = probe("c1-output")


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path, n=4, size=2)


def test_the_case_holds_outcomes_by_column(folder) -> None:
    folder.complete("net", bits("1110"), {"fgsm": bits("1100"), "pgd-20": bits("1000")}, (CLEAN, FGSM, PGD))
    manifest = folder.ask("net", (CLEAN, FGSM, PGD))
    case = read_case(folder.root, manifest, manifest.candidates[0], LINF)
    assert case is not None
    assert (case.n, case.correct, case.wavering, case.refuted) == (4, (True, True, True, False), 0, 0)
    assert {key: column.robust for key, column in case.columns.items()} == {
        FGSM.key: (True, True, False, False), PGD.key: (True, False, False, False),
    }  # fmt: skip
    assert case.survivors == (True, False, False, False)


def test_images_that_change_their_class_over_the_run_are_counted(folder) -> None:
    manifest = folder.ask("net", (CLEAN, FGSM, PGD))
    folder.fill("net", CLEAN, bits("1110"))
    folder.fill("net", FGSM, bits("1110"), bits("1100"))
    folder.fill("net", PGD, bits("0010"), bits("0000"))
    case = read_case(folder.root, manifest, manifest.candidates[0], LINF)
    assert case is not None and case.wavering == 2


def test_without_clean_predictions_or_probes_there_is_no_judgement(folder) -> None:
    manifest = folder.ask("net", (CLEAN, FGSM, C1))
    folder.fill("net", FGSM, bits("1110"))
    assert read_case(folder.root, manifest, manifest.candidates[0], LINF) is None
    assert judge_candidate(folder.root, manifest, manifest.candidates[0], LINF) is None
    folder.fill("net", CLEAN, bits("1110"))
    judgement = judge_candidate(folder.root, manifest, manifest.candidates[0], LINF)
    assert judgement is not None and judgement.verdict.word == "unchecked"
    bare = folder.ask("plain", (CLEAN, FGSM))
    folder.fill("plain", CLEAN, bits("1110"))
    assert judge_candidate(folder.root, bare, bare.candidates[0], LINF) is None


def test_the_deep_battery_is_known_by_its_settings(folder) -> None:
    tasks = suites.expand(suites.load("deep"), [LINF], implementation=lambda name, _norm: name, probe=PROBES.get)
    deep = tuple(task for task in tasks if task.kind == "probe")
    assert len(deep) > 20
    folder.ask("net", (CLEAN, FGSM))
    folder.fill("net", CLEAN, bits("1110"))
    smaller = replace(deep[-1], params={"examples": 3})
    for asked, expected in ((deep, True), (deep[1:], False), ((*deep[:-1], smaller), False)):
        manifest = folder.ask("net", (CLEAN, FGSM, *asked))
        case = read_case(folder.root, manifest, manifest.candidates[0], LINF)
        assert case is not None and case.deep is expected
