"""Switches of one MATRL iteration: meta-game, trial steps, ratios, solver and aggregation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from sb3_matrl.common.argument_checks import check_range
from sb3_matrl.matrl.episode_payoffs import EPISODE_PAYOFFS
from sb3_matrl.matrl.ratio_scope import check_scope
from sb3_matrl.matrl.trial_steps import PREDICTED, read_strategies
from sb3_matrl.metagame import METHODS, SELECTIONS
from sb3_matrl.utils.suggest import unknown

AGGREGATIONS = ("parameters", "distill")
BEST_RESPONSE_STARTS = ("aggregated", "current", "predicted")
PAYOFF_FITS = ("same", "cross")
#: ``"auto"`` selects by welfare where payoffs are nearly common, at random elsewhere.
MODEL_SELECTIONS = (*SELECTIONS, "auto")


@dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
    """
    Switches and solver of the coordinator, named and documented as the arguments of :class:`~sb3_matrl.MATRL`.

    ``metagame`` and ``best_response`` give every ablation of Sec. 4.

    :raises ValueError: if a value is not one of those documented
    """

    metagame: bool
    best_response: bool
    solver: str
    selection: str
    aggregation: str
    best_response_start: str
    payoff_clip_range: float | None
    distill_steps: int
    ratio_scope: str | int
    episode_payoffs: str
    strategies: Any
    optimism: float
    optimistic_n_epochs: int | None
    payoff_fit: str

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> CoordinatorConfig:
        """
        Take the settings from an algorithm's arguments.

        :param arguments: constructor arguments by name
        """
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})

    def __post_init__(self) -> None:
        choices = {
            "solver": METHODS,
            "selection": MODEL_SELECTIONS,
            "aggregation": AGGREGATIONS,
            "best_response_start": BEST_RESPONSE_STARTS,
            "episode_payoffs": EPISODE_PAYOFFS,
            "payoff_fit": PAYOFF_FITS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(unknown(name, getattr(self, name), known))
        check_range("payoff_clip_range", self.payoff_clip_range)
        check_range("distill_steps", self.distill_steps)
        check_scope(self.ratio_scope)
        self._check_strategies()

    def _check_strategies(self) -> None:
        names = [one.name for one in read_strategies(self.strategies)]
        if self.best_response_start == PREDICTED and PREDICTED not in names:
            raise ValueError(f"best_response_start is 'predicted', which is none of the strategies {', '.join(names)}")
        if not isinstance(self.optimism, Real) or not 0.0 < self.optimism < math.inf:
            raise ValueError(f"optimism must be greater than 0 and finite, got {self.optimism!r}")
        if self.optimistic_n_epochs is not None and self.optimistic_n_epochs < 1:
            raise ValueError(f"optimistic_n_epochs must be at least 1 or None, got {self.optimistic_n_epochs!r}")
