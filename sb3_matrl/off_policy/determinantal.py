"""
Q-DPP's kernel and sampler (Yang et al. 2020, "Multi-Agent Determinantal Q-Learning", Sec. 3).

The ground set holds all pairs of an agent's observation and an action; a joint action Y chooses one pair of each agent. Its
value is log det L_Y with L = D B B^T D, where D = diag(exp(Q_i / 2)) is the quality of a pair and the rows of B, of length 1,
are diversity features: the sum of the chosen Q_i plus log det of the Gram matrix of the chosen rows. Orthogonal features give
the sum alone, as VDN; agents that choose pairs with equal features are punished.

The Gram matrix is K = (1 - jitter) B B^T + jitter I. Its eigenvalues are at least ``jitter``, so that its logarithm and its
gradient are finite. An absent agent has no pair: its rows and columns are left out. Tensors only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

from sb3_matrl.off_policy.agent_perceptrons import AgentPerceptrons
from sb3_matrl.off_policy.mixers import present_values
from sb3_matrl.utils.suggest import unknown

#: How long features are: 1, or between 0 and 1 as learned.
FEATURE_NORMS = ("unit", "learned")
HIDDEN_SIZE = 64
# Temperatures below this one count as this one; it draws an action of the largest value.
_SMALLEST_TEMPERATURE = 1e-6


class DiversityFeatures(nn.Module):
    """
    Features b_i(o_i, a) of the agents' actions: rows of a perceptron with one hidden layer of 64, divided by their lengths.

    :param input_sizes: n numbers of entries of an observation's features
    :param n_actions: n numbers of actions
    :param feature_dim: number of entries of a diversity feature
    :param norm: ``"unit"`` for length 1; ``"learned"`` for lengths in (0, 1) from a second perceptron with a sigmoid
    :raises ValueError: if the norm is unknown
    """

    def __init__(self, input_sizes: Sequence[int], n_actions: Sequence[int], feature_dim: int, norm: str = "unit") -> None:
        super().__init__()
        if norm not in FEATURE_NORMS:
            raise ValueError(unknown("feature_norm", str(norm), FEATURE_NORMS))
        self.feature_dim = feature_dim
        sizes = list(zip(input_sizes, n_actions, strict=True))
        self.directions = AgentPerceptrons([(width, HIDDEN_SIZE, count * feature_dim) for width, count in sizes])
        self.lengths = None
        if norm == "learned":
            self.lengths = AgentPerceptrons([(width, HIDDEN_SIZE, count) for width, count in sizes])

    def forward(self, inputs: Sequence[th.Tensor], agents: Sequence[int] | None = None) -> list[th.Tensor]:
        """
        Features of all actions of some or all agents.

        :param inputs: for each of the agents (B, input size)
        :param agents: indices of the agents; ``None`` for all, in order
        :return: for each of the agents (B, A_i, feature_dim)
        """
        rows = [one.unflatten(1, (-1, self.feature_dim)) for one in self.directions(inputs, agents)]
        features = [nn.functional.normalize(one, dim=2) for one in rows]
        if self.lengths is None:
            return features
        lengths = self.lengths(inputs, agents)
        return [one * length.sigmoid().unsqueeze(2) for one, length in zip(features, lengths, strict=True)]


def chosen_features(features: Sequence[th.Tensor], actions: th.Tensor) -> th.Tensor:
    """
    Features of a joint action.

    :param features: n tensors (B, A_i, d)
    :param actions: int64 (B, n)
    :return: (B, n, d)
    """
    rows = th.arange(len(actions), device=actions.device)
    return th.stack([one[rows, action] for one, action in zip(features, actions.unbind(1), strict=True)], dim=1)


def log_det(features: th.Tensor, present: th.Tensor, jitter: float, norm: str = "unit") -> th.Tensor:
    """
    log det K_Y of a joint action; at most 0, and 0 for orthogonal unit features or a single agent with one.

    :param features: (B, n, d) features of the chosen pairs
    :param present: bool (B, n), agents whose pair is in Y
    :param jitter: weight of the identity in K; at least 0.0001, so that float32 is exact enough
    :param norm: ``"unit"`` sets the diagonal of K to 1 exactly
    :return: (B,)
    """
    features = present_values(features, present.unsqueeze(2))
    kernel = (1.0 - jitter) * features @ features.transpose(1, 2)
    if norm == "unit":
        diagonal = th.ones_like(kernel[:, :, 0])
    else:
        diagonal = th.where(present, kernel.diagonal(dim1=1, dim2=2) + jitter, 1.0)
    kernel = th.diagonal_scatter(kernel, diagonal, dim1=1, dim2=2)
    # No exception for numbers that are not finite: they go on into the loss, where they are noticed.
    factor, _ = th.linalg.cholesky_ex(kernel)
    value: th.Tensor = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return value


class Conditionals:
    """
    Conditional weights s(a) = K_aa - k_a^T K_Y^-1 k_a of further pairs, given the pairs Y chosen so far.

    s(a) is the squared length of the part of the pair's feature that is orthogonal to the chosen ones, jitter included, and
    det K_{Y + a} = s(a) det K_Y. Y grows by one pair per row; the orthogonal parts are kept, so that nothing is inverted.

    :param jitter: weight of the identity in K
    """

    def __init__(self, jitter: float) -> None:
        self.jitter = jitter
        self._scale = (1.0 - jitter) ** 0.5
        self._basis: th.Tensor | None = None  # (B, m, d), Gram-Schmidt's vectors without the coordinates of the jitter

    def weights(self, features: th.Tensor, norm: str = "unit") -> th.Tensor:
        """
        :param features: (B, A, d) features of the pairs
        :param norm: see :func:`log_det`
        :return: (B, A), between ``jitter`` and 1
        """
        squares = features.square().sum(dim=2) * (1.0 - self.jitter) + self.jitter
        lengths = th.ones_like(squares) if norm == "unit" else squares
        if self._basis is None:
            return lengths
        parts = self._scale * features @ self._basis.transpose(1, 2)
        weights: th.Tensor = (lengths - parts.square().sum(dim=2)).clamp(min=self.jitter)
        return weights

    def choose(self, feature: th.Tensor, weight: th.Tensor, present: th.Tensor) -> None:
        """
        Add a pair to Y.

        :param feature: (B, d) feature of the pair
        :param weight: (B,) its weight, from :meth:`weights`
        :param present: bool (B,), rows in which the pair is added
        """
        vector = self._scale * feature.unsqueeze(1)
        if self._basis is not None:
            vector = vector - vector @ self._basis.transpose(1, 2) @ self._basis
        vector = present_values(vector / weight.sqrt()[:, None, None], present[:, None, None])
        self._basis = vector if self._basis is None else th.cat([self._basis, vector], dim=1)


@th.no_grad()
def sample_actions(
    q: Sequence[th.Tensor],
    features: Sequence[th.Tensor],
    legal: Sequence[th.Tensor | None],
    present: th.Tensor,
    jitter: float,
    logdet_coef: float = 1.0,
    temperature: float | None = None,
    norm: str = "unit",
    generator: th.Generator | None = None,
) -> th.Tensor:
    """
    Sample by projection (Alg. 1), for all rows at once: agents in order choose given those before them.

    An agent plays a with probability proportional to s(a)^logdet_coef exp(Q(o, a) / temperature), s from
    :class:`Conditionals`; without a temperature it plays the action of the largest logdet_coef log s(a) + Q(o, a).

    :param q: n tensors (B, A_i), utilities
    :param features: n tensors (B, A_i, d), diversity features
    :param legal: n masks, bool (B, A_i); ``None`` where all actions are legal
    :param present: bool (B, n); an absent agent's action means nothing
    :param jitter: weight of the identity in the kernel
    :param logdet_coef: exponent of s
    :param temperature: temperature of the draws; ``None`` for the greedy choice
    :param norm: see :func:`log_det`
    :param generator: source of the draws; torch's global generator by default
    :return: int64 (B, n)
    """
    conditionals, rows = Conditionals(jitter), th.arange(len(present), device=present.device)
    actions: list[th.Tensor] = []
    for values, own, mask, here in zip(q, features, legal, present.unbind(1), strict=True):
        weights = conditionals.weights(own, norm)
        scores = logdet_coef * weights.log() + values / (
            1.0 if temperature is None else max(temperature, _SMALLEST_TEMPERATURE)
        )
        if mask is not None:
            scores = scores.masked_fill(~mask & here.unsqueeze(1), -th.inf)
        action = scores.argmax(dim=1) if temperature is None else _draw(scores, generator)
        conditionals.choose(own[rows, action], weights[rows, action], here)
        actions.append(action)
    return th.stack(actions, dim=1)


def _draw(logits: th.Tensor, generator: th.Generator | None) -> th.Tensor:
    """One index per row, with probabilities softmax(logits)."""
    return th.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
