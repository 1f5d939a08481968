"""Meta-game between current and predicted policies: payoffs from one rollout, equilibria, stability."""

from sb3_matrl.metagame.game import MetaGame
from sb3_matrl.metagame.solvers import METHODS, SELECTIONS, Solution, check_applicable, solve, solve_two_agents
from sb3_matrl.metagame.stability import classify, eigenvalues, fixed_point_type, improvement_lower_bound

__all__ = [
    "METHODS",
    "SELECTIONS",
    "MetaGame",
    "Solution",
    "check_applicable",
    "classify",
    "eigenvalues",
    "fixed_point_type",
    "improvement_lower_bound",
    "solve",
    "solve_two_agents",
]
