"""Files of a Hugging Face repository at one commit, by plain HTTPS.

``huggingface_hub`` is not needed for a public file at a pinned commit, is no dependency of this package, and would
bring a second cache, a second way to resume and messages of its own; ``$HF_ENDPOINT`` names a mirror as it does there.
"""

import os

from harness.checkpoints import Source, cache_dir

CONFIGURATION = "config.json"
WEIGHTS = "model.safetensors"


def source(repository: str, revision: str, name: str) -> Source:
    """Where one file of ``ORG/REPO`` is, and is kept."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    place = cache_dir() / "hf" / repository.replace("/", "--") / revision
    return Source(f"{endpoint}/{repository}/resolve/{revision}/{name}", place / name)


def weights(repository: str, commit: str) -> tuple[Source, ...]:
    """A repository's timm configuration and its weights."""
    return (source(repository, commit, CONFIGURATION), source(repository, commit, WEIGHTS))
