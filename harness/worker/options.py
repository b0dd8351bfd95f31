"""What can be asked of a model worker, what it says about itself, and how it can fail."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KINDS = ("died", "timeout", "memory", "raised", "contract", "checkpoint")
"""How a worker can fail; after the first three its process is gone."""
_KEPT = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
    "PYTHONPATH", "PYTHONHOME", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
)  # fmt: skip
_KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "TORCH_", "HF_", "CONDA_")
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
"""glibc keeps freed activations for the next pass: taking them from the system anew costs 7 % of the time."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerError(Exception):
    """A submission's process failed; ``kind`` is one of ``KINDS``, the text is one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class WorkerOptions:
    """How a network is held and asked."""

    device: str = "cpu"
    threads: int = 1
    memory_limit: int | None = None
    """Bytes the process may hold, libraries included; None: no limit."""
    optimise: bool = True
    """Whether to use faster layouts and fold BatchNorm, where that leaves logits and gradients as they were."""
    micro_batch: int | None = None
    """Rows the network sees at once, whatever the size of the request; None: ``network.MICRO_BATCH`` of the device."""
    image_shape: tuple[int, int, int] = (3, 32, 32)
    """(C, H, W) of the images that optimisations are tried on."""


@dataclass(frozen=True)
class Description:
    """What a worker says about the network it has loaded."""

    parameters: int
    training: tuple[str, ...]
    """Names of the modules that stayed in training mode."""
    hardware: str
    """Name of the processor or accelerator."""
    dtype: str
    """Type of most parameters, e.g. ``float32``."""
    optimisations: tuple[str, ...]


def worker_environment(threads: int, outside: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of the environment ``outside`` that a submission may see: nothing that tells of a run or its results."""
    kept = {name: value for name, value in outside.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return kept | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        **ALLOCATOR,
        **dict.fromkeys(_THREADS, str(threads)),
    }
