"""The rollout workers of a training: calls to all of them, and recovery of those that die."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sb3_matrl.distributed.crew import Crew, WorkerDied
from sb3_matrl.distributed.shard import CollectionStopped, Harvest, RolloutWorkerError, stream_seed
from sb3_matrl.distributed.shard_env import ShardStart
from sb3_matrl.vec_env.joint import copy_seeds

# Deaths of a worker in one call after which the training ends.
MAX_DEATHS = 3
# Seconds between two looks at whether the training is to stop.
_POLL_SECONDS = 0.2
# What follows from a death.
_REPEATED = " and repeats the iteration: the result stays the same"
_NEW_EPISODES = (
    "; the environment cannot save its state, so its copies begin new episodes, and the training is not the one that it would "
    "have been"
)
# A worker's calls in the order in which it gets them; None launches it.
_Calls = list[tuple[str, Sequence[Any]] | None]


class WorkerPool:
    """
    Rollout workers and the states from which they continue.

    A worker that dies is launched again, continues from its last state, and repeats the call: all of its draws are the same
    again, so that the answer is that of a worker that has not died. An env that cannot save its state begins new episodes.

    :param crew: the running workers
    :param shares: copies of each worker
    :param should_stop: whether the training is to end in the middle of a rollout
    """

    def __init__(self, crew: Crew, shares: Sequence[range], should_stop: Callable[[], bool]) -> None:
        self.crew = crew
        self.shares = list(shares)
        self.states: list[dict[str, Any] | None] = [None] * len(shares)
        #: Number of times that a worker was launched again.
        self.restarts = 0
        self._should_stop = should_stop
        self._told: set[str] = set()

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> list[ShardStart]:
        """
        Begin new episodes in all copies. A seed of copy 0 is also the seed of the workers' generators.

        :param seeds: seed of each copy; ``None`` continues with the copy's generator
        :param options: options of each copy's reset
        """
        streams = [None if seeds[0] is None else stream_seed(seeds[0], worker) for worker in range(len(self.shares))]
        arguments = [
            (list(seeds[share.start : share.stop]), list(options[share.start : share.stop]), stream)
            for share, stream in zip(self.shares, streams, strict=True)
        ]
        return self._continue(self._ask("reset", arguments))

    def restore(self, states: Sequence[dict[str, Any]]) -> list[ShardStart]:
        """
        Continue from states.

        :param states: states of all workers
        :raises ValueError: if one does not fit
        """
        self.states = [None] * len(self.shares)  # of the workers that are launched for this
        return self._continue(self._ask("restore", [self._restoring(i, state) for i, state in enumerate(states)]))

    def _continue(self, answers: Sequence[tuple[ShardStart, dict[str, Any]]]) -> list[ShardStart]:
        self.states = [state for _, state in answers]
        return [start for start, _ in answers]

    def collect(self, order: Any) -> list[Any]:
        """
        Let all workers play their parts of an iteration.

        :param order: what their shares' ``collect`` gets, such as the policies
        :return: what it returned, in the order of the workers
        :raises CollectionStopped: if the training is to end
        :raises RolloutWorkerError: if a worker dies again and again
        """
        shared = self.crew.shared(order)
        harvests: list[Harvest] = self._ask("collect", [(shared,)] * len(self.shares))
        self.states = [harvest.state for harvest in harvests]
        return harvests

    def end(self, at_once: bool = False) -> None:
        """
        End the workers. They are launched again when they are needed, and continue from their last states.

        :param at_once: whether to kill them in the middle of what they do
        """
        self.crew.end(at_once)

    def _ask(self, method: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """Answers of all workers to a call."""
        workers = range(len(self.shares))
        deaths, answers = [0] * len(workers), dict[int, Any]()
        calls = {worker: self._calls(worker, method, arguments[worker]) for worker in workers}
        try:
            for worker in workers:
                self._next(worker, calls[worker])
            while len(answers) < len(workers):
                for worker in self.crew.ready(workers - answers.keys(), _POLL_SECONDS):
                    try:
                        answer = self.crew.answer(worker)
                    except WorkerDied as death:
                        deaths[worker] += 1
                        self._note_death(worker, deaths[worker], death)
                        calls[worker] = self._calls(worker, method, arguments[worker])
                    if calls[worker]:
                        self._next(worker, calls[worker])
                    else:
                        answers[worker] = answer
                if method == "collect" and self._should_stop():
                    raise CollectionStopped
        except BaseException:
            self.end(at_once=True)
            raise
        return [answers[worker] for worker in workers]

    def _calls(self, worker: int, method: str, arguments: Sequence[Any]) -> _Calls:
        """What a worker is told, one after the other."""
        calls: _Calls = [(method, arguments)]
        if not self.crew.is_running(worker):
            state = self.states[worker]
            calls = [None, *([] if state is None else [("restore", self._restoring(worker, state))]), *calls]
        return calls

    def _next(self, worker: int, calls: _Calls) -> None:
        call = calls.pop(0)
        if call is None:
            self.crew.launch(worker)
        else:
            self.crew.call(worker, *call)

    def _restoring(self, worker: int, state: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Arguments of a worker's ``restore``."""
        share = self.shares[worker]
        # New episodes for envs that cannot save their state: other seeds than before, the same in every repetition.
        seed = int(np.random.SeedSequence([worker, *state["generators"]["torch"][:64].tolist()]).generate_state(1)[0])
        return state, copy_seeds(seed, len(share))

    def _note_death(self, worker: int, deaths: int, death: WorkerDied) -> None:
        """
        :raises RolloutWorkerError: if a worker has died too often
        """
        share = self.shares[worker]
        held = f"env copy {share[0]}" if len(share) == 1 else f"env copies {share[0]} to {share[-1]}"
        if deaths >= MAX_DEATHS:
            raise RolloutWorkerError(
                f"rollout worker {worker} ({held}) died {deaths} times in one iteration; the last time {death}. Try "
                "worker_backend='in-turn', which runs it in this process, or fewer copies per worker if memory is short"
            )
        self.restarts += 1
        state = self.states[worker]
        outcome = _NEW_EPISODES if state is not None and state["env"] is None else _REPEATED
        if outcome not in self._told:
            self._told.add(outcome)
            warnings.warn(f"rollout worker {worker} ({held}) died: {death}. It was started again{outcome}", stacklevel=6)
