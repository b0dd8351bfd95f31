"""A mapping from name to thing in which a clash, a typo or a late registration is an error."""

from typing import Generic, TypeVar

from harness.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind, e.g. ``Registry[Attack]("attack")``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._frozen = False

    def add(self, name: str, item: T) -> T:
        """Register ``item``; ``ValueError`` when the name is taken or the registry is frozen."""
        if self._frozen:
            raise ValueError(f"{self.kind} {name!r} comes too late: register it where the others are")
        if name in self._items:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._items[name] = item
        return item

    def get(self, name: str) -> T:
        """The thing called ``name``; ``UnknownNameError`` with the nearest name when there is none."""
        if name not in self._items:
            raise UnknownNameError(self.kind, name, self._items)
        return self._items[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._items)

    def freeze(self) -> None:
        """Refuse every later registration."""
        self._frozen = True
