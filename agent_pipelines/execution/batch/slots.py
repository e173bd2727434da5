"""How many items of a shard are at their agents at once, and how many get ready for it."""

import asyncio


class Slots:
    """Bounds the items that are at their agents, and those that are on the way there.

    An item gets ready before it has a slot: its beginning has to be durable, and a slot must not stand empty meanwhile. As many
    are ahead as have ended while the last group was written, so that with slow agents nearly none is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ahead = 0
        self._has_room = asyncio.Event()
        self.free = asyncio.Semaphore(limit)
        self.coming = 0  # on the way to their agents or there

    async def come(self) -> "Slot":
        """Wait until an item may get ready. For one caller."""
        while self.coming >= self._limit + self._ahead:
            self._has_room.clear()
            await self._has_room.wait()
        slot = Slot(self)
        slot.come()
        return slot

    def go_ahead(self, ended: int) -> None:
        """Hear how many have ended while a group was written."""
        self._ahead = min(ended, self._limit)
        self._has_room.set()

    def turned(self) -> None:
        """Hear that one is no longer on the way or there."""
        self.coming -= 1
        self._has_room.set()


class Slot:
    """What one item has of the slots: nothing, a promise or a slot."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._has_come = False
        self._is_taken = False

    def come(self) -> None:
        """Be on the way, as again after a wait for the next attempt."""
        if not self._has_come:
            self._has_come = True
            self._slots.coming += 1

    async def take(self) -> None:
        """Wait until the agent may be asked."""
        await self._slots.free.acquire()
        self._is_taken = True

    def leave(self) -> None:
        """Give back what it has; may be called again, without effect."""
        if self._is_taken:
            self._is_taken = False
            self._slots.free.release()
        if self._has_come:
            self._has_come = False
            self._slots.turned()
