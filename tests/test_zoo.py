"""RobustBench imports on a plain installation, its zoo is the published one, and its networks come back as saved."""

import pytest
import torch
from zoo_census import entry as census_of

from harness.errors import UserError
from harness.hubs import grammar, robustbench, robustbench_names, split


def test_the_zoo_of_the_installed_package_can_be_read() -> None:
    assert {"Standard", "Wong2020Fast", "Engstrom2019Robustness"} <= set(robustbench_names("cifar10", "Linf"))
    assert "Rice2020Overfitting" in robustbench_names("cifar10", "L2")
    assert "Rice2020Overfitting" not in robustbench_names("cifar10", "corruptions")
    boards = [("cifar10", "Linf"), ("cifar10", "L2"), ("cifar10", "corruptions"), ("cifar100", "Linf")]
    counts = [len(robustbench_names(*board)) for board in [*boards, ("cifar100", "corruptions")]]
    assert counts == [76, 21, 17, 38, 12]


def test_a_board_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"expected one of cifar10 L2.*got cifar10 L7"):
        robustbench_names("cifar10", "L7")


@pytest.mark.parametrize(
    ("board", "name", "message"),
    [
        (
            "Linf",
            "Wong2020Fsat",
            "unknown robustbench entry on cifar10 Linf 'Wong2020Fsat': did you mean 'Wong2020Fast'",
        ),
        ("L2", "Wong2020Fast", 'not on the cifar10 L2 board but on Linf: write kwargs = { board = "Linf" }'),
        ("Linf", "Hendrycks2020AugMix_WRN", 'but on corruptions: write kwargs = { board = "corruptions" }'),
    ],
)
def test_an_entry_that_is_not_there_is_looked_for(board, name, message) -> None:
    with pytest.raises(UserError) as caught:
        robustbench.entry("cifar10", board, name)
    assert message in str(caught.value)


def test_every_cifar_entry_says_where_its_weights_are(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAMPART_CACHE", str(tmp_path))
    targets = set()
    for dataset in robustbench.DATASETS:
        for board in robustbench.BOARDS:
            for name in robustbench_names(dataset, board) if (dataset, board) != ("cifar100", "L2") else ():
                sources = robustbench.weights(dataset, board, name)
                assert all(source.url.startswith("https://") for source in sources)
                targets |= {source.target for source in sources}
    assert len(targets) > 164
    one, *more = robustbench.weights("cifar10", "Linf", "Chen2020Adversarial")
    assert one.target == tmp_path / "robustbench" / "cifar10" / "Linf" / "Chen2020Adversarial.pt_m0.pt"
    assert one.page.startswith("https://drive.google.com/file/d/") and len(more) == 2
    (xcit,) = robustbench.weights("cifar100", "Linf", "Debenedetti2022Light_XCiT-M12")
    assert xcit.url.endswith("/debenedetti2022light-xcit-m-cifar100-linf.pth.tar")


@pytest.mark.parametrize(
    ("dataset", "board", "name", "files"),
    [
        ("cifar10", "Linf", "Wong2020Fast", 1),
        ("cifar10", "corruptions", "Hendrycks2020AugMix_WRN", 1),
        ("cifar100", "Linf", "Debenedetti2022Light_XCiT-S12", 1),
        ("cifar100", "Linf", "Rade2021Helper_R18_ddpm", 1),
    ],
)
def test_a_network_comes_back_through_the_adapter_as_it_was_saved(dataset, board, name, files) -> None:
    found = census_of(dataset, board, name)
    assert found["files"] == files and found["difference"] <= 1e-4


def test_constants_of_a_network_move_with_it() -> None:
    network = torch.nn.Linear(2, 2)
    network.mean = torch.ones(3)
    before = set(network.state_dict())
    robustbench._hold_constants(network)
    assert network.to(torch.float64).mean.dtype == torch.float64
    assert set(network.state_dict()) == before


def test_cuda_in_a_constructor_stays_on_a_machine_without_one() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    original = torch.Tensor.cuda
    with robustbench._without_accelerator():
        assert torch.ones(2).cuda().device.type == "cpu"
    assert torch.Tensor.cuda is original


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("model.py:build", ("", "model.py:build")),
        ("package.module:build", ("", "package.module:build")),
        ("robustbench:Wong2020Fast", ("robustbench", "Wong2020Fast")),
        ("callable:model.py:predict", ("callable", "model.py:predict")),
        ("torchscript", ("torchscript", "")),
        ("timm.models:create", ("", "timm.models:create")),
    ],
)
def test_entries_are_told_apart(entry, expected) -> None:
    assert split(entry) == expected


def test_a_repository_is_pinned_to_a_commit() -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    assert grammar.hugging_face(f"org/some-repo.v2@{commit}") == ("org/some-repo.v2", commit)
    for name in ("org/repo", "org/repo@main", f"repo@{commit}", f"a/b/c@{commit}"):
        assert grammar.problem(f"hf:{name}")
