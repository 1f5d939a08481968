"""Evaluation of trained agents: returns with confidence intervals, evaluation during training, playing and filming."""

from sb3_matrl.evaluation.cross_play import cross_play
from sb3_matrl.evaluation.cross_play_result import CrossPlayResult
from sb3_matrl.evaluation.cyclicity import Cyclicity, cyclic_share, cyclic_triples, cyclicity, hodge_parts
from sb3_matrl.evaluation.eval_callback import MultiAgentEvalCallback
from sb3_matrl.evaluation.evaluate import EvaluationResult, JointPredictor, evaluate_policy
from sb3_matrl.evaluation.exact_nash_conv import ExactGame, ExactValues, exact_nash_conv
from sb3_matrl.evaluation.film import record_video
from sb3_matrl.evaluation.mixed import MixedPolicy, Player
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.evaluation.population_rankings import alpha_rank, nash_averaging
from sb3_matrl.evaluation.random_policy import RandomPolicy
from sb3_matrl.evaluation.ratings import EloRatings, bradley_terry
from sb3_matrl.evaluation.statistics import mean_confidence_interval, student_t_quantile
from sb3_matrl.evaluation.trained_exploitability import Exploitability, approximate_nash_conv, exploitability
from sb3_matrl.utils.random_state import isolated_random_streams

__all__ = [
    "CrossPlayResult",
    "Cyclicity",
    "EloRatings",
    "EvaluationResult",
    "ExactGame",
    "ExactValues",
    "Exploitability",
    "JointPredictor",
    "MixedPolicy",
    "MultiAgentEvalCallback",
    "Player",
    "RandomPolicy",
    "alpha_rank",
    "approximate_nash_conv",
    "bradley_terry",
    "cross_play",
    "cyclic_share",
    "cyclic_triples",
    "cyclicity",
    "evaluate_policy",
    "exact_nash_conv",
    "exploitability",
    "hodge_parts",
    "isolated_random_streams",
    "mean_confidence_interval",
    "nash_averaging",
    "play_episodes",
    "record_video",
    "student_t_quantile",
]
