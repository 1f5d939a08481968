"""
Pictures for docs/environments.md: a frame of every environment, some steps into a random episode.

    python -m benchmarks.env_pictures

Needs the extras ``render``, ``mujoco`` and ``atari``. Robots are drawn off screen; if that fails, set ``MUJOCO_GL`` to
``osmesa``. The pictures are reproducible on one machine; the robots' pixels depend on the graphics driver.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sb3_matrl.envs import make
from sb3_matrl.utils.atomic_file import atomic_file

WIDTH = 320  # pixels
COLOURS = 64
SEED = 0


@dataclass(frozen=True)
class Picture:
    """
    Description of a picture.

    :param env_id: id of the environment
    :param steps: random steps before the picture
    :param env_kwargs: options of the environment
    :param zoom: magnification of the middle of the frame's lower edge, for robots far below the camera
    """

    env_id: str
    steps: int
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    zoom: float = 1.0


_LARGE = {"width": 640, "height": 480}
# Name of the file -> picture.
PICTURES = {
    "checkers_v0": Picture("checkers_v0", 12),
    "switch_v0": Picture("switch_v0", 4),
    "stag_hunt_v0": Picture("stag_hunt_v0", 1),
    "escalation_v0": Picture("escalation_v0", 4),
    "predator_prey_v0": Picture("predator_prey_v0", 6),
    "pong_v3": Picture("pong_v3", 60),
    "ant": Picture("ant_2x4", 20, _LARGE),
    "halfcheetah": Picture("halfcheetah_2x3", 20, _LARGE),
    "hopper": Picture("hopper_3x1", 8, _LARGE, zoom=1.35),
    "humanoid": Picture("humanoid_9|8", 5, _LARGE, zoom=1.8),
    "humanoidstandup": Picture("humanoidstandup_9|8", 20, _LARGE, zoom=1.8),
    "pusher": Picture("pusher_3p", 10, _LARGE),
    "reacher": Picture("reacher_2x1", 10, _LARGE),
    "swimmer": Picture("swimmer_2x1", 60, _LARGE),
    "walker2d": Picture("walker2d_2x3", 8, _LARGE, zoom=1.35),
    "manysegmentant": Picture("manysegmentant_2x3", 10, _LARGE),
    "manysegmentswimmer": Picture("manysegmentswimmer_10x2", 60, _LARGE),
}


def frame_of(picture: Picture) -> np.ndarray:
    """
    Play random steps and draw a frame.

    :param picture: description of the picture
    :return: frame, uint8 (height, width, 3)
    :raises ImportError: if the environment needs a package that is missing
    """
    with closing(make(picture.env_id, **picture.env_kwargs, render_mode="rgb_array")) as env:
        env.reset(seed=SEED)
        for index, agent in enumerate(env.possible_agents):
            env.action_space(agent).seed(SEED + index)
        for _ in range(picture.steps):
            if not env.agents:
                break
            env.step({agent: env.action_space(agent).sample() for agent in env.agents})
        return _zoomed(np.asarray(env.render()), picture.zoom)


def _zoomed(frame: np.ndarray, zoom: float) -> np.ndarray:
    height, width = round(frame.shape[0] / zoom), round(frame.shape[1] / zoom)
    left = (frame.shape[1] - width) // 2
    return frame[-height:, left : left + width]


def write_picture(path: Path, frame: np.ndarray) -> None:
    """
    Write a small PNG; grid worlds are enlarged with sharp edges, pictures of robots are averaged down.

    :param path: path of the file
    :param frame: frame, uint8 (height, width, 3)
    """
    image = Image.fromarray(frame)
    scale = WIDTH / image.width
    if scale > 1:
        image = image.resize((image.width * math.ceil(scale), image.height * math.ceil(scale)), Image.Resampling.NEAREST)
    elif scale < 1:
        image = image.resize((WIDTH, round(image.height * scale)), Image.Resampling.LANCZOS)
    with atomic_file(path) as file:
        image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/envs"), help="folder of the pictures")
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES), metavar="NAME", help="draw these alone")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in tqdm(args.only, unit="picture"):
        write_picture(args.out / f"{name}.png", frame_of(PICTURES[name]))


if __name__ == "__main__":
    main()
