"""Keeps the topic filters that this box subscribed to at the broker, in a file that stays when the settings change.

The broker keeps a session's subscriptions for the next connection with the same client id. So a box that left its
group would go on getting the group's work until it unsubscribes. Knows no broker.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from edged.state_files import StateFile

_FILTERS = TypeAdapter(list[str])


class SubscriptionRecord:
    """The topic filters in a state file."""

    def __init__(self, file: Path) -> None:
        self._file = StateFile(file, list[str], kind="subscriptions", earlier=_FILTERS.validate_json)

    def begin(self, filters: Sequence[str]) -> tuple[str, ...]:
        """Note these filters too; gives the earlier ones that are not among them, which should be unsubscribed."""
        left = tuple(each for each in self._file.read() or () if each not in filters)
        self.note((*filters, *left))
        return left

    def note(self, filters: Sequence[str]) -> None:
        """Note these filters and no others."""
        self._file.write(list(filters))
