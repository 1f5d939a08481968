"""Benchmarks: parallel runs of several methods, environments and seeds, and the comparison of their results."""
