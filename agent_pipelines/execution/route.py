"""Where an attempt is made, and when: on which node, and when the limits allow it."""

from agent_pipelines.execution.flow import FlowControl
from agent_pipelines.execution.placement import Placement
from agent_pipelines.execution.work import Failure, Success, Waiting, Work
from agent_pipelines.runtimes.fleet import Place


class Router:
    """Chooses the place of each attempt of an execution, before it is recorded, and hears how it ended."""

    def __init__(self, placement: Placement, flow: FlowControl) -> None:
        self._placement = placement
        self._flow = flow

    async def choose(self, work: Work) -> Place:
        """The place of the attempt that is to begin; waits until there is one and the limits allow it.

        Raises ExecutionFailed (no_agent) if no node becomes available in time, and (timeout) if all stay busy.
        """
        place = await self.place(work)
        try:
            await self.admit(work, place)
        except BaseException:
            await self._placement.leave(work, None)
            raise
        return place

    async def place(self, work: Work) -> Place:
        """The place alone; `admit` must follow before the agent is asked. Raises as `choose`."""
        return await self._placement.choose(work)

    async def admit(self, work: Work, place: Place) -> None:
        """Wait until the limits allow an attempt at a place."""
        await self._flow.admit(work, place)

    async def leave(self, work: Work, outcome: Success | Failure | Waiting | None) -> None:
        """Give up the place of `work` after its attempt; an outcome of None means that it was cancelled or never made, Waiting
        that its work goes on without a process.

        May be called again after that, without effect.
        """
        self._flow.settle(work)
        await self._placement.leave(work, outcome)
