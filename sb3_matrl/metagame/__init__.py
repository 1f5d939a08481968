"""Meta-game between policies, by default current and predicted: payoffs from one rollout, equilibria, stability."""

from sb3_matrl.metagame.game import MetaGame
from sb3_matrl.metagame.solvers import METHODS, SELECTIONS, Solution, check_applicable, solve, solve_two_agents
from sb3_matrl.metagame.stability import (
    classify,
    classify_strategies,
    eigenvalues,
    fixed_point_type,
    improvement_lower_bound,
)
from sb3_matrl.metagame.tangent import tangent_basis

__all__ = [
    "METHODS",
    "SELECTIONS",
    "MetaGame",
    "Solution",
    "check_applicable",
    "classify",
    "classify_strategies",
    "eigenvalues",
    "fixed_point_type",
    "improvement_lower_bound",
    "solve",
    "solve_two_agents",
    "tangent_basis",
]
