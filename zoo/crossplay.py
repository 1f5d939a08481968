"""``python zoo/crossplay.py``: the same as ``sb3-matrl crossplay``."""

if __name__ == "__main__":
    from _script import run

    run()
