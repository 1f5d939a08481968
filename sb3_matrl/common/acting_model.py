"""A model's constructor arguments, environment and agents, and how the agents act."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_matrl.common.agents import SpacesVecEnv, Team, group_env, learner_groups
from sb3_matrl.common.argument_checks import checked_arguments, schedules_of
from sb3_matrl.common.arguments import LearnerArguments, constructor_arguments
from sb3_matrl.common.env_checks import check_fits
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.legal_masks import usable_mask
from sb3_matrl.common.normalize import build_normalizers
from sb3_matrl.common.registry import class_of_file
from sb3_matrl.common.scripted import JointModelPlayer, is_joint_model
from sb3_matrl.common.training_state import TrainingState
from sb3_matrl.utils.agent_names import FixedAgentDict, agent_name, keyed_by_text, members_by_text
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env
from sb3_matrl.vec_env.masks import observed_mask_name


class ActingModel(BaseAlgorithm):
    """
    Constructor arguments, environment and agents of a multi-agent algorithm, and how the agents act.

    :class:`~sb3_matrl.common.model.MultiAgentModel` adds parameters and files.

    :param given: the constructor's local variables: arguments by name
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    env: JointVecEnv | None
    #: Space of the env's global states, if the algorithm reads them; ``None`` if it does not, or the env has none.
    state_space: spaces.Box | None
    learners: dict[str, Any]
    agents: dict[str, Any]
    team: Team

    def __init__(self, given: Mapping[str, Any]) -> None:
        # Arguments as given: saved with the model, and read by everything that is built from them.
        specs = constructor_arguments(type(self))
        self.arguments: dict[str, Any] = checked_arguments(specs, {name: keyed_by_text(given[name]) for name in specs})
        self._schedules = schedules_of(specs, self.arguments)
        if "share" in self.arguments:
            self.arguments["share"] = members_by_text(self.arguments["share"])
        # SB3's base class expects one policy and one learning rate; here every learner has its own.
        super().__init__(
            policy=BasePolicy,
            env=None,
            learning_rate=self.argument("learning_rate", 0.0),
            stats_window_size=self.argument("stats_window_size", 100),
            tensorboard_log=self.argument("tensorboard_log"),
            verbose=self.argument("verbose", 0),
            device=given.get("device", "auto"),
            support_multi_env=True,
            seed=self.argument("seed"),
        )
        if str(given.get("device", "auto")).startswith("cuda") and self.device.type == "cpu":
            warnings.warn(f"device={str(given['device'])!r}: PyTorch finds no GPU, the networks are on the CPU", stacklevel=3)
        # State of the training before the current rollout, and the state from which a loaded training resumes.
        self._state: TrainingState | None = None
        self._resume_from: TrainingState | None = None
        self.loaded_from = "the model"
        self.skipped_updates = 0
        self.check_arguments()
        env = given.get("env")
        if env is not None:
            self.env = self._make_env(env, self.argument("env_kwargs"), self.wanted_states)
            state_space = self.env.state_space if self.wanted_states and self.env.with_states else None
            self._set_spaces(self.env.observation_spaces, self.env.action_spaces, self.env.num_envs, state_space)
        if given.get("_init_setup_model", True):
            if env is None:
                name = type(self).__name__
                raise ValueError(f"{name} needs an env: a ParallelEnv factory, an env, an id or a JointVecEnv")
            self._setup_model()

    def argument(self, name: str, default: Any = None) -> Any:
        """
        Value of a constructor argument.

        :param name: name of the argument
        :param default: value for algorithms without such an argument
        """
        return self.arguments.get(name, default)

    # ------------------------------------------------------------------ hooks of subclasses

    @property
    def wanted_states(self) -> bool | Literal["auto"]:
        """
        Whether the algorithm reads the env's global states: True, False, or ``"auto"``: if the env has a state. What was found
        is in :attr:`state_space`, and saved with the model.
        """
        return False

    def check_arguments(self) -> None:
        """
        Check arguments before anything is built.

        :raises ValueError: if one is not usable
        """

    def build_learners(self, envs: Mapping[str, SpacesVecEnv], arguments: LearnerArguments) -> dict[str, Any]:
        """
        Make the SB3 learners.

        :param envs: name of the learner -> its spaces and number of columns
        :param arguments: constructor arguments by learner
        :return: name -> learner, in the same order; empty for algorithms without SB3 learners
        """
        return {}

    def build(self, arguments: LearnerArguments) -> None:
        """
        Make whatever else the algorithm needs, once learners and ``self.team`` are there.

        :param arguments: constructor arguments by learner
        """

    @property
    def generators(self) -> dict[str, np.random.Generator]:
        """Name -> random generator of the algorithm's own; saved, and restored after a failed update."""
        return {}

    @property
    def extra_optimizers(self) -> dict[str, dict[str, th.optim.Optimizer]]:
        """Learner -> name -> optimiser beside those of the learner; saved, and restored after a failed update."""
        return {}

    # ------------------------------------------------------------------ set-up

    def _make_env(self, env: Any, env_kwargs: Mapping[str, Any] | None, states: bool | Literal["auto"]) -> JointVecEnv:
        if isinstance(env, VecEnvWrapper) and isinstance(env.unwrapped, JointVecEnv):
            raise ValueError(
                f"{type(self).__name__} takes no SB3 wrapper ({type(env).__name__}) around a JointVecEnv, which would miss "
                "final observations and masks: wrap the ParallelEnv instead (SuperSuit, PettingZoo)"
            )
        n_envs = self.argument("n_envs", 1)
        # A JointVecEnv has its own number of copies; 1 is the default and no conflict.
        own_copies = isinstance(env, JointVecEnv) and n_envs == 1
        return make_joint_vec_env(
            env,
            n_envs=env.num_envs if own_copies else n_envs,
            vec_env=self.argument("vec_env", "auto"),
            env_kwargs=env_kwargs,
            env_timeout=self.argument("env_timeout", None),
            states=states,
        )

    def _set_spaces(
        self,
        observation_spaces: Mapping[str, spaces.Space[Any]],
        action_spaces: Mapping[str, spaces.Space[Any]],
        n_envs: int,
        state_space: spaces.Box | None,
    ) -> None:
        # Pairs, because gymnasium sorts a plain dict by key.
        self.observation_space = spaces.Dict(list(observation_spaces.items()))
        self.action_space = spaces.Dict(list(action_spaces.items()))
        self.possible_agents = list(observation_spaces)
        self._mask_names = {
            agent: observed_mask_name(observation_spaces[agent], action_spaces[agent]) for agent in observation_spaces
        }
        self.n_envs = n_envs
        self.state_space = state_space

    @property
    def _spaces(self) -> dict[str, dict[str, spaces.Space[Any]]]:
        """``"observation"`` and ``"action"`` -> agent -> space."""
        kinds: dict[str, Any] = {"observation": self.observation_space, "action": self.action_space}
        return {kind: {agent: space[agent] for agent in self.possible_agents} for kind, space in kinds.items()}

    def _setup_model(self) -> None:
        sources = self.argument("frozen") or {}
        members = learner_groups(self.possible_agents, self.argument("share"), sources)
        frozen = {agent: self._frozen_agent(agent, source) for agent, source in sources.items()}
        arguments = LearnerArguments(self.arguments, members)
        envs = {name: group_env(name, agents, self._spaces, self.n_envs) for name, agents in members.items()}
        self.set_random_seed(self.seed)
        self.learners = self.build_learners(envs, arguments)
        self.agents = FixedAgentDict({agent: self.learners[name] for name in self.learners for agent in members[name]})
        order = self.possible_agents if self.env is None else list(self.env.agents)
        state_size = 0 if self.state_space is None else self.state_space.shape[0]
        self.team = Team(order, self.learners, members, build_normalizers(envs, arguments, state_size), frozen)
        self.build(arguments)

    def _frozen_agent(self, agent: str, source: Any) -> FrozenAgent:
        """Frozen agent from what the constructor accepts; a saved model is read, and its agent taken."""
        if source is None:
            raise TypeError(f"frozen: {agent!r}: None plays nothing: give a policy, or leave the agent out")
        model, name = source if isinstance(source, tuple) and len(source) == 2 else (source, agent)
        if isinstance(model, (str, Path)):
            model = class_of_file(model).load(model, device=self.device)
        if isinstance(source, FrozenAgent):
            return source
        player = self._player_of(agent, model, agent_name(name)) if is_joint_model(model) else FrozenAgent(source)
        player.check_spaces(agent, self._spaces["observation"][agent], self._spaces["action"][agent])
        return player.copied()

    def _player_of(self, agent: str, model: Any, name: str) -> FrozenAgent:
        """An agent of a model of several agents, in which it may have another name."""
        if isinstance(model, type):  # such as RandomPolicy
            own_spaces = [{name: of_agent[agent]} for of_agent in self._spaces.values()]
            model = model(*own_spaces, seed=None if self.seed is None else self.seed + self.possible_agents.index(agent))
        if name not in model.possible_agents:
            raise ValueError(
                f"frozen: {agent!r}: the model has no such agent: {unknown('agent', name, model.possible_agents)}"
            )
        return model.player(name) if isinstance(model, ActingModel) else FrozenAgent(JointModelPlayer(model, name))

    @property
    def env_states(self) -> np.ndarray | None:
        """The env's current global states, float32 (num_envs, size); ``None`` if the algorithm does not read them."""
        return None if self.state_space is None or self.env is None else self.env.states

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """
        Continue in another environment with the same agents and spaces. It may list the agents in another order.

        :param env: environment as in the constructor; the model's ``env_kwargs`` are only for ids and for factories that take
            arguments
        :param force_reset: begin with new episodes
        :raises ValueError: if agents, spaces or the number of copies differ
        """
        self._set_env(env, force_reset, self.argument("env_kwargs") if takes_arguments(env) else None)

    def _set_env(self, env: Any, force_reset: bool, env_kwargs: Mapping[str, Any] | None) -> None:
        new = env if isinstance(env, JointVecEnv) else self._make_env(env, env_kwargs, self.state_space is not None)
        check_fits(new, self._spaces, self.state_space)
        if new.num_envs != self.n_envs:
            raise ValueError(
                f"the env has {new.num_envs} copies, the model was built for {self.n_envs}: pass n_envs to load()"
            )
        reordered = self.env is not None and self.env.agents != new.agents
        self.env = new
        if hasattr(self, "team"):
            self.team = replace(self.team, agents=list(new.agents))
        if force_reset or reordered:
            self._last_obs = self._state = self._resume_from = None

    # ------------------------------------------------------------------ acting

    def predict(  # type: ignore[override]
        self,
        observation: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
        """
        Actions for some or all agents, for one env or a batch of envs.

        :param observation: agent -> observation as the env gives it, with or without a leading batch axis; only the agents
            that are to act, by the env's own names or by their text
        :param state: agent -> recurrent state, as returned by the previous call
        :param episode_start: bool (batch,), for recurrent policies
        :param deterministic: most likely actions instead of sampled ones
        :param action_masks: agent -> bool (batch, mask size), for learners that know masks; for agents without an entry here,
            the mask in their observation is used, see :data:`~sb3_matrl.vec_env.masks.MASK_NAMES`. A row without any legal
            action counts as one that allows all
        :return: agent, as named in ``observation`` -> action, and the next recurrent states, with those given for agents that
            do not act (``None`` without any)
        :raises ValueError: if an agent is unknown, or an observation does not fit its space
        """
        check_keyed("observation", observation)
        given_masks = check_keyed("mask", {} if action_masks is None else action_masks)
        given_states = check_keyed("state", {} if state is None else state)
        actions: dict[str, np.ndarray] = {}
        seen = set(map(agent_name, observation))
        states = {agent: value for agent, value in (state or {}).items() if agent_name(agent) not in seen}
        for agent, value in observation.items():
            name = agent_name(agent)
            if name not in self.possible_agents:
                raise ValueError(unknown("agent", name, self.possible_agents))
            masks = given_masks.get(name, legal_actions(value, self._mask_names[name]))
            previous = given_states.get(name)
            player = self.player(name)
            own = isinstance(player.policy, BasePolicy)
            with errors_of(name, self._spaces["observation"][name] if own else None):
                actions[agent], states[agent] = player.predict(value, previous, episode_start, deterministic, masks)
        return actions, None if all(value is None for value in states.values()) else states

    def player(self, agent: Any) -> FrozenAgent:
        """
        :param agent: any agent, by the env's own name or by its text
        :return: its policy with its normaliser; it changes while the agent learns
        """
        agent = agent_name(agent)
        if agent in self.team.frozen:
            return self.team.frozen[agent]
        return FrozenAgent(self.agents[agent], self.team.normalizers.get(self.team.learner_of(agent)))

    def lost_agents(self) -> list[str]:
        """:return: frozen agents of a loaded model that were functions, which a file cannot hold: they cannot act"""
        return [agent for agent, frozen in self.team.frozen.items() if frozen.policy is None]


def check_keyed(what: str, given: Any) -> dict[str, Any]:
    """
    :param what: what the values are, for the error
    :param given: argument of ``predict``, agent -> value
    :return: the same with the agents' names as text
    :raises ValueError: if it is no mapping
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"predict wants a dict agent -> {what}, got {type(given).__name__}")
    keyed: dict[str, Any] = keyed_by_text(given)
    return keyed


@contextmanager
def errors_of(agent: str, space: spaces.Space[Any] | None) -> Iterator[None]:
    """
    Name the agent in errors of its policy, which come from SB3 and PyTorch if what it is given does not fit.

    :param agent: name of the agent
    :param space: its observation space; ``None`` for a function of the user's, whose own errors pass
    :raises ValueError: in place of errors of a policy
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"agent {agent!r}: {error}") from error
    except (RuntimeError, LookupError, TypeError, AssertionError, AttributeError) as error:
        if space is None:
            raise
        raise ValueError(
            f"agent {agent!r}: observation, masks or state do not fit ({type(error).__name__}: {one_line(error)}); its "
            f"observation space is {one_line(space)}"
        ) from error


def takes_arguments(env: Any) -> bool:
    """
    Whether an environment takes keyword arguments: ids do, and factories with parameters.

    :param env: environment as in the constructor
    """
    if not callable(env):
        return isinstance(env, str)
    try:
        return bool(inspect.signature(env).parameters)
    except (TypeError, ValueError):  # built-in functions without a signature
        return True


def legal_actions(observation: Any, name: str | None) -> np.ndarray | None:
    """
    The legal actions in an observation.

    :param observation: observation of an agent, with or without a batch axis
    :param name: entry of the observation that holds its mask; ``None`` if it has none
    :return: bool (..., mask size), all True for an agent without any, whose turn it is not; ``None`` without a mask
    """
    if name is None or not isinstance(observation, Mapping) or name not in observation:
        return None
    return usable_mask(observation[name])
