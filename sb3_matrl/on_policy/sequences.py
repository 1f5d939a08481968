"""
Sequences of recurrent policies: parts of episodes, which pass through an LSTM as a whole.

sb3-contrib's policies take one step after the other if an episode begins anywhere in the rows, and they ask the device whether
one does. The rollout buffer knows it on the CPU, where the rows are divided into sequences within episodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from torch.nn.utils.rnn import PackedSequence

from sb3_matrl.on_policy.central_policies import RecurrentCentralCriticPolicy
from sb3_matrl.utils.devices import to_device

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
# Methods that decide what a recurrent policy does with its states.
_METHODS = ("_process_sequence", "evaluate_actions", "get_distribution", "predict_values")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def takes_whole_sequences(policy: Any) -> bool:
    """
    Whether a policy passes its rows through LSTMs by sb3-contrib's ``_process_sequence``: neither is replaced.

    :param policy: policy of a learner
    """
    if not isinstance(policy, RecurrentActorCriticPolicy) or set(_METHODS) & set(vars(policy)):
        return False
    known = {getattr(cls, name) for cls in (RecurrentActorCriticPolicy, RecurrentCentralCriticPolicy) for name in _METHODS}
    lstms = [one for one in (policy.lstm_actor, policy.lstm_critic) if one is not None]
    return all(getattr(type(policy), name) in known for name in _METHODS) and all(map(_is_plain, lstms))


def _is_plain(lstm: th.nn.Module) -> bool:
    """Whether a layer is PyTorch's LSTM, and nobody watches its inputs, outputs and their gradients."""
    watched = "forward" in vars(lstm) or any(getattr(lstm, name) for name in _HOOKS)
    return type(lstm) is th.nn.LSTM and not watched


@dataclass(frozen=True)
class Sequences:
    """
    Sequences of rows, one after the other, none of which goes beyond the end of an episode.

    :param lengths: (n_sequences,), number of rows of each
    :param states: the LSTMs' states before each sequence's first row, (layers, n_sequences, size) each
    """

    lengths: Rows
    states: RNNStates

    @contextmanager
    def through(self, policy: Any) -> Iterator[dict[str, Any]]:
        """
        Inside, the LSTMs of a policy read the sequences, whatever its methods are told about the beginnings of episodes.

        :param policy: policy of which :func:`takes_whole_sequences` is true
        :return: further arguments of ``evaluate_actions`` and ``get_distribution``
        """
        on_cpu = policy.device.type == "cpu"
        layout = _Blocks.of(self.lengths) if on_cpu else _Packed.of(self.lengths, policy.device)

        def process(
            features: th.Tensor, states: tuple[th.Tensor, th.Tensor], episode_starts: th.Tensor, lstm: th.nn.LSTM
        ) -> tuple[th.Tensor, None]:
            return layout.through(lstm, features, states), None  # nobody asks for the states after the sequences

        policy._process_sequence = process
        try:
            yield {"lstm_states": self.states, "episode_starts": None}
        finally:
            del policy._process_sequence


@dataclass(frozen=True)
class RolloutColumns:
    """
    Order of the rows in a recurrent learner's batch: those of one copy of the environment after those of another.

    :param n_steps: number of rows of every copy
    :param states: the LSTMs' states before the first row of each copy, (layers, n_copies, size) each
    :param begins: on the CPU, bool (B,), True where an episode begins and the states are reset
    :param acted: on the CPU, bool (B,), True where the agent acted
    """

    n_steps: int
    states: RNNStates
    begins: Mask
    acted: Mask

    @property
    def device(self) -> th.device:
        """Device of the states."""
        return self.states.pi[0].device

    def take(self, rows: Rows) -> RolloutColumns:
        """
        Some copies.

        :param rows: all their rows
        """
        copies = to_device(rows[:: self.n_steps] // self.n_steps, self.device)
        pick = [tuple(state.index_select(1, copies) for state in pair) for pair in self.states]
        return RolloutColumns(self.n_steps, RNNStates(*pick), self.begins[rows], self.acted[rows])

    @property
    def live_rows(self) -> th.Tensor | None:
        """Rows in which the agent acted; ``None`` for all."""
        return None if self.acted.all() else to_device(np.flatnonzero(self.acted), self.device)

    @cached_property
    def sequences(self) -> Sequences:
        """The parts of episodes in the rows of every copy."""
        starts = self.begins.copy()
        starts[:: self.n_steps] = True
        first = np.flatnonzero(starts)
        carried = np.flatnonzero(~self.begins[first])  # go on with the state of their copy
        lengths = np.diff(first, append=len(starts))
        to, copies = (to_device(one, self.device) for one in (carried, first[carried] // self.n_steps))

        def states_of_all(state: th.Tensor) -> th.Tensor:
            empty = state.new_zeros(state.shape[0], len(first), state.shape[2])
            return empty.index_copy(1, to, state.index_select(1, copies))

        return Sequences(lengths, RNNStates(*(tuple(map(states_of_all, pair)) for pair in self.states)))

    @contextmanager
    def through(self, policy: Any) -> Iterator[dict[str, Any]]:
        """
        Inside, a recurrent policy can be evaluated in all rows.

        :param policy: policy of the learner; one that is not sb3-contrib's takes the steps in its own way
        :return: further arguments of ``evaluate_actions`` and ``get_distribution``
        """
        if takes_whole_sequences(policy):
            with self.sequences.through(policy) as arguments:
                yield arguments
        else:
            starts = to_device(self.begins.astype(np.float32), self.device)
            yield {"lstm_states": self.states, "episode_starts": starts}


@dataclass(frozen=True)
class _Blocks:
    """
    Sequences in blocks of similar lengths, padded to the longest of a block: PyTorch has a fast LSTM on the CPU, oneDNN's, for
    sequences of the same length only.

    Every sequence of a block has more than half of its steps: at most half of the rows are padding.

    :param places: (B,), places of the rows in the blocks, whose rows follow one another: the first of all sequences, and so on
    :param sequences: the sequences of each block
    :param steps: number of steps of each block
    """

    places: th.Tensor
    sequences: list[th.Tensor]
    steps: list[int]

    @classmethod
    def of(cls, lengths: Rows) -> _Blocks:
        """
        :param lengths: (n_sequences,), number of rows of each sequence
        """
        by_length = np.argsort(-lengths, kind="stable")
        starts = [0]
        while (end := int((2 * lengths > lengths[by_length[starts[-1]]]).sum())) < len(lengths):
            starts.append(end)
        parts = np.split(by_length, starts[1:])
        steps = lengths[by_length[starts]].tolist()
        first, width = np.empty_like(lengths), np.empty_like(lengths)  # of each sequence: first place, and from row to row
        before = 0
        for part, n_steps in zip(parts, steps, strict=True):
            first[part], width[part] = before + np.arange(len(part)), len(part)
            before += n_steps * len(part)
        step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        places = np.repeat(first, lengths) + step * np.repeat(width, lengths)
        return cls(th.from_numpy(places), [th.from_numpy(part) for part in parts], steps)

    def through(self, lstm: th.nn.LSTM, features: th.Tensor, states: tuple[th.Tensor, th.Tensor]) -> th.Tensor:
        """
        :param lstm: the LSTM
        :param features: its inputs, (B, input size)
        :param states: its states before the sequences, (layers, n_sequences, size) each
        :return: its outputs, (B, size)
        """
        sizes = [n_steps * len(part) for n_steps, part in zip(self.steps, self.sequences, strict=True)]
        padded = features.new_zeros(sum(sizes), features.shape[1]).index_copy(0, self.places, features)
        outputs = []
        for rows, part, n_steps in zip(th.split(padded, sizes), self.sequences, self.steps, strict=True):
            hidden, cell = (state.index_select(1, part) for state in states)
            output, _ = lstm(th.unflatten(rows, 0, (n_steps, len(part))), (hidden, cell))
            outputs.append(output.flatten(0, 1))
        return th.cat(outputs).index_select(0, self.places)


@dataclass(frozen=True)
class _Packed:
    """
    Sequences without padding, as a GPU reads them at once: the first rows of all, the second ones, and so on.

    :param rows: (B,), rows in that order
    :param places: (B,), places of the rows in that order
    :param by_length: (n_sequences,), the sequences, longest first, which is torch's order
    :param counts: on the CPU, (longest length,), number of rows that are read together
    """

    rows: th.Tensor
    places: th.Tensor
    by_length: th.Tensor
    counts: th.Tensor

    @classmethod
    def of(cls, lengths: Rows, device: th.device) -> _Packed:
        """
        :param lengths: (n_sequences,), number of rows of each sequence
        :param device: device of the policy
        """
        by_length = np.argsort(-lengths, kind="stable")
        counts = len(lengths) - np.searchsorted(np.sort(lengths), np.arange(lengths.max()), side="right")
        steps = np.repeat(np.arange(len(counts)), counts)
        columns = np.arange(len(steps)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = (np.cumsum(lengths) - lengths)[by_length[columns]] + steps
        indices = to_device(np.concatenate([rows, np.argsort(rows), by_length]), device)
        rows_of, places, ordered = th.split(indices, [len(rows), len(rows), len(lengths)])
        return cls(rows_of, places, ordered, th.from_numpy(counts))

    def through(self, lstm: th.nn.LSTM, features: th.Tensor, states: tuple[th.Tensor, th.Tensor]) -> th.Tensor:
        """See :meth:`_Blocks.through`."""
        packed = PackedSequence(features.index_select(0, self.rows), self.counts)
        hidden, cell = (state.index_select(1, self.by_length) for state in states)
        output: PackedSequence = lstm(packed, (hidden, cell))[0]
        return output.data.index_select(0, self.places)
