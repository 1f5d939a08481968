"""Normal-form and differentiable games, with learners that know the exact gradients: NumPy arrays in, NumPy arrays out."""

from sb3_matrl.games.differentiable import DIFFERENTIABLE_GAMES, DifferentiableGame, differentiable_game
from sb3_matrl.games.equilibria import Equilibria
from sb3_matrl.games.exact_learner import Dynamics, Learner
from sb3_matrl.games.generators import GENERATORS, KINDS, random_games
from sb3_matrl.games.learner_registry import LEARNERS, learner_names, make_learner, option_names
from sb3_matrl.games.named_games import game_names, named_game
from sb3_matrl.games.normal_form import NormalFormGame, both_actions
from sb3_matrl.games.one_shot_games import CongestionGame, OneShotGame, TableGame, one_shot_game, one_shot_names
from sb3_matrl.games.trajectories import convergence, distances, final_distance, run, steps_to_tolerance

__all__ = [
    "DIFFERENTIABLE_GAMES",
    "GENERATORS",
    "KINDS",
    "LEARNERS",
    "CongestionGame",
    "DifferentiableGame",
    "Dynamics",
    "Equilibria",
    "Learner",
    "NormalFormGame",
    "OneShotGame",
    "TableGame",
    "both_actions",
    "convergence",
    "differentiable_game",
    "distances",
    "final_distance",
    "game_names",
    "learner_names",
    "make_learner",
    "named_game",
    "one_shot_game",
    "one_shot_names",
    "option_names",
    "random_games",
    "run",
    "steps_to_tolerance",
]
