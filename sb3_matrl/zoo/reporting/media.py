"""Pictures embedded in the page: videos of the run folder, or frames of an episode."""

from __future__ import annotations

import base64
import io
import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave

from sb3_matrl.common.loading import load_model
from sb3_matrl.envs.making import make_env
from sb3_matrl.evaluation import EvaluationResult, isolated_random_streams
from sb3_matrl.evaluation.evaluate import structure_of
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.trusted_envs import check_env_of_file
from sb3_matrl.zoo.reporting.run_loading import Run, saved_model

MAX_VIDEO_BYTES = 4_000_000
MAX_EPISODE_FRAMES = 10_000
MAX_FRAME_SIDE = 480
_MIME = {".mp4": "video/mp4", ".gif": "image/gif"}


@dataclass(frozen=True)
class Media:
    """
    A video or picture.

    :param uri: ``data:`` URI with its content
    :param text: content in words, with the name of the run
    :param caption: content in words, without the name of the run
    :param is_video: ``True`` for ``<video>``, ``False`` for ``<img>``
    """

    uri: str
    text: str
    caption: str
    is_video: bool = False


@dataclass(frozen=True)
class Gallery:
    """
    Videos and frames of one run.

    :param run: name of the run
    :param videos: videos in the run folder
    :param frames: frames of an episode, if there are no videos
    :param notes: sentences on the frames, or on why something is missing
    """

    run: str
    videos: tuple[Media, ...] = ()
    frames: tuple[Media, ...] = ()
    notes: tuple[str, ...] = ()


class EpisodeTooLongError(ValueError):
    """An episode has more than :data:`MAX_EPISODE_FRAMES` frames."""


def gallery(run: Run, n_frames: int, trust: bool = False) -> Gallery:
    """
    Videos of a run, or frames of an episode played with its model.

    :param run: loaded run
    :param n_frames: maximum number of frames; 0 to play nothing
    :param trust: play in an environment ``module:callable``, too
    """
    paths = sorted(path for path in run.folder.path.iterdir() if path.suffix.lower() in _MIME)
    small = [path for path in paths if path.stat().st_size <= MAX_VIDEO_BYTES]
    limit = f"{MAX_VIDEO_BYTES / 1e6:.0f} MB"
    notes = [f"{path.name} is not shown: it is larger than {limit}." for path in paths if path not in small]
    videos = tuple(_video(path, run.name) for path in small)
    if videos or not n_frames:
        return Gallery(run.name, videos, notes=tuple(notes))
    try:
        frames, caption = episode_frames(run, n_frames, trust)
    except Exception as error:  # environments of other packages may raise anything; the report is still written
        return Gallery(run.name, notes=(*notes, f"No frames: {' '.join(str(error).split()) or type(error).__name__}."))
    return Gallery(run.name, frames=frames, notes=(*notes, caption))


def _video(path: Path, run: str) -> Media:
    mime = _MIME[path.suffix.lower()]
    return Media(_data_uri(path.read_bytes(), mime), f"{run}: {path.name}", path.name, mime.startswith("video/"))


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def episode_frames(run: Run, n_frames: int, trust: bool = False) -> tuple[tuple[Media, ...], str]:
    """
    Play one greedy episode with the model of a run and keep equally spaced frames.

    :param run: loaded run
    :param n_frames: maximum number of frames, first and last included
    :param trust: play in an environment ``module:callable``, too
    :return: the frames, and a sentence about the episode
    :raises ValueError: if there is no model, the environment is not trusted, or it renders no pictures
    """
    check_env_of_file(run.folder.env_id, run.folder.arguments.name, trust=trust, flag="")
    path = saved_model(run.folder)
    if path is None:
        raise ValueError(f"there is no saved model ({run.folder.last_model.name} or {run.folder.best_model.name})")
    trained = Hyperparameters.from_mapping(str(run.arguments.get("algo")), run.config, "config.yml")
    shown = {**trained.env_kwargs, "render_mode": "rgb_array"}
    model = load_model(path, device="cpu", verbose=0)
    strip = FilmStrip(n_frames)
    with closing(make_env(run.folder.env_id, shown, trained.env_wrapper)) as env, isolated_random_streams(0):
        result = play_episodes(model, env, 1, None, True, 0, lambda: strip.add(env.render()))
    frames = tuple(
        Media(_png(picture), f"{run.name}: after {step} steps", f"after {step} steps") for step, picture in strip.frames()
    )
    length = int(result.lengths[0])
    return frames, f"Greedy episode of {path.name}, seed 0: {_returns_in_words(result)} in {length} steps."


def _returns_in_words(result: EvaluationResult) -> str:
    """Team return of an episode; returns of the agents if they add up to 0."""
    if structure_of([result]) != "constant-sum":
        return f"team return {result.mean:.4g}"
    return "returns " + ", ".join(f"{mean:.4g} of {agent}" for agent, mean in result.agent_means.items())


class FilmStrip:
    """
    A few equally spaced frames of an episode of unknown length: every k-th frame, with k doubled whenever there are too many.

    :param n_frames: number of frames to choose in the end, at least 1
    """

    def __init__(self, n_frames: int) -> None:
        self._n_frames = n_frames
        self._stride = 1
        self._seen = 0
        self._kept: list[tuple[int, np.ndarray]] = []
        self._last: tuple[int, np.ndarray] | None = None

    def add(self, picture: Any) -> None:
        """
        Add the next frame.

        :param picture: array that ``render`` returned; uint8 of shape (height, width, 3)
        :raises ValueError: if it is anything else
        :raises EpisodeTooLongError: after :data:`MAX_EPISODE_FRAMES` frames
        """
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError("render() with render_mode 'rgb_array' did not return uint8 of shape (height, width, 3)")
        if self._seen >= MAX_EPISODE_FRAMES:
            raise EpisodeTooLongError(f"the episode did not end within {MAX_EPISODE_FRAMES} steps")
        self._last = (self._seen, picture.copy())
        if self._seen % self._stride == 0:
            self._kept.append(self._last)
        self._seen += 1
        if len(self._kept) > 8 * self._n_frames:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    def frames(self) -> list[tuple[int, np.ndarray]]:
        """Step and picture of at most ``n_frames`` frames, the first and the last among them."""
        kept = self._kept if self._last is None or self._kept[-1] is self._last else [*self._kept, self._last]
        chosen = np.linspace(0, len(kept) - 1, min(self._n_frames, len(kept))).round().astype(int)
        return [kept[i] for i in chosen]


def _png(picture: np.ndarray) -> str:
    """``data:`` URI of the picture, subsampled to at most :data:`MAX_FRAME_SIDE` pixels on its longer side."""
    stride = max(1, math.ceil(max(picture.shape[:2]) / MAX_FRAME_SIDE))
    small = picture[::stride, ::stride]
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(small), format="png")
    return _data_uri(buffer.getvalue(), "image/png")
