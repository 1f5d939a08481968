"""``python zoo/enjoy.py``: the same as ``sb3-matrl enjoy``."""

if __name__ == "__main__":
    from _script import run

    run()
