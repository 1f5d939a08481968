"""Registry of the learners with exact gradients: names, the games that each plays, and their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sb3_matrl.games.differentiable import DifferentiableGame
from sb3_matrl.games.exact_learner import Game, Learner
from sb3_matrl.games.exact_matrl import MATRL, DifferentiableMATRL
from sb3_matrl.games.gradient_learners import IGA, IGAPP, Extragradient, GradientDescent, OptimisticGradient, WoLFIGA
from sb3_matrl.games.normal_form import NormalFormGame
from sb3_matrl.games.second_order import LOLA, SGA, SOS, ConsensusOptimization, LookAhead
from sb3_matrl.games.trust_region import DifferentiableTrustRegionMATRL, TrustRegionMATRL
from sb3_matrl.utils.suggest import unknown

_KINDS: dict[type[Game], str] = {NormalFormGame: "2x2 games", DifferentiableGame: "differentiable games"}


@dataclass(frozen=True)
class LearnerEntry:
    """
    A name in the registry.

    :param classes: classes of the learner, one per kind of game if their options differ
    :param fixed: options that the name stands for; they cannot be given
    """

    classes: tuple[type[Learner[Any]], ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plays(self) -> tuple[type[Game], ...]:
        """Classes of the games that the learner plays."""
        return tuple(game for learner in self.classes for game in learner.plays)

    def learner_class(self, game: type[Game] | None) -> type[Learner[Any]]:
        """
        :param game: class of the games to play; ``None`` takes the first class
        :return: class of the learner
        """
        return next(learner for learner in self.classes if game is None or game in learner.plays)

    def options(self, game: type[Game] | None) -> list[str]:
        """
        :param game: class of the games to play; ``None`` takes the first class
        :return: names of the options
        """
        known = fields(self.learner_class(game))  # type: ignore[arg-type]
        return [option.name for option in known if option.name not in self.fixed]


#: The learners by name.
LEARNERS: dict[str, LearnerEntry] = {
    "iga": LearnerEntry((IGA,)),
    "iga-pp": LearnerEntry((IGAPP,)),
    "wolf-iga": LearnerEntry((WoLFIGA,)),
    "gd": LearnerEntry((GradientDescent,)),
    "extragradient": LearnerEntry((Extragradient,)),
    "optimistic": LearnerEntry((OptimisticGradient,)),
    "lookahead": LearnerEntry((LookAhead,)),
    "lola": LearnerEntry((LOLA,)),
    "sos": LearnerEntry((SOS,)),
    "sga": LearnerEntry((SGA,)),
    "consensus": LearnerEntry((ConsensusOptimization,)),
    "matrl": LearnerEntry((MATRL, DifferentiableMATRL)),
    "matrl-no-br": LearnerEntry((MATRL,), {"metagame": True, "best_response": False, "best_response_step": 0.03}),
    "il-la": LearnerEntry((MATRL,), {"metagame": False, "best_response": True, "seed": 0}),
    "matrl-tr": LearnerEntry((TrustRegionMATRL, DifferentiableTrustRegionMATRL)),
}


def learner_names(game: type[Game]) -> list[str]:
    """
    :param game: class of games
    :return: names of the learners that play them
    """
    return [name for name, entry in LEARNERS.items() if game in entry.plays]


def make_learner(name: str, game: type[Game] | None = None, /, **options: Any) -> Learner[Any]:
    """
    Make a learner with the paper's settings, or others.

    :param name: one of ``LEARNERS``
    :param game: class of the games to play; it matters for ``matrl`` and ``matrl-tr``, whose options depend on it.
        ``None`` takes 2x2 games for these two
    :param options: options of the learner's class, e.g. ``step_size=0.03``
    :return: the learner
    :raises ValueError: on an unknown name or option, with the nearest one, an option out of range, or a learner that does
        not play these games
    """
    entry = _entry(name, game)
    known = entry.options(game)
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of {name!r}", option, known))
    return entry.learner_class(game)(**options, **entry.fixed)


def option_names(name: str, game: type[Game] | None = None) -> list[str]:
    """
    :param name: one of ``LEARNERS``
    :param game: class of the games to play, as in :func:`make_learner`
    :return: names of the options that :func:`make_learner` takes
    :raises ValueError: on an unknown name, or a learner that does not play these games
    """
    return _entry(name, game).options(game)


def _entry(name: str, game: type[Game] | None) -> LearnerEntry:
    if name not in LEARNERS:
        raise ValueError(unknown("learner", name, LEARNERS))
    entry = LEARNERS[name]
    if game is not None and game not in entry.plays:
        raise ValueError(f"learner {name!r} does not play {_KINDS[game]}; these do: {', '.join(learner_names(game))}")
    return entry
