"""Record videos of episodes as ``.mp4`` or ``.gif``."""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sb3_matrl.envs.making import EnvSource, make_env
from sb3_matrl.envs.wrappers import Wrappers
from sb3_matrl.evaluation.evaluate import MAX_EPISODE_STEPS, EvaluationResult, JointPredictor
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.utils.random_state import isolated_random_streams
from sb3_matrl.utils.suggest import unknown

MIN_SIDE = 320  # pixels
DEFAULT_FPS = 10.0
# One palette per frame keeps every colour of a drawn world.
_GIF_PALETTE = "split[frame][copy];[copy]palettegen=stats_mode=single[palette];[frame][palette]paletteuse=new=1:dither=none"
# ffmpeg finds differences between frames by palette index, which is wrong if palettes differ: store whole frames.
_GIF_OPTIONS = ["-filter_complex", _GIF_PALETTE, "-gifflags", "-offsetting-transdiff"]
# Suffix -> ffmpeg options. H.264 needs even sides, and most players need its halved colour resolution.
_FORMATS: dict[str, dict[str, Any]] = {
    ".mp4": {"codec": "libx264", "pix_fmt_out": "yuv420p", "quality": 8},
    ".gif": {"codec": "gif", "pix_fmt_out": "pal8", "quality": None, "output_params": _GIF_OPTIONS},
}


class VideoError(ValueError):
    """The frames that an environment renders cannot become a video."""


def check_recordable(
    env: EnvSource, path: str | Path, env_kwargs: Mapping[str, Any] | None = None, env_wrapper: Wrappers = None
) -> None:
    """
    Check, before any episode is played, that an environment can be recorded.

    :param env: environment id or factory, see :func:`sb3_matrl.envs.make_env`
    :param path: path of the video
    :param env_kwargs: options of the environment
    :param env_wrapper: wrappers of the environment
    :raises ValueError: if the suffix is unknown or the environment cannot render pictures
    :raises ImportError: if a package is missing
    """
    suffix = Path(path).suffix
    if suffix.lower() not in _FORMATS:
        raise ValueError(f"video {path}: {unknown('suffix', suffix, _FORMATS)}")
    _import_ffmpeg()
    with closing(make_env(env, env_kwargs, env_wrapper)) as made:
        modes = list(made.metadata.get("render_modes") or [])
    if "rgb_array" not in modes:
        raise ValueError(
            f"env {env} cannot be recorded: it has no render_mode 'rgb_array', only {', '.join(map(str, modes)) or 'none'}"
        )


def record_video(
    model: JointPredictor,
    env: EnvSource,
    path: str | Path,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    env_wrapper: Wrappers = None,
    deterministic: bool = True,
    n_episodes: int | None = 1,
    n_timesteps: int | None = None,
    seed: int = 0,
    fps: float | None = None,
    on_episode: Callable[[], object] | None = None,
    max_episode_steps: int | None = MAX_EPISODE_STEPS,
) -> EvaluationResult:
    """
    Play episodes in one copy of an environment and write a video with one frame per reset and per step.

    :param model: a trained model, or anything with its ``predict``
    :param env: environment id or factory, see :func:`sb3_matrl.envs.make_env`
    :param path: path of the video, ``.mp4`` or ``.gif``; its folder is created, an existing file is replaced once the
        video is complete
    :param env_kwargs: options of the environment, without ``render_mode``
    :param env_wrapper: wrappers of the environment
    :param deterministic: greedy actions instead of sampled ones
    :param n_episodes: number of episodes; ``None`` for as many as ``n_timesteps`` takes
    :param n_timesteps: number of steps after which no further episode starts
    :param seed: seed of the environment and of sampled actions
    :param fps: frames per second; ``None`` for the environment's ``render_fps``, or 10 if it has none
    :param on_episode: function called after every episode
    :param max_episode_steps: number of steps after which an episode is cut, see :func:`play_episodes`
    :return: returns and lengths of the episodes
    :raises ValueError: see :func:`check_recordable`; :class:`VideoError` if a frame is no picture
    :raises ImportError: if a package is missing
    :raises OSError: if the file cannot be written
    """
    path = Path(path)
    check_recordable(env, path, env_kwargs, env_wrapper)
    shown = {**(env_kwargs or {}), "render_mode": "rgb_array"}
    with closing(make_env(env, shown, env_wrapper)) as made, isolated_random_streams(seed):
        rate = float(made.metadata.get("render_fps") or DEFAULT_FPS) if fps is None else fps
        with video_file(path, rate) as add_frame:

            def add_rendered() -> None:
                add_frame(made.render())

            return play_episodes(
                model, made, n_episodes, n_timesteps, deterministic, seed, add_rendered, on_episode, max_episode_steps
            )


@contextmanager
def video_file(path: Path, fps: float) -> Generator[Callable[[Any], None], None, None]:
    """
    Write a video frame by frame; the file appears only if the block ends without an error.

    :param path: path of the video, ``.mp4`` or ``.gif``
    :param fps: frames per second
    :return: function that adds a frame: uint8, (height, width, 3), the same size every time
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # ffmpeg needs a path: the unfinished file gets a temporary folder on the same disk, from where it can be renamed.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unfinished = Path(folder) / path.name
        with closing(_Encoder(unfinished, fps)) as encoder:
            yield encoder.add
        unfinished.replace(path)


class _Encoder:
    """
    Sends frames to an ffmpeg process, which starts with the first frame because it needs the size.

    :param path: path of the file to write
    :param fps: frames per second
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._shape: tuple[int, ...] | None = None
        self._process: Generator[None, Any, None] | None = None

    def add(self, frame: Any) -> None:
        """
        Add a frame.

        :param frame: return value of the environment's ``render``
        :raises VideoError: if it is no picture, or its size differs from the first frame's
        """
        picture = _check_frame(frame)
        if self._process is None:
            self._shape, self._process = picture.shape, self._start(_enlarge(picture).shape)
        if picture.shape != self._shape:
            raise VideoError(f"frames of a video must have one size, got {picture.shape} after {self._shape}")
        self._process.send(_enlarge(picture))

    def _start(self, shape: tuple[int, ...]) -> Generator[None, Any, None]:
        process: Generator[None, Any, None] = _import_ffmpeg().write_frames(
            str(self._path),
            (shape[1], shape[0]),
            fps=self._fps,
            macro_block_size=1,  # no rescaling: _enlarge makes valid sizes
            ffmpeg_log_level="error",
            **_FORMATS[self._path.suffix.lower()],
        )
        process.send(None)
        return process

    def close(self) -> None:
        """Flush the remaining frames and wait for ffmpeg to end."""
        if self._process is not None:
            self._process.close()


def _check_frame(frame: Any) -> np.ndarray:
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
        return frame
    got = f"{frame.dtype} of shape {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
    raise VideoError(f"render() with render_mode 'rgb_array' must return uint8 of shape (height, width, 3), got {got}")


def _enlarge(picture: np.ndarray) -> np.ndarray:
    """Scale by an integer, which keeps edges crisp, to at least ``MIN_SIDE``; repeat the last row and column of odd sides."""
    scale = math.ceil(MIN_SIDE / min(picture.shape[:2]))
    large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = large.shape[:2]
    return np.ascontiguousarray(np.pad(large, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def _import_ffmpeg() -> ModuleType:
    try:
        return importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ImportError("videos need imageio-ffmpeg: pip install 'sb3-matrl[record]'") from error
