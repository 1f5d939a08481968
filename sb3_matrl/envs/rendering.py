"""Drawing of grid worlds with pygame, which is imported for the first picture."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

TILE = 64  # pixels per cell
_OVERSAMPLING = 3  # drawn larger, then scaled down for smooth edges

FLOOR = (246, 243, 236)
GRID_LINE = (205, 199, 188)
WALL = (52, 56, 66)
APPLE = (212, 48, 48)
LEMON = (248, 210, 40)
LEAF = (74, 138, 62)
AGENTS = (
    (44, 104, 190),
    (230, 120, 30),
    (36, 150, 110),
    (140, 80, 180),
    (190, 60, 120),
    (90, 120, 130),
    (150, 130, 20),
    (60, 60, 120),
)
STAG = (122, 82, 48)
HARE = (158, 148, 134)
PREY = (108, 142, 52)
LIGHT = (255, 226, 110)
_WHITE = (255, 255, 255)


def import_pygame() -> ModuleType:
    """
    Import pygame.

    :raises ImportError: if pygame is not installed; the message says what to install
    """
    try:
        import pygame
    except ImportError as error:
        raise ImportError("drawing needs pygame: pip install 'sb3-matrl[render]' (render_mode='ansi' does not)") from error
    return pygame


def overlay(floor: Sequence[str], things: Sequence[str]) -> list[str]:
    """
    Lay one grid of symbols over another.

    :param floor: rows of one symbol per cell
    :param things: rows of the same form, where ``"."`` is transparent
    :return: combined rows
    """
    return [
        "".join(below if above == "." else above for below, above in zip(*rows, strict=True))
        for rows in zip(floor, things, strict=True)
    ]


def draw_grid(floor: Sequence[str], things: Sequence[str]) -> np.ndarray:
    """
    Draw a grid world: first the floor, then the things on it.

    Symbols: ``.`` nothing, ``#`` wall, ``*`` lit cell, ``a`` to ``d`` target of agent 0 to 3, ``A`` apple, ``L`` lemon, ``S``
    stag, ``H`` hare, ``P`` prey, ``0`` to ``7`` agent, ``&`` agents 0 and 1 in one cell.

    :param floor: rows of one symbol per cell
    :param things: rows of the same form
    :return: uint8 (height, width, 3)
    """
    pygame = import_pygame()
    tile = TILE * _OVERSAMPLING
    rows, cols = len(floor), len(floor[0])
    surface = pygame.Surface((cols * tile, rows * tile))
    surface.fill(FLOOR)
    for layer in (floor, things):
        for row, symbols in enumerate(layer):
            for col, symbol in enumerate(symbols):
                _draw_symbol(pygame, surface, symbol, pygame.Rect(col * tile, row * tile, tile, tile))
    small = pygame.transform.smoothscale(surface, (cols * TILE, rows * TILE))
    return np.ascontiguousarray(pygame.surfarray.array3d(small).swapaxes(0, 1))


def _draw_symbol(pygame: ModuleType, surface: Any, symbol: str, cell: Any) -> None:
    if symbol in _FILLS:
        pygame.draw.rect(surface, _FILLS[symbol], cell)
    elif symbol in _DRAW:
        _DRAW[symbol](pygame, surface, cell)
    elif symbol.isdigit():
        _draw_agent(pygame, surface, int(symbol), cell)
    elif symbol.islower():
        _draw_target(pygame, surface, ord(symbol) - ord("a"), cell)
    pygame.draw.rect(surface, GRID_LINE, cell, width=_OVERSAMPLING)


def _draw_apple(pygame: ModuleType, surface: Any, cell: Any) -> None:
    x, y = cell.center
    stem = (x + cell.width // 12, y - cell.height * 3 // 10)
    pygame.draw.circle(surface, APPLE, (x, y + cell.height // 20), cell.width // 4)
    pygame.draw.line(surface, WALL, (x, y - cell.height // 6), stem, width=cell.width // 20)
    pygame.draw.ellipse(surface, LEAF, pygame.Rect(stem, (cell.width // 6, cell.height // 10)))


def _draw_lemon(pygame: ModuleType, surface: Any, cell: Any) -> None:
    x, y = cell.center
    tip = cell.width * 3 // 10
    pygame.draw.polygon(surface, LEMON, [(x - tip, y), (x, y - tip // 2), (x + tip, y), (x, y + tip // 2)])
    pygame.draw.ellipse(surface, LEMON, cell.inflate(-cell.width // 2, -cell.height * 3 // 5))


def _draw_stag(pygame: ModuleType, surface: Any, cell: Any) -> None:
    x, y = cell.center
    unit = cell.width // 20
    for side in (-1, 1):
        points = [(x + side * 2 * unit, y - unit), (x + side * 4 * unit, y - 7 * unit), (x + side * 7 * unit, y - 8 * unit)]
        pygame.draw.lines(surface, STAG, False, points, width=unit)
        pygame.draw.line(surface, STAG, points[1], (x + side * 2 * unit, y - 8 * unit), width=unit)
    pygame.draw.ellipse(surface, STAG, pygame.Rect(x - 4 * unit, y - 3 * unit, 8 * unit, 11 * unit))


def _draw_hare(pygame: ModuleType, surface: Any, cell: Any) -> None:
    x, y = cell.center
    unit = cell.width // 20
    for side in (-1, 1):
        ear = pygame.Rect(x + side * 2 * unit - unit, y - 7 * unit, 2 * unit, 8 * unit)
        pygame.draw.ellipse(surface, HARE, ear)
    pygame.draw.circle(surface, HARE, (x, y + 2 * unit), 4 * unit)


def _draw_prey(pygame: ModuleType, surface: Any, cell: Any) -> None:
    x, y = cell.center
    tip = cell.width // 4
    pygame.draw.polygon(surface, PREY, [(x - tip, y), (x, y - tip), (x + tip, y), (x, y + tip)])


def _draw_both(pygame: ModuleType, surface: Any, cell: Any) -> None:
    half = cell.inflate(-cell.width * 2 // 5, -cell.height * 2 // 5)
    for agent, side in ((0, -1), (1, 1)):
        _draw_agent(pygame, surface, agent, half.move(side * cell.width // 5, side * cell.height // 5))


def _draw_agent(pygame: ModuleType, surface: Any, agent: int, cell: Any) -> None:
    pygame.draw.circle(surface, _WHITE, cell.center, cell.width * 37 // 100)
    pygame.draw.circle(surface, AGENTS[agent], cell.center, cell.width * 34 // 100)
    _draw_text(pygame, surface, str(agent), _WHITE, cell)


def _draw_target(pygame: ModuleType, surface: Any, agent: int, cell: Any) -> None:
    pale = tuple((3 * floor + colour) // 4 for floor, colour in zip(FLOOR, AGENTS[agent], strict=True))
    pygame.draw.rect(surface, pale, cell)
    pygame.draw.rect(surface, AGENTS[agent], cell.inflate(-cell.width // 8, -cell.height // 8), width=cell.width // 24)
    _draw_text(pygame, surface, str(agent), AGENTS[agent], cell)


def _draw_text(pygame: ModuleType, surface: Any, text: str, colour: tuple[int, int, int], cell: Any) -> None:
    pygame.font.init()
    picture = pygame.font.Font(None, cell.height // 2).render(text, True, colour)
    surface.blit(picture, picture.get_rect(center=cell.center))


_FILLS = {"#": WALL, "*": LIGHT}
_DRAW = {"A": _draw_apple, "L": _draw_lemon, "S": _draw_stag, "H": _draw_hare, "P": _draw_prey, "&": _draw_both}


class Window:
    """
    Window on the screen, opened by the first frame.

    :param title: text of the title bar
    :param fps: maximum of frames per second; :meth:`show` waits if necessary
    """

    def __init__(self, title: str, fps: float) -> None:
        self.title = title
        self.fps = fps
        self._screen: Any = None
        self._clock: Any = None

    def show(self, frame: np.ndarray) -> None:
        """
        Show a frame.

        :param frame: uint8 (height, width, 3), the same size every time
        """
        pygame = import_pygame()
        if self._screen is None:
            pygame.display.init()
            self._screen = pygame.display.set_mode((frame.shape[1], frame.shape[0]))
            pygame.display.set_caption(self.title)
            self._clock = pygame.time.Clock()
        self._screen.blit(pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self.fps)

    def close(self) -> None:
        """Close the window; a later :meth:`show` opens a new one."""
        if self._screen is not None:
            import_pygame().display.quit()
            self._screen = None
