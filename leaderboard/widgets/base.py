"""What a widget is: one view of a submission on its page."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from leaderboard.board import Board, Row


@dataclass(frozen=True)
class Widget:
    """One section of a submission's page."""

    name: str
    """Unique; also the section's anchor and, as ``widget_<name>.html``, its template."""
    title: str
    build: Callable[[Board, Row], dict[str, Any] | None]
    """Plain values for the template; None when there is nothing to show."""

    @property
    def template(self) -> str:
        """File name of the template."""
        return f"widget_{self.name}.html"
