"""The MATRL algorithm: several on-policy learners, one environment, one joint update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import get_device

from sb3_matrl.common.agents import SpacesVecEnv, learner_groups
from sb3_matrl.common.arguments import LearnerArguments, PerAgent, constructor_arguments
from sb3_matrl.common.finite import check_rollout
from sb3_matrl.distributed.on_policy_algorithm import OnPolicyMultiAgent
from sb3_matrl.matrl.best_response import BestResponseConfig
from sb3_matrl.matrl.coordinator import MATRLCoordinator
from sb3_matrl.matrl.coordinator_config import CoordinatorConfig
from sb3_matrl.matrl.metagame_report import MetaGameReport
from sb3_matrl.matrl.trial_steps import CURRENT, PREDICTED
from sb3_matrl.matrl.update_checks import check_learner_losses
from sb3_matrl.on_policy.critic_states import CRITICS, STATES, StateSource
from sb3_matrl.on_policy.device_choice import choose_device
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.on_policy.learners import (
    accepted_arguments,
    build_learners,
    check_learner_class,
    check_rollout_memory,
    learner_argument_names,
)
from sb3_matrl.on_policy.rollout import RolloutCollector
from sb3_matrl.utils.suggest import unknown

# Beginning of the names of the trial steps' optimisers in files.
_STRATEGIES = "strategies."


class MATRL(OnPolicyMultiAgent):
    """
    Multi-agent trust region learning (Wen et al.).

    Every agent is an SB3 on-policy learner. After each joint rollout the agents predict their next policies independently,
    solve the meta-game between current and predicted policies for a Nash equilibrium, mix the two policies by its weights,
    and take best-response steps against the others' mixtures.

    The arguments up to ``device`` have the names, order and meaning of SB3's PPO. Those marked (*) may also be a dict
    keyed by agent (by the group's name where agents share a learner; frozen agents have no entry). Defaults are those of
    PPO, whatever the learner class. A learner gets only the arguments that its class has; ``None`` leaves the class's default.

    :param policy: (*) policy name (``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy``) or class
    :param env: factory of a PettingZoo ``ParallelEnv``, such an env, an id (``"checkers_v0"``, ``"module:callable"``), or a
        ``JointVecEnv``
    :param learning_rate: (*) learning rate of the learners; a number or a function of the remaining progress
    :param n_steps: steps per env copy between two updates
    :param batch_size: (*) minibatch size of the learners and of the best response
    :param n_epochs: (*) epochs of the predicted step
    :param gamma: (*) discount factor
    :param gae_lambda: (*) trade-off between bias and variance in generalised advantage estimation
    :param clip_range: (*) clip range of an agent's own ratio, in its learner and in its best response
    :param clip_range_vf: (*) clip range of the value update; ``None`` for no clipping
    :param normalize_advantage: (*) whether to normalise advantages per minibatch
    :param ent_coef: (*) entropy coefficient of the learners and of the best response
    :param vf_coef: (*) value function coefficient of the learners and of the best response
    :param max_grad_norm: (*) maximum norm of the gradients, in the learners and in the best response
    :param use_sde: (*) whether to use generalised state-dependent exploration
    :param sde_sample_freq: (*) steps between two samples of the exploration noise, see SB3
    :param rollout_buffer_class: (*) rollout buffer class, see SB3
    :param rollout_buffer_kwargs: (*) keyword arguments of the rollout buffer, see SB3
    :param target_kl: (*) limit on the KL divergence of an update, in the learners and in the best response: the epochs stop
        at 1.5 times this value
    :param stats_window_size: number of episodes over which rollout statistics are averaged
    :param tensorboard_log: folder of TensorBoard logs
    :param policy_kwargs: (*) keyword arguments of the policy
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed of all random draws: SB3's and torch's as ``set_random_seed(seed)``, the env copies' and the
        coordinator's from generators spawned from it
    :param device: device of the networks; ``"auto"`` takes a GPU where there is one, but for small fully connected networks in
        small minibatches, which the CPU updates faster
    :param _init_setup_model: whether to build the networks in the constructor

    :param n_envs: number of env copies; a ``JointVecEnv`` has its own number
    :param env_kwargs: keyword arguments of the env factory
    :param vec_env: ``"auto"``, ``"batched"``, ``"dummy"``, ``"subproc"``, ``"supersuit"`` or ``"supersuit-subproc"``, see
        :func:`~sb3_matrl.vec_env.factory.make_joint_vec_env`
    :param env_timeout: seconds that a worker process has for one step of its copies, see the same function; ``None`` for none
    :param learner_class: (*) SB3 or sb3-contrib on-policy algorithm: PPO, A2C, TRPO, RecurrentPPO, MaskablePPO
    :param learner_kwargs: (*) arguments that only this class has
    :param share: name of a group -> agents that share one learner, which is one player of the meta-game
    :param frozen: agent -> policy that plays it without learning: an SB3 policy or algorithm, a function of the observations
        (n_envs, ...) and, if it takes them, the action masks that returns the actions, ``RandomPolicy``, a path of a saved
        model, or a tuple (model or path, agent in it)
    :param norm_obs: (*) whether to normalise observations by running statistics, as SB3's ``VecNormalize``; the statistics are
        saved with the model and used by :meth:`predict`
    :param norm_reward: (*) whether to scale rewards by the running standard deviation of the discounted return
    :param clip_obs: (*) largest normalised observation
    :param clip_reward: (*) largest normalised reward
    :param metagame: whether to solve the meta-game; ``False`` takes the policies of the last of ``strategies`` as they are, by
        default the predicted ones (rho = 0)
    :param best_response: whether to take best-response steps; ``False`` ends the iteration with the mixtures
    :param solver: solver of the meta-game, see :func:`sb3_matrl.metagame.solve`
    :param selection: ``"random"``, ``"welfare"`` or ``"progress"``: which equilibrium to take if there are several; ``"auto"``
        is ``"welfare"`` where the agents' payoffs are nearly common (correlations of at least 0.9), and ``"random"`` elsewhere
    :param aggregation: ``"parameters"`` or ``"distill"``: how a mixture gets network parameters
    :param best_response_start: ``"aggregated"``, ``"current"`` or ``"predicted"`` parameters
    :param strategies: strategies of the meta-game: ``"current"``, then one or more trial steps, which all begin at the current
        policies. ``"predicted"`` is the learner's own update; ``"optimistic"`` one that follows what went well, see
        ``optimism``; a function, or a pair of a name and a function, a step of your own: it gets an SB3 learner and its
        :class:`~sb3_matrl.on_policy.batch.AgentBatch` and leaves new parameters in the learner. A file cannot hold a function:
        pass the strategies again on loading, as ``custom_objects``
    :param optimism: temperature of the optimistic step, which is the learner's update on other advantages: standardised
        ones above 0 grow as ``exp(A / optimism)``, those below hardly count
    :param optimistic_n_epochs: epochs of the optimistic step; ``None`` uses ``n_epochs``
    :param ratio_scope: what a ratio spans in payoffs and in the best response's weights: ``"step"``, one step; ``"episode"``,
        the whole episode as far as the rollout holds it; a number, that many last steps of the episode. Only ratios that span
        several steps see what agents do to each other over time, as in turn-based games. They are clipped as a whole by
        ``payoff_clip_range`` and ``br_clip_range``
    :param episode_payoffs: payoffs of ``ratio_scope="episode"``: ``"advantages"``, discounted returns with the critic's value
        after an episode that the rollout cuts and less its value at the beginning, or ``"returns"``, without a critic
    :param payoff_fit: ``"same"``: trial steps and payoffs use the whole rollout; ``"cross"``: the trial steps learn from a
        random half of the env copies and the payoffs come from the other half, so that no step is judged on its own samples
    :param br_learning_rate: (*) learning rate of the best response; ``None`` uses ``learning_rate``
    :param br_n_epochs: (*) epochs of the best response
    :param br_clip_range: (*) clip range of the importance weight of the others' policies; ``None`` for no clipping
    :param br_kl_coef: (*) coefficient of KL(pi || pi_theta) in the best response (the paper's KL coefficient)
    :param payoff_clip_range: clip range of the meta-game's ratios; ``None`` for no clipping
    :param distill_steps: Adam steps of ``aggregation="distill"``
    :param on_nan: NaN or infinite numbers in a rollout or an update end the training (``"stop"``), or that update alone is
        skipped (``"skip"``); either way all agents stay as they were before it
    :param backend: code that acts and takes the gradient steps: ``"sb3"`` is SB3's own, agent by agent and equal to it to the
        last bit; ``"torch"`` computes agents whose networks have the same shape together, equal up to rounding; ``"native"``
        does so by a compiled kernel; ``"auto"`` takes ``"native"``, or ``"torch"`` where that is not available, for two or
        more such agents, and ``"sb3"`` for all others. The page "Speed" says which agents these are
    :param critic: ``"own"``: an agent's critic sees its observation, as in SB3; ``"central"``: it sees the state, while the
        actor sees the observation, as in MAPPO. Acting needs no state. The critic of a learner that several agents share also
        sees which of them it values
    :param state: state of central critics: ``"env"`` for the env's ``state()``, ``"observations"`` for the observations of all
        agents (action masks left out, zeros for dead agents), ``"auto"`` for the env's if it has one. ``norm_obs`` normalises
        it as well
    :param rollout_workers: number of workers that play the rollouts, each with its share of the copies; ``None`` for rollouts
        in this process. Every worker draws from generators of its own, so that their number decides about the results,
        and where they run does not
    :param worker_backend: ``"process"`` runs each worker in a process on this machine, ``"ray"`` on a Ray cluster,
        ``"in-turn"`` one after the other in this process
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = PPO.policy_aliases
    missing_in_files: ClassVar[Mapping[str, Any]] = {"backend": "sb3"}

    learners: dict[str, OnPolicyAlgorithm]
    agents: dict[str, OnPolicyAlgorithm]
    coordinator: MATRLCoordinator

    def __init__(
        self,
        policy: PerAgent[str | type[ActorCriticPolicy]],
        env: Any,
        learning_rate: PerAgent[float | Schedule] = 3e-4,
        n_steps: int = 2048,
        batch_size: PerAgent[int] = 64,
        n_epochs: PerAgent[int] = 10,
        gamma: PerAgent[float] = 0.99,
        gae_lambda: PerAgent[float] = 0.95,
        clip_range: PerAgent[float | Schedule] = 0.2,
        clip_range_vf: PerAgent[float | Schedule | None] = None,
        normalize_advantage: PerAgent[bool] = True,
        ent_coef: PerAgent[float] = 0.0,
        vf_coef: PerAgent[float] = 0.5,
        max_grad_norm: PerAgent[float] = 0.5,
        use_sde: PerAgent[bool] = False,
        sde_sample_freq: PerAgent[int] = -1,
        rollout_buffer_class: PerAgent[type[RolloutBuffer] | None] = None,
        rollout_buffer_kwargs: PerAgent[Mapping[str, Any] | None] = None,
        target_kl: PerAgent[float | None] = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: PerAgent[Mapping[str, Any] | None] = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        n_envs: int = 1,
        env_kwargs: Mapping[str, Any] | None = None,
        vec_env: str = "auto",
        env_timeout: float | None = None,
        learner_class: PerAgent[type[OnPolicyAlgorithm]] = PPO,
        learner_kwargs: PerAgent[Mapping[str, Any] | None] = None,
        share: Mapping[str, Sequence[str]] | None = None,
        frozen: Mapping[str, Any] | None = None,
        norm_obs: PerAgent[bool] = False,
        norm_reward: PerAgent[bool] = False,
        clip_obs: PerAgent[float] = 10.0,
        clip_reward: PerAgent[float] = 10.0,
        metagame: bool = True,
        best_response: bool = True,
        solver: str = "auto",
        selection: str = "random",
        aggregation: str = "parameters",
        best_response_start: str = "aggregated",
        strategies: Sequence[Any] = ("current", "predicted"),
        optimism: float = 0.25,
        optimistic_n_epochs: int | None = None,
        ratio_scope: str | int = "step",
        episode_payoffs: str = "advantages",
        payoff_fit: str = "same",
        br_learning_rate: PerAgent[float | Schedule | None] = None,
        br_n_epochs: PerAgent[int] = 5,
        br_clip_range: PerAgent[float | None] = 0.2,
        br_kl_coef: PerAgent[float] = 0.0,
        payoff_clip_range: float | None = 0.2,
        distill_steps: int = 10,
        on_nan: str = "stop",
        backend: str = "auto",
        critic: str = "own",
        state: str = "auto",
        rollout_workers: int | None = None,
        worker_backend: str = "process",
    ) -> None:
        self.report: MetaGameReport | None = None
        self._wanted_device = device
        super().__init__(locals())

    def check_arguments(self) -> None:
        super().check_arguments()
        self.n_steps: int = self.arguments["n_steps"]
        check_rollout_memory(self.n_steps, self.arguments["n_envs"])
        self._config = CoordinatorConfig.of(self.arguments)
        for name, known in (("critic", CRITICS), ("state", STATES)):
            if self.arguments[name] not in known:
                raise ValueError(unknown(name, str(self.arguments[name]), known))

    @property
    def wanted_states(self) -> bool | Literal["auto"]:
        """See :class:`~sb3_matrl.common.model.MultiAgentModel`."""
        if self.arguments["critic"] == "own":
            return False
        return "auto" if self.arguments["state"] == "auto" else bool(self.arguments["state"] == "env")

    def build_learners(self, envs: Mapping[str, SpacesVecEnv], arguments: LearnerArguments) -> dict[str, OnPolicyAlgorithm]:
        self._check_accepted(arguments)
        if self._wanted_device == "auto":
            self.device = choose_device(envs, arguments)
        self._source: StateSource | None = None
        if self.arguments["critic"] == "own":
            return build_learners(envs, arguments, self.device)
        self._source = StateSource.of(self.state_space, self._spaces["observation"], self._spaces["action"])
        members = learner_groups(self.possible_agents, self.arguments["share"], self.arguments["frozen"])
        sizes = {name: self._source.size(len(members[name])) for name in envs}
        return build_learners(envs, arguments, self.device, sizes)

    def _check_accepted(self, arguments: LearnerArguments) -> None:
        """
        :raises ValueError: if an argument was set that no learner reads, nor the best response; names it
        """
        given = [arguments.of("learner_class", name) for name in arguments.learners]
        for learner_class in given:
            check_learner_class(learner_class)
        classes = set(given)
        accepted = set().union(*map(accepted_arguments, classes)) | set(BestResponseConfig.__dataclass_fields__)
        defaults = constructor_arguments(type(self))
        for name in learner_argument_names(self.arguments):
            if name not in accepted and self.arguments[name] != defaults[name].default:
                raise ValueError(
                    f"{name} is no argument of {', '.join(sorted(cls.__name__ for cls in classes))}: leave it out"
                )

    def build(self, arguments: LearnerArguments) -> None:
        self._learner_arguments = arguments
        self._best_response_configs()  # wrong values are errors of the constructor
        self.coordinator = MATRLCoordinator(
            self.learners,
            self._config,
            _coordinator_rng(self.seed),
            {name: len(agents) for name, agents in self.team.members.items()},
            self.arguments["backend"],
        )
        if self.verbose >= 1:
            print(self.coordinator.joint.describe())
            if self.device.type != get_device(self._wanted_device).type:
                print("On the CPU, which is faster for networks and minibatches of this size; device='cuda' takes the GPU")

    @property
    def generators(self) -> dict[str, np.random.Generator]:
        """Name -> random generator of the algorithm's own: that of the coordinator."""
        return {"coordinator": self.coordinator.rng}

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Set the seeds of all random draws, those of the meta-game and the minibatches included.

        :param seed: seed; ``None`` changes nothing
        """
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "coordinator"):  # the first call precedes it
            self.coordinator.rng = _coordinator_rng(seed)

    @property
    def extra_optimizers(self) -> dict[str, dict[str, th.optim.Optimizer]]:
        """Learner -> name -> optimiser beside SB3's: those of the best response and of further trial steps."""
        found: dict[str, dict[str, th.optim.Optimizer]] = {
            name: {"best_response.optimizer": one} for name, one in self.coordinator.optimizers.items()
        }
        for strategy, optimizers in self.coordinator.trials.optimizers.items():
            for name, one in optimizers.items():
                found[name][f"{_STRATEGIES}{strategy}.optimizer"] = one
        return found

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """See the base class; optimisers of trial steps that are not among this model's ``strategies`` are left out."""
        if isinstance(load_path_or_dict, Mapping):
            known = self.extra_optimizers
            load_path_or_dict = {
                name: {
                    part: value
                    for part, value in parts.items()
                    if not part.startswith(_STRATEGIES) or part in known.get(name, {})
                }
                for name, parts in load_path_or_dict.items()
            }
        super().set_parameters(load_path_or_dict, exact_match, device)

    def _best_response_configs(self) -> dict[str, BestResponseConfig]:
        """Learner -> settings of its best response at this moment of the training."""
        progress = self._current_progress_remaining
        return {name: BestResponseConfig.of(self._learner_arguments, name, progress) for name in self.learners}

    def learner_of(self, agent: str) -> str:
        """
        :param agent: agent that learns
        :return: name of its learner: the agent itself, or the group that shares one
        """
        return self.team.learner_of(agent)

    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """
        Fill the agents' rollout buffers with one joint rollout.

        :param callback: SB3 callback
        :return: False if the callback asked to stop
        """
        return self.play_rollout(callback, self.n_steps)

    def make_collector(self) -> RolloutCollector:
        """See the base class."""
        assert self.env is not None
        return RolloutCollector(self.env, self.team, self.joint, self._source)

    @property
    def joint(self) -> JointUpdates:
        """Which learners act together."""
        return self.coordinator.joint

    def shard_arguments(self) -> dict[str, Any]:
        """Workers take no trial steps, and SB3 rejects short rollouts with normalised advantages."""
        return {"strategies": (CURRENT, PREDICTED), "payoff_fit": "same", "normalize_advantage": False}

    def update(self) -> None:
        """
        One iteration on the rollouts in the agents' buffers; its numbers go to ``report`` and to the logger.

        :raises NonFiniteError: on NaN or infinite numbers
        :raises ValueError: if a learner's rollout buffer was exchanged for one that cannot be used
        """
        self.report = None
        self.joint.check_buffers()
        for name, learner in self.learners.items():
            check_rollout(self.team.members[name], learner)
        report = self.coordinator.update(self._best_response_configs())
        trials = self.coordinator.trials.optimizers
        names = [*self.learners, *(f"{name}/{strategy}" for name in self.learners for strategy in trials)]
        check_learner_losses(names, self.logger.name_to_value)
        self.report = report
        for key, value in report.scalars().items():
            self.logger.record(key, value, exclude="tensorboard" if isinstance(value, str) else None)


def _coordinator_rng(seed: int | None) -> np.random.Generator:
    """Generator of a coordinator, independent of those that have the seed itself."""
    return np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
