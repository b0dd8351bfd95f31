"""What touches a network and returns numbers; judging them is the checks' work. One probe is one file."""

from harness.probes.probe import Probe
from harness.probes.subject import Measured, Subject
from harness.registry import Registry

__all__ = ["PROBES", "Measured", "Probe", "Subject"]

PROBES: Registry[Probe] = Registry("probe")
