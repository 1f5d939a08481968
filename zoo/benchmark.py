"""``python zoo/benchmark.py``: the same as ``sb3-matrl benchmark``."""

if __name__ == "__main__":
    from _script import run

    run()
