"""Perceptrons of all agents: those of equal sizes are computed together, in one batched matrix product per layer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch as th
from torch import nn


def perceptron(*sizes: int) -> nn.Sequential:
    """
    Linear layers with ReLU between them.

    :param sizes: widths of the input, of the hidden layers and of the output
    :return: the network
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class AgentPerceptrons(nn.Module):
    """
    One perceptron with ReLU per agent, initialised as PyTorch's linear layers, agent by agent.

    If all have equal sizes, ``weights`` (n, inputs, outputs) and ``biases`` (n, 1, outputs) hold each layer of all agents;
    otherwise ``networks`` holds a network for each.

    :param sizes: for each agent the widths of the input, of the hidden layers and of the output
    """

    def __init__(self, sizes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        networks = [perceptron(*widths) for widths in sizes]
        self.alike = len(networks) > 1 and len(set(map(tuple, sizes))) == 1
        if not self.alike:
            self.networks = nn.ModuleList(networks)
            return
        layers = list(zip(*([layer for layer in net if isinstance(layer, nn.Linear)] for net in networks), strict=True))
        self.weights = nn.ParameterList(th.stack([one.weight.detach().T for one in layer]) for layer in layers)
        self.biases = nn.ParameterList(th.stack([one.bias.detach()[None] for one in layer]) for layer in layers)

    def forward(self, inputs: Sequence[th.Tensor], agents: Sequence[int] | None = None) -> list[th.Tensor]:
        """
        Outputs of some or all networks.

        :param inputs: for each of the agents (B, inputs), the same B for all
        :param agents: indices of the agents; ``None`` for all, in order
        :return: for each of the agents (B, outputs)
        """
        if not self.alike:
            chosen = range(len(self.networks)) if agents is None else agents
            return [self.networks[agent](rows) for agent, rows in zip(chosen, inputs, strict=True)]
        values = th.stack(list(inputs))
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = values.relu() if i else values
            own = (bias, weight) if agents is None else (bias[list(agents)], weight[list(agents)])
            values = th.baddbmm(own[0], values, own[1])
        return list(values.unbind())
