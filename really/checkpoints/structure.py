"""The structure of a checkpoint's description: which keys it has, and of which types their values are.

A description whose checksum is right may still be none that `really` wrote. So its structure is checked before it is
used, as far as the parts of the run, to which it is compared later, do not show it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from really._utils.checks import checked_integer
from really.checkpoints import array_files
from really.data.schema import shape_from_json
from really.errors import InvalidValueError, ReallyError
from really.replay.removed_rows import from_text

Check = Callable[[Any], object]
"""Raises ValueError, TypeError, LookupError or ArithmeticError for a value that no checkpoint has."""

MOST = (1 << 62) - 1
AGGREGATOR = ("path", "saving_after", "aggregator_keys", "max_size", "tensorboard", "units")
MOMENTS = ("count", "mean", "squares")
GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def check(about: Mapping[str, Any]) -> None:
    """Raises an error that names the part of the description whose structure is another."""
    _fields(*sorted(about.keys() - _PARTS.keys()), **_PARTS)(about)


def check_generator(state: Any) -> None:
    """Raises ValueError, TypeError or LookupError unless the state is one of a generator of NumPy."""
    if state["bit_generator"] not in GENERATORS:
        raise InvalidValueError(f"expected a generator of NumPy, got {state['bit_generator']!r}")
    getattr(np.random, state["bit_generator"])().state = state


def _mapping(check_value: Check) -> Check:
    """The check of a mapping from names to values."""

    def check_mapping(value: Any) -> None:
        if not isinstance(value, dict):
            raise InvalidValueError(f"expected an object, got {type(value).__name__}")
        for name, of_name in value.items():
            _check_named(name, check_value, of_name)

    return check_mapping


def _fields(*names: str, **checks: Check) -> Check:
    """The check of a mapping that has just these names, some of whose values are checked."""

    def check_fields(value: Any) -> None:
        if not isinstance(value, dict) or set(value) != {*names, *checks}:
            raise InvalidValueError(f"expected {', '.join([*names, *checks])}, got {_kind(value)}")
        for name, check_value in checks.items():
            _check_named(name, check_value, value[name])

    return check_fields


def _check_named(name: str, check_value: Check, value: Any) -> None:
    """Adds the name of the value to the error of a check."""
    try:
        check_value(value)
    except ReallyError as error:
        raise InvalidValueError(f"{name}: {error}") from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise InvalidValueError(f"{name}: {type(error).__name__}: {error}") from error


def _optional(check_value: Check) -> Check:
    return lambda value: None if value is None else check_value(value)


def _text(value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidValueError(f"expected text, got {_kind(value)}")


def _count(value: Any) -> None:
    checked_integer("a count", value, 0, MOST)


def _entropy(value: Any) -> None:
    checked_integer("entropy", value, 0)


def _number(value: Any) -> None:
    if isinstance(value, bool) or not (isinstance(value, int | float) and math.isfinite(value)):
        raise InvalidValueError(f"expected a number, got {_kind(value)}")


def _counter(value: Any) -> None:
    if not isinstance(value, str | int | float):
        raise InvalidValueError(f"expected a number, got {_kind(value)}")
    float(value)


def _statistics(moments: Any) -> None:
    _fields(*MOMENTS)(moments)
    count, mean, squares = (moments[name] for name in MOMENTS)
    is_of_numbers = all(isinstance(part, np.ndarray) for part in (count, mean, squares))
    if not is_of_numbers or count.dtype != np.int64 or mean.dtype != np.float64 or squares.dtype != np.float64:
        raise InvalidValueError("expected a count in int64, mean and squares in float64")
    if count.shape != () or count < 0 or mean.shape != squares.shape or not np.all(squares >= 0):
        raise InvalidValueError("expected a count, and mean and squares of one shape")


def _arrays(about: Any) -> None:
    _mapping(_anything)(about)
    array_files.check_described(about["weights"])
    if "groups" in about:
        torch = {"groups": _each(_mapping(_anything)), "numbers": _mapping(_anything), "shapes": _each(_shapes)}
        _fields("weights", **{"framework": _text, "class": _text}, **torch)(about)
    elif "class" in about:
        framework = {"framework": _text} if "framework" in about else {}  # earlier versions did not name it
        _fields("weights", **{"class": _text, "built": _bool, "built_for": _shapes}, **framework)(about)


def _anything(value: Any) -> None:
    """Any value: the optimizer that takes it checks it."""


def _each(check_value: Check) -> Check:
    """The check of a list."""

    def check_list(value: Any) -> None:
        if not isinstance(value, list):
            raise InvalidValueError(f"expected a list, got {_kind(value)}")
        for at, of_list in enumerate(value):
            _check_named(str(at), check_value, of_list)

    return check_list


def _shapes(value: Any) -> None:
    for shape in value:
        shape_from_json(shape)


def _bool(value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidValueError(f"expected true or false, got {_kind(value)}")


def _frames(value: Any) -> None:
    for number in value:
        _count(number)


def _buffer(about: Any) -> None:
    names = ("capacity", "columns", "path", "relative_path", "generator", "moment")
    _mapping(_anything)(about)
    found: dict[str, Any] = {
        name: about[name] for name in names
    }  # there are options, too, which are compared with the buffer's own
    _fields(
        capacity=_count,
        columns=_mapping(_optional(_text)),
        path=_optional(_text),
        relative_path=_optional(_text),
        generator=_optional(check_generator),
        moment=_optional(_any_moment),
    )(found)
    needed = ("generator",) if found["moment"] is None else ("path", "relative_path")
    if any(found[name] is None for name in needed):
        raise InvalidValueError(f"expected {' and '.join(needed)}, got a buffer without")


def _any_moment(moment: Any) -> None:
    (_moment_of_shards if isinstance(moment, dict) and "shards" in moment else _moment)(moment)


def _moment(moment: Any) -> None:
    if isinstance(moment, dict):
        moment = {"removed": "", "branches": [], **moment}
    _fields(
        identity=_text,
        first=_count,
        num_put=_count,
        frames=_frames,
        generator=check_generator,
        removed=_text,
        branches=_branches,
    )(moment)
    if moment["first"] > moment["num_put"]:
        raise InvalidValueError(f"expected rows, got those from {moment['first']} to before {moment['num_put']}")
    from_text(moment["removed"], moment["num_put"] - moment["first"])


def _branches(value: Any) -> None:
    _each(_each(_count))(value)
    if any(len(branch) != 2 for branch in value) or any(a[0] >= b[0] for a, b in itertools.pairwise(value)):
        raise InvalidValueError("expected first rows, which rise, with a key each, got others")


def _moment_of_shards(moment: Any) -> None:
    _fields(
        names=_each(_text),
        shards=_each(_optional(_moment)),
        places=_each(_count),
        runs=_runs,
        first=_count,
        num_put=_count,
        unended=_optional(_count),
        generator=check_generator,
    )(moment)
    num, runs = len(moment["names"]), moment["runs"]
    if len(moment["shards"]) != num or len(moment["places"]) != num or (moment["unended"] or 0) >= max(1, num):
        raise InvalidValueError(f"expected a moment and a place of each of {num} shards, got others")
    if len(runs) and (runs[:, 1].max() >= num or (np.diff(runs[:, 0]) < runs[:-1, 3]).any()):
        raise InvalidValueError("runs: expected rows of these shards, whose numbers rise, got others")
    if not moment["first"] <= moment["num_put"] or (len(runs) and runs[-1, [0, 3]].sum() > moment["num_put"]):
        raise InvalidValueError("runs: expected rows with numbers before that of the next row, got others")


def _runs(value: Any) -> None:
    """Runs of rows, [run, 4] int64: number, shard, place and length."""
    if not isinstance(value, np.ndarray) or value.dtype != np.int64 or (value.size and value.shape[1:] != (4,)):
        raise InvalidValueError(f"expected [run, 4] int64, got {_kind(value)}")
    if value.size and (value.min() < 0 or value[:, 3].min() < 1):
        raise InvalidValueError("expected numbers from 0 on, and rows in each run, got others")


def _kind(value: Any) -> str:
    return f"an object of {', '.join(value)}" if isinstance(value, dict) else repr(value)[:80]


_PARTS: dict[str, Check] = {
    "counters": _mapping(_counter),
    "standing": _fields(
        settings=_mapping(_number),
        version=_count,
        evaluations=_count,
        steps=_count,
        epoch=_count,
        entropy=_entropy,
        restarts=_count,
    ),
    "task": _mapping(_text),
    "arrays": _mapping(_arrays),
    "generators": _mapping(check_generator),
    "statistics": _fields(frozen=_mapping(_statistics), pending=_mapping(_statistics)),
    "buffer": _optional(_buffer),
    "aggregator": _optional(_fields(*AGGREGATOR, init_epoch=_count)),
    "files": _mapping(_fields(bytes=_count, crc32=_count)),
}
