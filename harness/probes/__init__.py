"""What touches a network and returns numbers; judging them is the checks' work. One probe is one file."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.probes.subject import Measured, Subject
from harness.registry import Registry

__all__ = ["PROBES", "Measured", "Probe", "Subject"]


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


PROBES: Registry[Probe] = Registry("probe")
