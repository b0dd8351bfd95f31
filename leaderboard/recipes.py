"""A task in words: every parameter and who computed it."""

from collections.abc import Sequence

from harness.records import Task, ThreatModel

WORDS = {
    "fgsm": "One step along the sign of the gradient",
    "pgd": "Projected gradient descent",
    "deepfool": "Smallest perturbation found by linearising; counted when it lies inside the budget",
    "apgd-ce": "Auto-PGD on cross-entropy",
    "apgd-t": "Auto-PGD on the targeted DLR loss",
    "fab-t": "Targeted minimum-norm FAB",
    "square": "Square attack, black-box random search",
}
"""What an attack does, by its name in the registry; one that is not here is shown by its name."""


def plain(value: object) -> str:
    """A parameter's value as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def _length(value: object, threat: ThreatModel | None) -> str:
    """A step in the unit its budget is written in: ``2/255`` under 8/255, ``0.125`` under 0.5."""
    steps = float(value) * 255 if isinstance(value, int | float) and threat and threat.eps.endswith("/255") else 0.0
    return f"{round(steps, 3):g}/255" if steps and abs(steps - round(steps, 3)) < 1e-6 else plain(value)


def parameters(task: Task) -> str:
    """``steps 20, step_size 2/255, restarts 1``; empty when there is none."""
    return ", ".join(
        f"{key} {_length(value, task.threat) if key == 'step_size' else plain(value)}"
        for key, value in task.params.items()
    )


def recipe(task: Task) -> str:
    """One line: budget, parameters, order in its cascade, implementation."""
    parts = [f"{task.threat.norm}, eps {task.threat.eps}"] if task.threat else []
    if text := parameters(task):
        parts.append(text)
    if task.after:
        parts.append(f"on the survivors of {', '.join(key.partition('@')[0] for key in task.after)}")
    return "; ".join([*parts, task.implementation or "implementation not recorded"])


def recipes(tasks: Sequence[Task]) -> str:
    """The recipes of one column; more than one when its rows do not agree."""
    return " / or: ".join(recipe(task) for task in tasks)


def meaning(task: Task) -> str:
    """What the attack does, in a few words."""
    return WORDS.get(task.attack, f"The attack {task.attack}")
