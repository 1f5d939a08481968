"""Lines of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """
    One line of the report.

    :param subject: part that was checked
    :param ok: whether it is in order; ``None`` for an optional part that is missing
    :param text: state of the part, and a remedy if it is not in order
    """

    subject: str
    ok: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "WRONG", None: "-"}[self.ok]
        return f"{mark:<7}{self.subject:<24}{self.text}"
