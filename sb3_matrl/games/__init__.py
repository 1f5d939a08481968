"""The paper's games, with learners that know the exact gradients: plain NumPy over batches of games."""

from sb3_matrl.games.differentiable import DIFFERENTIABLE_GAMES, DifferentiableGame, differentiable_game
from sb3_matrl.games.differentiable_learners import (
    DIFFERENTIABLE_LEARNERS,
    make_differentiable_learner,
    run_differentiable,
    steps_to_tolerance,
)
from sb3_matrl.games.equilibria import Equilibria
from sb3_matrl.games.generators import GENERATORS, KINDS, named_game, random_games
from sb3_matrl.games.normal_form import NormalFormGame, both_actions
from sb3_matrl.games.registry import LEARNERS, make_learner
from sb3_matrl.games.run import convergence, distances, final_distance, run

__all__ = [
    "DIFFERENTIABLE_GAMES",
    "DIFFERENTIABLE_LEARNERS",
    "GENERATORS",
    "KINDS",
    "LEARNERS",
    "DifferentiableGame",
    "Equilibria",
    "NormalFormGame",
    "both_actions",
    "convergence",
    "differentiable_game",
    "distances",
    "final_distance",
    "make_differentiable_learner",
    "make_learner",
    "named_game",
    "random_games",
    "run",
    "run_differentiable",
    "steps_to_tolerance",
]
