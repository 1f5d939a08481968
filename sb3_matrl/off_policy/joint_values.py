"""
QTRAN's joint networks and losses (Son et al. 2019, "QTRAN: Learning to Factorize with Transformation", Sec. 3).

The joint networks are those of PyMARL with one encoder per agent: agent i's encoding e_i of the last hidden layer h_i of its
utility and its action, added up over the agents, so that they grow linearly with the number of agents. In what follows Q' is
the sum of the utilities, ubar the joint action in which each agent plays its own best legal action, V a value of the state.
An absent agent counts as a utility and an encoding of 0, and takes no part in the means over agents. Tensors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch as th
from torch import nn

from sb3_matrl.off_policy.agent_perceptrons import AgentPerceptrons, perceptron
from sb3_matrl.off_policy.mixers import present_values

#: Names of the variants: one joint value (base), or one counterfactual network per agent (alt).
VARIANTS = ("base", "alt")


class StateValue(nn.Module):
    """
    V(s): what the sum of the utilities cannot express, because each agent sees a part of the state only.

    :param state_size: number of entries of a state
    :param embed_dim: width of the two hidden layers
    """

    def __init__(self, state_size: int, embed_dim: int) -> None:
        super().__init__()
        self.network = perceptron(state_size, embed_dim, embed_dim, 1)

    def forward(self, state: th.Tensor) -> th.Tensor:
        """
        :param state: (B, s)
        :return: (B,)
        """
        value: th.Tensor = self.network(state).squeeze(1)
        return value


class ActionEncoders(nn.Module):
    """
    Encodings e_i = enc_i([h_i, onehot(u_i)]), one perceptron with one hidden layer per agent.

    :param hidden_sizes: n widths of the utilities' last hidden layers
    :param n_actions: n numbers of actions
    :param embed_dim: width of the encoders' hidden layers and of the encodings
    """

    def __init__(self, hidden_sizes: Sequence[int], n_actions: Sequence[int], embed_dim: int) -> None:
        super().__init__()
        sizes = list(zip(hidden_sizes, n_actions, strict=True))
        self.networks = AgentPerceptrons([(width + count, embed_dim, embed_dim) for width, count in sizes])
        self.n_actions = list(n_actions)

    def forward(self, hidden: Sequence[th.Tensor], actions: th.Tensor, present: th.Tensor) -> th.Tensor:
        """
        :param hidden: n tensors (B, width), last hidden layers of the utilities
        :param actions: int64 (B, n)
        :param present: bool (B, n)
        :return: (B, n, embed_dim), zeros for absent agents
        """
        inputs = []
        for layer, action, count in zip(hidden, actions.unbind(1), self.n_actions, strict=True):
            inputs.append(th.cat([layer, nn.functional.one_hot(action, count).to(layer.dtype)], dim=1))
        return present_values(th.stack(self.networks(inputs), dim=1), present.unsqueeze(2))


class JointValue(nn.Module):
    """
    Q_jt(s, u) = f([s, sum_i e_i]) of QTRAN-base; f has two hidden layers.

    :param hidden_sizes: n widths of the utilities' last hidden layers
    :param n_actions: n numbers of actions
    :param state_size: number of entries of a state
    :param embed_dim: width of all layers
    """

    def __init__(self, hidden_sizes: Sequence[int], n_actions: Sequence[int], state_size: int, embed_dim: int) -> None:
        super().__init__()
        self.encoders = ActionEncoders(hidden_sizes, n_actions, embed_dim)
        self.network = perceptron(state_size + embed_dim, embed_dim, embed_dim, 1)

    def forward(self, hidden: Sequence[th.Tensor], actions: th.Tensor, present: th.Tensor, state: th.Tensor) -> th.Tensor:
        """
        :param hidden: n tensors (B, width), last hidden layers of the utilities
        :param actions: int64 (B, n)
        :param present: bool (B, n)
        :param state: (B, s)
        :return: (B,)
        """
        encoding = self.encoders(hidden, actions, present).sum(dim=1)
        value: th.Tensor = self.network(th.cat([state, encoding], dim=1)).squeeze(1)
        return value


class CounterfactualValues(nn.Module):
    """
    Q_jt,i(s, ., u_-i) = f_i([s, h_i, sum_{j != i} e_j]) of QTRAN-alt, one value per own action; f_i has two hidden layers.

    :param hidden_sizes: n widths of the utilities' last hidden layers
    :param n_actions: n numbers of actions
    :param state_size: number of entries of a state
    :param embed_dim: width of all layers
    """

    def __init__(self, hidden_sizes: Sequence[int], n_actions: Sequence[int], state_size: int, embed_dim: int) -> None:
        super().__init__()
        self.encoders = ActionEncoders(hidden_sizes, n_actions, embed_dim)
        sizes = list(zip(hidden_sizes, n_actions, strict=True))
        self.networks = AgentPerceptrons(
            [(state_size + width + embed_dim, embed_dim, embed_dim, count) for width, count in sizes]
        )

    def forward(
        self, hidden: Sequence[th.Tensor], actions: th.Tensor, present: th.Tensor, state: th.Tensor
    ) -> list[th.Tensor]:
        """
        :param hidden: n tensors (B, width), last hidden layers of the utilities
        :param actions: int64 (B, n)
        :param present: bool (B, n)
        :param state: (B, s)
        :return: n tensors (B, A_i); those of an absent agent mean nothing
        """
        encodings = self.encoders(hidden, actions, present)
        others = encodings.sum(dim=1, keepdim=True) - encodings
        inputs = [th.cat([state, layer, other], dim=1) for layer, other in zip(hidden, others.unbind(1), strict=True)]
        values: list[th.Tensor] = self.networks(inputs)
        return values


def chosen_values(values: Sequence[th.Tensor], actions: th.Tensor) -> th.Tensor:
    """
    Each agent's value of its own action.

    :param values: n tensors (B, A_i)
    :param actions: int64 (B, n)
    :return: (B, n)
    """
    return th.stack([one.gather(1, action[:, None])[:, 0] for one, action in zip(values, actions.unbind(1), strict=True)], 1)


def mean_over_present(values: th.Tensor, present: th.Tensor) -> th.Tensor:
    """
    Mean of each row over the agents that are present; 0 for a row without any.

    :param values: (B, n)
    :param present: bool (B, n)
    :return: (B,)
    """
    return present_values(values, present).sum(dim=1) / present.sum(dim=1).clamp(min=1)


def counterfactual_targets(values: th.Tensor, present: th.Tensor) -> th.Tensor:
    """
    Next values of all agents' counterfactual networks; the mean of the present agents' for an agent that is absent.

    An agent that has just died has no counterfactual value of its own any more, and the others' estimate the same value.

    :param values: (B, n) values of the next joint action, by each agent's target network
    :param present: bool (B, n), whether the agent is present in the next step
    :return: (B, n)
    """
    return th.where(present, values, mean_over_present(values, present)[:, None])


@dataclass(frozen=True)
class QtranLosses:
    """
    QTRAN's three losses, each the mean over rows.

    :param td: temporal-difference error of the joint values
    :param opt: D(ubar)^2, D(u) = Q'(u) - Q_jt(u) + V: the sum of the utilities has the joint value at ubar
    :param nopt: min(D, 0)^2 (base) or (min over own actions of D)^2 (alt): the sum is nowhere below the joint value
    """

    td: th.Tensor
    opt: th.Tensor
    nopt: th.Tensor

    def total(self, opt_coef: float, nopt_coef: float) -> th.Tensor:
        """
        L_td + opt_coef L_opt + nopt_coef L_nopt (Eq. 3).

        :param opt_coef: weight of L_opt
        :param nopt_coef: weight of L_nopt
        :return: scalar
        """
        return self.td + opt_coef * self.opt + nopt_coef * self.nopt


def base_losses(
    q_taken: th.Tensor,
    q_greedy: th.Tensor,
    joint_taken: th.Tensor,
    joint_greedy: th.Tensor,
    state_value: th.Tensor,
    target: th.Tensor,
) -> QtranLosses:
    """
    Losses of QTRAN-base (Eqs. 4a, 4b and the squared TD error); joint values get a gradient from L_td only.

    :param q_taken: (B, n) utilities of the actions taken, 0 for absent agents
    :param q_greedy: (B, n) utilities of ubar, 0 for absent agents
    :param joint_taken: (B,) Q_jt of the actions taken
    :param joint_greedy: (B,) Q_jt of ubar
    :param state_value: (B,) V
    :param target: (B,) r + gamma (1 - d) Q_jt^-(s', ubar'), without gradient
    :return: the losses
    """
    opt = q_greedy.sum(dim=1) - joint_greedy.detach() + state_value
    nopt = q_taken.sum(dim=1) - joint_taken.detach() + state_value
    return QtranLosses((joint_taken - target).square().mean(), opt.square().mean(), nopt.clamp(max=0.0).square().mean())


def alt_losses(
    q: Sequence[th.Tensor],
    legal: Sequence[th.Tensor | None],
    actions: th.Tensor,
    greedy: th.Tensor,
    joint_taken: Sequence[th.Tensor],
    joint_greedy: Sequence[th.Tensor],
    state_value: th.Tensor,
    target: th.Tensor,
    present: th.Tensor,
) -> QtranLosses:
    """
    Losses of QTRAN-alt (Eq. 5 in place of Eq. 4b), means over the agents present; joint values get a gradient from L_td only.

    :param q: n tensors (B, A_i), utilities
    :param legal: n masks, bool (B, A_i); ``None`` where all actions are legal
    :param actions: int64 (B, n), actions taken
    :param greedy: int64 (B, n), ubar
    :param joint_taken: n tensors (B, A_i), Q_jt,i(., u_-i)
    :param joint_greedy: n tensors (B, A_i), Q_jt,i(., ubar_-i)
    :param state_value: (B,) V
    :param target: (B, n) r + gamma (1 - d) Q_jt,i^-(s', ubar'), without gradient
    :param present: bool (B, n)
    :return: the losses
    """
    td = chosen_values(joint_taken, actions) - target
    q_greedy = present_values(chosen_values(q, greedy), present).sum(dim=1)
    opt = (q_greedy + state_value)[:, None] - chosen_values(joint_greedy, greedy).detach()
    smallest = _smallest_differences(q, legal, actions, joint_taken, state_value, present)
    # Absent agents' entries are replaced before they are squared, so that no infinite one has a gradient.
    squares = [present_values(difference, present).square() for difference in (td, opt, smallest)]
    return QtranLosses(*(mean_over_present(square, present).mean() for square in squares))


def _smallest_differences(
    q: Sequence[th.Tensor],
    legal: Sequence[th.Tensor | None],
    actions: th.Tensor,
    joint: Sequence[th.Tensor],
    state_value: th.Tensor,
    present: th.Tensor,
) -> th.Tensor:
    """(B, n): min over legal own actions a of Q_i(a) + sum_{j != i} Q_j(u_j) - Q_jt,i(a, u_-i) + V."""
    taken = present_values(chosen_values(q, actions), present)
    rest = taken.sum(dim=1, keepdim=True) - taken + state_value[:, None]
    columns = []
    for own, mask, counterfactual, other in zip(q, legal, joint, rest.unbind(1), strict=True):
        differences = own - counterfactual.detach() + other[:, None]
        columns.append((differences if mask is None else differences.masked_fill(~mask, th.inf)).amin(dim=1))
    return th.stack(columns, dim=1)
