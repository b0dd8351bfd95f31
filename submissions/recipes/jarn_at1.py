"""JARN-AT1: JARN with one-step adversarial training, in our own definition.

The paper (Chan et al. 2020, arXiv 1912.10185) names it and gives its figures, but no implementation was published.
Here both phases train on images one signed-gradient step of length ``eps`` from a uniform start, projected onto the
ball, and the Jacobian is taken there. With ``weight = 0`` it is one-step adversarial training from a random start in
the same pipeline, the row without which the JARN term cannot be judged.
"""

from torch import Tensor

from submissions.recipes import jarn
from submissions.recipes.method import Batch
from submissions.recipes.perturb import ascend, uniform_start


class Recipe(jarn.Recipe):
    """Settings as JARN's."""

    def inputs(self, batch: Batch) -> Tensor:
        """The images moved by one signed-gradient step from a uniform start."""
        start = uniform_start(batch.x, eps=self.eps, generator=batch.generator)
        with self.autocast():
            return ascend(self.model, batch.x, batch.y, start, eps=self.eps, step_size=self.eps, steps=1)
