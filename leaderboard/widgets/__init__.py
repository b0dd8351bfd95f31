"""The sections of a submission's page, in page order. A new one is a file here, a template, and a line below."""

from leaderboard.widgets import (
    accuracies,
    card,
    claims,
    corruptions,
    cost,
    curves,
    failures,
    per_class,
    provenance,
    summary,
    validity,
    waterfall,
    witnesses,
)
from leaderboard.widgets.base import Widget

WIDGETS: tuple[Widget, ...] = (
    summary.WIDGET,
    failures.WIDGET,
    accuracies.WIDGET,
    waterfall.WIDGET,
    validity.WIDGET,
    witnesses.WIDGET,
    curves.WIDGET,
    corruptions.WIDGET,
    per_class.WIDGET,
    cost.WIDGET,
    claims.WIDGET,
    card.WIDGET,
    provenance.WIDGET,
)

__all__ = ["WIDGETS", "Widget"]
