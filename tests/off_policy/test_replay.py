"""The joint replay buffer against a list of whole transitions, and what its batches derive from them."""

from itertools import product

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_matrl.common.joint_observations import JointObservations
from sb3_matrl.files.archive import read_archive, write_archive
from sb3_matrl.off_policy import replay, replay_files
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.replay import JointReplayBuffer
from sb3_matrl.off_policy.replay_files import load_replay, save_replay
from sb3_matrl.off_policy.transitions import Moment, TransitionReader
from sb3_matrl.vec_env import make_joint_vec_env
from tests.host_syncs import META
from tests.off_policy.trio import Trio
from tests.vec_env.screens import Screens
from tests.vec_env.toys import ToyEnv

STATE_SIZE = 4


class Recorder:
    """Plays random actions, fills a buffer, and keeps every transition as a dict per copy, read from the env directly."""

    def __init__(self, env, buffer_size=60, states=True, **kwargs):
        self.env = env
        self.agents = list(env.agents)
        self.reader = TransitionReader(self.agents, env.observation_spaces, env.action_spaces)
        size = env.state_space.shape[0] if states else 0
        self.make = lambda: JointReplayBuffer(
            buffer_size, env.observation_spaces, env.action_spaces, "cpu", env.num_envs, size, **kwargs
        )
        self.buffer = self.make()
        self.states = states
        self.rows = []
        self.rng = np.random.default_rng(0)
        self.reset()

    def reset(self):
        self.moment = self._moment(self.env.reset())

    def _moment(self, observations):
        states = self.env.states if self.states else None
        return Moment(observations=observations, masks=self.env.action_masks, alive=self.env.alive, states=states)

    def play(self, n_steps):
        for _ in range(n_steps):
            self._step()

    def _step(self):
        spaces_of = self.env.action_spaces
        played = {
            agent: np.array([space.start + self.rng.integers(space.n) for _ in range(self.env.num_envs)])
            for agent, space in spaces_of.items()
        }
        before = self.moment
        self.env.step(played)
        stored = {agent: acts - spaces_of[agent].start for agent, acts in played.items()}
        transition = self.reader.transition(before, stored, self.env.last_step, slice(None))
        self.rows.append([self._whole(before, stored, self.env.last_step, copy) for copy in range(self.env.num_envs)])
        self.buffer.add(transition)
        self.moment = transition.after

    def _whole(self, before, actions, step, copy):
        ended = step.terminated | step.truncated
        following, masks = {}, {}
        for i, agent in enumerate(self.agents):
            final = ended[copy, i] or step.dones[copy]
            following[agent] = row((step.final_observations if final else step.observations)[agent], copy)
            if agent in step.action_masks:
                masks[agent] = self._final_mask(step, agent, copy) if ended[copy, i] else step.action_masks[agent][copy].copy()
        return {
            "observations": {agent: row(before.observations[agent], copy) for agent in self.agents},
            "next_observations": following,
            "actions": {agent: actions[agent][copy] for agent in self.agents},
            "rewards": step.rewards[copy].copy(),
            "alive": before.alive[copy].copy(),
            "next_alive": step.alive[copy] & (not step.dones[copy]),
            "terminated": step.terminated[copy].copy(),
            "truncated": step.truncated[copy].copy(),
            "done": step.dones[copy],
            "masks": {agent: mask[copy].copy() for agent, mask in before.masks.items()},
            "next_masks": masks,
            "states": before.states[copy].copy() if self.states else None,
            "next_states": (step.final_states if step.dones[copy] else step.states)[copy].copy() if self.states else None,
        }

    @staticmethod
    def _final_mask(step, agent, copy):
        seen = step.final_observations[agent]
        if isinstance(seen, dict):
            return seen["action_mask"][copy].astype(bool)
        return np.asarray(step.infos[copy]["agents"][agent]["action_mask"]).astype(bool)


def row(observations, copy):
    if isinstance(observations, dict):
        return {key: row(value, copy) for key, value in observations.items()}
    return observations[copy].copy()


def all_rows(buffer):
    """Every transition of a buffer, with the number of its step among those that it still holds."""
    steps = np.arange(buffer.added - buffer.size(), buffer.added)
    rows, copies = np.repeat(steps % buffer.buffer_size, buffer.n_envs), np.tile(np.arange(buffer.n_envs), len(steps))
    return buffer.batch(rows, copies)


def assert_same(value, expected, where):
    """Compare a part of a batch with the same part of whole transitions, one after the other."""
    first = expected[0]
    if isinstance(first, dict):
        assert set(value) >= set(first), where
        for key in first:
            known = [i for i, one in enumerate(expected) if key in one]
            part = value[key]
            part = {name: entry[known] for name, entry in part.items()} if isinstance(part, dict) else part[known]
            assert_same(part, [expected[i][key] for i in known], (*where, key))
    elif first is not None:
        assert np.array_equal(value.numpy(), np.stack(expected)), where


def assert_holds(recorder, buffer, skipped=()):
    batch = all_rows(buffer)
    kept = [one for step in recorder.rows[-buffer.size() :] for one in step]
    for part in kept[0]:
        if part not in skipped:
            assert_same(getattr(batch, part), [one[part] for one in kept], (part,))


@pytest.fixture
def env():
    made = make_joint_vec_env(Trio, n_envs=3, seed=1, states=True)
    yield made
    made.close()


@pytest.mark.parametrize("n_steps", [7, 20, 21, 73])
def test_it_holds_whole_transitions(env, n_steps):
    recorder = Recorder(env)
    recorder.play(n_steps)
    assert recorder.buffer.size() == min(n_steps, 20)
    assert_holds(recorder, recorder.buffer)


def test_new_episodes_leave_the_next_observations_of_interrupted_ones(env):
    recorder = Recorder(env)
    for n_steps in (5, 1, 13, 4):
        recorder.play(n_steps)
        recorder.reset()
    recorder.play(2)
    assert_holds(recorder, recorder.buffer)


@pytest.mark.e2e
def test_places_of_final_moments_are_used_again(env):
    recorder = Recorder(env)
    recorder.play(400)
    assert len(recorder.buffer.pool.moments.states) <= 64  # 20 rows of 3 copies


@pytest.mark.e2e
def test_a_file_holds_all_transitions(env, tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_matrl.off_policy.replay_files._PIECE_BYTES", 100)
    for n_steps in (0, 5, 40):
        recorder = Recorder(env)
        recorder.play(n_steps)
        save_replay(tmp_path / "buffer", recorder.buffer)
        loaded = load_replay(tmp_path / "buffer", recorder.make)
        assert (loaded.added, loaded.pos, loaded.full) == (n_steps, n_steps % 20, n_steps >= 20)
        if n_steps:
            assert_holds(recorder, loaded)
        recorder.buffer = loaded
        recorder.play(31)
        assert_holds(recorder, loaded)


def test_indices_are_those_of_sb3(env):
    recorder = Recorder(env)
    recorder.play(9)
    np.random.seed(4)
    sampled = recorder.buffer.sample(6)
    np.random.seed(4)
    rows = np.random.randint(0, 9, size=6)
    expected = recorder.buffer.batch(rows, np.random.randint(0, high=3, size=(6,)))
    assert th.equal(sampled.rewards, expected.rewards)
    assert th.equal(sampled.states, expected.states)


def test_rewards_of_the_dead_are_zero(env):
    recorder = Recorder(env)
    recorder.play(4)
    before = recorder.moment
    recorder.play(1)
    poisoned = recorder.reader.transition(
        Moment(**{**vars(before), "alive": np.zeros_like(before.alive)}),
        {agent: np.zeros(3, int) for agent in recorder.agents},
        env.last_step,
        slice(None),
    )
    poisoned.rewards[:] = np.nan
    recorder.buffer.add(poisoned)
    assert not all_rows(recorder.buffer).rewards[-3:].any()


def flags(*values):
    return th.tensor([values])


@pytest.mark.parametrize("handle", [True, False])
def test_bootstrap_against_the_rules_written_out(handle):
    ways = [(t, c, n) for t, c, n in product((False, True), repeat=3) if not ((t or c) and n)]
    for first, second, done in product(ways, ways, (False, True)):
        if done and (first[2] or second[2]):
            continue
        batch = JointBatch(
            **{name: {} for name in ("observations", "next_observations", "actions", "masks", "next_masks", "acted")},
            rewards=th.zeros(1, 2),
            alive=flags(True, True),
            next_alive=flags(first[2], second[2]),
            terminated=flags(first[0], second[0]),
            truncated=flags(first[1], second[1]),
            done=th.tensor([done]),
            handle_timeout_termination=handle,
        )
        cut = [handle and truncated and not terminated for terminated, truncated, _ in (first, second)]
        goes_on = [next_alive for *_, next_alive in (first, second)]
        assert batch.counts_next()[0].tolist() == [a or b for a, b in zip(cut, goes_on, strict=True)]
        assert batch.bootstrap()[0].tolist() == [float(a or b) for a, b in zip(cut, goes_on, strict=True)]
        assert batch.team_bootstrap().tolist() == [float(not done or any(cut))]


def test_rows_in_which_agents_acted(env):
    recorder = Recorder(env)
    recorder.play(20)
    batch = all_rows(recorder.buffer)
    kept = np.stack([one["alive"] for step in recorder.rows for one in step])
    assert not kept[:, 0].all()
    for i, agent in enumerate(recorder.agents):
        expected = None if kept[:, i].all() else np.flatnonzero(kept[:, i]).tolist()
        assert (None if batch.acted[agent] is None else batch.acted[agent].tolist()) == expected
    everyone = np.flatnonzero(kept.all(axis=1))
    rows, copies = np.divmod(everyone, env.num_envs)
    assert recorder.buffer.batch(rows, copies).acted == dict.fromkeys(recorder.agents)


def test_observations_as_states(env):
    encoder = JointObservations(env.observation_spaces, env.action_spaces)
    recorder = Recorder(env, states=False, joint_observations=encoder)
    recorder.play(30)
    batch = all_rows(recorder.buffer)
    kept = [one for step in recorder.rows[-20:] for one in step]
    for i, one in enumerate(kept):
        counts = one["next_alive"] | (one["truncated"] & ~one["terminated"])
        for states, observations, present in (
            (batch.states, one["observations"], one["alive"]),
            (batch.next_states, one["next_observations"], counts),
        ):
            parts = [observations["a"], observations["b"]["observation"], observations["c"].ravel()]
            expected = np.concatenate([part * here for part, here in zip(parts, present, strict=True)])
            assert np.array_equal(states[i].numpy(), expected)


def test_batches_for_another_device_wait_for_nothing(env):
    encoder = JointObservations(env.observation_spaces, env.action_spaces)
    recorder = Recorder(env, states=False, joint_observations=encoder)
    recorder.play(10)
    recorder.buffer.device = META
    batch = all_rows(recorder.buffer)  # reading from the device would be an error
    assert batch.states.device == batch.observations["a"].device == batch.bootstrap().device == META


class Camera(ToyEnv):
    """Images with channels last, alone and in a Dict, and whole numbers."""

    def __init__(self):
        image = spaces.Box(0, 255, (40, 36, 3), np.uint8)
        observations = {"eye": image, "both": spaces.Dict({"x": spaces.Discrete(5), "image": image})}
        ends = {"eye": (3, "truncated"), "both": (4, "terminated")}
        super().__init__(observations, {"eye": spaces.Discrete(300), "both": spaces.Discrete(2)}, ends)


def test_images_have_their_channels_first_and_own_dtype(tmp_path):
    env = make_joint_vec_env(Camera, n_envs=2, seed=0)
    recorder = Recorder(env, buffer_size=10, states=False)
    recorder.play(12)
    save_replay(tmp_path / "images", recorder.buffer)
    for buffer in (recorder.buffer, load_replay(tmp_path / "images", recorder.make)):
        batch = all_rows(buffer)
        kept = [one for step in recorder.rows[-5:] for one in step]
        images = batch.next_observations["both"]["image"]
        assert images.dtype == th.uint8 and images.shape == (10, 3, 40, 36)
        expected = np.stack([one["next_observations"]["both"]["image"] for one in kept])
        assert np.array_equal(images.numpy(), expected.transpose(0, 3, 1, 2))
        assert_same(batch.actions, [one["actions"] for one in kept], ())
        assert buffer.actions["eye"].dtype == np.uint16
    env.close()


def test_a_frame_that_agents_see_together_and_again_is_stored_once(tmp_path):
    env = make_joint_vec_env(Screens, n_envs=2, seed=0)
    recorder = Recorder(env, buffer_size=20, states=False)
    recorder.play(33)
    (store,) = recorder.buffer.planes.values()
    # One new frame per row, the frames before the first row, and two tags.
    assert store.n_planes <= 2 * 10 + 2 * 2 + 2
    save_replay(tmp_path / "planes", recorder.buffer)
    assert (tmp_path / "planes.zip").stat().st_size < store.nbytes + 30_000  # whole images take 170 KB
    for buffer in (recorder.buffer, load_replay(tmp_path / "planes", recorder.make)):
        kept = [one for step in recorder.rows[-10:] for one in step]
        batch = all_rows(buffer)
        assert_same(batch.observations, [one["observations"] for one in kept], ())
        assert_same(batch.next_observations, [one["next_observations"] for one in kept], ())
        assert [one.n_planes for one in buffer.planes.values()] == [store.n_planes]
    env.close()


def test_files_that_hold_whole_images_can_be_read(tmp_path, monkeypatch):
    env = make_joint_vec_env(Screens, n_envs=2, seed=0)
    recorder = Recorder(env, buffer_size=20, states=False)
    recorder.play(33)
    whole = [np.asarray(array) for array in recorder.buffer.stored_arrays()]
    document = {**replay_files._description(recorder.buffer), "added": 33, "masked": []}
    document["final_rows"] = len(recorder.buffer.final_places())
    pieces = ((f"replay/{i}", piece) for i, piece in enumerate(replay_files._pieces(whole)))
    write_archive(tmp_path / "whole.zip", {"replay": document}, pieces)
    read = load_replay(tmp_path / "whole", recorder.make)
    assert all(map(np.array_equal, map(np.asarray, read.stored_arrays()), whole))
    env.close()


@pytest.mark.parametrize("planes", [[10**9], [-1], [1.5], [], "many"])
def test_a_wrong_number_of_planes_is_refused(tmp_path, planes):
    env = make_joint_vec_env(Screens, n_envs=2, seed=0)
    recorder = Recorder(env, buffer_size=20, states=False)
    recorder.play(3)
    save_replay(tmp_path / "planes", recorder.buffer)
    documents, tensors = read_archive(tmp_path / "planes.zip")
    documents = {"replay": {**documents["replay"], "planes": planes}}
    write_archive(tmp_path / "planes.zip", documents, tensors)
    with pytest.raises(ValueError, match="planes of images"):
        load_replay(tmp_path / "planes", recorder.make)
    env.close()


def test_images_that_will_not_fit_are_refused_early(monkeypatch):
    env = make_joint_vec_env(Camera, n_envs=2, seed=0)  # all planes differ
    monkeypatch.setattr(replay, "memory_size", lambda: 2**21)
    recorder = Recorder(env, buffer_size=1000, states=False)
    with pytest.raises(ValueError, match=r"first 10 joint .* of 1,000 take .* choose a smaller buffer_size"):
        recorder.play(6)
    env.close()


def test_200000_transitions_of_checkers_take_less_than_200_mb():
    env = make_joint_vec_env("checkers_v0", n_envs=20, seed=0, states=True)
    recorder = Recorder(env, buffer_size=200_000)
    recorder.play(105)  # all copies end an episode after 100 steps
    per_final_moment = recorder.buffer.pool.moments.nbytes / len(recorder.buffer.pool.moments.states)
    full = recorder.buffer.nbytes - recorder.buffer.pool.moments.nbytes + 200_000 / 100 * per_final_moment
    assert full < 200e6
    env.close()


def test_a_buffer_larger_than_the_memory_is_refused():
    boxes = {"a": spaces.Box(-1, 1, (1000,), np.float32)}
    with pytest.raises(ValueError, match=r"takes [\d,.]+ GiB.*choose a smaller buffer_size"):
        JointReplayBuffer(10**11, boxes, {"a": spaces.Discrete(2)})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda buffer: buffer.actions["b"].__setitem__((0, 0), 4), "an action of b is outside"),
        (lambda buffer: buffer.rewards.__setitem__((0, 0, 0), np.nan), "NaN or infinite"),
        (lambda buffer: buffer.moments.masks["c"].__setitem__((0, 0), False), "a mask of c leaves no legal action"),
        (lambda buffer: setattr(buffer, "rewards", buffer.rewards.astype(np.float64)), "should be an array"),
        (lambda buffer: setattr(buffer, "rewards", buffer.rewards[:9]), "should be an array"),
        (lambda buffer: setattr(buffer, "stored_arrays", list), "it has no replay/0.pt"),
    ],
)
def test_damaged_content_is_refused(env, tmp_path, change, message):
    recorder = Recorder(env)
    recorder.play(10)
    change(recorder.buffer)
    save_replay(tmp_path / "bad", recorder.buffer)
    with pytest.raises(ValueError, match=message):
        load_replay(tmp_path / "bad", recorder.make)


def test_final_moments_must_belong_to_one_row_each(env, tmp_path):
    recorder = Recorder(env)
    recorder.play(10)
    arrays = recorder.buffer.stored_arrays()
    (final,) = [array for array in arrays if array.dtype == np.int32]
    final[final >= 0] = 0
    recorder.buffer.stored_arrays = lambda: arrays
    save_replay(tmp_path / "bad", recorder.buffer)
    with pytest.raises(ValueError, match="places of final moments"):
        load_replay(tmp_path / "bad", recorder.make)


def test_files_of_other_models_are_refused(env, tmp_path):
    recorder = Recorder(env)
    save_replay(tmp_path / "one", recorder.buffer)
    with pytest.raises(ValueError, match="20 rows per copy, the model's has 30: pass buffer_size"):
        load_replay(tmp_path / "one", Recorder(env, buffer_size=90).make)
    with pytest.raises(ValueError, match="state_size differ"):
        load_replay(tmp_path / "one", Recorder(env, states=False).make)
