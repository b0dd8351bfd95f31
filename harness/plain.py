"""The data model as plain data, ready for JSON, and back."""

from dataclasses import asdict
from typing import Any

from harness.records import (
    Candidate,
    Cost,
    Environment,
    Example,
    Failure,
    Footprint,
    Identity,
    Manifest,
    Record,
    Shard,
    Status,
    Task,
    ThreatModel,
    Timing,
)


def to_dict(value: Record | Manifest) -> dict[str, Any]:
    """Plain data, ready for JSON; the inverse of ``record_from_dict`` and ``manifest_from_dict``."""
    return asdict(value)


def task_from_dict(data: dict[str, Any]) -> Task:
    """A ``Task`` from plain data."""
    threat = data.get("threat")
    return Task(**{**data, "threat": ThreatModel(**threat) if threat else None, "after": tuple(data["after"])})


def record_from_dict(data: dict[str, Any]) -> Record:
    """A ``Record`` from plain data of the current schema."""
    shard = Shard(**{**data["shard"], "task": task_from_dict(data["shard"]["task"])})
    environment = Environment(**{**data["environment"], "optimisations": tuple(data["environment"]["optimisations"])})
    footprint = data.get("footprint")
    if footprint is not None:
        timings = {name: Timing(**footprint[name]) for name in ("forward", "forward_backward")}
        footprint = Footprint(**{**footprint, **timings})
    failure = data.get("failure")
    return Record(
        shard=shard,
        identity=Identity(**data["identity"]),
        status=Status(data["status"]),
        environment=environment,
        cost=Cost(**data["cost"]),
        examples=tuple(Example(**row) for row in data["examples"]),
        footprint=footprint,
        failure=Failure(**failure) if failure else None,
        measurements=data["measurements"],
        nonfinite_gradients=data["nonfinite_gradients"],
        mismatches=data["mismatches"],
        adversarial_sha256=data["adversarial_sha256"],
        schema=data["schema"],
    )


def manifest_from_dict(data: dict[str, Any]) -> Manifest:
    """A ``Manifest`` from plain data of the current schema."""
    candidates = tuple(
        Candidate(**{**item, "tasks": tuple(task_from_dict(task) for task in item["tasks"])})
        for item in data["candidates"]
    )
    spans = tuple((int(start), int(stop), str(digest)) for start, stop, digest in data["spans"])
    return Manifest(**{**data, "candidates": candidates, "spans": spans, "class_names": tuple(data["class_names"])})
