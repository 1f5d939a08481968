"""Parameters of a sweep: W&B's distributions, sampled by Optuna."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sb3_matrl.utils.suggest import unknown

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# Largest absolute value of a range's ends, and largest number of values of one parameter in a grid.
_MAX_NUMBER = 2**53
_MAX_GRID = 100_000


@dataclass(frozen=True)
class _Kind:
    """A distribution: its keys and properties."""

    needs: tuple[str, ...]
    integer: bool = False
    log: bool = False
    quantised: bool = False


_KINDS = {
    "constant": _Kind(("value",)),
    "categorical": _Kind(("values",)),
    "int_uniform": _Kind(("min", "max"), integer=True),
    "uniform": _Kind(("min", "max")),
    "q_uniform": _Kind(("min", "max"), quantised=True),
    "log_uniform_values": _Kind(("min", "max"), log=True),
    "q_log_uniform_values": _Kind(("min", "max"), log=True, quantised=True),
}


@dataclass(frozen=True)
class Parameter:
    """
    One parameter: a choice of values, or a range of numbers.

    :param name: flag of ``train.py`` without dashes; ``policy_kwargs.net_arch`` is one key of a mapping
    :param values: choices, one for a constant; empty for a range
    :param low: smallest number of the range
    :param high: largest number of the range
    :param integer: whether the range holds only integers
    :param log: whether the logarithm of the number is uniform instead of the number
    :param quantum: sampled numbers are rounded to multiples of it; ``None`` for no rounding
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    integer: bool = False
    log: bool = False
    quantum: float | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the parameter has only one value."""
        return len(self.values) == 1

    def suggest(self, trial: BaseTrial) -> Any:
        """Sample a value for an Optuna trial."""
        if self.is_constant:
            return self.values[0]
        if self.values:
            choices = {_label(value): value for value in self.values}
            return choices[trial.suggest_categorical(self.name, list(choices))]
        if self.integer:
            return trial.suggest_int(self.name, int(self.low), int(self.high))
        return self._rounded(trial.suggest_float(self.name, self.low, self.high, log=self.log))

    def extremes(self) -> list[Any]:
        """All choices, or both ends of the range."""
        if self.values:
            return list(self.values)
        return [int(self.low), int(self.high)] if self.integer else [self._rounded(self.low), self._rounded(self.high)]

    def grid(self) -> list[str] | list[int]:
        """
        Values of a grid search, for Optuna's grid sampler.

        :raises ValueError: if the values cannot be counted
        """
        if self.values:
            return [_label(value) for value in self.values]
        if self.integer:
            if self.high - self.low >= _MAX_GRID:
                raise ValueError(f"parameter {self.name}: a grid of {self.high - self.low + 1:,} values is too large")
            return list(range(int(self.low), int(self.high) + 1))
        raise ValueError(f"parameter {self.name}: a grid needs values, or min and max that are both integers")

    def _rounded(self, number: float) -> float | int:
        if self.quantum is None:
            return number
        # Decimals, so that three times 0.1 is 0.3.
        multiple = Decimal(str(self.quantum)) * round(number / self.quantum)
        return int(multiple) if isinstance(self.quantum, int) else float(multiple)


def _label(value: Any) -> str:
    """Category for Optuna, which wants plain values: JSON text, also because ``1 == True == 1.0``."""
    return json.dumps(value)


def read_parameter(name: str, spec: Any) -> Parameter:
    """
    Check one entry of ``parameters``.

    :param name: key of the entry
    :param spec: value in W&B's schema: ``{value: ...}``, ``{values: [...]}``, ``{min: ..., max: ...}``, with a
        ``distribution`` unless that follows from these keys
    :raises ValueError: on a mistake, or a feature of only one of the two backends
    """
    if not isinstance(spec, Mapping):
        raise ValueError(f"expected a mapping such as {{values: [...]}} or {{min: ..., max: ...}}, got {spec!r}")
    if "parameters" in spec:
        raise ValueError(f"nested parameters are not supported; give each its own entry, {name}.<key>: {{...}}")
    if "probabilities" in spec:
        raise ValueError("probabilities are not supported; all values are equally likely")
    distribution = spec["distribution"] if "distribution" in spec else _guess(spec)
    if not isinstance(distribution, str) or distribution not in _KINDS:
        raise ValueError(unknown("distribution", str(distribution), _KINDS))
    kind = _KINDS[distribution]
    _check_keys(distribution, kind, spec)
    if distribution in ("constant", "categorical"):
        values = [spec["value"]] if distribution == "constant" else spec["values"]
        return Parameter(name, values=_checked_values(values))
    low, high, quantum = _checked_range(kind, spec)
    return Parameter(name, low=low, high=high, integer=kind.integer, log=kind.log, quantum=quantum)


def _guess(spec: Mapping[str, Any]) -> str:
    """W&B's distribution where none is given."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    if "min" not in spec and "max" not in spec:
        raise ValueError(f"expected value, values, or min and max; got {', '.join(map(str, spec)) or 'nothing'}")
    return "int_uniform" if isinstance(spec.get("min"), int) and isinstance(spec.get("max"), int) else "uniform"


def _check_keys(distribution: str, kind: _Kind, spec: Mapping[str, Any]) -> None:
    known = ("distribution", *kind.needs, *(("q",) if kind.quantised else ()))
    for key in spec:
        if key not in known:
            raise ValueError(unknown(f"key of parameters with distribution {distribution},", str(key), known))
    for key in kind.needs:
        if key not in spec:
            raise ValueError(f"a {distribution} parameter needs {' and '.join(kind.needs)}; {key} is missing")


def _checked_values(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"values must be a list with at least one entry, got {values!r}")
    for k, value in enumerate(values):
        _check_value(value)
        if any(_is_same(value, other) for other in values[:k]):
            raise ValueError(f"value {value!r} is given twice")
    return tuple(values)


def _check_value(value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"value {value!r} is no number, text, list or mapping that both backends can hold: {error}") from None


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal; 1 and 1.0 are, but true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool) or not isinstance(one, (int, float)):
        return _label(one) == _label(other)
    return bool(one == other)


def _checked_range(kind: _Kind, spec: Mapping[str, Any]) -> tuple[float, float, float | None]:
    low, high = (_number(key, spec[key], kind.integer) for key in ("min", "max"))
    if low >= high:
        raise ValueError(f"min must be smaller than max, got {low} and {high}")
    if kind.log and low <= 0:
        raise ValueError(f"a logarithmic range needs a min above 0, got {low}")
    quantum = _number("q", spec.get("q", 1), False) if kind.quantised else None
    if quantum is not None:
        _check_quantum(quantum, low, high)
    return low, high, quantum


def _check_quantum(quantum: float, low: float, high: float) -> None:
    """
    :raises ValueError: if rounding to multiples of ``quantum`` leaves one value, or leaves the range
    """
    if quantum <= 0:
        raise ValueError(f"q must be above 0, got {quantum}")
    if high / quantum > _MAX_NUMBER or low / quantum < -_MAX_NUMBER:
        raise ValueError(f"q = {quantum} is too small for numbers from {low} to {high}")
    first, last = (round(end / quantum) * quantum for end in (low, high))
    if first == last:
        raise ValueError(f"q = {quantum} rounds every value from {low} to {high} to {first:g}: give a smaller q")
    tolerance = 1e-9 * max(abs(low), abs(high))
    for key, end, rounded in (("min", low, first), ("max", high, last)):
        if rounded < low - tolerance or rounded > high + tolerance:
            raise ValueError(f"q = {quantum} rounds {key} = {end} to {rounded:g}, out of the range: give multiples of q")


def _number(key: str, value: Any, integer: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)) or value != value:  # NaN
        raise ValueError(f"{key} must be {'an integer' if integer else 'a number'}, got {value!r}")
    if abs(value) > _MAX_NUMBER:  # larger integers are no different floats, and larger floats overflow
        raise ValueError(f"{key} must be a number between {-_MAX_NUMBER:,} and {_MAX_NUMBER:,}, got {value}")
    return value
