"""``python zoo/doctor.py``: the same as ``sb3-matrl doctor``."""

if __name__ == "__main__":
    from _script import run

    run()
