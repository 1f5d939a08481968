"""Action masks from a method ``action_masks`` of the env, as sb3-contrib expects it of single-agent environments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sb3_matrl.envs.turns import TurnBasedParallelEnv
from sb3_matrl.utils.agent_names import keyed_by_text

#: Name of the method, and of the entry of the infos under which its masks are passed on.
MASK_METHOD = "action_masks"


class MaskMethod:
    """
    Method ``action_masks(agent)``, or ``action_masks()`` that returns a dict keyed by agent or the mask of the one that acts.

    :param method: bound method of the env
    :param per_agent: whether it takes an agent
    """

    def __init__(self, method: Callable[..., Any], per_agent: bool) -> None:
        self.method = method
        self.per_agent = per_agent

    @classmethod
    def of(cls, env: Any) -> MaskMethod | None:
        """
        Find the method.

        :param env: a ParallelEnv, or the view of an AECEnv
        :return: ``None`` if the env has no such method, or one with other arguments
        """
        method = getattr(env.env if isinstance(env, TurnBasedParallelEnv) else env, MASK_METHOD, None)
        if not callable(method):
            return None
        for per_agent in (True, False):
            if _accepts(method, 1 if per_agent else 0):
                return cls(method, per_agent)
        return None

    def masks(self, acting: Sequence[Any]) -> dict[str, Any]:
        """
        Call the method.

        :param acting: agents that choose the next action, as the env names them
        :return: name of the agent as text -> what the env returned for it; without agents that have no mask. One mask for
            several agents is left out: it is not known whose it is
        """
        if self.per_agent:
            masks: Any = {agent: self.method(agent) for agent in acting}
        else:
            returned = self.method() if acting else {}
            masks = (
                returned if isinstance(returned, Mapping) else dict.fromkeys(acting[:1], returned) if len(acting) == 1 else {}
            )
        return {agent: mask for agent, mask in keyed_by_text(masks).items() if mask is not None}


def _accepts(method: Callable[..., Any], n_arguments: int) -> bool:
    try:
        inspect.signature(method).bind(*[None] * n_arguments)
    except (TypeError, ValueError):
        return False
    return True
