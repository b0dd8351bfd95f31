"""What touches a network and returns numbers; judging them is the checks' work. One probe is one file."""

from harness.probes import (
    a1_unbounded,
    a2_budget,
    a3_single_step,
    a4_convergence,
    a5_bookkeeping,
    a6_blackbox,
    a7_random,
    a8_transfer,
    a9_bpda,
    a10_binarisation,
    c1_output,
    c2_determinism,
    c2_eot,
    c3_callers,
    c4_batch,
    c5_state,
    c6_provenance,
    c7_continuity,
    c8_derivative,
    d1_memory,
    g1_gradients,
    g2_losses,
    g3_coherence,
    g4_linearity,
    g5_multiscale,
    i1_jacobian,
    i2_landscape,
)
from harness.probes.probe import Probe
from harness.probes.subject import Measured, Subject
from harness.registry import Registry

__all__ = ["PROBES", "Measured", "Probe", "Subject"]

PROBES: Registry[Probe] = Registry("probe")

for _module in (
    a1_unbounded, a2_budget, a3_single_step, a4_convergence, a5_bookkeeping, a6_blackbox, a7_random, a8_transfer,
    a9_bpda, a10_binarisation, c1_output, c2_determinism, c2_eot, c3_callers, c4_batch, c5_state, c6_provenance,
    c7_continuity, c8_derivative, d1_memory, g1_gradients, g2_losses, g3_coherence, g4_linearity, g5_multiscale,
    i1_jacobian, i2_landscape,
):  # fmt: skip
    PROBES.add(_module.PROBE.name, _module.PROBE)

PROBES.freeze()
