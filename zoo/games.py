"""``python zoo/games.py``: the same as ``sb3-matrl games``."""

if __name__ == "__main__":
    from _script import run

    run()
