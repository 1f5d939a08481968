"""Videos of agents at play."""

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

from sb3_matrl.envs.making import make_env
from sb3_matrl.envs.wrappers import Wrappers
from sb3_matrl.evaluation import EvaluationResult, isolated_random_streams
from sb3_matrl.evaluation.evaluate import JointPredictor
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.utils.suggest import unknown

MIN_SIDE = 320  # pixels
DEFAULT_FPS = 10.0
# A palette for every frame, so that no colour of a drawn world is lost.
_GIF_PALETTE = "split[frame][copy];[copy]palettegen=stats_mode=single[palette];[frame][palette]paletteuse=new=1:dither=none"
# Differences to the frame before are found by comparing palette indices, which is wrong when palettes differ: whole frames.
_GIF_OPTIONS = ["-filter_complex", _GIF_PALETTE, "-gifflags", "-offsetting-transdiff"]
# Suffix -> how ffmpeg writes it. H.264 wants even sides, and most players its halved colour resolution.
_FORMATS: dict[str, dict[str, Any]] = {
    ".mp4": {"codec": "libx264", "pix_fmt_out": "yuv420p", "quality": 8},
    ".gif": {"codec": "gif", "pix_fmt_out": "pal8", "quality": None, "output_params": _GIF_OPTIONS},
}


class VideoError(ValueError):
    """What an environment draws cannot become a video."""


def check_recordable(env_id: str, env_kwargs: Mapping[str, Any], path: Path, env_wrapper: Wrappers = None) -> None:
    """
    Find out, before anything is played, whether it can be recorded.

    :param env_id: as for :func:`sb3_matrl.envs.making.make_env`
    :param env_kwargs: its options
    :param path: of the video
    :param env_wrapper: what is put around the environment
    :raises ValueError: when the suffix is unknown or the environment draws no pictures
    :raises ImportError: when a package is missing
    """
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"video {path}: {unknown('suffix', path.suffix, _FORMATS)}")
    _import_ffmpeg()
    env = make_env(env_id, env_kwargs, env_wrapper)
    modes = list(env.metadata.get("render_modes") or [])
    env.close()
    if "rgb_array" not in modes:
        raise ValueError(
            f"env {env_id} cannot be recorded: it has no render_mode 'rgb_array', only {', '.join(map(str, modes)) or 'none'}"
        )


def record_video(
    model: JointPredictor,
    env_id: str,
    env_kwargs: Mapping[str, Any],
    path: str | Path,
    *,
    env_wrapper: Wrappers = None,
    deterministic: bool = True,
    n_episodes: int | None = 1,
    n_timesteps: int | None = None,
    seed: int = 0,
    fps: float | None = None,
    on_episode: Callable[[], object] | None = None,
) -> EvaluationResult:
    """
    Play episodes in one copy of an environment and write a video of them: a frame per reset and per step.

    :param model: has MATRL's ``predict``
    :param env_id: as for :func:`sb3_matrl.envs.making.make_env`
    :param env_kwargs: options of the environment, without ``render_mode``
    :param path: of the video, ``.mp4`` or ``.gif``; its folder is made, an older file is replaced, once the video is whole
    :param env_wrapper: what is put around the environment
    :param deterministic: greedy actions
    :param n_episodes: how many; ``None`` for as many as ``n_timesteps`` takes
    :param n_timesteps: start no further episode after so many steps
    :param seed: of the environment and of sampled actions
    :param fps: frames per second; ``None`` for the environment's ``render_fps``, or 10 where it has none
    :param on_episode: called after every episode
    :return: what the episodes brought
    :raises ValueError: as :func:`check_recordable`; :class:`VideoError` when a frame is no picture
    :raises ImportError: when a package is missing
    :raises OSError: when the file cannot be written
    """
    path = Path(path)
    check_recordable(env_id, env_kwargs, path, env_wrapper)
    shown = {**env_kwargs, "render_mode": "rgb_array"}
    with closing(make_env(env_id, shown, env_wrapper)) as env, isolated_random_streams(seed):
        rate = float(env.metadata.get("render_fps") or DEFAULT_FPS) if fps is None else fps
        with video_file(path, rate) as add_frame:

            def keep_frame() -> None:
                add_frame(env.render())

            return play_episodes(model, env, n_episodes, n_timesteps, deterministic, seed, keep_frame, on_episode)


@contextmanager
def video_file(path: Path, fps: float) -> Generator[Callable[[Any], None], None, None]:
    """
    A video that grows frame by frame; the file appears only when the block ends without an error.

    :param path: ``.mp4`` or ``.gif``
    :param fps: frames per second
    :return: a function that adds a frame: uint8, (height, width, 3), the same size every time
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # ffmpeg wants a path, so the file in work gets a folder of its own: on the same disk, to be moved at once.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unfinished = Path(folder) / path.name
        with closing(_Encoder(unfinished, fps)) as encoder:
            yield encoder.add
        unfinished.replace(path)


class _Encoder:
    """
    Sends frames to an ffmpeg process, which starts with the first one: only then their size is known.

    :param path: of the file to write
    :param fps: frames per second
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._shape: tuple[int, ...] | None = None
        self._process: Generator[None, Any, None] | None = None

    def add(self, frame: Any) -> None:
        """
        :param frame: what the environment's ``render`` returned
        :raises VideoError: when that is no picture, or has another size than the one before
        """
        picture = _checked(frame)
        if self._process is None:
            self._shape, self._process = picture.shape, self._start(_prepared(picture).shape)
        if picture.shape != self._shape:
            raise VideoError(f"frames of a video must have one size, got {picture.shape} after {self._shape}")
        self._process.send(_prepared(picture))

    def _start(self, shape: tuple[int, ...]) -> Generator[None, Any, None]:
        process: Generator[None, Any, None] = _import_ffmpeg().write_frames(
            str(self._path),
            (shape[1], shape[0]),
            fps=self._fps,
            macro_block_size=1,  # sizes are right as they are: see _prepared
            ffmpeg_log_level="error",
            **_FORMATS[self._path.suffix.lower()],
        )
        process.send(None)
        return process

    def close(self) -> None:
        """Write what is left and wait for ffmpeg to end."""
        if self._process is not None:
            self._process.close()


def _checked(frame: Any) -> np.ndarray:
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
        return frame
    got = f"{frame.dtype} of shape {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
    raise VideoError(f"render() with render_mode 'rgb_array' must return uint8 of shape (height, width, 3), got {got}")


def _prepared(picture: np.ndarray) -> np.ndarray:
    """The picture with whole multiples of its pixels, so that edges stay crisp, and its last row and column doubled if odd."""
    scale = math.ceil(MIN_SIDE / min(picture.shape[:2]))
    large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = large.shape[:2]
    return np.ascontiguousarray(np.pad(large, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def _import_ffmpeg() -> ModuleType:
    try:
        return importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ImportError("videos need imageio-ffmpeg: pip install 'sb3-matrl[record]'") from error
