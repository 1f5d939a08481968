"""Judging trained agents: returns with intervals, sampled and greedy."""

from sb3_matrl.evaluation.evaluate import EvaluationResult, evaluate_policy
from sb3_matrl.evaluation.mixed import MixedPolicy, Player
from sb3_matrl.evaluation.random_policy import RandomPolicy
from sb3_matrl.evaluation.statistics import mean_confidence_interval, student_t_quantile
from sb3_matrl.utils.random_state import isolated_random_streams

__all__ = [
    "EvaluationResult",
    "MixedPolicy",
    "Player",
    "RandomPolicy",
    "evaluate_policy",
    "isolated_random_streams",
    "mean_confidence_interval",
    "student_t_quantile",
]
