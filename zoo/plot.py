"""``python zoo/plot.py``: the same as ``sb3-matrl plot``."""

if __name__ == "__main__":
    from _script import run

    run()
