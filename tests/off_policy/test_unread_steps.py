"""Several gradient steps on a device for which the program would have to wait, see :mod:`tests.host_syncs`."""

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_matrl import COMIX, IDDPG, IQL, MADDPG, QDPP, QMIX, QTRAN, VDN
from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.off_policy.deterministic_gradient import DeterministicGradient
from sb3_matrl.utils.random_state import random_generators
from tests.matrl.test_exact_resume import flat
from tests.off_policy import continuous_trio, trio
from tests.off_policy.continuous_trio import ContinuousTrio, MixedTrio
from tests.off_policy.trio import Trio

CASES = [(IQL, Trio), (VDN, Trio), (QMIX, Trio), (QTRAN, Trio), (QDPP, Trio)]
CASES += [(MADDPG, MixedTrio), (IDDPG, ContinuousTrio), (COMIX, ContinuousTrio)]


def build(algorithm: Any, env: Any, **settings: Any) -> Any:
    common = trio.SETTINGS if env is Trio else continuous_trio.SETTINGS
    return algorithm(**{**common, "env": env, **settings})


def same(one: Any, other: Any) -> bool:
    return bool(th.equal(one, other)) if isinstance(one, th.Tensor) else bool(np.array_equal(one, other))


@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_gradient_steps_wait_for_nothing(algorithm: Any, env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Acting waits for its actions: no trial of the networks, and random actions only, those of the warm-up.
    monkeypatch.setattr(algorithm, "_try_agents", lambda model: None)
    plain = {"net_arch": [8, 6], "optimizer_kwargs": {"foreach": False}}  # the meta device knows no fused steps
    model = build(algorithm, env, device="meta", learning_starts=1000, policy_kwargs=plain).learn(60)
    if isinstance(model, DeterministicGradient):
        for network in [part for one in model.networks.values() for part in (one.actor, one.critic)]:
            network.optimizer = th.optim.Adam(network.parameters())  # other devices keep the parameters that they are given
    assert model.replay_buffer.flags[: model.replay_buffer.size(), :, 0].min() == 0, "no agent has died"
    taken: list[Any] = []
    step = model.gradient_step
    monkeypatch.setattr(model, "gradient_step", lambda batch: taken.append(step(batch)) or taken[-1])
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # the numbers of all steps are read at the end
        model._take_unread_steps(3)
    assert len(taken) == 3


@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_unread_steps_are_the_steps_one_by_one(algorithm: Any, env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for name in ("_take_steps", "_take_unread_steps"):
        model = build(algorithm, env).learn(60)
        if name == "_take_unread_steps":
            monkeypatch.setattr(model, "_take_steps", None)
        logged = getattr(model, name)(3)
        states.append([*flat(model.get_parameters()), *flat(logged), *flat(random_generators())])
    assert len(states[0]) == len(states[1]) and all(map(same, *states))


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
@pytest.mark.parametrize(("algorithm", "env"), [(QMIX, Trio), (MADDPG, MixedTrio)])
def test_numbers_that_are_not_finite_have_the_same_consequences(algorithm: Any, env: Any, on_nan: str) -> None:
    results = []
    for name in ("_take_steps", "_take_unread_steps"):
        model = build(algorithm, env, on_nan=on_nan).learn(60)
        first = model._n_updates
        read = model.replay_buffer.batch

        def spoiled(rows: Any, copies: Any, read: Any = read) -> Any:
            batch = read(rows, copies)
            if rows[0] % 3 == 0:  # depends on the draw, as a bad transition does
                batch.rewards[0] = np.nan
            return batch

        model.replay_buffer.batch = spoiled
        np.random.seed(2)
        if on_nan == "stop":
            with pytest.raises(NonFiniteError, match=f"gradient step {first + 1}: .* is nan"):
                getattr(model, name)(8)
        else:
            with pytest.warns(UserWarning, match="skipped"):
                assert 0 < len(getattr(model, name)(8)) < 8
        results.append([*flat(model.get_parameters()), *flat(random_generators()), model.skipped_updates])
    assert len(results[0]) == len(results[1]) and all(map(same, *results))


def test_other_errors_and_interruptions_put_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(QMIX, Trio).learn(60)
    before = [one.clone() if isinstance(one, th.Tensor) else one for one in flat(model.get_parameters())]
    generators = flat(random_generators())
    step, calls = model.gradient_step, []

    def interrupted(batch: Any) -> Any:
        calls.append(step(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(model, "gradient_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model._take_unread_steps(3)
    assert all(map(same, before, flat(model.get_parameters()))) and model._unread is None
    assert all(map(same, generators, flat(random_generators())))


def test_which_trainings_read_numbers_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(VDN, Trio).learn(60)
    used: list[str] = []
    for name in ("_take_steps", "_take_unread_steps"):
        monkeypatch.setattr(model, name, lambda steps, name=name: used.append(name) or [])
    model.train(3)
    model.device = th.device("meta")
    model.train(1)
    model.train(3)
    assert used == ["_take_steps", "_take_steps", "_take_unread_steps"]
