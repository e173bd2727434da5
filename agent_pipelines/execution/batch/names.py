"""What the parts of a batch are called in Dagster."""

from agent_pipelines.core.task import TaskKey

_ID = 18  # characters of a batch's id in the key of a partition, as lists show it


def partitions_name(task: TaskKey) -> str:
    """The name of the dynamic partitions that the shards of a task's batches are."""
    return "/".join([*task, "shards"])


def partition_key(batch_id: str, number: int) -> str:
    """The partition of a shard: the beginning of the batch's id, and the number of the shard."""
    return f"{batch_id[:_ID]}-{number:04}"


def shard_of_partition(key: str) -> tuple[str, int]:
    """The beginning of a batch's id, and the number of a shard. Raises ValueError if the key is not one of a shard."""
    batch, _, number = key.rpartition("-")
    return batch, int(number)


def shards_job(task: TaskKey) -> str:
    """The name of the job that works on the shards of a task's batches."""
    return f"{task[1]}__{task[2]}__shards"


def merge_job(task: TaskKey) -> str:
    """The name of the job that merges the results of a task's batches."""
    return f"{task[1]}__{task[2]}__merge"
