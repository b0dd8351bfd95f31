"""Published figures beside ours: the right line, the right difference, and never across two eps."""

import json
from fractions import Fraction

import pytest
from leaderboard_results import CLEAN, CORRECT, STANDARD, Folder, bits, card_of

from harness.errors import ResultsError
from harness.metrics import proportion
from leaderboard import cli, comparison, comparison_page, page, tables
from leaderboard.comparison import COLUMNS, PUBLISHED_N, compare, published, robustbench_id
from leaderboard.model_info import to_robustbench, write_files

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
    worst = table[table.quantity == "best-known"].iloc[0]
    assert (worst.ours, worst.published) == (1 / 8, 0.4321) and worst.difference == pytest.approx(0.125 - 0.4321)
    assert worst.within_interval == (proportion(1, 8).low <= 0.4321 <= proportion(1, 8).high)


def test_the_best_known_attack_stands_beside_our_best_known_figure(tmp_path) -> None:
    table = compare(boards_of(tmp_path, {"mean": card("mean", "Amini2024MeanSparse_S-WRN-94-16")}))
    assert table.set_index("quantity").published["best-known"] == 0.7310


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


# --- corruptions, the files, the page and the command


def corrupted_row(tmp_path, entry, source="cifar10-c", **more):
    """A row whose images are right in every cell but the last severity's."""
    from test_leaderboard_corruptions import Corrupted, all_cells

    folder = Corrupted(tmp_path)
    tasks = all_cells(source)
    given = card_of("net", entry=entry, **more)
    folder.ask("net", (CLEAN, *tasks), card=given)
    folder.fill("net", CLEAN, CORRECT)
    for task in tasks:
        folder.right("net", task, [task.params["severity"] < 5] * 8)
    return tables.load([tmp_path])


AUGMIX = {"entry": "robustbench:Hendrycks2020AugMix_WRN", "kwargs": {"board": "corruptions"}}


def test_corruptions_stand_beside_those_of_the_archive(tmp_path) -> None:
    table = compare(corrupted_row(tmp_path, **AUGMIX)).set_index("quantity")
    assert list(table.index) == ["natural", "corruptions"] and set(table.norm) == {"corruptions"}
    assert table.eps.isna().all()
    assert table.ours["corruptions"] == pytest.approx(0.8) and table.published["corruptions"] == 0.8882
    assert table.difference["corruptions"] == pytest.approx(0.8 - 0.8882)
    # Every image has the same share of right cells, so that the mean is known well.
    assert not table.within_interval["corruptions"]


def test_drawn_corruptions_are_never_beside_published_ones(tmp_path) -> None:
    boards = corrupted_row(tmp_path, source="cifar10-c-generated", **AUGMIX)
    table = compare(boards).set_index("quantity")
    assert table.ours.isna()["corruptions"] and not table.ours.isna()["natural"]
    assert "corruptions" not in {part for name in json.loads(to_robustbench(boards)) for part in name.split("/")}
    assert all(item["part"] != "corruptions" for item in comparison_page.build(boards)["tables"])


def test_an_entry_of_the_corruption_board_is_not_on_the_board_of_a_norm(tmp_path) -> None:
    both = {item.id for item in published() if item.board == "corruptions"} & {
        item.id for item in published() if item.board == "Linf" and item.dataset == "cifar10"
    }
    assert both, "some names are on both boards"
    name = sorted(both)[0]
    boards = corrupted_row(tmp_path, f"robustbench:{name}", kwargs={"board": "corruptions"})
    (board,) = boards
    assert comparison.counterpart(board, board.rows[0]) is None
    assert set(compare(boards).norm) == {"corruptions"}


def test_corruptions_are_exported_as_theirs(tmp_path) -> None:
    found = json.loads(to_robustbench(corrupted_row(tmp_path, **AUGMIX)))
    name = "Hendrycks2020AugMix_WRN.json"
    assert set(found) == {f"model_info/cifar10/Linf/{name}", f"model_info/cifar10/corruptions/{name}"}
    info = found[f"model_info/cifar10/corruptions/{name}"]
    assert (info["corruptions_acc"], info["clean_acc"], info["eps"]) == ("80.00", "75.00", None)
    assert "autoattack_acc" not in info and info["number_of_examples"] == 8


def test_the_files_are_written_below_a_folder_and_nowhere_else(tmp_path) -> None:
    boards = boards_of(tmp_path / "r", {"wong": card("wong", "Wong2020Fast"), "evil": card("evil", "../../../evil")})
    assert write_files(boards, tmp_path / "out") == 2
    paths = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*.json"))
    assert paths == ["out/model_info/cifar10/Linf/Wong2020Fast.json", "out/model_info/cifar10/Linf/_.._.._evil.json"]
    data = json.loads((tmp_path / paths[0]).read_text())
    assert data == json.loads(to_robustbench(boards))["model_info/cifar10/Linf/Wong2020Fast.json"]


def test_the_page_has_a_row_for_each_model_of_either_side(tmp_path) -> None:
    boards = boards_of(tmp_path, {"wong": card("wong", "Wong2020Fast"), "own": card_of("own", title="<i>Own</i>")})
    (table,) = comparison_page.build(boards)["tables"]
    assert (table["part"], table["eps"], table["n"]) == ("Linf", "8/255", 8)
    assert (table["mine"], table["both"], table["published"]) == (2, 1, 93)
    assert len(table["lines"]) == 94
    lines = {line["submission"] or line["robustbench"]: line for line in table["lines"]}
    assert "Zhang2019Theoretically" not in lines, "0.031 is another board"
    wong = lines["wong"]
    assert wong["robustbench"] == "Wong2020Fast"
    assert [pair.published for pair in wong["pairs"]] == ["83.34", "43.21", "43.21"]
    assert [pair.ours for pair in wong["pairs"]] == ["75.0", "12.5", "12.5"]
    assert wong["pairs"][0].difference == "−8.3 pp" and wong["pairs"][0].verdict == "within"
    assert [pair.published for pair in lines["own"]["pairs"]] == ["", "", ""]
    assert [pair.difference for pair in lines["own"]["pairs"]] == ["", "", ""]
    assert [pair.ours for pair in lines["Gowal2021Improving_70_16_ddpm_100m"]["pairs"]] == ["", "", ""]
    page.build(boards, tmp_path / "site")
    text = (tmp_path / "site" / "comparison.html").read_text()
    assert "&lt;i&gt;Own" in text and "<i>Own" not in text and "March 2025" in text and ">within<" in text
    assert 'href="comparison.html"' in (tmp_path / "site" / "index.html").read_text()


def test_a_board_that_robustbench_does_not_have_is_not_on_the_page(tmp_path) -> None:
    folder = Folder(tmp_path, dataset="cifar10-sample")
    folder.complete("own", CORRECT, {})
    boards = tables.load([tmp_path])
    assert comparison_page.build(boards) is None
    page.build(boards, tmp_path / "site")
    assert not (tmp_path / "site" / "comparison.html").exists()
    assert "comparison.html" not in (tmp_path / "site" / "index.html").read_text()


def test_the_command(tmp_path, capsys) -> None:
    folder = Folder(tmp_path / "r")
    folder.complete("wong", CORRECT, {"square": bits("1000 0000")}, card=card("wong", "Wong2020Fast"))
    folder.ask("later", STANDARD, card=card("later", "Engstrom2019Robustness"))
    assert cli.main(["compare", "--results", str(tmp_path / "r")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (natural,) = [line for line in lines if line.startswith("wong") and "natural" in line]
    assert natural.split() == [
        "wong", "Wong2020Fast", "cifar10", "Linf", "8/255", "natural", "75.00", "40.93-92.85", "83.34", "-8.34", "yes",
        "(other", "n)", "8",
    ]  # fmt: skip
    (empty,) = [line for line in lines if line.startswith("later") and "natural" in line]
    assert empty.split() == ["later", "Engstrom2019Robustness", "cifar10", "Linf", "8/255", "natural", "87.03", "8"]
    assert lines[-1].startswith("Published: RobustBench")
    assert cli.main(["compare", "--results", str(tmp_path / "r"), "--format", "json"]) == 0
    assert {item["quantity"] for item in json.loads(capsys.readouterr().out)} == {"natural", "autoattack", "best-known"}
    out = tmp_path / "beside.csv"
    assert cli.main(["compare", "--results", str(tmp_path / "r"), "--format", "csv", "--output", str(out)]) == 0
    assert out.read_text().splitlines()[0] == ",".join(COLUMNS)
    arguments = ["export", "--results", str(tmp_path / "r"), "--format", "robustbench"]
    assert cli.main(arguments) == 0
    assert "model_info/cifar10/Linf/Wong2020Fast.json" in json.loads(capsys.readouterr().out)
    assert cli.main([*arguments, "--output", str(tmp_path / "files")]) == 0
    assert (tmp_path / "files/model_info/cifar10/Linf/Wong2020Fast.json").is_file()


def test_nothing_to_set_beside_is_said(tmp_path, capsys) -> None:
    Folder(tmp_path).complete("own", CORRECT, {})
    assert cli.main(["compare", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("No submission here is on RobustBench at the same eps")


def test_the_figures_come_with_the_package() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert comparison.FILE.name in project["tool"]["setuptools"]["package-data"]["leaderboard"]
