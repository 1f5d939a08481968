"""Payoffs of whole episodes, for meta-games whose samples are episodes: pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sb3_matrl.matrl.ratio_scope import Array, Episodes

#: Values of the argument ``episode_payoffs``.
EPISODE_PAYOFFS = ("advantages", "returns")


@dataclass(frozen=True)
class AgentRollout:
    """
    What an agent earned in the B rows of a rollout.

    :param rewards: (B,)
    :param values: (B,), by its critic when the data were collected
    :param advantages: (B,), GAE, 0 where it did not act
    :param acted: bool (B,), True where it acted
    :param starts: bool (B,), True where the row opens an episode of the agent, and where it is dead
    :param gamma: discount factor
    """

    rewards: Array
    values: Array
    advantages: Array
    acted: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.bool_]
    gamma: float


def episode_payoffs(rollout: AgentRollout, episodes: Episodes, kind: str) -> Array:
    """
    An agent's payoff of each episode.

    ``"returns"``: the discounted return as far as the episode is seen. The clock is that of GAE: time passes with the agent's
    own decisions, and rewards before the first one count in full.

    ``"advantages"``: the same, with the critic's value after an episode that the rollout cuts, and less the value of the
    episode's first row if the agent acts there. Unlike a value of a later row, that baseline depends on no action: payoffs of
    complete episodes have the right means with any critic. (A sum of GAE's advantages has not: late rewards count several
    times in it.)

    :param rollout: rows of the agent
    :param episodes: the rollout's episodes
    :param kind: one of :data:`EPISODE_PAYOFFS`
    :return: (E,)
    """
    decisions = episodes.last_sums(rollout.acted)
    discounts = rollout.gamma ** np.maximum(decisions - 1.0, 0.0)
    returns = episodes.sums(discounts * rollout.rewards)
    if kind == "returns":
        return returns
    first = episodes.first
    baseline = np.where(rollout.acted[first], rollout.values[first], 0.0)
    total = episodes.sums(rollout.acted)[episodes.of_row]
    final = (decisions == total) & (total > 0.0)  # the last decision, and the rows after it
    # GAE of the last decision: the rewards since then, plus gamma times the next value if the episode goes on, less its value.
    after = np.where(rollout.acted, rollout.advantages + rollout.values, 0.0) - rollout.rewards
    return np.asarray(returns + episodes.sums(np.where(final, discounts * after, 0.0)) - baseline)


def present(rollout: AgentRollout, episodes: Episodes, begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """
    Episodes in which an agent takes part, even if it never acts; it does not in those that go on after its death.

    :param rollout: rows of the agent
    :param episodes: the rollout's episodes
    :param begins: bool (B,), True where an episode of the environment begins
    :return: bool (E,)
    """
    return episodes.any(rollout.acted | ~rollout.starts | begins)
