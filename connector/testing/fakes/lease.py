"""A lease that a test gives and takes away."""

from __future__ import annotations

from connector.ports import Fence


class FakeLease:
    """connector.ports.Lease that is valid while `held`."""

    resource = "store"

    def __init__(self, fence: Fence | None = None) -> None:
        self.fence = fence or Fence(self.resource, "test", 1)
        self.held = True

    @property
    def usable(self) -> bool:
        return self.held

    def valid(self) -> bool:
        return self.held
