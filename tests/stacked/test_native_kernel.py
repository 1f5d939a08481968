"""The compiled kernel takes the steps that Lockstep takes in float64, and refuses what it cannot update."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_matrl.stacked import native_kernel
from sb3_matrl.stacked.kernels import make_kernel
from sb3_matrl.stacked.lockstep import Lockstep, StepRecord, StepSettings
from sb3_matrl.stacked.minibatches import Columns, Epoch, StackedBatch
from sb3_matrl.stacked.native_kernel import NativeKernel, native_obstacle, set_kernel_threads
from sb3_matrl.stacked.storage import Stack

REASON = native_obstacle()
needs_kernel = pytest.mark.skipif(REASON is not None, reason=f"the native kernel is not available: {REASON}")
SETTINGS = StepSettings(
    learning_rate=1e-3,
    betas=(0.9, 0.999),
    eps=1e-5,
    clip_range=0.2,
    clip_range_vf=None,
    normalize_advantage=True,
    ent_coef=0.01,
    vf_coef=0.5,
    kl_coef=0.0,
    max_grad_norm=0.5,
    target_kl=None,
)
DISCRETE, MULTI, BOX = spaces.Discrete(5), spaces.MultiDiscrete([3, 2, 4]), spaces.Box(-1.0, 1.0, (3,))
LOSSES = ("policy_loss", "value_loss", "entropy", "clip_fraction", "approx_kl")


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the numbers of threads."""
    before = th.get_num_threads()
    yield
    th.set_num_threads(before)
    set_kernel_threads(None)


@dataclass(frozen=True)
class Case:
    """
    Learners and a rollout of random rows, the same for all kernels.

    :param spaces: action spaces of the learners
    :param n_inputs: numbers of features of the learners
    :param activation: activation function
    :param pi: widths of the actor's hidden layers
    :param vf: widths of the critic's hidden layers
    :param n_rows: rows of the rollout
    :param masked: whether some actions are illegal
    """

    spaces: Sequence[spaces.Space[Any]] = (DISCRETE, DISCRETE)
    n_inputs: Sequence[int] = (11, 11)
    activation: type[nn.Module] = nn.Tanh
    pi: Sequence[int] = (32, 32)
    vf: Sequence[int] = (32, 32)
    n_rows: int = 600
    masked: bool = False

    def policies(self, dtype: th.dtype) -> list[ActorCriticPolicy]:
        n_threads = th.get_num_threads()
        th.set_num_threads(1)  # the initial weights depend on it
        try:
            return self._policies(dtype)
        finally:
            th.set_num_threads(n_threads)

    def _policies(self, dtype: th.dtype) -> list[ActorCriticPolicy]:
        th.manual_seed(0)
        made = []
        for space, n_inputs in zip(self.spaces, self.n_inputs, strict=True):
            observations = spaces.Box(-1.0, 1.0, (n_inputs,))
            arch = {"pi": list(self.pi), "vf": list(self.vf)}
            policy = ActorCriticPolicy(observations, space, lambda _: 1e-3, net_arch=arch, activation_fn=self.activation)
            # A fresh policy's actions are nearly uniform: larger weights make the outputs differ.
            with th.no_grad():
                policy.action_net.weight.mul_(50.0)
            made.append(policy.to(dtype))
        return made

    def batch(self, stack: Stack, action_size: int) -> StackedBatch:
        generator = th.Generator().manual_seed(1)
        shape = (len(self.spaces), self.n_rows)

        def normal(*sizes: int) -> th.Tensor:
            return th.randn(*sizes, generator=generator, dtype=th.float32)

        features, actions = normal(*shape, stack.n_inputs), normal(*shape, action_size)
        masks = None
        if self.masked:
            masks = th.rand(*shape, stack.n_outputs, generator=generator) < 0.6
        for i, sizes in enumerate(one.outputs for one in stack.shapes):
            features[i, :, self.n_inputs[i] :] = 0.0
            if not stack.discrete:
                actions[i, :, sum(sizes) :] = 0.0
                continue
            start = 0
            for k, size in enumerate(sizes):
                actions[i, :, k] = th.randint(0, size, (self.n_rows,), generator=generator).float()
                if masks is not None:
                    rows = th.arange(self.n_rows)
                    masks[i, rows, start + actions[i, :, k].long()] = True
                start += size
        # Near the policies' own densities, so that ratios lie inside and outside of the clip range.
        old = self.log_probs(features.double(), actions.double(), masks) + 0.3 * normal(*shape)
        columns = Columns(
            old.float(), normal(*shape), normal(*shape), normal(*shape), th.rand(*shape, generator=generator) + 0.5
        )
        dtype = stack.dtype
        columns = Columns(*(one.to(dtype) for one in vars(columns).values()))
        return StackedBatch(features.to(dtype), actions.to(dtype), columns, masks)

    def log_probs(self, features: th.Tensor, actions: th.Tensor, masks: th.Tensor | None) -> th.Tensor:
        """Log-densities under the policies before any step, float64."""
        found = []
        for i, policy in enumerate(self.policies(th.float64)):
            model: Any = policy
            with th.no_grad():
                outputs = model.action_net(model.mlp_extractor.forward_actor(features[i, :, : self.n_inputs[i]]))
            space = self.spaces[i]
            if isinstance(space, spaces.Box):
                found.append(th.distributions.Normal(outputs, 1.0).log_prob(actions[i, :, : outputs.shape[1]]).sum(dim=1))
                continue
            if masks is not None:
                outputs = outputs.masked_fill(~masks[i, :, : outputs.shape[1]], -1e8)
            sizes = space.nvec.tolist() if isinstance(space, spaces.MultiDiscrete) else [outputs.shape[1]]
            parts = [th.distributions.Categorical(logits=part) for part in outputs.split(sizes, dim=1)]
            found.append(th.stack([part.log_prob(actions[i, :, k]) for k, part in enumerate(parts)]).sum(dim=0))
        return th.stack(found)


@dataclass(frozen=True)
class Result:
    """What an update has changed."""

    parameters: th.Tensor
    moments: th.Tensor
    steps: list[float]
    records: list[StepRecord]


def run(
    kind: type[Lockstep] | type[NativeKernel],
    case: Case,
    epochs: Sequence[Sequence[Epoch]],
    settings: Sequence[StepSettings],
    dtype: th.dtype = th.float32,
    calls: int = 1,
) -> Result:
    policies = case.policies(dtype)
    optimizers = [policy.optimizer for policy in policies]
    stack = Stack(policies)
    kernel = kind(stack)
    batch = case.batch(stack, kernel.head.action_size)
    for _ in range(calls):
        records = kernel.update(optimizers, batch, epochs, settings)
    parameters = [parameter for policy in policies for parameter in policy.parameters()]
    states = [optimizer.state[p] for policy, optimizer in zip(policies, optimizers, strict=True) for p in policy.parameters()]
    states = [state for state in states if state]
    moments = [state[name].double().flatten() for state in states for name in ("exp_avg", "exp_avg_sq")]
    return Result(
        parameters=th.cat([parameter.detach().double().flatten() for parameter in parameters]),
        moments=th.cat([th.zeros(0, dtype=th.float64), *moments]),
        steps=[float(state["step"]) for state in states],
        records=records,
    )


def shuffled(n_learners: int, n_rows: int, batch_size: int, n_epochs: int) -> list[list[Epoch]]:
    rng = np.random.default_rng(0)
    ends = range(batch_size, n_rows, batch_size)
    return [[np.split(rng.permutation(n_rows), ends) for _ in range(n_epochs)] for _ in range(n_learners)]


def whole(n_learners: int, n_epochs: int) -> list[list[Epoch]]:
    return [[[slice(None)] for _ in range(n_epochs)] for _ in range(n_learners)]


def assert_close(ours: Result, reference: Result, tolerance: float) -> None:
    th.testing.assert_close(ours.parameters, reference.parameters, rtol=0.0, atol=tolerance)
    th.testing.assert_close(ours.moments, reference.moments, rtol=0.0, atol=tolerance)
    assert ours.steps == reference.steps
    for one, other in zip(ours.records, reference.records, strict=True):
        assert one.stopped == other.stopped
        np.testing.assert_array_equal(one.epochs, other.epochs)
        for name in set(LOSSES) - {"clip_fraction"}:
            allowed = max(20 * tolerance, 1e-5)
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=allowed, atol=allowed)
        # A ratio at the edge of the clip range may fall on either side: one row of the smallest minibatch, 24 rows.
        np.testing.assert_allclose(one.clip_fraction, other.clip_fraction, atol=0.05)


def compare(case: Case, epochs: Any, settings: Sequence[StepSettings], tolerance: float, calls: int = 1) -> Result:
    reference = run(Lockstep, case, epochs, settings, th.float64, calls)
    ours = run(NativeKernel, case, epochs, settings, th.float32, calls)
    assert_close(ours, reference, tolerance)
    return reference


CASES = {
    "discrete, tanh": Case(),
    "discrete, relu": Case(activation=nn.ReLU),
    "discrete, leaky relu": Case(activation=nn.LeakyReLU),
    "multi-discrete": Case(spaces=(MULTI, MULTI)),
    "box": Case(spaces=(BOX, BOX)),
    "masked": Case(masked=True),
    "masked, multi-discrete": Case(spaces=(MULTI, MULTI), masked=True),
    "unequal learners": Case(spaces=(spaces.Discrete(2), DISCRETE, spaces.Discrete(3)), n_inputs=(7, 11, 9)),
    "unequal boxes": Case(spaces=(spaces.Box(-1.0, 1.0, (1,)), BOX), n_inputs=(11, 6)),
    "unequal layers": Case(pi=(16, 40), vf=(48, 8)),
    "one hidden layer": Case(pi=(24,), vf=(24,)),
    "no hidden layer": Case(pi=(), vf=()),
    "three hidden layers": Case(pi=(8, 12, 16), vf=(16, 12, 8)),
    "one row": Case(n_rows=1),
}


@needs_kernel
@pytest.mark.parametrize("name", CASES)
def test_one_step_equals_float64(name: str) -> None:
    case = CASES[name]
    n = len(case.spaces)
    reference = compare(case, whole(n, 1), [SETTINGS] * n, 1e-6)
    if case.n_rows > 1:
        assert all(0.2 < float(record.clip_fraction[0]) < 0.8 for record in reference.records)
    start = th.cat([p.detach().flatten() for policy in case.policies(th.float64) for p in policy.parameters()])
    assert float((reference.parameters - start).abs().max()) > 5e-4


@needs_kernel
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.activation is nn.Tanh and case.n_rows > 1])
def test_twenty_steps_equal_float64(name: str) -> None:
    case = CASES[name]
    n = len(case.spaces)
    reference = compare(case, shuffled(n, case.n_rows, 64, 2), [SETTINGS] * n, 1e-4)
    assert set(reference.steps) == {20.0}


VARIANTS: dict[str, dict[str, Any]] = {
    "value clip": {"clip_range_vf": 0.3},
    "no normalisation": {"normalize_advantage": False},
    "no clip of the gradient": {"max_grad_norm": 1e9},
    "kl": {"kl_coef": 0.7},
    "entropy": {"ent_coef": 0.5},
    "narrow clip": {"clip_range": 0.02},
    "adam": {"betas": (0.7, 0.95), "eps": 1e-3, "learning_rate": 3e-3},
}


@pytest.mark.cases(
    expensive=[
        "box-value clip",
        "box-no normalisation",
        "box-no clip of the gradient",
        "box-kl",
        "box-entropy",
        "box-narrow clip",
        "box-adam",
    ]
)
@needs_kernel
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kind", ["discrete, tanh", "box"])
def test_settings_equal_float64(name: str, kind: str) -> None:
    changed = replace(SETTINGS, **VARIANTS[name])
    reference = compare(CASES[kind], whole(2, 1), [changed] * 2, 1e-6)
    plain = run(Lockstep, CASES[kind], whole(2, 1), [SETTINGS] * 2, th.float64)
    assert not th.equal(reference.parameters, plain.parameters)
    compare(CASES[kind], shuffled(2, 600, 64, 2), [changed] * 2, 1e-4)


@needs_kernel
def test_target_kl_ends_each_learner_by_itself() -> None:
    settings = [replace(SETTINGS, learning_rate=2e-2, target_kl=limit) for limit in (0.08, None)]
    reference = compare(Case(n_rows=256), shuffled(2, 256, 64, 5), settings, 1e-4)
    first, second = reference.records
    assert first.stopped and 1 < len(first.epochs) < 20 and first.approx_kl[-1] > 0.12
    assert not second.stopped and len(second.epochs) == 20


@needs_kernel
def test_target_kl_may_allow_no_step() -> None:
    settings = [replace(SETTINGS, target_kl=1e-3)] * 2
    reference = compare(Case(), shuffled(2, 600, 64, 2), settings, 0.0)
    assert [len(record.epochs) for record in reference.records] == [1, 1] and reference.steps == []


@needs_kernel
def test_learners_with_other_rows_epochs_and_settings() -> None:
    rng = np.random.default_rng(2)
    live = rng.permutation(600)[:171]
    epochs: list[list[Epoch]] = [
        [np.split(rng.permutation(600), range(64, 600, 64)) for _ in range(2)],
        [np.split(rng.permutation(live), range(64, 171, 64))],
        [],
    ]
    settings = [SETTINGS, replace(SETTINGS, learning_rate=2e-3, clip_range_vf=0.5, normalize_advantage=False), SETTINGS]
    case = Case(spaces=(DISCRETE,) * 3, n_inputs=(11,) * 3)
    reference = compare(case, epochs, settings, 1e-4)
    assert [len(record.epochs) for record in reference.records] == [20, 3, 0]


@needs_kernel
def test_rows_outside_of_minibatches_are_not_read() -> None:
    case = Case(n_rows=100)
    epochs: list[list[Epoch]] = [[[np.arange(50)]], [[np.arange(50)]]]
    results = []
    for hostile in (False, True):
        policies = case.policies(th.float32)
        stack = Stack(policies)
        batch = case.batch(stack, 1)
        if hostile:
            for tensor in (batch.features, batch.actions, *vars(batch.columns).values()):
                tensor[:, 50:] = float("nan")
        NativeKernel(stack).update([policy.optimizer for policy in policies], batch, epochs, [SETTINGS] * 2)
        results.append(stack.parameters())
    assert th.equal(*results)


@needs_kernel
def test_steps_continue_those_of_the_optimiser() -> None:
    reference = compare(CASES["box"], shuffled(2, 600, 200, 1), [SETTINGS] * 2, 1e-4, calls=3)
    assert set(reference.steps) == {9.0}


@needs_kernel
def test_results_depend_on_neither_threads_nor_other_learners(threads: None) -> None:
    case = Case(spaces=(DISCRETE,) * 5, n_inputs=(11, 7, 11, 9, 11), pi=(64, 48), vf=(64, 64), activation=nn.LeakyReLU)
    epochs = shuffled(5, 600, 96, 3)
    results = []
    for of_torch, of_kernel in ((1, None), (2, None), (1, 3), (1, -1)):
        th.set_num_threads(of_torch)
        set_kernel_threads(of_kernel)
        results.append(run(NativeKernel, case, epochs, [SETTINGS] * 5))
    assert all(th.equal(results[0].parameters, one.parameters) for one in results[1:])
    assert all(th.equal(results[0].moments, one.moments) for one in results[1:])
    policies = case.policies(th.float32)
    stack = Stack(policies)
    batch = case.batch(stack, 1)
    alone = Stack(policies[3:4])
    columns = Columns(*(one[3:4] for one in vars(batch.columns).values()))
    mine = StackedBatch(batch.features[3:4, :, :9], batch.actions[3:4], columns, None)
    NativeKernel(alone).update([policies[3].optimizer], mine, epochs[3:4], [SETTINGS])
    start = sum(p.numel() for policy in policies[:3] for p in policy.parameters())
    parameters = th.cat([p.detach().double().flatten() for p in policies[3].parameters()])
    assert th.equal(parameters, results[0].parameters[start : start + len(parameters)])


@needs_kernel
@pytest.mark.parametrize("kind", ["discrete, tanh", "discrete, relu", "discrete, leaky relu", "box"])
@pytest.mark.parametrize("place", ["features", "advantages", "returns", "old_log_prob", "weights", "parameters", "log_ratio"])
def test_numbers_that_are_not_finite_stay_visible(kind: str, place: str) -> None:
    case = CASES[kind]
    policies = case.policies(th.float32)
    stack = Stack(policies)
    kernel = NativeKernel(stack)
    batch = case.batch(stack, kernel.head.action_size)
    if place == "features":
        batch.features[0, 7, 2] = float("nan")
    elif place == "parameters":
        with th.no_grad():
            policies[0].mlp_extractor.policy_net[0].weight[3, 3] = float("nan")
    elif place == "log_ratio":
        batch.columns.old_log_prob[0, 7] = -1e4  # exp overflows
    else:
        getattr(batch.columns, place)[0, 7] = float("nan")
    records = kernel.update([policy.optimizer for policy in policies], batch, whole(2, 1), [SETTINGS] * 2)
    finite = [all(bool(p.isfinite().all()) for p in policy.parameters()) for policy in policies]
    losses = [all(np.isfinite(getattr(record, name)).all() for name in LOSSES) for record in records]
    assert not (finite[0] and losses[0])
    assert finite[1] and losses[1]


@needs_kernel
def test_gradient_of_masked_logits_equals_that_of_autograd() -> None:
    case = Case(n_rows=40, masked=True, spaces=(DISCRETE,), n_inputs=(11,))
    (policy,) = case.policies(th.float32)
    stack = Stack([policy])
    batch = case.batch(stack, 1)
    assert batch.masks is not None
    batch.masks[0, 5:20] = False  # all actions are illegal
    batch.masks[0, th.arange(20, 30), batch.actions[0, 20:30, 0].long()] = False  # the action that was taken is
    settings = replace(SETTINGS, max_grad_norm=1e9, normalize_advantage=False)
    legal, actions = batch.masks[0], batch.actions[0, :, 0].double()
    # In float32, Categorical loses the logarithm of the number of actions where all are illegal.
    expected = copy.deepcopy(policy).double()
    logits = _logits(expected, batch.features[0].double()).masked_fill(~legal, -1e8)
    distribution = th.distributions.Categorical(logits=logits)
    log_prob = distribution.log_prob(actions)
    batch = replace(batch, columns=replace(batch.columns, old_log_prob=log_prob.detach().float()[None]))
    weighted = batch.columns.weights[0].double() * batch.columns.advantages[0].double()
    loss = -(weighted * (log_prob - log_prob.detach()).exp()).mean() - 0.01 * distribution.entropy().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    (record,) = NativeKernel(stack).update([policy.optimizer], batch, whole(1, 1), [settings])
    np.testing.assert_allclose(record.entropy, [distribution.entropy().mean().item()], rtol=1e-5)
    np.testing.assert_allclose(record.approx_kl, [0.0], atol=1e-6)
    # Adam's first moment is a tenth of the gradient.
    for parameter, other in zip(policy.action_net.parameters(), expected.action_net.parameters(), strict=True):
        assert other.grad is not None
        gradient = policy.optimizer.state[parameter]["exp_avg"].double() * 10.0
        th.testing.assert_close(gradient, other.grad, rtol=1e-5, atol=1e-6)


def _logits(policy: Any, features: th.Tensor) -> th.Tensor:
    logits: th.Tensor = policy.action_net(policy.mlp_extractor.forward_actor(features))
    return logits


@needs_kernel
@pytest.mark.parametrize("action", [5.0, -1.0, float("nan")])
def test_actions_that_do_not_exist_change_nothing(action: float) -> None:
    case = CASES["discrete, tanh"]
    policies = case.policies(th.float32)
    stack = Stack(policies)
    batch = case.batch(stack, 1)
    batch.actions[1, 500] = action
    before = stack.parameters()
    with pytest.raises(ValueError, match="rollout of learner 1 has an action that does not exist"):
        NativeKernel(stack).update([policy.optimizer for policy in policies], batch, whole(2, 3), [SETTINGS] * 2)
    assert th.equal(stack.parameters(), before)
    assert not policies[0].optimizer.state


@needs_kernel
@pytest.mark.parametrize("row", [-1, 600])
def test_rows_that_do_not_exist_are_refused(row: int) -> None:
    epochs = [[[np.array([0, row])]], [[np.array([0, 1])]]]
    with pytest.raises(ValueError, match="the rollout has 600"):
        run(NativeKernel, CASES["discrete, tanh"], epochs, [SETTINGS] * 2)


@needs_kernel
def test_other_types_are_refused() -> None:
    stack = Stack(Case().policies(th.float64))
    assert isinstance(make_kernel(stack, "torch"), Lockstep)
    with pytest.raises(ValueError, match=r"torch\.float64 on cpu, the native backend updates torch\.float32"):
        make_kernel(stack, "native")
    assert isinstance(make_kernel(Stack(Case().policies(th.float32)), "native"), NativeKernel)


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ValueError, match="backend 'natve' is unknown; did you mean 'native'"):
        make_kernel(Stack(Case().policies(th.float32)), "natve")


def test_an_installation_without_the_compiled_kernel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    native_kernel._library.cache_clear()
    monkeypatch.setattr(native_kernel, "find_spec", lambda name: None)
    try:
        assert "install a C++ compiler" in (native_obstacle() or "")
        with pytest.raises(ValueError, match="the native kernel is not available: it was not compiled"):
            make_kernel(Stack(Case().policies(th.float32)), "native")
    finally:
        native_kernel._library.cache_clear()


@needs_kernel
def test_the_matrix_product_of_scipy_gives_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy")
    library = native_kernel._library()
    sgemm = native_kernel._product_of_scipy()
    assert sgemm != library.sgemm
    monkeypatch.setattr(native_kernel, "_library", lambda: replace(library, sgemm=sgemm, set_threads=None))
    compare(CASES["discrete, leaky relu"], whole(2, 1), [SETTINGS] * 2, 1e-6)
