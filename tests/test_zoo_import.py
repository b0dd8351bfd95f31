"""Cards of RobustBench's entries: valid, complete, exact, made without a network, and never written over."""

import socket

import pytest
from click.testing import CliRunner

from harness.commands.importing import import_
from harness.errors import UserError
from harness.hubs import robustbench_names
from harness.importing import card, card_id, figures, import_robustbench
from harness.submission import discover, read


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_: object, **__: object):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("dataset", "board", "count"),
    [("cifar10", "Linf", 76), ("cifar10", "L2", 21), ("cifar10", "corruptions", 17), ("cifar100", "Linf", 38),
     ("cifar100", "corruptions", 12)],
)  # fmt: skip
def test_every_card_of_a_board_is_valid(tmp_path, dataset, board, count) -> None:
    found = import_robustbench(dataset, board, tmp_path)
    assert len(found) == count and all(item.made for item in found)
    discovered = discover([tmp_path])
    assert not discovered.problems and len(discovered.submissions) == count
    names = {item.card.entry.removeprefix("robustbench:") for item in discovered.submissions.values()}
    assert names == set(robustbench_names(dataset, board))
    for item in discovered.submissions.values():
        assert item.card.paper and item.card.architecture and item.card.training_data
        assert item._facts() == {"dataset": dataset, "board": board}


def test_a_card_says_what_was_published(tmp_path) -> None:
    import_robustbench("cifar10", "Linf", tmp_path)
    wong = read(tmp_path / "cifar10-linf-wong2020fast", tmp_path).card
    assert wong.title == "Fast is better than free: Revisiting adversarial training (PreActResNet-18)"
    assert wong.authors == ("Eric Wong", "Leslie Rice", "J. Zico Kolter")
    assert (wong.venue, wong.year, wong.licence, wong.training_data) == ("ICLR", 2020, "MIT", "none")
    claims = {claim.attack: (claim.robust_accuracy, claim.natural_accuracy, claim.eps) for claim in wong.claims}
    assert claims == {
        "AutoAttack": (0.4321, 0.8334, "8/255"), "as reported by the authors": (0.4606, 0.8334, "8/255"),
    }  # fmt: skip
    sparse = read(tmp_path / "cifar10-linf-amini2024meansparse_s-wrn-94-16", tmp_path).card
    assert {claim.attack: claim.robust_accuracy for claim in sparse.claims} == {
        "AutoAttack": 0.7528, "best known (RobustBench)": 0.7310,
    }  # fmt: skip
    assert sparse.training_data == "extra-real"


def test_the_two_eps_are_kept_apart(tmp_path) -> None:
    import_robustbench("cifar10", "Linf", tmp_path)
    trades = read(tmp_path / card_id("cifar10", "Linf", "Zhang2019Theoretically"), tmp_path).card
    assert [(threat.norm, threat.eps) for threat in trades.threats] == [("Linf", "0.031")]
    assert {claim.eps for claim in trades.claims} == {"0.031"}
    found = discover([tmp_path]).submissions.values()
    assert sum(item.card.threats[0].eps == "0.031" for item in found) == sum(
        row["eps"] == "0.031" and name in robustbench_names("cifar10", "Linf") and dataset == "cifar10"
        for (dataset, _, name), row in figures().items()
    )


def test_a_corruption_entry_names_its_board_and_claims_nothing_about_a_norm(tmp_path) -> None:
    import_robustbench("cifar10", "corruptions", tmp_path)
    found = read(tmp_path / "cifar10-corruptions-hendrycks2020augmix_wrn", tmp_path).card
    assert found.kwargs == {"board": "corruptions"} and found.claims == ()
    assert "88.82 %" in (found.notes or "")


def test_an_entry_that_nothing_is_published_about_gets_a_card_too(tmp_path) -> None:
    folder = tmp_path / card_id("cifar10", "L2", "New2027")
    folder.mkdir()
    (folder / "submission.toml").write_text(card("cifar10", "L2", "New2027", {}))
    found = read(folder, tmp_path).card
    assert (found.title, found.threats[0].eps, found.claims) == ("New2027", "0.5", ())


def test_a_card_that_is_there_is_left_alone(tmp_path) -> None:
    import_robustbench("cifar10", "L2", tmp_path)
    own = tmp_path / card_id("cifar10", "L2", "Rice2020Overfitting") / "submission.toml"
    own.write_text("mine")
    again = import_robustbench("cifar10", "L2", tmp_path)
    assert not any(item.made for item in again) and own.read_text() == "mine"


def test_a_board_that_is_not_there_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match="expected a data set of cifar10, cifar100 and a norm of Linf, L2, corruptions"):
        import_robustbench("imagenet", "Linf", tmp_path)
    with pytest.raises(UserError, match="expected one of"):
        import_robustbench("cifar100", "L2", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path) -> None:
    arguments = ["robustbench", "--dataset", "cifar10", "--norm", "L2", "--into", str(tmp_path / "cards")]
    done = CliRunner().invoke(import_, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and f"made 21 cards in {tmp_path / 'cards'}" in done.output
    again = CliRunner().invoke(import_, arguments, catch_exceptions=False)
    assert "made 0 cards" in again.output and "21 were there already" in again.output
