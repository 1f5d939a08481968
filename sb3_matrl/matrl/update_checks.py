"""Checks for NaN and infinite numbers in the steps of a MATRL iteration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.matrl.best_response import BestResponseStats

# Losses as SB3's and sb3-contrib's learners log them. (train/explained_variance may well be NaN.)
_LEARNER_LOSSES = ("loss", "policy_gradient_loss", "policy_loss", "policy_objective", "value_loss", "entropy_loss")


def check_ratios(agents: Iterable[str], ratios: th.Tensor) -> None:
    """
    Check the density ratios of the predicted to the current policies.

    :param agents: names, in the order of the columns
    :param ratios: (B, n), or (B, n, K - 1) of several strategies
    :raises NonFiniteError: names the agent
    """
    bad = (~th.isfinite(ratios)).sum(dim=[axis for axis in range(ratios.dim()) if axis != 1]).tolist()
    for agent, count in zip(agents, bad, strict=True):
        if count > 0:
            raise NonFiniteError(
                f"agent {agent!r}, after the predicted step: {count} of {ratios[:, 0].numel()} log-probabilities of the "
                "rollout's actions are NaN"
            )


def check_learner_losses(agents: Iterable[str], logged: Mapping[str, Any]) -> None:
    """
    Check the losses of the predicted step.

    :param agents: names
    :param logged: values in the logger, with keys ``<agent>/train/<loss>``
    :raises NonFiniteError: names the agent and the loss
    """
    for agent in agents:
        for loss in _LEARNER_LOSSES:
            _check_number(f"agent {agent!r}, predicted step", loss, logged.get(f"{agent}/train/{loss}"))


def check_response_losses(stats: Mapping[str, BestResponseStats]) -> None:
    """
    Check the losses of the best response.

    :param stats: agent -> statistics of its best response
    :raises NonFiniteError: names the agent and the loss
    """
    for agent, one in stats.items():
        for loss in ("policy_loss", "value_loss", "entropy"):
            _check_number(f"agent {agent!r}, best response", loss, getattr(one, loss))


def _check_number(where: str, name: str, value: Any) -> None:
    if value is not None and not np.isfinite(value):
        raise NonFiniteError(f"{where}: {name} is {value}")
