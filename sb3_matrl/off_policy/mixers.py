"""
Mixers: modules that combine the agents' values of a joint action into one value of the team.

Every mixer is called as ``mixer(q, state)`` with q (B, n), one value per agent, and state (B, s), and returns (B,). Mixers
know tensors only: no agents, no environments. The value of an absent agent is 0; its caller sets it (:func:`present_values`).
"""

from __future__ import annotations

import torch as th
from torch import nn

from sb3_matrl.utils.suggest import unknown

#: Names of the mixers that :func:`make_mixer` makes.
MIXERS = ("vdn", "qmix")


def present_values(q: th.Tensor, present: th.Tensor) -> th.Tensor:
    """
    Values with those of absent agents set to 0; no gradient reaches an absent agent, also where its value is NaN.

    :param q: (B, n) one value per agent
    :param present: bool (B, n), whether the agent took part
    :return: (B, n)
    """
    return th.where(present, q, th.zeros((), dtype=q.dtype, device=q.device))


class VDNMixer(nn.Module):
    """Sum of the agents' values (Sunehag et al. 2018, "Value-Decomposition Networks"); it has no parameters."""

    def forward(self, q: th.Tensor, state: th.Tensor | None = None) -> th.Tensor:
        """
        Value of the team.

        :param q: (B, n) one value per agent
        :param state: not used
        :return: (B,)
        """
        return q.sum(dim=1)


class QMixer(nn.Module):
    """
    QMIX's mixing network (Rashid et al. 2018, Sec. 4.1): monotone in every agent's value, with weights that the state chooses.

    Q_tot = v(s) + w2(s)^T elu(W1(s)^T q + b1(s)) with W1 = \\|hyper_w1(s)\\| (n x E) and w2 = \\|hyper_w2(s)\\| (E). Both
    hypernetworks are s -> H -> output with ReLU, or one linear layer; b1 is linear in s; v is s -> E -> 1 with ReLU.
    ELU is increasing and no weight is negative, so the greedy joint action consists of the agents' own greedy actions.

    :param n_agents: number of agents n
    :param state_size: number of entries of a state
    :param mixing_embed_dim: width E of the hidden layer that mixes
    :param hypernet_layers: number of layers of the two hypernetworks, 1 or 2
    :param hypernet_embed: width H of their hidden layer; without effect if ``hypernet_layers`` is 1
    :raises ValueError: on a size below 1, or another number of layers
    """

    def __init__(
        self,
        n_agents: int,
        state_size: int,
        mixing_embed_dim: int = 32,
        hypernet_layers: int = 2,
        hypernet_embed: int = 64,
    ) -> None:
        super().__init__()
        _check_sizes(
            n_agents=n_agents, state_size=state_size, mixing_embed_dim=mixing_embed_dim, hypernet_embed=hypernet_embed
        )
        if hypernet_layers not in (1, 2):
            raise ValueError(f"hypernet_layers must be 1 or 2, got {hypernet_layers!r}")
        self.n_agents = n_agents
        self.embed_dim = mixing_embed_dim
        hidden = hypernet_embed if hypernet_layers == 2 else None
        self.hyper_w1 = _hypernetwork(state_size, hidden, n_agents * mixing_embed_dim)
        self.hyper_w2 = _hypernetwork(state_size, hidden, mixing_embed_dim)
        self.b1 = nn.Linear(state_size, mixing_embed_dim)
        self.v = _hypernetwork(state_size, mixing_embed_dim, 1)

    def forward(self, q: th.Tensor, state: th.Tensor) -> th.Tensor:
        """
        Value of the team.

        :param q: (B, n) one value per agent
        :param state: (B, s)
        :return: (B,)
        """
        w1 = self.hyper_w1(state).abs().view(-1, self.n_agents, self.embed_dim)
        w2 = self.hyper_w2(state).abs()
        # A sum of products is faster than a batched matrix product of this shape.
        hidden = nn.functional.elu((q.unsqueeze(2) * w1).sum(dim=1) + self.b1(state))
        value: th.Tensor = (hidden * w2).sum(dim=1) + self.v(state).squeeze(1)
        return value


def make_mixer(
    name: str,
    n_agents: int,
    state_size: int,
    mixing_embed_dim: int = 32,
    hypernet_layers: int = 2,
    hypernet_embed: int = 64,
) -> VDNMixer | QMixer:
    """
    Mixer by its name.

    :param name: "vdn" or "qmix"
    :param n_agents: number of agents
    :param state_size: number of entries of a state; like the following arguments without effect for "vdn"
    :param mixing_embed_dim: see :class:`QMixer`
    :param hypernet_layers: see :class:`QMixer`
    :param hypernet_embed: see :class:`QMixer`
    :return: a new mixer
    :raises ValueError: if no mixer has this name
    """
    if name == "vdn":
        return VDNMixer()
    if name == "qmix":
        return QMixer(n_agents, state_size, mixing_embed_dim, hypernet_layers, hypernet_embed)
    raise ValueError(unknown("mixer", str(name), MIXERS))


def _hypernetwork(inputs: int, hidden: int | None, outputs: int) -> nn.Sequential:
    if hidden is None:
        return nn.Sequential(nn.Linear(inputs, outputs))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
