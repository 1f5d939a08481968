"""Rollout workers: a training whose rollouts are played by several workers, each with its share of the env copies."""
