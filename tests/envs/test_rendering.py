import copy
import subprocess
import sys

import numpy as np
import pytest

from sb3_matrl.envs import checkers_v0, escalation_v0, predator_prey_v0, rendering, stag_hunt_v0, switch_v0
from sb3_matrl.envs.rendering import (
    AGENTS,
    APPLE,
    FLOOR,
    HARE,
    LEMON,
    LIGHT,
    PREY,
    STAG,
    TILE,
    WALL,
    Window,
    draw_grid,
    overlay,
)

WORLDS = [checkers_v0, switch_v0, stag_hunt_v0, escalation_v0, predator_prey_v0]


def tile(frame: np.ndarray, row: int, col: int) -> np.ndarray:
    return frame[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]


def share(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Share of the pixels that have (almost) this colour."""
    return float((np.abs(pixels.astype(int) - colour).max(axis=-1) <= 2).mean())


@pytest.fixture
def hidden_screen(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def test_overlay_lets_the_floor_show_through():
    assert overlay(["#a.", "..."], ["..1", "A.."]) == ["#a1", "A.."]


def test_picture_of_checkers_shows_fruit_and_agents_where_they_are():
    env = checkers_v0.parallel_env(render_mode="rgb_array")
    env.reset()
    frame = env.render()
    assert frame.shape == (3 * TILE, 8 * TILE, 3) and frame.dtype == np.uint8
    assert share(tile(frame, 0, 0), APPLE) > 0.1
    assert share(tile(frame, 0, 1), LEMON) > 0.1
    assert share(tile(frame, 0, 6), AGENTS[0]) > 0.2
    assert share(tile(frame, 2, 6), AGENTS[1]) > 0.2
    assert share(tile(frame, 1, 7), FLOOR) > 0.9


def test_picture_follows_the_agents():
    env = checkers_v0.parallel_env(render_mode="rgb_array")
    env.reset()
    before = env.render()
    env.step({"agent_0": 1, "agent_1": 4})
    after = env.render()
    assert share(tile(before, 0, 5), LEMON) > 0.1 and share(tile(before, 0, 5), AGENTS[0]) == 0
    assert share(tile(after, 0, 5), AGENTS[0]) > 0.2 and share(tile(after, 0, 6), FLOOR) > 0.9
    np.testing.assert_array_equal(tile(before, 2, 6), tile(after, 2, 6))


def test_picture_of_switch_shows_walls_targets_and_agents():
    env = switch_v0.parallel_env(render_mode="rgb_array")
    env.reset()
    frame = env.render()
    assert frame.shape == (3 * TILE, 7 * TILE, 3)
    assert share(tile(frame, 0, 3), WALL) > 0.9
    for agent, (row, col) in enumerate([(0, 1), (0, 5), (2, 1), (2, 5)]):
        assert share(tile(frame, row, col), AGENTS[agent]) > 0.2
    for agent, (row, col) in enumerate([(0, 6), (0, 0), (2, 6), (2, 0)]):
        assert 0.02 < share(tile(frame, row, col), AGENTS[agent]) < 0.4


def test_picture_of_the_stag_hunt_shows_animals_and_both_agents_in_one_cell():
    env = stag_hunt_v0.parallel_env(render_mode="rgb_array")
    env.reset()
    frame = env.render()
    assert frame.shape == (4 * TILE, 4 * TILE, 3)
    assert share(tile(frame, 1, 2), STAG) > 0.08
    assert share(tile(frame, 2, 0), HARE) > 0.08 and share(tile(frame, 1, 3), HARE) > 0.08
    for first, second in zip([3, 3, 0], [1, 2, 2], strict=True):
        env.step({"agent_0": first, "agent_1": second})
    pixels = tile(env.render(), 1, 2)
    assert share(pixels, AGENTS[0]) > 0.05 and share(pixels, AGENTS[1]) > 0.05


def test_picture_of_escalation_shows_the_lit_cell():
    env = escalation_v0.parallel_env(render_mode="rgb_array")
    env.reset(seed=0)
    row, col = divmod(int(env._core.lit[0]), 5)
    assert share(tile(env.render(), row, col), LIGHT) > 0.4


def test_picture_of_predator_prey_shows_eight_predators_and_the_prey():
    env = predator_prey_v0.parallel_env(render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    for agent, cell in enumerate(env._core.cells[0].tolist()):
        assert share(tile(frame, *divmod(cell, 10)), AGENTS[agent]) > 0.2
    for cell in env._core.prey[0].tolist():
        assert share(tile(frame, *divmod(cell, 10)), PREY) > 0.1


def test_agents_are_told_apart_by_colour_and_number():
    frame = draw_grid(["." * 8], ["01234567"])
    assert len({tile(frame, 0, col).tobytes() for col in range(8)}) == 8
    assert share(tile(frame, 0, 0), (255, 255, 255)) > 0.01  # the number


@pytest.mark.parametrize("module", WORLDS)
@pytest.mark.parametrize("mode", ["rgb_array", "human", "ansi"])
def test_nothing_is_drawn_by_reset_and_step(module, mode, monkeypatch):
    def draw(*args: object) -> None:
        raise AssertionError("drawn outside render()")

    env = module.parallel_env(render_mode=mode)
    monkeypatch.setattr(type(env._core), "render", draw)
    monkeypatch.setattr(Window, "show", draw)
    env.reset()
    for _ in range(3):
        env.step(dict.fromkeys(env.agents, 1))
    with pytest.raises(AssertionError, match="drawn outside"):
        env.render()


def test_human_mode_shows_the_picture_in_a_window(hidden_screen):
    import pygame

    env, twin = (checkers_v0.parallel_env(render_mode=mode) for mode in ("human", "rgb_array"))
    for each in (env, twin):
        each.reset()
        each.step({"agent_0": 1, "agent_1": 1})
    assert env.render() is None
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, twin.render())
    assert pygame.display.get_caption()[0] == "checkers_v0"
    env.close()
    assert pygame.display.get_surface() is None
    env.close()


def test_closed_window_opens_again(hidden_screen):
    import pygame

    window = Window("title", fps=1000)
    window.close()
    for _ in range(2):
        window.show(np.zeros((20, 30, 3), dtype=np.uint8))
        assert pygame.display.get_surface().get_size() == (30, 20)
        window.close()


def test_copies_of_an_environment_do_not_take_its_window(hidden_screen):
    import pygame

    env = checkers_v0.parallel_env(render_mode="human")
    env.reset()
    env.render()
    copy.deepcopy(env).close()
    assert pygame.display.get_surface() is not None
    env.close()


def test_missing_pygame_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = checkers_v0.parallel_env(render_mode="rgb_array")
    env.reset()
    with pytest.raises(ImportError, match=r"drawing needs pygame: pip install 'sb3-matrl\[render\]'"):
        env.render()


@pytest.mark.e2e
def test_importing_and_playing_does_not_load_pygame():
    code = (
        "import sys; from sb3_matrl.envs import checkers_v0; env = checkers_v0.parallel_env('human'); env.reset(); "
        "env.step({'agent_0': 1, 'agent_1': 1}); print('pygame' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == "False"
    assert rendering.import_pygame().__name__ == "pygame"
