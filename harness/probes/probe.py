"""What a registered probe is; a file of its own, so that the probes can name it and the registry can name them."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.probes.subject import Measured


@dataclass(frozen=True)
class Probe:
    """A registered probe."""

    name: str
    """The task's name in a suite, e.g. ``c2-determinism``."""
    run: Callable[..., Measured]
    """``run(subject, **params)``; ``params`` come from the suite."""
    version: int
    """Raised whenever the numbers change their meaning: older records become stale."""
    needs: tuple[str, ...] = ()
    """Names of probes whose measurements it reads."""
    reads_attacks: bool = True
    """Whether it looks at what the attacks of the run found, and so belongs to one threat model."""

    @property
    def implementation(self) -> str:
        """As in a record's task."""
        return f"rampart-{self.name}-{self.version}"
