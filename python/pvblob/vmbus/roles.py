"""The two ends of a connection, as values."""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    """The two ends of a connection."""

    GUEST = "guest"
    HOST = "host"

    def __repr__(self) -> str:
        return self.name

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.HOST if self is Role.GUEST else Role.GUEST


GUEST = Role.GUEST
HOST = Role.HOST
