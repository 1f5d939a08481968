"""The policies of several learners as one module, for tools that expect the one policy of an SB3 algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch as th
from torch.utils.hooks import RemovableHandle


class PolicyView(th.nn.Module):
    """
    The policies of several learners as one module: ``parameters()``, ``named_parameters()``, ``state_dict()``, ...

    It holds the policies themselves, not copies. Hooks on a parameter see the gradients of every update. A forward hook on the
    view is called with the view whenever the first learner chooses actions in a rollout, once per step, as that of SB3's only
    policy is; so ``wandb.watch`` logs gradients and parameters at the frequency it is given.

    :param policies: name of the learner -> its policy; in the view dots in names are underscores, and names that are taken get
        an underscore at the end
    """

    def __init__(self, policies: Mapping[str, th.nn.Module]) -> None:
        super().__init__()
        self._given = dict(policies)
        for name, policy in policies.items():
            key = name.replace(".", "_")
            while hasattr(self, key):  # names of methods, and names that differ in dots only
                key += "_"
            self.add_module(key, policy)

    def shows(self, policies: Mapping[str, th.nn.Module]) -> bool:
        """
        Whether these are the policies of the view.

        :param policies: name of the learner -> its policy
        """
        return list(policies) == list(self._given) and all(policies[name] is self._given[name] for name in policies)

    def register_forward_hook(self, hook: Callable[..., Any], **options: Any) -> RemovableHandle:
        """
        Call a hook after forward passes of the first learner's policy.

        :param hook: function of the view, the pass's inputs and its output; what it returns is not used
        :param options: keyword arguments of :meth:`torch.nn.Module.register_forward_hook`
        :return: handle that removes the hook
        """

        def call(_: th.nn.Module, *passed: Any) -> None:
            hook(self, *passed)

        watched = next(self.children(), None)  # there is none if all agents are frozen
        return super().register_forward_hook(hook) if watched is None else watched.register_forward_hook(call, **options)

    def forward(self, *_: Any) -> NoReturn:
        """
        A view has no forward pass.

        :raises TypeError: always; says what to call
        """
        raise TypeError("model.policy shows all learners' policies: call model.predict(...), or model.agents[name].policy")
