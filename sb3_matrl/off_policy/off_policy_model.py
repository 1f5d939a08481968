"""Models of the off-policy algorithms: arguments, agents, replay buffer, acting, parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import set_random_seed

from sb3_matrl.common.acting_model import legal_actions
from sb3_matrl.common.agents import SpacesVecEnv, Team
from sb3_matrl.common.arguments import LearnerArguments
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.joint_observations import JointObservations
from sb3_matrl.common.model import check_learners
from sb3_matrl.common.policy_view import PolicyView
from sb3_matrl.common.scripted import JointModelPlayer
from sb3_matrl.common.space_checks import check_space
from sb3_matrl.distributed.distributed_algorithm import DistributedAlgorithm
from sb3_matrl.off_policy.collection_arguments import handles_timeouts, parse_train_freq
from sb3_matrl.off_policy.replay import JointReplayBuffer, check_replay_memory
from sb3_matrl.off_policy.replay_files import load_replay, save_replay
from sb3_matrl.off_policy.team_rewards import TEAM_REWARDS, Rewards
from sb3_matrl.off_policy.transitions import TransitionReader
from sb3_matrl.off_policy.utilities import network_space
from sb3_matrl.utils.agent_names import agent_name, keyed_by_text
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env.joint import copy_seeds
from sb3_matrl.vec_env.spaces import leaves_of

#: What a state of the team is: the env's ``state()``, all observations concatenated, or the first that there is.
STATES = ("auto", "env", "observations")


class OffPolicyModel(DistributedAlgorithm):
    """
    What off-policy algorithms have beside their training: arguments, networks, replay buffer, acting and parameters.

    :class:`~sb3_matrl.off_policy.off_policy_algorithm.OffPolicyMultiAgent` adds the training, and says what subclasses define.

    :param given: the constructor's local variables: arguments by name
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    #: Action spaces that the algorithm takes, and what to use for others.
    action_kinds: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (spaces.Discrete, spaces.Box)
    other_actions: ClassVar[str] = ""
    #: Whether the team has one reward and one value.
    is_team: ClassVar[bool] = False

    #: Learner -> name -> network or optimiser; saved and loaded with the model.
    parts: dict[str, dict[str, Any]]
    #: agent -> copy of its action space, from which random actions are drawn.
    exploration_spaces: dict[str, Any]
    buffer_size: int
    learning_starts: int
    batch_size: int
    tau: float
    gamma: float
    gradient_steps: int
    train_freq: TrainFreq

    # ------------------------------------------------------------------ hooks of subclasses

    @abstractmethod
    def build_networks(self, arguments: LearnerArguments) -> dict[str, dict[str, Any]]:
        """
        Make the networks, their targets and the optimisers.

        :param arguments: constructor arguments by agent
        :return: agent, or :attr:`team_name` for what belongs to the team -> name -> module or optimiser
        """

    @abstractmethod
    def action_of(self, agent: str, observation: Any, mask: np.ndarray | None, deterministic: bool) -> np.ndarray:
        """
        Actions of one agent when the model acts.

        :param agent: name of the agent
        :param observation: observation, with or without a leading batch axis
        :param mask: legal actions, bool (n_actions,) or (B, n_actions); ``None`` if all are legal, and so are they in a row
            without any
        :param deterministic: whether actions depend on the observation alone
        :return: (B, *action shape), or (*action shape,) for a single observation
        :raises ValueError: if the observation does not fit its space
        """

    def make_agent(self, agent: str) -> Any:
        """
        :param agent: name of the agent
        :return: the agent as a model of plain SB3
        :raises ValueError: if the algorithm has none
        """
        raise ValueError(f"the agents of {type(self).__name__} are no models of plain SB3: use predict() of the whole model")

    def acting_policy(self, agent: str) -> BasePolicy:
        """
        :param agent: name of an agent whose actions begin with 0, as SB3's policies count them
        :return: policy of a class of SB3 that acts as the agent; here that of a copy, in subclasses one that changes while the
            agent learns
        :raises ValueError: if the agent can be no model of plain SB3
        """
        policy: BasePolicy = self.make_agent(agent).policy
        return policy

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the networks that act into training or evaluation mode.

        :param mode: whether gradient steps follow
        """

    # ------------------------------------------------------------------ set-up

    def check_arguments(self) -> None:
        super().check_arguments()
        arguments = self.arguments
        for name in ("buffer_size", "learning_starts", "batch_size", "tau", "gamma", "gradient_steps"):
            setattr(self, name, arguments[name])
        self.train_freq = parse_train_freq(arguments["train_freq"])
        self.handle_timeout_termination = handles_timeouts(arguments.get("replay_buffer_kwargs"))
        if arguments.get("optimize_memory_usage"):
            raise ValueError("the joint replay buffer always stores observations once: leave optimize_memory_usage out")
        if arguments.get("n_steps", 1) != 1:
            raise ValueError(f"n_steps={arguments['n_steps']}: returns of several steps are not supported: leave n_steps at 1")
        if arguments.get("replay_buffer_class") not in (None, JointReplayBuffer):
            raise ValueError("transitions of several agents need a JointReplayBuffer: leave replay_buffer_class out")
        if self.is_team and arguments["team_reward"] not in TEAM_REWARDS:
            raise ValueError(unknown("team_reward", str(arguments["team_reward"]), TEAM_REWARDS))
        if arguments.get("state", "auto") not in STATES:
            raise ValueError(unknown("state", str(arguments["state"]), STATES))

    @property
    def wanted_states(self) -> bool | Literal["auto"]:
        how = self.argument("state", "observations")
        return "auto" if how == "auto" else how == "env"

    def _setup_model(self) -> None:
        self._check_spaces()
        if self.n_envs > 1 and self.train_freq.unit != TrainFrequencyUnit.STEP:
            raise ValueError("train_freq in episodes needs n_envs=1: give it in steps")
        self._setup_lr_schedule()
        # Copies, because whoever else samples from the env's spaces would change what is drawn here.
        self.exploration_spaces = {agent: deepcopy(space) for agent, space in self._spaces["action"].items()}
        self.set_random_seed(self.seed)
        self._replay_buffer: JointReplayBuffer | None = None
        self._joint_observations = self._build_joint_observations()
        if self.env is not None:
            check_replay_memory(self.buffer_size, self._spaces["observation"], self._spaces["action"], self.stored_state_size)
        self.learners, agents = {}, self.possible_agents
        self.team = Team(agents, {}, {agent: (agent,) for agent in agents})
        self.reader = TransitionReader(agents, self._spaces["observation"], self._spaces["action"])
        self.rewards = Rewards(agents, self._kind_of_reward(), self.argument("norm_reward", False), self.gamma, self.n_envs)
        self.parts = self.build_networks(LearnerArguments(self.arguments, agents))
        self.agents = AgentsOnDemand(self)  # type: ignore[assignment]  # a mapping that cannot be changed
        self._try_agents()

    def _try_agents(self) -> None:
        """
        Let every agent act once.

        :raises ValueError: if its networks cannot process its observations
        """
        self.set_training_mode(False)
        for agent, space in self._spaces["observation"].items():
            try:
                self.action_of(agent, _example(space), None, True)
            except Exception as error:
                raise ValueError(
                    f"agent {agent!r}: its networks fail on the observation space {one_line(space)} with actions in "
                    f"{one_line(self._spaces['action'][agent])} ({type(error).__name__}: {one_line(error)}): change the "
                    "spaces by a wrapper, such as SuperSuit's flatten_v0, or choose another policy"
                ) from error

    def _check_spaces(self) -> None:
        for agent, space in self._spaces["observation"].items():
            try:
                check_space(space, "observation")
            except ValueError as error:
                raise ValueError(f"agent {agent!r}: {error}") from error
        for agent, space in self._spaces["action"].items():
            if not isinstance(space, self.action_kinds):
                kinds = " or ".join(kind.__name__ for kind in self.action_kinds)
                raise ValueError(
                    f"agent {agent!r}: {type(self).__name__} takes {kinds} actions, not {space}{self.other_actions}"
                )

    def _build_joint_observations(self) -> JointObservations | None:
        """Observations as states, for algorithms that read states where the env's are not used."""
        if "state" not in self.arguments or self.state_space is not None:
            return None
        return JointObservations(self._spaces["observation"], self._spaces["action"])

    def _kind_of_reward(self) -> str:
        if self.is_team:
            return str(self.arguments["team_reward"])
        return "shared" if self.arguments["share_reward"] else "own"

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Set the seeds of all random draws, as SB3's ``set_random_seed``.

        :param seed: seed; ``None`` changes nothing
        """
        if seed is None:
            return
        set_random_seed(seed, using_cuda=self.device.type == "cuda")
        self.seed_exploration(seed)
        if self.env is not None:
            self.env.seed(seed)

    def seed_exploration(self, seed: int) -> None:
        """
        Set the seeds of random actions.

        :param seed: seed of the first agent's, from which those of the others are drawn
        """
        for space, own in zip(self.exploration_spaces.values(), copy_seeds(seed, len(self.possible_agents)), strict=True):
            space.seed(own)

    @property
    def generators(self) -> dict[str, np.random.Generator]:
        return {agent: space.np_random for agent, space in self.exploration_spaces.items()}

    @property
    def team_name(self) -> str:
        """Name in :attr:`parts` of what belongs to no single agent."""
        name = "team"
        while name in self.possible_agents:
            name += "_"
        return name

    @property
    def state_size(self) -> int:
        """Entries of a state; 0 for algorithms that read none."""
        return self.stored_state_size if self._joint_observations is None else self._joint_observations.size

    @property
    def stored_state_size(self) -> int:
        """Entries of the env's states in the replay buffer; 0 if they are not used."""
        return 0 if self.state_space is None else int(self.state_space.shape[0])

    # ------------------------------------------------------------------ replay buffer

    @property
    def replay_buffer(self) -> JointReplayBuffer:
        """Replay buffer; its memory is taken when it is first used."""
        if self._replay_buffer is None:
            self._replay_buffer = self.make_replay_buffer(self.buffer_size)
        return self._replay_buffer

    def make_replay_buffer(self, buffer_size: int) -> JointReplayBuffer:
        """
        Make an empty replay buffer for the model's environment.

        :param buffer_size: number of joint transitions over all copies
        """
        return JointReplayBuffer(
            buffer_size,
            self._spaces["observation"],
            self._spaces["action"],
            self.device,
            self.n_envs,
            self.stored_state_size,
            self.handle_timeout_termination,
            self._joint_observations,
        )

    def save_replay_buffer(self, path: str | Path) -> None:
        """
        Save the replay buffer: a zip of JSON and weights-only tensors, written atomically.

        A training resumes exactly from a model and a replay buffer that were saved at the same moment.

        :param path: path of the file; ``.zip`` is added if it has no suffix
        """
        save_replay(path, self.replay_buffer)

    def load_replay_buffer(self, path: str | Path) -> None:
        """
        Load a replay buffer; nothing in the file is executed.

        :param path: path of the file, with or without ``.zip``
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is no replay buffer, is damaged, or is not one of this environment and algorithm, with
            the model's ``buffer_size`` and ``n_envs``; the model keeps its own buffer then
        """
        self._replay_buffer = load_replay(path, lambda: self.make_replay_buffer(self.buffer_size))

    # ------------------------------------------------------------------ acting

    def predict(  # type: ignore[override]
        self,
        observation: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, np.ndarray], None]:
        """
        Actions for some or all agents, for one env or a batch of envs.

        :param observation: agent -> observation as the env gives it, with or without a leading batch axis; only the agents
            that are to act, by the env's own names or by their text
        :param state: not used
        :param episode_start: not used
        :param deterministic: whether actions depend on the observations alone; otherwise value-based algorithms explore with
            their last exploration rate, as SB3's DQN
        :param action_masks: agent -> bool (batch, n_actions); for agents without an entry here, the mask in their observation
            is used, see :data:`~sb3_matrl.vec_env.masks.MASK_NAMES`. A row without any legal action counts as one that allows
            all
        :return: agent, as named in ``observation`` -> action, and ``None``
        :raises ValueError: if an agent is unknown, or an observation does not fit its space
        """
        if not isinstance(observation, Mapping):
            raise ValueError(f"predict wants a dict agent -> observation, got {type(observation).__name__}")
        given = keyed_by_text(action_masks or {})
        self.set_training_mode(False)
        actions = {}
        for agent, value in observation.items():
            name = self.known_name(agent)
            mask = given.get(name, legal_actions(value, self._mask_names[name]))
            actions[agent] = self.action_of(name, value, mask, deterministic)
        return actions, None

    def known_name(self, agent: Any) -> str:
        """
        :param agent: any agent, by the env's own name or by its text
        :return: its name in the model
        :raises ValueError: if it is unknown
        """
        name = agent_name(agent)
        if name not in self.possible_agents:
            raise ValueError(unknown("agent", name, self.possible_agents))
        return name

    def player(self, agent: Any) -> FrozenAgent:
        name = self.known_name(agent)
        # SB3's policies count actions from 0.
        return FrozenAgent(JointModelPlayer(self, name) if self.first_action(name) else self.acting_policy(name))

    def first_action(self, agent: str) -> int:
        """
        :param agent: name of the agent
        :return: its smallest action in a Discrete space; 0 for other spaces
        """
        space = self._spaces["action"][agent]
        return int(space.start) if isinstance(space, spaces.Discrete) else 0

    def agent_env(self, agent: str) -> SpacesVecEnv:
        """
        The environment as an agent sees it that is a model of plain SB3: its spaces, without steps.

        :param agent: name of the agent
        :raises ValueError: if its actions do not begin with 0, which SB3's models do not know
        """
        action_space = self._spaces["action"][agent]
        if self.first_action(agent):
            raise ValueError(
                f"agent {agent!r}: SB3's DQN plays actions from 0 on, not {action_space}: use predict() of the whole model"
            )
        return SpacesVecEnv(1, network_space(self._spaces["observation"][agent]), action_space)

    # ------------------------------------------------------------------ parameters

    def optimizers(self) -> list[th.optim.Optimizer]:
        return [part for parts in self.parts.values() for part in parts.values() if isinstance(part, th.optim.Optimizer)]

    @property
    def policy(self) -> PolicyView:  # type: ignore[override]
        """
        All networks as one module, for tools that look at parameters and gradients such as ``wandb.watch``; it cannot be set.
        Dots in the names of agents are underscores here.
        """
        named = {f"{learner}/{name}": part for learner, parts in self.parts.items() for name, part in parts.items()}
        return self._view_of({name: part for name, part in named.items() if isinstance(part, th.nn.Module)})

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """
        Parameters and optimiser states.

        :return: agent, or :attr:`team_name` -> name -> state dict
        """
        return {learner: {name: part.state_dict() for name, part in parts.items()} for learner, parts in self.parts.items()}

    def _set_learner_parameters(self, learner: str, given: Mapping[str, Any], exact_match: bool) -> None:
        parts = self.parts[learner]
        wrong = set(given) ^ set(parts) if exact_match else set(given) - set(parts)
        if wrong:
            raise ValueError(f"parameters of {learner}: missing or unknown {sorted(wrong)}")
        for name, state in given.items():
            parts[name].load_state_dict(dict(state))

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """
        Load parameters.

        :param load_path_or_dict: path of a saved model, or what :meth:`get_parameters` returned
        :param exact_match: require all learners, and every part of each
        :param device: not used: tensors are copied to the networks' device
        :raises ValueError: if learners are missing or unknown, or a file's parameters do not fit; those of a file are all
            loaded, or none
        """
        if not isinstance(load_path_or_dict, Mapping):
            super().set_parameters(load_path_or_dict, exact_match, device)
            return
        check_learners(load_path_or_dict, self.parts, exact_match)
        for learner, given in load_path_or_dict.items():
            self._set_learner_parameters(learner, given, exact_match)


class AgentsOnDemand(Mapping[str, Any]):
    """
    The agents as models of plain SB3, made when they are asked for.

    :param model: model whose :meth:`OffPolicyModel.make_agent` makes them
    """

    def __init__(self, model: OffPolicyModel) -> None:
        self._model = model

    def __getitem__(self, agent: Any) -> Any:
        if agent_name(agent) not in self._model.possible_agents:
            raise KeyError(agent)
        return self._model.make_agent(agent_name(agent))

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.possible_agents)

    def __len__(self) -> int:
        return len(self._model.possible_agents)


def _example(space: spaces.Space[Any]) -> Any:
    """A batch of one observation: zeros, and the largest of Discrete and MultiDiscrete."""
    arrays = {leaf.key: np.zeros((1, *leaf.shape), dtype=leaf.dtype) for leaf in leaves_of(space)}
    for leaf in leaves_of(space):
        if isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete)):
            options = leaf.space.n if isinstance(leaf.space, spaces.Discrete) else leaf.space.nvec
            arrays[leaf.key][0] = options - 1
    return arrays[None] if None in arrays else arrays
