"""How attacks cut their questions."""

import pytest
import torch
from torch import nn

from harness.attacks.asking import WIDER, Nearby


class NearModel(nn.Module):
    """Answers with the images' first pixels; remembers what it was asked and told."""

    def __init__(self):
        super().__init__()
        self.sizes, self.placed = [], []

    def near(self, x, numbers, placed, images):
        assert len(x) == len(numbers) and len(placed) == len(images)
        self.sizes.append(len(x))
        self.placed.append(placed)
        return x.flatten(1)[:, :3]


@pytest.mark.parametrize(
    ("rows", "batch_size", "sizes"),
    [(1, 4, [1]), (4 * WIDER, 4, [4 * WIDER]), (4 * WIDER + 1, 4, [9, 8]), (35, 4, [12, 12, 11]), (50, None, [50])],
)
def test_questions_about_near_images_come_in_parts_of_one_size(rows, batch_size, sizes):
    model, x = NearModel(), torch.rand(rows, 3, 4, 4)
    nearby = Nearby(model, batch_size, local=True)
    nearby.place([0, 2], x[:2] if rows > 1 else x.expand(2, -1, -1, -1))
    assert torch.equal(nearby.ask(x, [0] * rows), x.flatten(1)[:, :3])
    assert model.sizes == sizes
    assert model.placed == [[0, 2], *[[]] * (len(sizes) - 1)]


def test_what_is_misclassified_near_a_point_is_asked_about_again():
    class Rounding(NearModel):
        def forward(self, x):
            self.sizes.append(len(x))
            return x.flatten(1)[:, 3:6]

    model, x = Rounding(), torch.zeros(3, 3, 4, 4)
    x.view(3, -1)[:, :6] = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0]])
    nearby, y = Nearby(model, 4, local=True), torch.tensor([0, 1, 0])
    logits = nearby.ask(x, [0, 0, 0])
    # The first is right; the second is wrong by these logits alone, the third by both.
    assert nearby.reveal(x, logits, y).tolist() == [False, False, True]
    assert model.sizes == [3, 2]
    assert nearby.reveal(x[:1], logits[:1], y[:1]).tolist() == [False]
    assert model.sizes == [3, 2]
