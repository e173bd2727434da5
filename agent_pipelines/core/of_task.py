"""What everything that is recorded of a task has in common."""

from pydantic import BaseModel, ConfigDict

from agent_pipelines.core.task import TaskKey


class OfTask(BaseModel):
    """A row that belongs to one task."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    workspace: str
    application: str
    task: str

    @property
    def task_key(self) -> TaskKey:
        """Workspace, application, name."""
        return (self.workspace, self.application, self.task)

    @property
    def path(self) -> str:
        """`application/task`."""
        return f"{self.application}/{self.task}"
