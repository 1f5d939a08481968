"""What off-policy algorithms do in their environment: choose actions, step it, read transitions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_matrl.off_policy.off_policy_model import OffPolicyModel
from sb3_matrl.off_policy.played_rounds import PlayedStep
from sb3_matrl.off_policy.transitions import Actions, JointTransition, Moment


class OffPolicyPlayer(OffPolicyModel):
    """
    Off-policy algorithms as they play: in the training itself, and in rollout workers, which do nothing else.

    :class:`~sb3_matrl.off_policy.off_policy_algorithm.OffPolicyMultiAgent` adds the training, and says what subclasses define.

    :param given: the constructor's local variables: arguments by name
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    #: Share of random actions, for algorithms that have one.
    exploration_rate: float = 0.0
    _now: Moment | None

    # ------------------------------------------------------------------ hooks of subclasses

    @abstractmethod
    def choose_actions(self, moment: Moment) -> Actions:
        """
        Actions while the algorithm learns, after the warm-up.

        :param moment: what the agents know
        :return: agent -> (num_envs, *action shape), in the agent's action space
        """

    @abstractmethod
    def acting_networks(self) -> dict[str, th.nn.Module]:
        """:return: name -> network, for all that :meth:`choose_actions` uses; rollout workers get their parameters"""

    def buffer_actions(self, actions: Actions) -> tuple[Actions, Actions]:
        """
        Actions for the environment and as they are stored; where noise is added, it is added here, as in SB3.

        :param actions: agent -> (num_envs, *action shape)
        :return: actions for the environment, and actions as in :class:`~sb3_matrl.off_policy.transitions.JointTransition`
        """
        return actions, {agent: acts - self.exploration_spaces[agent].start for agent, acts in actions.items()}

    def extra_state(self) -> dict[str, Any]:
        """:return: further state of the training as nested dicts of arrays, numbers and texts, such as that of noise"""
        return {}

    def restore_extra_state(self, state: Mapping[str, Any]) -> None:
        """
        :param state: return value of :meth:`extra_state`
        :raises ValueError: if it does not fit
        """

    def refresh(self) -> None:
        """Called before networks are used for a while: notice whatever changed them from outside."""

    def begin_playing(self) -> None:
        """Called when :meth:`learn` begins, before actions are chosen."""

    def update_exploration(self) -> None:
        """Called after every joint step, when the remaining progress has been updated."""

    def on_episode_end(self, copy: int) -> None:
        """
        Called when an episode is over.

        :param copy: index of the copy
        """

    def shard_arguments(self) -> dict[str, Any]:
        """Workers store nothing."""
        return {"buffer_size": 1}

    # ------------------------------------------------------------------ steps

    def check_turns(self) -> None:
        assert self.env is not None
        if not np.array_equal(self.env.acting, self.env.alive):
            raise ValueError(
                f"{type(self).__name__} needs agents that all act in every step; in this environment they take turns. "
                "Independent learners of MATRL take such environments"
            )

    @property
    def moment(self) -> Moment:
        """What the agents know when they choose the next actions."""
        assert self.env is not None
        observations = self.position.observations
        if self._now is None or self._now.observations is not observations:
            self._now = Moment(
                observations=observations,
                masks=self.env.action_masks,
                alive=self.env.alive[:, self.reader.columns(self.env.agents)],
                states=self.env.states if self.stored_state_size else None,
            )
        return self._now

    def play_step(self) -> PlayedStep:
        """
        Choose actions and take one joint step; nothing is counted yet.

        :raises EnvError: if an env raises an error
        :raises ValueError: if agents take turns
        """
        env, before = self.env, self.moment
        assert env is not None
        actions, stored = self.buffer_actions(self._sample_action(before))
        observations, rewards, dones, infos = env.step(actions)  # type: ignore[arg-type]
        self.check_turns()
        assert env.last_step is not None
        transition = self.reader.transition(before, stored, env.last_step, self.reader.columns(env.agents))
        now: Any = transition.after.observations
        self._last_obs, self._now, self._left_at = now, transition.after, (env, env.moves)
        seen = {"actions": actions, "new_obs": observations, "rewards": rewards, "dones": dones, "infos": infos}
        return PlayedStep(transition, seen)

    def end_step(self, transition: JointTransition) -> list[int]:
        """
        Do what changes the choice of the next actions, once a step has been counted.

        :param transition: transition of the step
        :return: copies whose episodes ended
        """
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.update_exploration()
        ended: list[int] = np.flatnonzero(transition.dones).tolist() if transition.final is not None else []
        for copy in ended:
            self.on_episode_end(copy)
        return ended

    def _sample_action(self, moment: Moment) -> Actions:
        """Random actions in the warm-up, then those of :meth:`choose_actions`."""
        if self.num_timesteps < self.learning_starts:
            return self.random_actions(moment)
        return self.choose_actions(moment)

    def random_actions(self, moment: Moment, where: np.ndarray | None = None, actions: Actions | None = None) -> Actions:
        """
        Actions drawn uniformly from the legal ones, agent by agent, copy by copy.

        :param moment: what the agents know
        :param where: bool (num_envs, n_agents), which actions are drawn; ``None`` for all
        :param actions: actions that are replaced, agent -> (num_envs, *action shape)
        :return: agent -> (num_envs, *action shape)
        """
        chosen: Actions = {}
        for i, (agent, space) in enumerate(self.exploration_spaces.items()):
            copies = range(self.n_envs) if where is None else np.flatnonzero(where[:, i]).tolist()
            masks = moment.masks.get(agent)
            drawn = [space.sample() if masks is None else space.sample(masks[copy].astype(np.int8)) for copy in copies]
            chosen[agent] = np.array(drawn) if where is None or actions is None else actions[agent].copy()
            if where is not None and drawn:
                chosen[agent][copies] = drawn
        return chosen
