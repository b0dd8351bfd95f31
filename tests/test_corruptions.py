"""The generator: each corruption against its definition, its constants, and what it must do to an image."""

import itertools
import math

import numpy as np
import pytest

from harness import datasets
from harness.corruptions import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    LEVELS,
    SEVERITIES,
    corrupt,
    digital,
)  # fmt: skip
from harness.corruptions.draws import Draws
from harness.errors import UnknownNameError

ALL = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)


@pytest.fixture(scope="module")
def sample():
    return np.asarray(datasets.load("cifar10-sample").images)


@pytest.fixture(scope="module")
def made(sample):
    """Every cell on the sample."""
    return {(name, level): corrupt(sample, name, level, indices=range(20)) for name in ALL for level in SEVERITIES}


def flat(value, n=200, channels=3):
    return np.full((n, 32, 32, channels), value, dtype=np.uint8)


def draws(n, recipe="test"):
    return Draws(0, recipe, range(n))


# --- the contract


def test_the_names_are_the_papers():
    assert len(CORRUPTIONS) == 15 and CORRUPTIONS[0] == "gaussian_noise" and CORRUPTIONS[-1] == "jpeg_compression"
    assert set(EXTRA_CORRUPTIONS) == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
    assert LEVELS["gaussian_noise"] == (0.04, 0.06, 0.08, 0.09, 0.10)
    assert all(len(levels) == 5 for levels in LEVELS.values())


@pytest.mark.parametrize("name", ALL)
def test_a_cell_is_the_same_in_every_batch_and_leaves_its_input(sample, made, name):
    before = sample.copy()
    for level in SEVERITIES:
        whole = made[name, level]
        assert whole.shape == sample.shape and whole.dtype == np.uint8
        assert np.array_equal(whole, corrupt(sample, name, level, indices=range(20)))
        for cuts in ((0, 1, 2, 9, 20), (0, 13, 20)):
            parts = [corrupt(sample[a:b], name, level, indices=range(a, b)) for a, b in itertools.pairwise(cuts)]
            assert np.array_equal(whole, np.concatenate(parts)), level
        order = [7, 3, 19]
        assert np.array_equal(whole[order], corrupt(sample[order], name, level, indices=order))
    assert np.array_equal(sample, before)


RANDOM = [
    name for name in ALL
    if name not in {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression",
                    "gaussian_blur", "saturate"}
]  # fmt: skip


@pytest.mark.parametrize("name", RANDOM)
def test_seed_index_and_severity_choose_the_random_numbers(sample, name):
    same = np.repeat(sample[:1], 4, axis=0)
    one = corrupt(same, name, 3, indices=range(4))
    # Angles close to each other touch the same pixels.
    assert len({image.tobytes() for image in one}) >= (2 if name == "motion_blur" else 4)
    assert not np.array_equal(one, corrupt(same, name, 3, indices=range(4), seed=1))
    assert np.array_equal(one[:1], corrupt(same[:1], name, 3, indices=[0]))


def test_streams_do_not_depend_on_earlier_draws_of_other_images():
    both, second = Draws(3, "a", [5, 2**40]), Draws(3, "a", [2**40])
    for draw in (lambda d: d.normal(3), lambda d: d.uniform(2, 2), lambda d: d.integers(9, 4)):
        first = draw(both)
        assert np.array_equal(first[1:], draw(second)) and not np.array_equal(first[0], first[1])
    assert not np.array_equal(Draws(3, "a", [1]).normal(8), Draws(3, "b", [1]).normal(8))
    fresh = Draws(0, "a", [0])
    assert not np.array_equal(fresh.uniform(8), fresh.uniform(8))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(2, 28, 28, 1), (2, 16, 16, 3), (1, 40, 25, 3)])
def test_other_sizes_and_grey_images(name, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for level in SEVERITIES:
        assert corrupt(images, name, level, indices=range(shape[0])).shape == shape
    # Nothing divides by an image's own darkness or lightness.
    for value in (0, 255):
        corrupt(np.full(shape, value, dtype=np.uint8), name, 5, indices=range(shape[0]))


def test_what_cannot_be_corrupted_is_refused(sample):
    with pytest.raises(UnknownNameError, match="did you mean 'gaussian_noise'"):
        corrupt(sample, "gausian_noise", 1, indices=range(20))
    for images, level, indices, said in (
        (sample, 6, range(20), "severity from 1 to 5, got 6"),
        (sample / 255, 1, range(20), "got float64"),
        (sample[:, :8], 1, range(20), "at least 16 x 16"),
        (sample[..., :2], 1, range(20), "1 or 3"),
        (sample, 1, range(19), "an index for each of 20 images, got 19"),
    ):
        with pytest.raises(ValueError, match=said):
            corrupt(images, "fog", level, indices=indices)


# --- damage grows with severity


def distance(one, two):
    return float(np.abs(one.astype(float) - two).mean())


def likeness(one, two):
    """Mean correlation of the images: what a change of lightness leaves alone."""
    one, two = (np.asarray(x, dtype=float).reshape(len(x), -1) for x in (one, two))
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(one, two, strict=True)]))


FADED = {"frost"}
"""The share of the image itself shrinks with the severity, and the mean distance with it; the likeness falls."""
OTHERWISE = {"glass_blur", "elastic_transform", "spatter", "saturate"}
"""Two published constants grow while one shrinks, or the kind of change turns: tested one by one below."""


@pytest.mark.parametrize("name", [name for name in ALL if name not in OTHERWISE])
def test_damage_grows_with_severity(sample, made, name):
    if name in FADED:
        damage = [1 - likeness(sample, made[name, level]) for level in SEVERITIES]
    else:
        damage = [distance(sample, made[name, level]) for level in SEVERITIES]
    assert all(a < b for a, b in itertools.pairwise(damage)), damage


@pytest.mark.parametrize("name", sorted(OTHERWISE - {"elastic_transform"}))
def test_the_last_severity_of_the_others_is_worse_than_the_first(sample, made, name):
    assert distance(sample, made[name, 5]) > 1.5 * distance(sample, made[name, 1])


def test_glass_grows_with_the_rounds_and_saturation_with_its_distance_from_one(sample, made):
    glass = [distance(sample, made["glass_blur", level]) for level in SEVERITIES]
    assert max(glass[:3]) * 1.3 < min(glass[3:])
    grey = [distance(sample, made["saturate", level]) for level in (1, 2)]
    vivid = [distance(sample, made["saturate", level]) for level in (3, 4, 5)]
    assert grey[0] < grey[1] and vivid[0] < vivid[1] < vivid[2]
    water, mud = ([distance(sample, made["spatter", level]) for level in kind] for kind in ((1, 2, 3), (4, 5)))
    assert water == sorted(water) and mud == sorted(mud)


def test_elastic_shakes_grow_while_the_rigid_part_shrinks():
    # Two ramps show where each pixel comes from; what no affine map explains is the elastic part.
    size = 64
    down, right = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    ramps = np.stack([down, right, down], axis=-1).astype(np.float32)[None].repeat(30, axis=0) / 255
    basis = np.stack([np.ones(size * size), down.ravel(), right.ravel()], axis=1)
    inner = (slice(None), slice(16, -16), slice(16, -16))
    kept = np.zeros((size, size), dtype=bool)
    kept[inner[1:]] = True
    shaken, rigid = [], []
    for level in LEVELS["elastic_transform"]:
        places = digital.elastic_transform(ramps, draws(30), level)[inner][..., :2].reshape(30, -1, 2) * 255
        design = basis[kept.ravel()]
        fit = np.linalg.lstsq(design, np.concatenate(list(places), axis=1), rcond=None)[0]
        rest = np.concatenate(list(places), axis=1) - design @ fit
        shaken.append(float(np.sqrt((rest**2).mean())))
        identity = np.tile(np.array([[0, 0], [1, 0], [0, 1]]), (1, 30))
        rigid.append(float(np.abs(design @ (fit - identity)).mean()))
    assert all(a < b for a, b in itertools.pairwise(shaken)), shaken
    assert rigid[0] > rigid[2] > rigid[4]
    # Uniform numbers in [-1, 1] blurred by s pixels have a standard deviation of 1 / (sqrt(3) 2 s sqrt(pi)).
    amount, smooth, _ = (value * size for value in LEVELS["elastic_transform"][4])
    assert shaken[4] == pytest.approx(amount / (math.sqrt(3) * 2 * smooth * math.sqrt(math.pi)), rel=0.15)
