"""Options of the studies; imports the standard library alone, so that ``--help`` answers fast."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table1Options:
    """
    :param games: number of games of each class and generator
    :param steps: number of steps of every learner
    :param seed: seed of the games
    :param jobs: number of processes
    """

    games: int = 1000
    steps: int = 1000
    seed: int = 0
    jobs: int = 2


@dataclass(frozen=True)
class RotationalOptions:
    """
    :param learning_rate: step size of every optimiser; the first step size of those that adapt it
    :param look_ahead: look-ahead of the comparison with a larger one
    :param start: x and y
    :param steps: maximum number of steps
    :param tolerance: largest max(abs(x), abs(y)) that counts as the fixed point, which is the origin
    :param seed: seed of MATRL's draws among equilibria
    """

    learning_rate: float = 0.02
    look_ahead: float = 0.1
    start: tuple[float, float] = (1.0, 1.0)
    steps: int = 400
    tolerance: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class DynamicsOptions:
    """
    :param game: name of a game; ``None`` uses matching pennies
    :param payoffs: game given by its payoffs instead of a name, as YAML: [row player's matrix, column player's matrix]
    :param learners: names of learners; ``None`` uses a selection
    :param start: 2x2: each player's probability of action 0; 3x3: the three probabilities of player 1, then those of player 2;
        ``None`` uses the paper's, or a point off the centre for 3x3
    :param steps: number of steps of every learner; ``None`` uses 1,000, or 300 for 3x3
    :param predicted_step: predicted step of MATRL and its ablations in 2x2 games
    :param learning_rate: step size of the learners on 3x3 games, for the logits of a softmax
    :param seed: seed of the draws among equilibria
    """

    game: str | None = None
    payoffs: str | None = None
    learners: tuple[str, ...] | None = None
    start: tuple[float, ...] | None = None
    steps: int | None = None
    predicted_step: float = 0.3
    learning_rate: float = 1.0
    seed: int = 0
