"""Pictures of witnesses on a submission's page: which are shown, with what beside them, and when there are none."""

import base64
import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
from leaderboard_judged import PASS, entry_of, finding, judged, with_judgements
from leaderboard_results import CLEAN, FGSM, LINF, PGD, Folder, probe
from PIL import Image
from safetensors.numpy import save_file

from harness import datasets, store
from harness.records import Shard
from leaderboard import page, tables
from leaderboard.widgets.witnesses import MOST, build
from leaderboard.witnesses import png, stretched

N = 20
TRANSFER = probe("a8-transfer")
EPS = np.float32(8 / 255)


@pytest.fixture(scope="module")
def sample():
    return datasets.load("cifar10-sample")


def store_examples(folder: Folder, name: str, task, indices, images) -> None:
    shard = Shard(name, folder.dataset, task, 0, folder.n)
    tensors = {"indices": np.array(indices, dtype=np.int64), "x_adv": np.ascontiguousarray(images, dtype=np.float32)}
    save_file(tensors, store.adversarial_path(folder.root, shard))
    seal(folder, shard)


def seal(folder: Folder, shard: Shard) -> None:
    """Let the record vouch for the file as it is."""
    content = store.adversarial_path(folder.root, shard).read_bytes()
    record = store.find_record(folder.root, shard)
    store.write_record(folder.root, replace(record, adversarial_sha256=hashlib.sha256(content).hexdigest()))


def moved(sample, indices) -> np.ndarray:
    """The images, brighter by the budget."""
    images = sample.images[list(indices)].astype(np.float32).transpose(0, 3, 1, 2) / 255
    return np.clip(images + EPS, 0, 1)


def first(count: int) -> list[bool]:
    return [row < count for row in range(N)]


def board_of(tmp_path, sample, *, same: bool = True, fgsm: int = 16, pgd: int = 10, probe_hits=()):
    """A board of one submission: FGSM leaves ``fgsm`` images, PGD ``pgd`` of them, a probe breaks ``probe_hits``."""
    folder = Folder(tmp_path, n=N, size=N, dataset="cifar10-sample", full=N)
    digest = sample.span_sha256(0, N) if same else "0" * 64
    folder.ask("net", (CLEAN, FGSM, PGD, TRANSFER), run_spans=((0, N, digest),))
    for task, robust in ((CLEAN, first(18)), (FGSM, first(fgsm)), (PGD, first(pgd))):
        folder.fill("net", task, first(18), robust)
    stands = [right and row not in probe_hits for row, right in enumerate(first(18))]
    folder.fill_probe("net", TRANSFER, {"applicable": True}, first(18), stands)
    store_examples(folder, "net", PGD, range(pgd, 18), moved(sample, range(pgd, 18)))
    store_examples(folder, "net", TRANSFER, probe_hits, moved(sample, probe_hits))
    return folder, tables.load([folder.root])[0]


def with_flag(board, probe_hits=()):
    over = finding("A3", "witness", "fail", FGSM.key, witnesses=6.0, gap_pp=30.0)
    hits = {"a8-transfer": [row in probe_hits for row in range(N)]}
    return with_judgements(board, {"net": judged(entry_of(board, "net"), LINF, (PASS, over), witnessed=hits)})


def shown(board):
    return build(board, board.rows[0])


def pixels(picture) -> np.ndarray:
    content = base64.b64decode(picture["source"].removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_every_image_that_the_flagged_column_got_wrong_is_shown_with_its_evidence(tmp_path, sample) -> None:
    _, board = board_of(tmp_path, sample)
    view = shown(with_flag(board))
    assert [one["index"] for one in view["witnesses"]] == [10, 11, 12, 13, 14, 15]
    assert view["all"] == 6
    one = view["witnesses"][0]
    assert (one["column"], one["source"], one["distance"]) == ("fgsm", "pgd-20", "Linf 0.0300")
    assert one["file"] == f"records/cifar10-sample/net/{PGD.key.replace('/', '_')}/00000-00020.adv.safetensors"
    assert view["command"] == f"harness verify net --results {tmp_path}"


def test_the_pictures_are_the_image_its_change_and_the_adversarial_example(tmp_path, sample) -> None:
    _, board = board_of(tmp_path, sample)
    original, change, adversarial = shown(with_flag(board))["witnesses"][0]["pictures"]
    assert [item["name"] for item in (original, change, adversarial)] == ["image", "change, stretched", "adversarial"]
    assert np.array_equal(pixels(original), sample.images[10])
    assert np.array_equal(pixels(adversarial), (moved(sample, [10])[0] * 255).round().transpose(1, 2, 0))
    assert pixels(change).max() == 255 and pixels(change).min() >= 127


def test_images_other_than_those_of_the_run_are_not_shown_as_originals(tmp_path, sample) -> None:
    _, board = board_of(tmp_path, sample, same=False)
    view = shown(with_flag(board))
    assert len(view["witnesses"]) == 6
    assert all([item["name"] for item in one["pictures"]] == ["adversarial"] for one in view["witnesses"])


def test_sources_take_turns_and_a_check_is_named(tmp_path, sample) -> None:
    hits = (3, 4, 12)
    _, board = board_of(tmp_path, sample, probe_hits=hits)
    view = shown(with_flag(board, hits))
    found = [(one["index"], one["source"]) for one in view["witnesses"]]
    assert found[:4] == [
        (10, "pgd-20"),
        (3, "check A8, Transfer"),
        (11, "pgd-20"),
        (4, found[1][1]),
    ]
    assert len({index for index, _ in found}) == len(found) == view["all"] == 8


def test_only_some_are_shown(tmp_path, sample) -> None:
    _, board = board_of(tmp_path, sample, fgsm=18, pgd=0)
    assert len(shown(with_flag(board))["witnesses"]) == MOST


def test_a_file_that_was_changed_since_is_no_evidence(tmp_path, sample) -> None:
    folder, board = board_of(tmp_path, sample)
    path = store.adversarial_path(folder.root, Shard("net", folder.dataset, PGD, 0, N))
    images = np.zeros((8, 3, 32, 32), dtype=np.float32)
    save_file({"indices": np.arange(10, 18), "x_adv": images}, path)
    assert shown(with_flag(board)) is None
    seal(folder, Shard("net", folder.dataset, PGD, 0, N))
    assert len(shown(with_flag(board))["witnesses"]) == 6


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_without_a_readable_file_there_is_no_section(tmp_path, sample, damage) -> None:
    folder, board = board_of(tmp_path, sample)
    shard = Shard("net", folder.dataset, PGD, 0, N)
    path = store.adversarial_path(folder.root, shard)
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
        seal(folder, shard)
    board = with_flag(board)
    assert shown(board) is None
    index = page.build([board], tmp_path / "site")
    assert 'id="witnesses"' not in next(index.parent.glob("boards/*/net.html")).read_text()


def test_a_column_that_nothing_contradicts_has_no_witnesses(tmp_path, sample) -> None:
    _, board = board_of(tmp_path, sample, fgsm=10)
    entry = entry_of(board, "net")
    assert shown(board) is None
    assert shown(with_judgements(board, {"net": judged(entry, LINF)})) is None


def test_the_page_holds_the_pictures(tmp_path, sample) -> None:
    _, board = board_of(tmp_path, sample)
    index = page.build([with_flag(board)], tmp_path / "site")
    text = next(index.parent.glob("boards/*/net.html")).read_text()
    assert text.count("data:image/png;base64,") >= 18 and "fgsm</code> calls it robust; pgd-20 found this" in text


def test_pictures_of_one_channel() -> None:
    content = png(np.full((1, 4, 4), 0.5, dtype=np.float32))
    assert np.array_equal(pixels({"source": content}), np.full((4, 4), 128))


def test_a_change_is_stretched_around_grey() -> None:
    change = np.array([[[-0.01, 0.0, 0.005]]], dtype=np.float32)
    assert np.allclose(stretched(change), [[[0.0, 0.5, 0.75]]])
    assert np.allclose(stretched(np.zeros((1, 2, 2), dtype=np.float32)), 0.5)
