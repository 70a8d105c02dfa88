"""A value that others watch, by the contract of Svelte's stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..events import tell

T = TypeVar("T")


class Store(Generic[T]):
    """A value and those who watch it."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._watchers: dict[object, Callable[[T], Any]] = {}

    @property
    def value(self) -> T:
        """The value now."""
        return self._value

    def set(self, value: T) -> None:
        """Change the value and tell everybody; what one of them raises keeps it from nobody else."""
        self._value = value
        for watcher in list(self._watchers.values()):
            tell(watcher, value)

    def subscribe(self, watcher: Callable[[T], Any]) -> Callable[[], None]:
        """Call ``watcher`` with the value at once and at every change. Returns what ends it."""
        key = object()
        self._watchers[key] = watcher
        watcher(self._value)
        return lambda: self._watchers.pop(key, None) and None
