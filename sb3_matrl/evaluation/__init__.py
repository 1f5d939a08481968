"""Evaluation of trained agents: returns with confidence intervals, evaluation during training, playing and filming."""

from sb3_matrl.evaluation.eval_callback import MultiAgentEvalCallback
from sb3_matrl.evaluation.evaluate import EvaluationResult, JointPredictor, evaluate_policy
from sb3_matrl.evaluation.film import record_video
from sb3_matrl.evaluation.mixed import MixedPolicy, Player
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.evaluation.random_policy import RandomPolicy
from sb3_matrl.evaluation.statistics import mean_confidence_interval, student_t_quantile
from sb3_matrl.utils.random_state import isolated_random_streams

__all__ = [
    "EvaluationResult",
    "JointPredictor",
    "MixedPolicy",
    "MultiAgentEvalCallback",
    "Player",
    "RandomPolicy",
    "evaluate_policy",
    "isolated_random_streams",
    "mean_confidence_interval",
    "play_episodes",
    "record_video",
    "student_t_quantile",
]
