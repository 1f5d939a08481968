"""``python zoo/report.py``: the same as ``sb3-matrl report``."""

if __name__ == "__main__":
    from _script import run

    run()
