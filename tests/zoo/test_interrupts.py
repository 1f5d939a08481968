import signal
from itertools import product

import pytest
import torch as th

from sb3_matrl.matrl import MATRL
from sb3_matrl.zoo.common.signals import SignalWatch
from sb3_matrl.zoo.training.interrupts import StopOnSignal, UpdateStopped, interruptible_updates
from tests.evaluation.test_eval_callback import flat_parameters, small_model
from tests.stacked.backends import require_kernel


def test_signal_stops_at_the_next_step():
    with SignalWatch() as watch:
        stop = StopOnSignal(watch)
        stop.model = small_model()
        assert stop.on_step()
        signal.raise_signal(signal.SIGINT)
        assert not stop.on_step()


@pytest.mark.cases(e2e=["torch-best response", "sb3-learner"], rest="expensive")
@pytest.mark.parametrize(
    ("backend", "optimizer"),
    [*product(["torch", "sb3"], ["learner", "best response"]), ("native", "learner")],
)
def test_update_is_broken_off_and_undone(tmp_path, backend, optimizer):
    require_kernel(backend)
    model, whole = (small_model(n_epochs=3, br_n_epochs=3, batch_size=10, backend=backend) for _ in range(2))
    last = 1 if backend == "native" else 5  # the native kernel takes all steps in one call
    model.learn(40)
    before, steps = flat_parameters(model), []
    agent = model.agents["right"]
    watched = agent.policy.optimizer if optimizer == "learner" else model.coordinator.optimizers["right"]

    def interrupt(*_):
        steps.append(model.num_timesteps)
        if len(steps) == last:
            signal.raise_signal(signal.SIGTERM)

    hook = watched.register_step_post_hook(interrupt)
    with SignalWatch() as watch, pytest.raises(UpdateStopped), interruptible_updates(model, watch):
        model.learn(80, reset_num_timesteps=False)
    hook.remove()
    assert steps == [80] * last
    assert model.resumable_timesteps == 40 and th.equal(flat_parameters(model), before)
    model.save(tmp_path / "model")
    whole.learn(40)
    whole.learn(80, reset_num_timesteps=False)
    resumed = MATRL.load(tmp_path / "model", env="tests.evaluation.worlds:RandomLength", device="cpu")
    resumed.learn(80, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps == 120
    model.learn(40, reset_num_timesteps=False)  # and nothing watches it any more
