"""Where a pipeline runs: runners by name, workers, resources, counters."""
