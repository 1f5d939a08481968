"""A MATRL model as the content of a file, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.training_state import TrainingState, normalizer_states
from sb3_matrl.files.model_file import SavedModel
from sb3_matrl.files.trees import arrays_for_tensors, tensors_for_arrays

if TYPE_CHECKING:
    from sb3_matrl.matrl import MATRL


def saved_model(model: MATRL, state: TrainingState | None) -> SavedModel:
    """
    Everything that a model file holds.

    :param model: to be saved
    :param state: of its training, where there is one; the model's own counters and normalisers are of the same moment
    """
    counters = {
        "n_envs": model.n_envs,
        "num_timesteps": model.resumable_timesteps,
        "total_timesteps": model._total_timesteps,
        "n_updates": model._n_updates,
        "skipped_updates": model.skipped_updates,
        "learner_n_updates": [learner._n_updates for learner in model.learners.values()],
    }
    observation_spaces, action_spaces = (
        {agent: space[agent] for agent in model.possible_agents}  # type: ignore[index]
        for space in (model.observation_space, model.action_space)
    )
    return SavedModel(
        observation_spaces,
        action_spaces,
        {name: value for name, value in model.arguments.items() if name != "frozen"},
        counters,
        dict(model.coordinator.rng.bit_generator.state),
        model.get_parameters(),
        None if state is None else state.as_tree(),
        tensors_for_arrays(normalizer_states(model) if state is None else state.normalizers),
        {agent: frozen.to_file() for agent, frozen in model.team.frozen.items()},
    )


def frozen_agents(saved: SavedModel, device: Any) -> dict[str, FrozenAgent]:
    """
    :param saved: read from a file
    :param device: of the policies
    :return: agent -> as it was saved; functions are lost, and raise an error when they are to act
    """
    return {agent: FrozenAgent.from_file(document, tensors, device) for agent, (document, tensors) in saved.frozen.items()}


def restore(model: MATRL, saved: SavedModel, device: Any) -> None:
    """
    Put into a model what its file holds beside the constructor's arguments; not the state of its training.

    :param model: built from the file's arguments
    :param saved: read from the file
    :param device: where the tensors go first
    :raises ValueError: if the parts do not fit the model
    """
    model.set_parameters(saved.parameters, device=device)
    model.num_timesteps, model._total_timesteps = saved.counters["num_timesteps"], saved.counters["total_timesteps"]
    model._n_updates, model.skipped_updates = saved.counters["n_updates"], saved.counters["skipped_updates"]
    for learner, n_updates in zip(model.learners.values(), saved.counters["learner_n_updates"], strict=True):
        learner._n_updates, learner.num_timesteps = n_updates, model.num_timesteps
    model.coordinator.rng.bit_generator.state = saved.coordinator_rng
    states = arrays_for_tensors(saved.normalizers)
    for name, normalizer in model.team.normalizers.items():
        # Another number of copies has no use for the running returns of the old ones.
        normalizer.restore(states[name], with_running=len(states[name]["running"]) == len(normalizer.running))
