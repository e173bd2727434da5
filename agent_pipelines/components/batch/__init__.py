"""What Dagster has of a task that works on a batch: its shards as partitions, and their merge as the task's own asset."""
