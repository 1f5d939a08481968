"""
SB3's and sb3-contrib's rollout buffers with a mask, so that rows in which the agent did not act stay out of every loss, and
with the states that a central critic sees. On a GPU, their arrays are copied to it once per rollout, not once per minibatch.
Buffers of several learners keep a frame that all of their agents see once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import (
    MaskableDictRolloutBuffer,
    MaskableDictRolloutBufferSamples,
    MaskableRolloutBuffer,
    MaskableRolloutBufferSamples,
)
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples

from sb3_matrl.on_policy.central_policies import ObservationAndState, state_size_of
from sb3_matrl.on_policy.rollout_images import RolloutImages
from sb3_matrl.on_policy.sequences import Sequences
from sb3_matrl.utils.devices import to_device
from sb3_matrl.utils.image_planes import ImageRows, Stores, image_rows, worth_planes

_RECURRENT = (RecurrentRolloutBuffer, RecurrentDictRolloutBuffer)
_MASKABLE = (MaskableRolloutBuffer, MaskableDictRolloutBuffer)


def is_recurrent(buffer: object) -> bool:
    """Whether the buffer belongs to a recurrent learner."""
    return isinstance(buffer, _RECURRENT)


def gives_sequences(buffer: object) -> bool:
    """Whether :meth:`MaskedRolloutMixin.sequences` gives a buffer's minibatches: it is one of sb3-contrib's recurrent ones."""
    return isinstance(buffer, MaskedRolloutMixin) and type(buffer).__mro__[2] in _RECURRENT


def is_maskable(buffer: object) -> bool:
    """Whether the buffer belongs to a learner with action masks."""
    return isinstance(buffer, _MASKABLE)


_ROW_ARRAYS = ("actions", "values", "log_probs", "advantages", "returns")
LSTM_STATES = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
# Attribute of a buffer -> field of its samples.
_FIELDS = {
    "actions": "actions",
    "values": "old_values",
    "log_probs": "old_log_prob",
    "advantages": "advantages",
    "returns": "returns",
}
# Arrays that are the same from the end of the rollout on.
_FIXED = ("observations", "actions", "values", "log_probs", "action_masks", "states")
# Arguments of add() beyond those of SB3's own buffers that joint collection provides.
_KNOWN_KEYWORDS = {"action_masks", "lstm_states"}


@dataclass(frozen=True)
class SequenceSamples:
    """
    A minibatch of a recurrent learner.

    :param rows: SB3's samples of B rows
    :param sequences: the parts of episodes that the rows are
    :param live: rows in which the agent acted, of the minibatch's; ``None`` for all
    """

    rows: RolloutBufferSamples
    sequences: Sequences
    live: th.Tensor | None


class MaskedRolloutMixin:
    """
    Mask of a rollout buffer: rows in which the agent did not act stay out of its losses.

    ``mask`` (n_steps, n_envs) is True where the agent acted. With an all-True mask the buffer behaves as SB3's, bit for bit,
    including the draw of the permutation.

    ``states`` (n_steps, n_envs, state size) is what a central critic sees; samples then hold an
    :class:`~sb3_matrl.on_policy.central_policies.ObservationAndState` in place of observations. ``None`` for other learners.
    """

    mask: np.ndarray
    states: np.ndarray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty_buffer, (type(self).__mro__[2],), vars(self)

    #: Whether the learner normalises the advantages of a minibatch.
    normalizes_advantages = True
    #: Whether samples come from copies of the arrays on the device; ``None`` for: if that is not the CPU.
    samples_on_device: bool | None = None
    #: Planes of images, in common with other buffers; ``None`` for images in arrays.
    planes: Stores | None = None

    def reset(self: Any) -> None:
        """Empty the buffer and set the mask to True everywhere."""
        for images in _leaves(getattr(self, "observations", None)):
            if isinstance(images, ImageRows):
                images.clear()
        super().reset()  # type: ignore[misc]
        if is_recurrent(self) and isinstance(self.action_space, spaces.MultiBinary):
            self.actions = self.actions.astype(np.float32)  # losses need it; SB3's own buffers turn actions into it
        if self.planes is not None:
            self._use_planes()
        self._copies: dict[str, Any] = {}
        self.mask = np.ones((self.buffer_size, self.n_envs), dtype=bool)
        if self.states is not None:
            self.hold_states(self.states.shape[-1])

    def keep_planes(self: Any, stores: Stores) -> None:
        """
        Keep images in planes from now on. The buffer must be empty; one of a class of the user's is left as it is.

        :param stores: planes, in common with other buffers
        """
        if type(self).__mro__[2] in (*_SAMPLES, *_RECURRENT):
            self.planes = stores
            self._use_planes()

    def _use_planes(self: Any) -> None:
        """Replace the arrays of large images, which are all zero."""

        def in_planes(array: np.ndarray) -> Any:
            shape = array.shape[2:]
            return image_rows(array.shape[:2], shape, self.planes) if worth_planes(shape, array.dtype) else array

        observations = self.observations
        if isinstance(observations, dict):
            self.observations = {key: in_planes(array) for key, array in observations.items()}
        else:
            self.observations = in_planes(observations)

    def hold_states(self: Any, state_size: int) -> None:
        """
        Make room for states, all zero.

        :param state_size: number of elements of a state
        """
        self.states = np.zeros((self.buffer_size, self.n_envs, state_size), dtype=np.float32)

    def add(self: Any, *args: Any, state: np.ndarray | None = None, **kwargs: Any) -> None:
        """
        Add a step, see SB3.

        :param state: states (n_envs, state size), for learners with a central critic
        """
        if state is not None:
            self.states[self.pos] = state
        super().add(*args, **kwargs)  # type: ignore[misc]

    def compute_returns_and_advantage(self: Any, last_values: th.Tensor, dones: np.ndarray) -> None:
        """
        GAE over the agent's own decisions. Between two decisions (turn-based envs) rewards add up without discounting.

        :param last_values: values of the observations after the rollout, (n_envs,)
        :param dones: bool (n_envs,), whether the agent's episode ended with the rollout's last row
        """
        if self.mask.all():
            super().compute_returns_and_advantage(last_values=last_values, dones=dones)  # type: ignore[misc]
            return
        gae = pending = np.zeros(self.n_envs, dtype=np.float32)
        next_values = last_values.clone().cpu().numpy().flatten()
        ends = np.concatenate([self.episode_starts[1:] != 0, dones[None].astype(bool)])
        for step in reversed(range(self.buffer_size)):
            goes_on, acted = ~ends[step], self.mask[step]
            pending = pending * goes_on + self.rewards[step]
            delta = pending + self.gamma * next_values * goes_on - self.values[step]
            advantages = delta + self.gamma * self.gae_lambda * gae * goes_on
            self.advantages[step] = np.where(acted, advantages, 0.0)
            gae = np.where(acted, advantages, gae * goes_on)
            next_values = np.where(acted, self.values[step], next_values * goes_on)
            pending = np.where(acted, 0.0, pending)
        self.returns = self.advantages + self.values

    def flatten(self: Any) -> None:
        """Reshape the arrays to (n_steps * n_envs, ...), copy-major, as SB3 does at the first :meth:`get`."""
        if self.generator_ready:
            return
        names = [*_ROW_ARRAYS, *([] if self.states is None else ["states"])]
        if is_maskable(self):
            names.append("action_masks")
        if is_recurrent(self):
            names += ["episode_starts", *LSTM_STATES]
            for name in LSTM_STATES:  # (n_steps, layers, n_envs, size): the copies come second
                setattr(self, name, getattr(self, name).swapaxes(1, 2))
        if isinstance(self.observations, dict):
            self.observations = {key: self._flattened(value) for key, value in self.observations.items()}
        else:
            self.observations = self._flattened(self.observations)
        for name in names:
            setattr(self, name, self.swap_and_flatten(getattr(self, name)))
        self.generator_ready = True

    def _flattened(self: Any, value: Any) -> Any:
        return value.flattened() if isinstance(value, ImageRows) else self.swap_and_flatten(value)

    def tensor(self: Any, name: str) -> Any:
        """
        An array of the flattened buffer on its device, where it is copied once per rollout; on the CPU it shares memory.
        Images in planes are :class:`~sb3_matrl.on_policy.rollout_images.RolloutImages`.

        :param name: ``observations``, ``actions``, ``values``, ``log_probs``, ``advantages``, ``returns``, ``states`` or
            ``action_masks``
        :return: tensor (B, ...), or a dict of tensors for observations of a Dict space
        """
        value, device = getattr(self, name), th.device(self.device)
        if device.type == "cpu" or name not in _FIXED:
            return _on_device(value, device)
        if name not in self._copies:
            self._copies[name] = _on_device(value, device)
        return self._copies[name]

    def flat_mask(self: Any) -> np.ndarray:
        """The mask in the row order of the flattened arrays, shape (n_steps * n_envs,)."""
        return np.asarray(self.mask.swapaxes(0, 1).reshape(-1))

    @property
    def can_train(self: Any) -> bool:
        """Whether there are enough rows for an update."""
        return bool(self.mask.sum() >= self._least_rows)

    @property
    def _least_rows(self: Any) -> int:
        """Smallest minibatch: sb3-contrib divides by the standard deviation of its advantages, SB3 checks its size first."""
        return 2 if self.normalizes_advantages and (is_recurrent(self) or is_maskable(self)) else 1

    def get(self: Any, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        assert self.full, "the rollout buffer is not full"
        if self._takes_samples_on_device:
            yield from self._samples_on_device(batch_size)
            return
        everyone = self.mask.all()
        if not everyone or self.states is not None or self.planes is not None:
            self.flatten()  # SB3 flattens its own arrays only
        if everyone or is_recurrent(self):  # sequences keep rows without action, for the hidden states, as padding
            yield from self._large_enough(batch_size)
            return
        for rows in self.minibatches(batch_size):
            yield self._get_samples(rows)

    def minibatches(self: Any, batch_size: int | None = None) -> list[np.ndarray]:
        """
        Rows of the minibatches of one epoch, in the random order that SB3's :meth:`get` would draw.

        :param batch_size: rows per minibatch; all rows if ``None``
        :return: indices of the flattened rows in which the agent acted
        """
        if self.mask.all():
            order = np.random.permutation(self.buffer_size * self.n_envs)
            return np.split(order, range(batch_size or len(order), len(order), batch_size or len(order)))
        order = np.random.permutation(np.flatnonzero(self.flat_mask()))
        step = batch_size or max(len(order), 1)
        starts = list(range(0, len(order), step))
        if len(starts) > 1 and len(order) - starts[-1] < self._least_rows:
            starts.pop()  # the last row joins the minibatch before it
        return [order[start:end] for start, end in pairwise([*starts, len(order)])]

    def _large_enough(self: Any, batch_size: int | None) -> Generator[Any, None, None]:
        """The minibatches of the class itself that are not smaller than the smallest one; one of all rows if none is."""
        enough = False
        for samples in super().get(batch_size):  # type: ignore[misc]
            n_rows = int(samples.mask.sum()) if is_recurrent(self) else len(samples.advantages)
            if n_rows >= self._least_rows:
                enough = True
                yield samples
        if not enough and self.can_train:  # single decisions far apart, for example
            yield from super().get(None)  # type: ignore[misc]

    @property
    def _takes_samples_on_device(self: Any) -> bool:
        """Whether samples are taken from tensors on the device; sequences are padded by sb3-contrib's own code."""
        chosen = self.samples_on_device
        on_device = th.device(self.device).type != "cpu" if chosen is None else chosen
        return on_device and type(self).__mro__[2] in _SAMPLES

    def _samples_on_device(self: Any, batch_size: int | None) -> Generator[Any, None, None]:
        """The samples that SB3's and sb3-contrib's buffers give, as rows of tensors on the device."""
        self.flatten()
        take = self._rows_on_device(_SAMPLES[type(self).__mro__[2]])
        parts = self.minibatches(batch_size)
        if not parts:
            return
        order = to_device(np.concatenate(parts), th.device(self.device))
        for rows in th.split(order, [len(part) for part in parts]):
            yield take(rows)

    def _rows_on_device(self: Any, samples_class: type) -> Callable[[th.Tensor], Any]:
        """Function that gives the samples of some rows of the flattened arrays, which are on the device."""
        columns = {field: self.tensor(name) for name, field in _FIELDS.items()}
        columns = {field: value if field == "actions" else value.flatten() for field, value in columns.items()}
        if is_maskable(self):
            columns["action_masks"] = self.tensor("action_masks").reshape(-1, self.mask_dims)
        else:
            columns["actions"] = columns["actions"].float()  # as SB3 does, and sb3-contrib does not
        observations = self.tensor("observations")
        states = None if self.states is None else self.tensor("states")

        def take(rows: th.Tensor) -> Any:
            seen: Any = (
                {key: value[rows] for key, value in observations.items()}
                if isinstance(observations, dict)
                else observations[rows]
            )
            seen = seen if states is None else ObservationAndState(seen, states[rows])
            return samples_class(observations=seen, **{field: value[rows] for field, value in columns.items()})

        return take

    def sequences(self: Any, batch_size: int | None = None) -> Generator[SequenceSamples, None, None]:
        """
        The minibatches of a recurrent learner's :meth:`get`, without the rows that it adds so that all sequences are equally
        long.

        :param batch_size: rows per minibatch; all rows if ``None``
        """
        assert self.full, "the rollout buffer is not full"
        self.flatten()
        device = th.device(self.device)
        take, acted = self._rows_on_device(RolloutBufferSamples), self.flat_mask()
        for rows in self._sequence_minibatches(batch_size, acted):
            live = np.flatnonzero(acted[rows])
            yield SequenceSamples(
                take(to_device(rows, device)),
                self._sequences_of(rows),
                None if len(live) == len(rows) else to_device(live, device),
            )

    def _sequence_minibatches(self: Any, batch_size: int | None, acted: np.ndarray) -> list[np.ndarray]:
        """Rows of the minibatches of one epoch, in the random order that :meth:`get` would draw."""

        def drawn(step: int) -> list[np.ndarray]:
            order = np.roll(np.arange(len(acted)), -np.random.randint(len(acted)))
            return np.split(order, range(step, len(order), step))

        parts = drawn(batch_size or len(acted))
        enough = [rows for rows in parts if acted[rows].sum() >= self._least_rows]
        return enough or (drawn(len(acted)) if self.can_train else [])

    def _sequences_of(self: Any, rows: np.ndarray) -> Sequences:
        """The parts of episodes in some rows, which follow one another in the flattened arrays."""
        begins = self.episode_starts.flatten()[rows] != 0
        starts = begins | (rows % self.buffer_size == 0)
        starts[0] = True
        first = np.flatnonzero(starts)
        states = []
        for name in LSTM_STATES:
            before = getattr(self, name)[rows[first]]
            before[begins[first]] = 0.0
            states.append(to_device(np.ascontiguousarray(before.swapaxes(0, 1)), th.device(self.device)))
        return Sequences(np.diff(first, append=len(rows)), RNNStates((states[0], states[1]), (states[2], states[3])))

    def _get_samples(self: Any, batch_inds: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        samples = super()._get_samples(batch_inds, *args, **kwargs)  # type: ignore[misc]
        if self.states is not None:
            rows = self.states[batch_inds]
            states = self.pad(rows).flatten(0, 1) if is_recurrent(self) else self.to_torch(rows)
            samples = samples._replace(observations=ObservationAndState(samples.observations, states))
        if not is_recurrent(self) or self.mask.all():
            return samples
        return samples._replace(mask=self.pad_and_flatten(self.flat_mask()[batch_inds].astype(np.float32)))


# Classes of buffers whose samples are rows of their arrays -> class of the samples.
_SAMPLES: dict[type, Any] = {
    RolloutBuffer: RolloutBufferSamples,
    DictRolloutBuffer: DictRolloutBufferSamples,
    MaskableRolloutBuffer: MaskableRolloutBufferSamples,
    MaskableDictRolloutBuffer: MaskableDictRolloutBufferSamples,
}


def _on_device(value: Any, device: th.device) -> Any:
    if isinstance(value, dict):
        return {key: _on_device(one, device) for key, one in value.items()}
    return RolloutImages(value, device) if isinstance(value, ImageRows) else to_device(value, device)


def _leaves(observations: Any) -> list[Any]:
    return list(observations.values()) if isinstance(observations, dict) else [observations]


def buffer_obstacle(learner: Any) -> str | None:
    """
    Reason why a learner's rollout buffer must be filled and read by its own methods.

    :param learner: on-policy learner with a masked buffer
    :return: the reason; ``None`` for the classes of SB3 and sb3-contrib
    """
    base = type(learner.rollout_buffer).__mro__[2]
    return None if base in _SAMPLES else f"its rollout buffer is a {base.__name__}"


def buffer_form(learner: OnPolicyAlgorithm) -> tuple[Any, ...]:
    """
    What a learner's rollout buffer can be filled with; another buffer can take its place if this is the same.

    :param learner: on-policy learner
    """
    buffer = learner.rollout_buffer
    sizes = (buffer.buffer_size, buffer.n_envs, buffer.observation_space, buffer.action_space)
    return (isinstance(buffer, MaskedRolloutMixin), is_recurrent(buffer), is_maskable(buffer), *sizes)


def share_images(learners: Iterable[OnPolicyAlgorithm]) -> None:
    """
    Let the buffers of learners keep their images in common planes.

    :param learners: learners with masked buffers, which are empty
    """
    stores: Stores = {}
    for learner in learners:
        buffer: Any = learner.rollout_buffer
        buffer.keep_planes(stores)


@cache
def masked_buffer_class(base: type[RolloutBuffer]) -> type[RolloutBuffer]:
    """
    Subclass of a rollout buffer class with a mask of the rows in which the agent acted.

    :param base: SB3's ``RolloutBuffer``, ``DictRolloutBuffer``, one of sb3-contrib's, or a subclass
    :raises TypeError: if it is none of these, or its ``add`` needs arguments that joint collection does not have
    """
    if not issubclass(base, (RolloutBuffer, DictRolloutBuffer)):
        raise TypeError(f"{base.__name__} is not a subclass of SB3's RolloutBuffer")
    wanted = signature(base.add).parameters.values()
    more = [one.name for one in wanted if one.kind is Parameter.KEYWORD_ONLY and one.name not in _KNOWN_KEYWORDS]
    if more:
        raise TypeError(f"{base.__name__} wants {', '.join(more)} at every step, which joint collection does not have")
    return type(f"Masked{base.__name__}", (MaskedRolloutMixin, base), {})


def _empty_buffer(base: type[RolloutBuffer]) -> RolloutBuffer:
    """A masked buffer without content, for pickle and deepcopy: the class itself has no name that could be imported."""
    masked = masked_buffer_class(base)
    return masked.__new__(masked)


def install_masked_buffer(learner: OnPolicyAlgorithm) -> None:
    """
    Replace a learner's rollout buffer by one of the same class and size with a mask.

    Only the instance is replaced, not ``learner.rollout_buffer_class``: a saved learner refers to SB3 alone. A buffer that has
    a mask already is kept.
    """
    old: Any = learner.rollout_buffer
    if isinstance(old, MaskedRolloutMixin):
        return
    own = {"hidden_state_shape": old.hidden_state_shape} if is_recurrent(old) else learner.rollout_buffer_kwargs
    learner.rollout_buffer = masked_buffer_class(cast(Any, type(old)))(
        learner.n_steps,
        learner.observation_space,
        learner.action_space,
        device=learner.device,
        gamma=learner.gamma,
        gae_lambda=learner.gae_lambda,
        n_envs=learner.n_envs,
        **own,
    )
    buffer: Any = learner.rollout_buffer
    buffer.normalizes_advantages = getattr(learner, "normalize_advantage", False)
    if state_size_of(learner.policy):
        buffer.hold_states(state_size_of(learner.policy))
