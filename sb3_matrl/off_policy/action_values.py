"""Values of many actions per observation and the best of them; alike critics of several agents are evaluated together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.policies import ContinuousCritic
from torch import nn

from sb3_matrl.off_policy.cross_entropy import cross_entropy_maximum

# Samples of an agent up to which alike critics are evaluated together: more of them are faster one agent at a time (CPU).
_MOST_TOGETHER = 640


class ActionValues:
    """
    Values of actions at fixed observations, without gradients.

    The part of the first layer that depends on the observation alone is computed once.

    :param critics: critics that are alike (:func:`alike_critics`), or a single one
    :param observations: for each critic its agent's observations, (B, \\*shape) or a dict of such tensors
    """

    def __init__(self, critics: Sequence[ContinuousCritic], observations: Sequence[Any]) -> None:
        with th.no_grad():
            parts = [_first_layer(critic, own) for critic, own in zip(critics, observations, strict=True)]
            self._base = _together([base for base, _ in parts])[:, :, None]
            self._action_weight = _together([weight for _, weight in parts])
            _, *later = zip(*map(_network, critics), strict=True)
            self._layers = [_linear(layers) if isinstance(layers[0], nn.Linear) else layers[0] for layers in later]

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: scaled to [-1, 1], (n_critics, B, n_samples, size)
        :return: (n_critics, B, n_samples)
        """
        n, batch, samples, size = actions.shape
        with th.no_grad():
            if size == 1:
                values = th.addcmul(self._base, actions, self._action_weight[:, None])
            else:
                values = th.bmm(actions.reshape(n, batch * samples, size), self._action_weight).view(n, batch, samples, -1)
                values += self._base
            values = values.view(n, batch * samples, -1)
            for layer in self._layers:
                values = _product(layer[1], values, layer[0]) if isinstance(layer, tuple) else _activate(layer, values)
        return values.view(n, batch, samples)


def _first_layer(critic: ContinuousCritic, observations: Any) -> tuple[th.Tensor, th.Tensor]:
    """Outputs of a critic's first layer without the actions, (B, width), and its weights for them, (size, width)."""
    features = critic.extract_features(observations, critic.features_extractor)
    first: Any = _network(critic)[0]
    size = features.shape[1]
    return nn.functional.linear(features, first.weight[:, :size], first.bias), first.weight[:, size:].T


def _activate(activation: nn.Module, values: th.Tensor) -> th.Tensor:
    """Apply an activation; the most common one in place."""
    activated: th.Tensor = values.relu_() if isinstance(activation, nn.ReLU) else activation(values)
    return activated


def _product(biases: th.Tensor, rows: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """Outputs (n, B, outputs) of n linear layers; PyTorch is faster at a single product than at a batch of one."""
    if len(weights) == 1:
        return th.addmm(biases[0], rows[0], weights[0])[None]
    return th.baddbmm(biases, rows, weights)


def alike_critics(critics: Mapping[str, ContinuousCritic]) -> list[list[str]]:
    """
    Groups of agents whose critics have the same layers after the observations, so that they can be evaluated together.

    :param critics: agent -> critic
    :return: groups of agents, each in the given order
    """
    groups: dict[Hashable, list[str]] = {}
    for agent, critic in critics.items():
        groups.setdefault(_layers_of(critic) or agent, []).append(agent)
    return list(groups.values())


def best_actions(
    critics: Mapping[str, ContinuousCritic],
    groups: Sequence[Sequence[str]],
    observations: Mapping[str, Any],
    normals: Mapping[str, th.Tensor],
    n_elites: int,
) -> dict[str, th.Tensor]:
    """
    Best actions of all agents by the cross-entropy method.

    :param critics: agent -> critic
    :param groups: agents with alike critics, see :func:`alike_critics`
    :param observations: agent -> (B, \\*shape), or a dict of such tensors
    :param normals: agent -> standard normal numbers (iterations, B, n_samples, size)
    :param n_elites: number of the best samples that the next iteration's distribution is fitted to
    :return: agent -> (B, size), scaled to [-1, 1]
    """
    best: dict[str, th.Tensor] = {}
    for group in groups:
        _, rows, samples, _ = normals[group[0]].shape
        for part in [group] if rows * samples <= _MOST_TOGETHER else [[agent] for agent in group]:
            values = ActionValues([critics[agent] for agent in part], [observations[agent] for agent in part])
            draws = th.stack([normals[agent] for agent in part], dim=1)
            best.update(zip(part, cross_entropy_maximum(values, draws, n_elites), strict=True))
    return {agent: best[agent] for agent in critics}


def _layers_of(critic: ContinuousCritic) -> Hashable:
    """What alike critics have in common; ``None`` if a layer other than the linear ones has parameters."""
    first, *others = _network(critic)
    if any(list(layer.parameters()) for layer in others if not isinstance(layer, nn.Linear)):
        return None
    action_size = first.in_features - critic.features_extractor.features_dim
    return (action_size, first.out_features, *(repr(layer) for layer in others))


def _network(critic: ContinuousCritic) -> Any:
    network = critic.q_networks[0]
    assert isinstance(network, nn.Sequential)
    return network


def _linear(layers: Sequence[nn.Module]) -> tuple[th.Tensor, th.Tensor]:
    """Weights (n, inputs, outputs) and biases (n, 1, outputs) of alike linear layers."""
    linears: Any = layers
    return _together([one.weight for one in linears]).transpose(1, 2), _together([one.bias[None] for one in linears])


def _together(tensors: Sequence[th.Tensor]) -> th.Tensor:
    """Stack tensors; a single one is not copied."""
    return tensors[0][None] if len(tensors) == 1 else th.stack(list(tensors))
