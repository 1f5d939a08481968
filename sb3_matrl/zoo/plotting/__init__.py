"""Learning curves of run folders and of benchmarks' records, as pictures."""
