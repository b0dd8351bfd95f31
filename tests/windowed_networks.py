"""Networks for the tests of answers from windows: what convolutional networks do on the way, one thing at a time."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from harness.worker.network import Network
from harness.worker.optimise import near_form, optimise
from harness.worker.weights import frozen
from submissions.architectures import slim_resnet

SHAPE = (3, 32, 32)


class Residual(nn.Module):
    """BatchNorm before convolutions, which cannot be folded, and operations in place."""

    def __init__(self, stride, channels=8):
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.norm, self.again = nn.BatchNorm2d(channels), nn.BatchNorm2d(2 * channels)
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride, 1, bias=False)
        self.short = nn.Conv2d(channels, 2 * channels, 1, stride, bias=False)
        self.last = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.head = nn.Linear(2 * channels, 10)
        for norm in (self.norm, self.again):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.first(x)
        h = F.relu(self.norm(x))
        out = self.down(h)
        out += self.short(h)
        out = self.again(out).relu_()
        out = out + self.last(out)
        return self.head(F.leaky_relu(out, 0.1).mean((2, 3)))


class Gated(nn.Module):
    """Channels weighed by their means, an operation in place on a view, and one given by position."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.gate, self.third, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.first(2 * x - 1), True)
        x = self.second(x) + x
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), True)))
        x = self.third(x)
        x.flatten(1).mul_(0.5)
        return self.head(x.sum((2, 3)))


class Added(nn.Module):
    """Sums in place down to small maps, where a window would be larger than it is worth and the whole is computed."""

    def __init__(self, reverse):
        super().__init__()
        self.reverse, sizes = reverse, (3, 4, 8, 8, 8)
        pairs = list(itertools.pairwise(sizes))
        self.deep = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairs)
        self.short = nn.ModuleList(nn.Conv2d(a, b, 1, 2) for a, b in pairs)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        for deep, short in zip(self.deep, self.short, strict=True):
            one, other = (short(x), deep(x)) if self.reverse else (deep(x), short(x))
            kept = one
            one += other
            x = F.relu(kept, inplace=True) * one.sigmoid()
        return self.head(x.mean((2, 3)))


class Written(nn.Module):
    """Writes to parts of activations, in several ways."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        x = self.first(x)
        x[:, 2:4] *= 0.5
        same = x
        x[:, 0] = 2 * x[:, 1]
        x = self.second(torch.cat([same[:, :4], x[:, 4:]], 1))
        x.masked_fill_(x < 0, 0.25).add_(x.mean((2, 3), True))
        y = torch.zeros(x.shape).contiguous(memory_format=torch.channels_last)
        y += self.third(x)
        y[:, 1].copy_(y[:, 2])
        return self.head(y.sum((2, 3)))


class Wrapped(nn.Module):
    """What stands before and between the layers of many networks and changes every value by itself, or none."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.slopes, self.drop, self.head = nn.PReLU(8), nn.Dropout(0.5), nn.Linear(8, 10)
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x):
        assert x.type() == "torch.FloatTensor"
        rows, *size = x.shape
        mean = torch.tensor([0.5, 0.4, 0.6]).view(1, 3, 1, 1).expand(rows, *size)
        x = torch.clip(x.view(-1, *size).cpu(), 0, 1).reshape(x.shape).sub(mean) / mean[0]
        x = self.drop(self.slopes(self.first(x.type(torch.float32))))
        x = torch.where(x > self.beta, torch.maximum(x, x.square()), x.masked_fill(x < 0, -0.5))
        x = torch.add(x, F.dropout(torch.sigmoid(self.beta * x), 0.3, training=self.training))
        return self.head(torch.mul(self.second(x), other=x.sign()).mean((2, 3)))


class Named(nn.Module):
    """Arguments by their names, the first one too."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(11, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        y = torch.reshape(F.relu(input=self.first(x)), shape=(-1, 8, *x.shape[2:]))
        y = F.pad(input=torch.cat(tensors=[y, x], dim=1), pad=(1, 1, 1, 1))
        y = F.conv2d(input=y, weight=self.second.weight, bias=self.second.bias)
        return self.head(torch.add(input=y, other=y).mean((2, 3)))


class Joined(nn.Module):
    """Borders added by hand, on one side or all, and channels put side by side."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, 2)
        self.third, self.short = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1, 2)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.first(F.pad(x, (1, 1, 1, 1))))
        y = F.silu(self.second(F.pad(x, [0, 1, 0, 1], value=0.5)))
        y = torch.cat([self.third(y), y, self.short(x)], dim=1)
        return self.head(
            torch.concat((y[:, :8], F.pad(y, (2, 1, 0, 1), mode="reflect")[:, 8:, 1:, 3:]), 1).mean((2, 3))
        )


def stack(*layers, features, classes=10):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))


NETWORKS = {
    "slim_resnet": slim_resnet.build,
    "larger_maps": lambda: slim_resnet.build(strides="1122", pooling="max"),
    "upsampled": lambda: slim_resnet.build(upsample=2, width=4),
    "bilinear": lambda: slim_resnet.build(upsample=2, width=4, upsample_mode="bilinear"),
    "preactivation": lambda: Residual(2),
    "gated": Gated,
    "added_in_place": lambda: Added(False),
    "added_in_place_the_other_way": lambda: Added(True),
    "written_to": Written,
    "joined": Joined,
    "named": Named,
    "wrapped": Wrapped,
    "stride_3": lambda: Residual(3),
    "pools": lambda: stack(
        nn.Conv2d(3, 8, 5, padding=2), nn.MaxPool2d(2), nn.SiLU(inplace=True), nn.Conv2d(8, 8, 3, padding="same"),
        nn.AvgPool2d(3, 2), nn.Conv2d(8, 8, 3, dilation=2), features=8,
    ),
    "groups": lambda: stack(
        nn.Conv2d(3, 12, 4, 2, 0), nn.Hardtanh(), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.GELU(),
        nn.Conv2d(12, 8, 1), nn.ELU(), nn.Conv2d(8, 8, 2, 2, 1), features=8,
    ),
    "unknown_operations": lambda: stack(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, (3, 1)), nn.PReLU(),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), features=8,
    ),
    "oblong_kernel": lambda: stack(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, (1, 3), stride=(1, 2)), nn.Tanh(), features=8),
}  # fmt: skip


def network_of(build, shape=SHAPE, seed=0):
    """As a worker prepares it for questions about images near known ones."""
    torch.manual_seed(seed)
    network = Network(frozen(build()), micro_batch=16)
    optimise(network, shape)
    return near_form(network, shape)


def near(images, side, generator, copies=2):
    """Copies of the images, each with another square somewhere, and which image each is near."""
    numbers = torch.arange(len(images)).repeat(copies)
    x = images[numbers].clone()
    for row in x:
        top, left = (int(torch.randint(0, length - side + 1, (), generator=generator)) for length in x.shape[2:])
        row[:, top : top + side, left : left + side] = torch.rand(3, side, side, generator=generator)
    return x, numbers.tolist()
