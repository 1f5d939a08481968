"""Perceptrons of all agents, against each agent's alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch as th

from sb3_matrl.off_policy.agent_perceptrons import AgentPerceptrons, perceptron


def alone(networks: AgentPerceptrons, agent: int) -> Callable[[th.Tensor], th.Tensor]:
    """One agent's network, layer by layer, for any leading axes."""
    if not networks.alike:
        return networks.networks[agent]
    layers = [(weight[agent], bias[agent, 0]) for weight, bias in zip(networks.weights, networks.biases, strict=True)]

    def forward(rows: th.Tensor) -> th.Tensor:
        for i, (weight, bias) in enumerate(layers):
            rows = (rows.clamp(min=0.0) if i else rows) @ weight + bias
        return rows

    return forward


@pytest.mark.parametrize("sizes", [[(3, 5, 2)] * 3, [(3, 5, 2), (4, 5, 2), (3, 6, 1)], [(3, 5, 2)], [(2, 4)] * 2])
def test_all_agents_equal_each_alone(sizes: list[tuple[int, ...]]) -> None:
    th.manual_seed(1)
    networks = AgentPerceptrons(sizes).double()
    th.manual_seed(1)
    references = [perceptron(*one).double() for one in sizes]  # the same draws, one agent after the other
    inputs = [th.randn(7, one[0], dtype=th.float64, requires_grad=True) for one in sizes]
    assert networks.alike == (len(sizes) > 1 and len(set(sizes)) == 1)
    for chosen in (None, range(len(sizes)), [len(sizes) - 1], [0]):
        agents = range(len(sizes)) if chosen is None else chosen
        outputs = networks([inputs[agent] for agent in agents], chosen)
        for agent, output in zip(agents, outputs, strict=True):
            th.testing.assert_close(output, references[agent](inputs[agent]))
            th.testing.assert_close(output, alone(networks, agent)(inputs[agent]))
    outputs = networks(inputs)
    weights = [th.randn_like(output) for output in outputs]
    ours = th.autograd.grad(outputs, inputs, weights)
    theirs = th.autograd.grad([net(rows) for net, rows in zip(references, inputs, strict=True)], inputs, weights)
    th.testing.assert_close(ours, theirs)
