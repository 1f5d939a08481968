import os
import sys

import imageio.v2 as imageio
import numpy as np
import pytest

from sb3_matrl.evaluation.film import VideoError, check_recordable, record_video, video_file
from sb3_matrl.evaluation.play import play_episodes
from tests.evaluation.worlds import RandomLength, Scripted

WORLD = "tests.evaluation.test_film:Painted"
COLOURS = np.array([[220, 30, 30], [30, 200, 30], [40, 60, 210], [240, 240, 240], [10, 10, 10]], np.uint8)


class Painted(RandomLength):
    """Two halves, of which the right one shows how many steps remain; 51 x 33 pixels."""

    metadata = {"name": "painted", "render_modes": ["human", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, long=4, render_mode=None):
        super().__init__(long, render_mode)

    def render(self):
        picture = np.zeros((33, 51, 3), np.uint8)
        picture[:, 25:] = COLOURS[self.remaining]
        return picture


class Broken(Painted):
    """Draws what ``picture`` says."""

    def __init__(self, picture=None, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.picture = picture

    def render(self):
        pictures = {
            "none": None,
            "grey": np.zeros((33, 51), np.uint8),
            "float": np.zeros((33, 51, 3)),
            "growing": np.zeros((33 + self.remaining, 51, 3), np.uint8),
        }
        return pictures[self.picture]


def frames_of(path):
    return [np.asarray(frame)[..., :3].astype(int) for frame in imageio.mimread(path)]


@pytest.mark.cases(e2e=["mp4-12-4"])
@pytest.mark.parametrize(("suffix", "tolerance", "fps"), [("mp4", 12, 4), ("gif", 0, 4), ("GIF", 0, 20)])
def test_video_shows_every_frame(tmp_path, suffix, tolerance, fps):
    path = tmp_path / "new" / f"video.{suffix}"
    result = record_video(Scripted(), WORLD, path, n_episodes=3, seed=1, fps=None if fps == 4 else fps, deterministic=True)
    remaining = [left for length in result.lengths for left in range(length, -1, -1)]
    frames = frames_of(path)
    assert len(frames) == len(remaining) == sum(result.lengths) + 3 and set(result.lengths) == {1, 4}
    for frame, left in zip(frames, remaining, strict=True):
        # 10 times as large: at least 320 pixels.
        assert frame.shape == (330, 510, 3)
        assert abs(frame[:, :246]).max() <= tolerance
        assert abs(frame[:, 254:] - COLOURS[left]).max() <= tolerance
    seconds = imageio.get_reader(path).get_meta_data()["duration"]
    assert seconds == pytest.approx(1000 / fps if suffix.lower() == "gif" else len(frames) / fps)


@pytest.mark.e2e
def test_edges_stay_crisp_when_small_frames_are_enlarged(tmp_path):
    record_video(Scripted(), WORLD, tmp_path / "video.gif", seed=1)
    for frame in frames_of(tmp_path / "video.gif"):
        assert len(np.unique(frame.reshape(-1, 3), axis=0)) <= 2
        np.testing.assert_array_equal(frame[:, 249], 0)
        np.testing.assert_array_equal(frame[0, 250], frame[-1, -1])


def test_odd_sides_are_padded_with_their_edge(tmp_path):
    picture = np.zeros((321, 401, 3), np.uint8)
    picture[-1] = picture[:, -1] = 255
    with video_file(tmp_path / "video.mp4", 5) as add_frame:
        add_frame(picture)
    (frame,) = frames_of(tmp_path / "video.mp4")
    assert frame.shape == (322, 402, 3)
    assert frame[-2:].min() > 200 and frame[:, -2:].min() > 200 and frame[:300, :380].max() < 40


def test_result_is_that_of_the_episodes_played(tmp_path):
    def played(model):
        return record_video(model, WORLD, tmp_path / "v.gif", deterministic=True, n_episodes=4, seed=9)

    expected = play_episodes(Scripted(), RandomLength(long=4), 4, None, deterministic=True, seed=9)
    np.testing.assert_array_equal(played(Scripted()).agent_returns, expected.agent_returns)


@pytest.mark.e2e
def test_sampled_actions_follow_from_the_seed_and_touch_no_global_stream(tmp_path):
    import torch as th

    def played(seed):
        options = {"deterministic": False, "n_episodes": None, "n_timesteps": 30, "seed": seed}
        return record_video(Scripted(), WORLD, tmp_path / "v.gif", **options).agent_returns.tolist()

    before = th.get_rng_state()
    assert played(1) == played(1) != played(2)
    assert th.equal(before, th.get_rng_state())


def test_callback_sees_every_episode(tmp_path):
    ends = []
    record_video(Scripted(), WORLD, tmp_path / "v.gif", n_episodes=2, on_episode=lambda: ends.append(1))
    assert len(ends) == 2


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("none", r"must return uint8 of shape \(height, width, 3\), got NoneType"),
        ("grey", r"got uint8 of shape \(33, 51\)"),
        ("float", r"got float64 of shape \(33, 51, 3\)"),
        ("growing", "frames of a video must have one size"),
    ],
)
def test_a_broken_video_replaces_nothing(tmp_path, picture, message):
    path = tmp_path / "video.mp4"
    path.write_text("older")
    with pytest.raises(VideoError, match=message):
        record_video(Scripted(), "tests.evaluation.test_film:Broken", path, env_kwargs={"picture": picture})
    assert path.read_text() == "older" and os.listdir(tmp_path) == ["video.mp4"]


def test_an_older_video_is_replaced_and_nothing_else_left(tmp_path):
    path = tmp_path / "video.gif"
    path.write_text("older")
    record_video(Scripted(), WORLD, path)
    assert frames_of(path) and os.listdir(tmp_path) == ["video.gif"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022))


@pytest.mark.parametrize(
    ("env_id", "name", "message"),
    [
        (WORLD, "video.mp5", "suffix '.mp5' is unknown; did you mean '.mp4'? Known: .mp4, .gif"),
        (WORLD, "video", "suffix '' is unknown. Known: .mp4, .gif"),
        ("matrix_game_v0", "video.mp4", "env matrix_game_v0 cannot be recorded: it has no render_mode 'rgb_array', only ansi"),
        ("checkers_v1", "video.mp4", "did you mean 'checkers_v0'?"),
    ],
)
def test_what_cannot_be_recorded_is_told_beforehand(tmp_path, env_id, name, message):
    with pytest.raises(ValueError) as error:
        check_recordable(env_id, tmp_path / name)
    assert message in str(error.value)
    with pytest.raises(ValueError):
        record_video(Scripted(), env_id, tmp_path / name)
    assert not os.listdir(tmp_path)


def test_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3-matrl\[record\]'"):
        check_recordable(WORLD, tmp_path / "video.mp4")
