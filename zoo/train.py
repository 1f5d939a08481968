"""``python zoo/train.py``: the same as ``sb3-matrl train``."""

if __name__ == "__main__":
    from _script import run

    run()
