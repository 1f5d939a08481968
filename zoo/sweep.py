"""``python zoo/sweep.py``: the same as ``sb3-matrl sweep``."""

if __name__ == "__main__":
    from _script import run

    run()
