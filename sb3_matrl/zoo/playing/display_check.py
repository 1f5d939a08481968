"""A game that is to be shown on the screen of a machine that has none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

# Drivers of SDL that draw to memory only. pygame falls back to them where it finds no screen.
_INVISIBLE = ("dummy", "offscreen")


class NoScreenError(ValueError):
    """A game cannot be shown in a window: the environment does not draw one, or the machine has no screen."""


def check_showable(env_id: str, metadata: Mapping[str, Any]) -> None:
    """
    Check, before any episode is played, that an environment can be shown.

    :param env_id: id of the environment
    :param metadata: ``metadata`` of the environment
    :raises ValueError: if it has no render mode ``human``
    """
    modes = list(metadata.get("render_modes") or [])
    if "human" not in modes:
        raise ValueError(
            f"env {env_id} cannot be shown by --render: it has no render_mode 'human', only {', '.join(modes) or 'none'}"
        )


def checked_window(render: Callable[[], object]) -> Callable[[], object]:
    """
    Wrap the ``render`` of an environment with a window: its first call checks that the window can be seen.

    Who sets ``SDL_VIDEODRIVER`` has chosen the driver, and is not checked.

    :param render: function that draws a frame
    :return: function that draws a frame
    :raises NoScreenError: by that function, if pygame has no screen to open its window on
    """
    first = True

    def checked() -> object:
        nonlocal first
        if not first:
            return render()
        first = False
        return _first_frame(render)

    return checked


def _first_frame(render: Callable[[], object]) -> object:
    try:
        drawn = render()
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "pygame":
            raise
        raise NoScreenError(_message(str(error))) from error
    if not os.environ.get("SDL_VIDEODRIVER") and _driver() in _INVISIBLE:
        raise NoScreenError(_message(f"pygame draws to the driver {_driver()!r}"))
    return drawn


def _driver() -> str | None:
    """Driver of pygame's window; ``None`` without one."""
    pygame = sys.modules.get("pygame")
    return str(pygame.display.get_driver()) if pygame is not None and pygame.display.get_init() else None


def _message(reason: str) -> str:
    return f"--render found no screen to show the game on ({reason}): set DISPLAY, or write a video by --record game.mp4"
