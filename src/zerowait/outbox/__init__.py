"""Where accepted messages live until they are settled: on disk or in memory, by the same code."""
