"""Windows are cut out of maps, filled and laid back, by C and by numpy."""

import numpy as np
import pytest
import torch

from harness.worker.windows import areas
from harness.worker.windows.areas import Area, cut_planes


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_windows_are_cut_out_with_others_in_them(monkeypatch, compiled, dtype):
    if not compiled:
        monkeypatch.setattr(areas, "compiled", None)
    elif areas.compiled is None:
        pytest.skip("around.c was not compiled")
    maps = torch.arange(3 * 5 * 6 * 2).view(3, 5, 6, 2).to(dtype)
    rows, corners, places = np.array([2, 0, 2]), np.array([[0, 2, 1], [3, 1, 0]]), np.array([[1, 0, 0], [0, 1, 0]])
    held = -torch.arange(1, 3 * 2 * 2 * 2 + 1).view(3, 2, 2, 2).to(dtype)
    found = areas.laid_into(maps, rows, corners, (3, 3), held, places)
    for m, row in enumerate(rows):
        (top, left), (y, x) = corners[:, m], places[:, m]
        expected = maps[row, top : top + 3, left : left + 3].clone()
        expected[y : y + 2, x : x + 2] = held[m]
        assert torch.equal(found[m], expected)
    whole = areas.laid_into(maps, np.array([1]), np.zeros((2, 1), np.int64), (5, 6), held[:1], np.array([[3], [4]]))
    assert torch.equal(whole[0, 3:, 4:], held[0])
    assert torch.equal(whole[0, :3], maps[1, :3])


def test_windows_of_another_kind_are_not_taken_for_bytes():
    maps, nothing = torch.zeros(1, 5, 6, 2), np.zeros((2, 1), np.int64)
    found = areas.laid_into(maps, np.array([0]), nothing, (3, 3), torch.ones(1, 2, 2, 2, dtype=torch.float64), nothing)
    assert float(found.sum()) == 8
    for shape in ((1, 2, 2, 3), (2, 2, 2, 2)):
        with pytest.raises(ValueError, match="broadcast"):
            areas.laid_into(maps, np.array([0]), nothing, (3, 3), torch.ones(shape), nothing)


@pytest.mark.skipif(areas.compiled is None, reason="around.c was not compiled")
@pytest.mark.parametrize(
    ("row", "corner", "place"), [(3, (0, 0), (0, 0)), (-1, (0, 0), (0, 0)), (0, (3, 0), (0, 0)), (0, (0, -1), (0, 0)),
                             (0, (0, 0), (2, 0)), (0, (0, 0), (0, -1))]
)  # fmt: skip
def test_nothing_is_copied_from_or_to_beyond_the_maps(row, corner, place):
    maps, held = torch.zeros(3, 5, 6, 2), torch.zeros(1, 2, 2, 2)
    with pytest.raises(ValueError, match="inside their maps"):
        areas.laid_into(maps, np.array([row]), np.array(corner)[:, None], (3, 3), held, np.array(place)[:, None])


def test_windows_of_images_in_planes_are_cut_from_every_corner():
    images = np.random.default_rng(0).random((3, 2, 5, 7), dtype=np.float32)
    for side in range(1, 6):
        places = [(n, top, left) for n in range(3) for top in range(6 - side) for left in range(8 - side)]
        rows, corners = np.array(places)[:, 0], np.array(places)[:, 1:].T
        found = cut_planes(images, rows, Area(corners, side))
        for window, (n, top, left) in zip(found, places, strict=True):
            assert np.array_equal(window, images[n, :, top : top + side, left : left + side])
