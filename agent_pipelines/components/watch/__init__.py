"""What the sensor of a task looks at: one file for each kind of trigger that is not a schedule."""
