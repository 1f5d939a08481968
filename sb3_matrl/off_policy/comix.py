"""COMIX: QMIX for continuous actions, whose best actions the cross-entropy method finds."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.td3.policies import TD3Policy

from sb3_matrl.common.arguments import LearnerArguments, PerAgent
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.joint_observations import JointObservations
from sb3_matrl.off_policy.action_values import alike_critics, best_actions
from sb3_matrl.off_policy.agent_networks import build_critic
from sb3_matrl.off_policy.argument_inheritance import adds_arguments_to
from sb3_matrl.off_policy.central_critic import action_size
from sb3_matrl.off_policy.ddpg_family import DDPGFamily
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.mixers import MIXERS, make_mixer, present_values
from sb3_matrl.off_policy.off_policy_algorithm import Actions
from sb3_matrl.off_policy.transitions import Moment
from sb3_matrl.off_policy.utilities import fast_options
from sb3_matrl.off_policy.value_based import LOSSES
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.suggest import unknown


class COMIX(DDPGFamily):
    """
    COMIX (Peng et al. 2021, "FACMAC"): Q_tot = mixer(s, Q_1(o_1, a_1), .., Q_n(o_n, a_n)) with continuous actions.

    y = r + gamma (1 - d) mixer^-(s', Q_1^-(o'_1, a*_1), ..), with one loss and one optimiser over critics and mixer. There are
    no actors: the cross-entropy method finds the best action a*_i of every Q_i(o_i, .), see
    :func:`~sb3_matrl.off_policy.cross_entropy.cross_entropy_maximum`. Behaviour adds noise to it. The arguments are those of
    :class:`~sb3_matrl.off_policy.ddpg_family.DDPGFamily`, and

    :param action_noise: as there; 0.1 by default
    :param loss: ``"mse"``, the mean squared error, or ``"huber"``, SB3's smooth L1 loss
    :param max_grad_norm: maximum norm of the gradients of all networks together; ``None`` for no clipping
    :param double_q: whether the networks choose the next action that the targets evaluate; ``False`` lets the targets choose
    :param team_reward: ``"sum"`` or ``"mean"`` of the agents' rewards
    :param state: ``"env"`` for the env's ``state()``, ``"observations"`` for all observations concatenated, ``"auto"`` for the
        env's state if it has one
    :param mixer: ``"qmix"``, a monotone network, or ``"vdn"``, the sum
    :param mixing_embed_dim: width of the mixer's hidden layer
    :param hypernet_layers: number of layers of the networks that give the mixer's weights, 1 or 2
    :param hypernet_embed: width of their hidden layer
    :param cem_samples: actions that an iteration of the cross-entropy method evaluates
    :param cem_elites: number of the best of them, to which the next iteration's distribution is fitted
    :param cem_iterations: number of iterations
    """

    is_team = True
    other_actions = ": use VDN, QMIX, QTRAN or QDPP for Discrete actions"

    @adds_arguments_to(DDPGFamily)
    def __init__(
        self,
        *args: Any,
        action_noise: PerAgent[float | ActionNoise | None] = 0.1,
        loss: str = "mse",
        max_grad_norm: float | None = 0.5,
        double_q: bool = True,
        team_reward: str = "sum",
        state: str = "auto",
        mixer: str = "qmix",
        mixing_embed_dim: int = 64,
        hypernet_layers: int = 2,
        hypernet_embed: int = 64,
        cem_samples: int = 64,
        cem_elites: int = 6,
        cem_iterations: int = 2,
        **kwargs: Any,
    ) -> None:
        # Arguments by position come by name.
        super().__init__(
            action_noise=action_noise,
            loss=loss,
            max_grad_norm=max_grad_norm,
            double_q=double_q,
            team_reward=team_reward,
            state=state,
            mixer=mixer,
            mixing_embed_dim=mixing_embed_dim,
            hypernet_layers=hypernet_layers,
            hypernet_embed=hypernet_embed,
            cem_samples=cem_samples,
            cem_elites=cem_elites,
            cem_iterations=cem_iterations,
            **kwargs,
        )

    def check_arguments(self) -> None:
        super().check_arguments()
        if self.arguments["loss"] not in LOSSES:
            raise ValueError(unknown("loss", self.arguments["loss"], LOSSES))
        if self.arguments["mixer"] not in MIXERS:
            raise ValueError(unknown("mixer", self.arguments["mixer"], MIXERS))
        samples, elites = self.arguments["cem_samples"], self.arguments["cem_elites"]
        if elites > samples:
            raise ValueError(f"cem_elites={elites} is more than cem_samples={samples}: the elites are the best samples")

    @property
    def wanted_states(self) -> bool | Literal["auto"]:
        """Whether the mixer reads the env's global states: as ``state`` says, and not with ``mixer="vdn"``."""
        return False if self.arguments["mixer"] == "vdn" else super().wanted_states

    def _build_joint_observations(self) -> JointObservations | None:
        return None if self.arguments["mixer"] == "vdn" else super()._build_joint_observations()

    # ------------------------------------------------------------------ networks

    def build_networks(self, arguments: LearnerArguments) -> dict[str, dict[str, Any]]:
        self.networks = {agent: self._build_critic(agent, arguments) for agent in self.possible_agents}
        names = ("mixing_embed_dim", "hypernet_layers", "hypernet_embed")
        sizes = {name: self.arguments[name] for name in names}
        self.mixer = make_mixer(self.arguments["mixer"], len(self.networks), self.state_size, **sizes).to(self.device)
        self.mixer_target = deepcopy(self.mixer)
        self.critics = {agent: networks.critic for agent, networks in self.networks.items()}
        self.critic_targets = {agent: networks.critic_target for agent, networks in self.networks.items()}
        self.groups = alike_critics(self.critics)
        self.optimizer = self._build_optimizer([*self.critics.values(), self.mixer])
        self.tables = {agent: NormalTable(self._normals(agent, 1)[:, 0]) for agent in self.networks}
        parts: dict[str, dict[str, Any]] = {
            agent: {"policy": networks, "table": self.tables[agent]} for agent, networks in self.networks.items()
        }
        return {**parts, self.team_name: {"mixer": self.mixer, "mixer_target": self.mixer_target, "optimizer": self.optimizer}}

    def policy_kwargs_of(self, agent: str, arguments: LearnerArguments) -> dict[str, Any]:
        """See the base class; the options that make the team's optimiser faster are added where it is built."""
        return dict(arguments.of("policy_kwargs", agent) or {})

    def _build_critic(self, agent: str, arguments: LearnerArguments) -> TD3Policy:
        observation_space, action_space = (self._spaces[kind][agent] for kind in ("observation", "action"))
        try:
            return build_critic(
                arguments.of("policy", agent),
                observation_space,
                action_space,  # type: ignore[arg-type]
                self.policy_kwargs_of(agent, arguments),
                self.device,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"agent {agent!r}: {error}") from error

    def _build_optimizer(self, modules: list[th.nn.Module]) -> th.optim.Optimizer:
        """One optimiser for the team, of the class that all policies have."""
        first, *others = self.networks.values()
        if any(
            (one.optimizer_class, one.optimizer_kwargs) != (first.optimizer_class, first.optimizer_kwargs) for one in others
        ):
            raise ValueError(
                "policy_kwargs: COMIX has one optimiser for all agents, so that optimizer_class and optimizer_kwargs must be "
                "the same for all"
            )
        parameters = [parameter for module in modules for parameter in module.parameters()]
        options = first.optimizer_kwargs
        if others:
            options = {**options, **fast_options(first.optimizer_class, options)}
        try:
            return first.optimizer_class(parameters, lr=self.lr_schedule(1), **options)  # type: ignore[call-arg]
        except Exception as error:
            raise ValueError(f"policy_kwargs: the optimiser cannot be built: {one_line(error)}") from error

    def target_pairs(self) -> list[list[tuple[th.nn.Module, th.nn.Module]]]:
        critics = [(networks.critic, networks.critic_target) for networks in self.networks.values()]
        return [[*critics, (self.mixer, self.mixer_target)]]

    # ------------------------------------------------------------------ training

    def gradient_step(self, batch: JointBatch) -> dict[str, th.Tensor]:
        targets = self._targets(batch)
        values = self._values(self.critics, batch.observations, batch.actions)
        mixed = self.mixer(present_values(values, batch.alive), batch.states)
        loss = LOSSES[self.arguments["loss"]](mixed, targets)
        norms = self.minimise({"TD": loss}, {"the team": self.optimizer})
        self.update_targets()
        return {
            "train/loss": loss.detach(),
            "train/td_error_abs": (mixed.detach() - targets).abs().mean(),
            "train/q_tot": mixed.detach().mean(),
            "train/grad_norm": norms["the team"],
        }

    def _targets(self, batch: JointBatch) -> th.Tensor:
        """Targets of the mixed value, (B,)."""
        with th.no_grad():
            choosing = self.critics if self.arguments["double_q"] else self.critic_targets
            following = batch.next_observations
            actions = self._best_actions(choosing, following, self._draws(len(batch.done)))
            values = self._values(self.critic_targets, following, actions)
            mixed = self.mixer_target(present_values(values, batch.counts_next()), batch.next_states)
            targets: th.Tensor = self.rewards.of_team(batch) + batch.team_bootstrap() * self.gamma * mixed
        return targets

    @staticmethod
    def _values(
        critics: Mapping[str, ContinuousCritic], observations: Mapping[str, Any], actions: Mapping[str, th.Tensor]
    ) -> th.Tensor:
        """Values of one action per agent and row, (B, n)."""
        return th.cat([critic(observations[agent], actions[agent])[0] for agent, critic in critics.items()], dim=1)

    def _best_actions(
        self, critics: Mapping[str, ContinuousCritic], observations: Mapping[str, Any], normals: Mapping[str, th.Tensor]
    ) -> dict[str, th.Tensor]:
        """Best actions by the cross-entropy method, agent -> (B, size)."""
        groups = [[agent for agent in group if agent in critics] for group in self.groups]
        return best_actions(critics, [group for group in groups if group], observations, normals, self.arguments["cem_elites"])

    def _draws(self, rows: int) -> dict[str, th.Tensor]:
        """Fresh standard normal numbers for all agents."""
        return {agent: self._normals(agent, rows) for agent in self.networks}

    def _normals(self, agent: str, rows: int) -> th.Tensor:
        """Standard normal numbers from torch's generator, (iterations, rows, samples, size)."""
        iterations, samples = self.arguments["cem_iterations"], self.arguments["cem_samples"]
        return th.randn(iterations, rows, samples, action_size(self._spaces["action"][agent]), device=self.device)

    # ------------------------------------------------------------------ acting

    def acting_networks(self) -> dict[str, th.nn.Module]:
        return dict(self.critics)

    def choose_actions(self, moment: Moment) -> Actions:
        observations = {
            agent: networks.obs_to_tensor(moment.observations[agent])[0] for agent, networks in self.networks.items()
        }
        chosen = self._best_actions(self.critics, observations, self._draws(self.n_envs))
        return {agent: self._unscaled(agent, actions) for agent, actions in chosen.items()}

    def _unscaled(self, agent: str, actions: th.Tensor) -> np.ndarray:
        """Actions (B, size) in the agent's action space, (B, \\*shape)."""
        networks = self.networks[agent]
        return np.asarray(networks.unscale_action(actions.cpu().numpy().reshape(-1, *(networks.action_space.shape or ()))))

    def action_of(self, agent: str, observation: Any, mask: np.ndarray | None, deterministic: bool) -> np.ndarray:
        networks = self.networks[agent]
        tensor, batched = networks.obs_to_tensor(observation)
        rows = len(next(iter(tensor.values()))) if isinstance(tensor, dict) else len(tensor)
        normals = self.tables[agent].rows(rows) if deterministic else self._normals(agent, rows)
        chosen = self._best_actions({agent: self.critics[agent]}, {agent: tensor}, {agent: normals})
        actions = self._unscaled(agent, chosen[agent])
        return actions if batched else np.asarray(actions[0])

    def player(self, agent: Any) -> FrozenAgent:
        name = self.known_name(agent)
        return FrozenAgent(lambda observations: self.action_of(name, observations, None, deterministic=True))


class NormalTable(th.nn.Module):
    """
    Stored standard normal numbers, from which an agent's best action follows without random draws.

    :param normals: (iterations, n_samples, size)
    """

    normals: th.Tensor

    def __init__(self, normals: th.Tensor) -> None:
        super().__init__()
        self.register_buffer("normals", normals)

    def rows(self, rows: int) -> th.Tensor:
        """
        The same numbers for every row.

        :param rows: number of rows
        :return: view (iterations, rows, n_samples, size)
        """
        return self.normals[:, None].expand(-1, rows, -1, -1)
