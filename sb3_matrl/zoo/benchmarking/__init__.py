"""Benchmarks: the runs of several methods, environments and seeds in parallel, and what is made of their results."""
