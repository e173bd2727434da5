"""Large work: split into shards, worked on by many runs, merged in order."""
