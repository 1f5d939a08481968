"""Texts on one line."""

from __future__ import annotations


def one_line(thing: object) -> str:
    """
    :param thing: an error, a space with arrays of bounds, or anything else
    :return: its text, with a space for every line break and indentation
    """
    return " ".join(str(thing).split())
