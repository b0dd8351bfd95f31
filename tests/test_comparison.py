"""Published figures beside ours: the right line, the right difference, and never across two eps."""

import json
from fractions import Fraction

import pytest
from leaderboard_results import STANDARD, Folder, bits, card_of

from harness.errors import ResultsError
from harness.metrics import proportion
from leaderboard import comparison, tables
from leaderboard.comparison import COLUMNS, PUBLISHED_N, compare, published, robustbench_id
from leaderboard.model_info import to_robustbench, write_files

CORRECT = bits("1111 1100")
WONG = {"clean": 0.8334, "reported": 0.4606, "autoattack": 0.4321, "best_known": None}
"""Wong et al. 2020 (arXiv 2001.03994) on RobustBench, CIFAR-10 Linf 8/255."""


def entry(dataset, board, name):
    (found,) = [item for item in published() if (item.dataset, item.board, item.id) == (dataset, board, name)]
    return found


def test_the_published_figures_are_all_there() -> None:
    counts = {}
    for item in published():
        counts[item.dataset, item.board] = counts.get((item.dataset, item.board), 0) + 1
    assert counts == {
        ("cifar10", "Linf"): 99, ("cifar10", "L2"): 21, ("cifar10", "corruptions"): 23,
        ("cifar100", "Linf"): 38, ("cifar100", "corruptions"): 13,
    }  # fmt: skip
    assert len({(item.dataset, item.board, item.id) for item in published()}) == 194


def test_known_figures() -> None:
    wong = entry("cifar10", "Linf", "Wong2020Fast")
    assert {name: wong.figures[name] for name in WONG} == WONG
    assert wong.eps == "8/255" and wong.facts["venue"] == "ICLR 2020" and wong.facts["year"] == "2020"
    assert wong.facts["paper"] == "https://arxiv.org/abs/2001.03994" and wong.facts["architecture"] == "PreActResNet-18"
    mean = entry("cifar10", "Linf", "Amini2024MeanSparse_S-WRN-94-16")
    assert (mean.figures["autoattack"], mean.figures["best_known"]) == (0.7528, 0.7310)
    assert entry("cifar10", "corruptions", "Hendrycks2020AugMix_WRN").figures["corruptions"] == 0.8882
    assert entry("cifar10", "corruptions", "Hendrycks2020AugMix_WRN").eps is None


def test_the_two_eps_are_kept_apart() -> None:
    eps = {item.id: item.eps for item in published() if item.board == "Linf"}
    assert set(eps.values()) == {"8/255", "0.031"}
    assert eps["Zhang2019Theoretically"] == "0.031" and sum(value == "0.031" for value in eps.values()) == 6


def test_every_figure_is_a_share() -> None:
    for item in published():
        for name, value in item.figures.items():
            assert value is None or 0 <= value <= (2 if name == "mce" else 1), (item.id, name)


def card(name, robustbench, **more):
    return card_of(name, entry=f"robustbench:{robustbench}", **more)


def boards_of(tmp_path, cards, threat=None):
    folder = Folder(tmp_path)
    for name, given in cards.items():
        outcomes = {"pgd-20": bits("1100 0000"), "square": bits("1000 0000")}
        folder.complete(name, CORRECT, outcomes, card=given)
    return tables.load([tmp_path])


def test_ours_stand_beside_theirs(tmp_path) -> None:
    boards = boards_of(tmp_path, {"wong": card("wong", "Wong2020Fast"), "own": card_of("own")})
    table = compare(boards)
    assert list(table.columns) == list(COLUMNS)
    assert set(table.submission) == {"wong"} and set(table.robustbench_id) == {"Wong2020Fast"}
    natural = table[table.quantity == "natural"].iloc[0]
    expected = proportion(6, 8)
    assert (natural.ours, natural.low, natural.high, natural.n) == (0.75, expected.low, expected.high, 8)
    assert natural.published == 0.8334 and natural.difference == pytest.approx(0.75 - 0.8334)
    assert natural.within_interval and not natural.same_images
    worst = table[table.quantity == "worst-case"].iloc[0]
    assert (worst.ours, worst.published) == (1 / 8, 0.4321) and worst.difference == pytest.approx(0.125 - 0.4321)
    assert worst.within_interval == (proportion(1, 8).low <= 0.4321 <= proportion(1, 8).high)


def test_the_best_known_attack_stands_beside_our_worst_case(tmp_path) -> None:
    table = compare(boards_of(tmp_path, {"mean": card("mean", "Amini2024MeanSparse_S-WRN-94-16")}))
    assert table.set_index("quantity").published["worst-case"] == 0.7310


def test_another_eps_is_never_compared(tmp_path) -> None:
    trades = card("trades", "Zhang2019Theoretically")
    boards = boards_of(tmp_path, {"trades": trades})
    assert {board.threat.eps for board in boards} == {"8/255"}
    assert compare(boards).empty
    (board,) = boards
    (row,) = board.rows
    assert comparison.counterpart(board, row) is None
    moved = type(board)(**(vars(board) | {"threat": type(board.threat)("Linf", "0.031")}))
    assert comparison.counterpart(moved, row).id == "Zhang2019Theoretically"
    assert Fraction("0.031") != Fraction(8, 255)


def test_a_number_that_is_not_there_is_not_within_anything(tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.ask("wong", STANDARD, card=card("wong", "Wong2020Fast"))
    table = compare(tables.load([tmp_path]))
    assert len(table) and table.ours.isna().all() and table.within_interval.isna().all()
    assert table.published.notna().all()


def test_nothing_to_compare_is_an_empty_table(tmp_path) -> None:
    table = compare(boards_of(tmp_path, {"own": card_of("own")}))
    assert table.empty and list(table.columns) == list(COLUMNS)


@pytest.mark.parametrize(
    ("entry", "expected"), [("robustbench:A", "A"), ("model.py:build", None), ("timm:resnet18", None), (None, None)]
)
def test_whose_model_a_card_is(entry, expected) -> None:
    assert robustbench_id({} if entry is None else {"entry": entry}) == expected


def test_the_export_has_their_keys_and_types(tmp_path) -> None:
    wong = card(
        "wong", "Wong2020Fast", authors=["Eric Wong", "Leslie Rice"], venue="ICLR", year=2020, training_data="none",
        architecture="PreActResNet-18", paper="https://arxiv.org/abs/2001.03994",
        claims=[{"norm": "Linf", "eps": "8/255", "robust_accuracy": 0.4606, "attack": "PGD"}],
    )  # fmt: skip
    data = json.loads(to_robustbench(boards_of(tmp_path, {"wong": wong, "own": card_of("own")})))
    assert set(data) == {"model_info/cifar10/Linf/Wong2020Fast.json", "model_info/cifar10/Linf/own.json"}
    found = data["model_info/cifar10/Linf/Wong2020Fast.json"]
    theirs = {
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture",
        "eps", "clean_acc", "reported", "autoattack_acc", "external", "unreliable",
    }  # fmt: skip
    assert set(found) == theirs | {"number_of_examples", "checkpoint_sha256"}
    assert (found["authors"], found["venue"]) == ("Eric Wong, Leslie Rice", "ICLR 2020")
    assert (found["eps"], found["clean_acc"], found["reported"]) == ("8/255", "75.00", "46.06")
    assert found["additional_data"] is False and found["number_of_examples"] == 8
    assert data["model_info/cifar10/Linf/own.json"]["additional_data"] is None


def test_rows_that_would_share_a_file_get_names_of_their_own(tmp_path) -> None:
    (board,) = boards_of(tmp_path, {"wong": card("wong", "Wong2020Fast")})
    moved = type(board)(**(vars(board) | {"threat": type(board.threat)("Linf", "0.031"), "n": 9}))
    assert set(json.loads(to_robustbench([board, moved]))) == {
        "model_info/cifar10/Linf/Wong2020Fast-eps8_255-n8.json",
        "model_info/cifar10/Linf/Wong2020Fast-eps0.031-n9.json",
    }  # fmt: skip


def test_a_file_that_is_gone_is_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(comparison, "FILE", tmp_path / "none.csv")
    published.cache_clear()
    with pytest.raises(ResultsError, match="expected RobustBench's published figures"):
        published()
    published.cache_clear()


def test_the_published_figures_are_on_the_whole_test_split() -> None:
    assert PUBLISHED_N == 10_000 and "March 2025" in comparison.SOURCE
