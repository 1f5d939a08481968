"""Updates that are applied to all agents or to none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch as th


class Restorable(Protocol):
    """The parts of a model that an update changes."""

    learners: dict[str, Any]

    @property
    def generators(self) -> Mapping[str, np.random.Generator]:
        """Name -> random generator that an update draws from."""
        ...

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """Parameters and optimiser states."""
        ...

    def set_parameters(self, load_path_or_dict: Any) -> None:
        """Put parameters and optimiser states back."""
        ...


@contextmanager
def all_or_nothing(model: Restorable) -> Iterator[None]:
    """
    Restore the model on any error inside, an interruption included: parameters, optimisers, numbers of updates and generators.

    :param model: model whose agents are updated inside
    """
    parameters = _copied(model.get_parameters())
    counts = {name: learner._n_updates for name, learner in model.learners.items()}
    drawn = {name: generator.bit_generator.state for name, generator in model.generators.items()}
    try:
        yield
    except BaseException:
        model.set_parameters(parameters)
        for name, count in counts.items():
            model.learners[name]._n_updates = count
        for name, state in drawn.items():
            model.generators[name].bit_generator.state = state
        raise


def _copied(tree: Any) -> Any:
    """Nested dicts and lists with copies of all tensors; several times faster than ``deepcopy``."""
    if isinstance(tree, th.Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree
