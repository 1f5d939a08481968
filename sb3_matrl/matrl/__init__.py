"""MATRL, the method of the paper: its algorithm class, one iteration's steps, and what an iteration reports."""

from sb3_matrl.matrl.matrl import MATRL

__all__ = ["MATRL"]
