"""State of an off-policy training at any moment, also between a step of the environment and its storage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sb3_matrl.common.training_state import TrainingState, check_episodes


@dataclass(frozen=True)
class OffPolicyState(TrainingState):
    """
    Nested dicts and lists of arrays, numbers, texts and ``None``.

    With the model's parameters and its replay buffer it decides everything that follows.

    :param progress: counters of the training: ``n_calls`` (steps of all copies), ``episodes``, ``block_steps`` and
        ``block_episodes`` (since the last gradient steps), ``stored`` (steps in the replay buffer, those overwritten
        included)
    :param pending: transition that has been played but not stored yet, as ``JointTransition.as_tree`` returns it; ``None``
        for none
    :param pending_episodes: statistics of the episodes that ended with this transition, as in SB3's ``ep_info_buffer``
    :param ahead: steps that rollout workers have played after that and that have not been counted, as
        ``RoundReader.rest`` returns them; ``None`` for none
    :param extra: further state of the algorithm, such as that of noise objects
    :param begins: whether ``learn`` has begun and rollout workers have not played since, so that their noise is still to be
        reset
    """

    progress: dict[str, int] = field(default_factory=dict)
    pending: dict[str, Any] | None = None
    pending_episodes: list[dict[str, Any]] = field(default_factory=list)
    ahead: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    begins: bool = False

    @classmethod
    def from_tree(cls, tree: Any) -> TrainingState:
        return super().from_tree({"ahead": None, "begins": False, **tree} if isinstance(tree, dict) else tree)  # older files

    def _check(self) -> None:
        super()._check()
        counters = {"n_calls", "episodes", "block_steps", "block_episodes", "stored"}
        numbers = self.progress.values() if isinstance(self.progress, dict) else [None]
        if not all(type(number) is int and number >= 0 for number in numbers) or set(self.progress) != counters:
            raise ValueError(f"the training state's progress should be the numbers {sorted(counters)}")
        kinds = {"pending": dict | None, "pending_episodes": list, "ahead": dict | None, "extra": dict, "begins": bool}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"the training state's {name} is a {type(getattr(self, name)).__name__}")
        check_episodes(self.pending_episodes)
