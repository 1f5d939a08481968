"""Constructors that add arguments to those of their base class, with the complete signature for whoever reads it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from sb3_matrl.common.foreign_arguments import unknown_argument

Init = TypeVar("Init", bound=Callable[..., None])


def adds_arguments_to(base: type[Any]) -> Callable[[Init], Init]:
    """
    Decorator of a constructor ``__init__(self, *args, own=..., **kwargs)`` that passes everything on to its base class.

    :func:`inspect.signature`, ``help``, command lines and model files then see all arguments: those of the base class first,
    in their order, then the constructor's own, which are keyword-only. An argument of its own that the base class has, too,
    changes the default. A call with other arguments is a ``TypeError`` that names the class, and what it has instead.

    :param base: class whose constructor gets ``*args`` and ``**kwargs``
    """

    def decorate(init: Init) -> Init:
        inherited = inspect.signature(base.__init__)
        named = inspect.signature(init).parameters.items()
        own = {name: one for name, one in named if one.kind is inspect.Parameter.KEYWORD_ONLY}
        kept = [
            one.replace(default=own.pop(name).default) if name in own else one
            for name, one in inherited.parameters.items()
            if one.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        signature = inherited.replace(parameters=[*kept, *own.values()])

        @functools.wraps(init)
        def checked(self: Any, *args: Any, **kwargs: Any) -> None:
            strangers = [name for name in kwargs if name not in signature.parameters]
            if strangers:
                raise TypeError(unknown_argument(type(self), strangers[0], list(signature.parameters)[1:]))
            init(**signature.bind(self, *args, **kwargs).arguments)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        hints = [get_type_hints(one, include_extras=True) for one in (base.__init__, init)]
        checked.__annotations__ = {
            name: hint for of_one in hints for name, hint in of_one.items() if name in signature.parameters
        }
        return checked  # type: ignore[return-value]

    return decorate
