"""Updates that are applied whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch as th

if TYPE_CHECKING:
    from sb3_matrl.matrl import MATRL


@contextmanager
def all_or_nothing(model: MATRL) -> Iterator[None]:
    """
    On any error inside, an interruption included, all agents get back what they were before: parameters, optimisers,
    numbers of updates, and the coordinator's random generator.

    :param model: whose agents are updated inside
    """
    parameters = _copied(model.get_parameters())
    counts = {name: learner._n_updates for name, learner in model.learners.items()}
    generator = model.coordinator.rng.bit_generator
    drawn = generator.state
    try:
        yield
    except BaseException:
        model.set_parameters(parameters)
        for name, count in counts.items():
            model.learners[name]._n_updates = count
        generator.state = drawn
        raise


def _copied(tree: Any) -> Any:
    """Nested dicts and lists with copies of all tensors; several times faster than ``deepcopy``."""
    if isinstance(tree, th.Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree
