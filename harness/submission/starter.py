"""The folder that a new submission starts as: it is valid as it is, and each line says what to put in its place."""

CARD = """\
{first}

# Optional; take away the "#". The other tables must stay below these lines.
# authors = ["First Author", "Second Author"]
# architecture = "WideResNet-28-10"
# paper = "https://arxiv.org/abs/..."
# venue = "ICLR"
# year = 2020
# licence = "MIT"                  # of the weights
# training_data = "none"           # beyond the training split: none, extra-real, synthetic
# defence = "static"               # static, stochastic, dynamic, non-differentiable, detector
# forward_passes = 1               # evaluations of the network that one prediction takes
# notes = "What a reader of the board should know."
# contact = "name@example.org"
# supersedes = "older-id"

[[threat_models]]                  # one table for each threat model to be judged under
norm = "Linf"                      # Linf, L2, L1
{eps:<34} # exact; pixels lie in [0, 1]

# Your weights, once you have them: safetensors, or a state dict saved with torch.save.
# [checkpoint]
# file = "weights.safetensors"     # in this folder; or url = "https://..."
# sha256 = ""                      # left empty, the error message tells it
# key = "state_dict"               # entry of the torch.save file that holds the state dict
# strip_prefix = "module."         # taken off the front of the names in the state dict

# What was published for this network, one table for each claim.
# [[claims]]
# norm = "Linf"
# eps = "8/255"
# natural_accuracy = 0.85
# robust_accuracy = 0.55
# attack = "AutoAttack"
"""

MODEL = '''\
"""The network of this submission."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """From float images (N, CHANNELS, H, W) in [0, 1] to logits (N, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        # Normalisation belongs inside the network: attacks work on pixels in [0, 1].
        self.register_buffer("mean", torch.tensor(MEAN).view(1, CHANNELS, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, CHANNELS, 1, 1))
        self.layers = nn.Sequential(
            nn.Conv2d(CHANNELS, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * width, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers((x - self.mean) / self.std)
        return logits


def build(*, width: int = 16, classes: int = 10) -> nn.Module:
    """The network; the card's ``kwargs`` are given as keyword arguments, then its checkpoint is loaded."""
    network = Network(width, classes)
    # Without a checkpoint every process must build the same weights; with one, these lines can go.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.1, generator=generator)
    return network
'''


STATISTICS = {
    "mnist": ([0.1307], [0.3081]),
    "svhn": ([0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]),
}
"""Mean and standard deviation of each channel of the training images; the others take CIFAR-10's."""
CIFAR10 = ([0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616])
EPS = {"mnist": "0.3"}
"""The usual Linf budget; 8/255 for the others."""


def files(submission: str, dataset: str, classes: int | None) -> dict[str, str]:
    """The texts of a new submission's folder by file name; ``classes`` None: the data set does not say."""
    first = {
        f'id = "{submission}"': "the folder's name",
        f'title = "{submission}"': "as the board shows it",
        f'dataset = "{dataset}"': "cifar10, cifar100, mnist, svhn, npz, or a list of them",
        'entry = "model.py:build"': 'or "package.module:function", "robustbench:NAME" ...',
        f"kwargs = {{ classes = {classes or 10} }}": "given to build()",
    }
    lines = [f"{line:<34} # {meaning}" for line, meaning in first.items()]
    eps = f'eps = "{EPS.get(dataset, "8/255")}"'
    mean, std = STATISTICS.get(dataset, CIFAR10)
    model = MODEL.replace("CHANNELS", str(len(mean))).replace("MEAN", str(mean)).replace("STD", str(std))
    return {"submission.toml": CARD.format(first="\n".join(lines), eps=eps), "model.py": model}
