"""Checks of arguments: what they accept, what they return, and what their errors say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from really._utils.checks import checked_integer, checked_mapping, checked_number, checked_path, checked_positive
from really.errors import InvalidTypeError, InvalidValueError


@pytest.mark.parametrize(("given", "limits"), [(1, ()), (np.int8(3), ()), (0, (0,)), (5, (1, 5)), (2**70, ())])
def test_integers_in_range_are_returned_as_int(given: Any, limits: tuple[int, ...]) -> None:
    checked = checked_integer("n", given, *limits)
    assert type(checked) is int
    assert checked == given


@pytest.mark.parametrize(
    ("given", "limits", "error", "message"),
    [
        (0, (), InvalidValueError, "n: expected an integer >= 1, got 0"),
        (6, (2, 5), InvalidValueError, "n: expected an integer from 2 to 5, got 6"),
        (1, (2, 5), InvalidValueError, "n: expected an integer from 2 to 5, got 1"),
        (True, (), InvalidTypeError, r"n: expected an integer >= 1, got True \(bool\)"),
        (np.True_, (), InvalidTypeError, r"n: expected an integer >= 1, got np.True_ \(bool\)"),
        (2.0, (0,), InvalidTypeError, r"n: expected an integer >= 0, got 2.0 \(float\)"),
        (None, (), InvalidTypeError, r"n: expected an integer >= 1, got None \(NoneType\)"),
    ],
)
def test_other_integers_are_refused(given: Any, limits: tuple[int, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        checked_integer("n", given, *limits)


def test_numbers_are_finite_floats() -> None:
    assert checked_number("x", np.float32(0.5), 0, 1) == 0.5
    assert checked_positive("x", 2) == 2.0
    for given in (math.inf, math.nan, -1):
        with pytest.raises(InvalidValueError, match="x: expected a finite number >= 0, got"):
            checked_number("x", given, 0, math.inf)
        with pytest.raises(InvalidValueError, match="x: expected a number > 0, got"):
            checked_positive("x", given)
    for given, got in (([], r"\[\] \(list\)"), ("x", r"'x' \(str\)"), (True, "True"), (np.True_, "np.True_")):
        with pytest.raises(InvalidTypeError, match=f"x: expected a number from 0 to 1, got {got}"):
            checked_number("x", given, 0, 1)
        with pytest.raises(InvalidTypeError, match=f"x: expected a number > 0, got {got}"):
            checked_positive("x", given)


def test_a_mapping_is_copied() -> None:
    given = {"a": 1}
    checked = checked_mapping("kwargs", given)
    assert checked == given
    assert checked is not given
    assert checked_mapping("kwargs", None) == {}
    with pytest.raises(InvalidTypeError, match=r"kwargs: expected a dict or None, got \[\] \(list\)"):
        checked_mapping("kwargs", [])


def test_a_path_in_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert checked_path("path", tmp_path) == tmp_path
    with pytest.raises(InvalidValueError, match="path: expected a path, got 'a' in a folder that is gone"):
        checked_path("path", "a")


def test_a_path_is_text_that_the_system_can_have() -> None:
    assert checked_path("path", "a/b") == Path.cwd() / "a" / "b"
    with pytest.raises(InvalidTypeError, match="path: expected a path, got b'a'"):
        checked_path("path", b"a")
    with pytest.raises(InvalidValueError, match=r"path: expected a path, got .*, which has a zero in it"):
        checked_path("path", "a\0b")
    with pytest.raises(InvalidValueError, match=r"path: expected a path, got 'a.ud800', which no file can have"):
        checked_path("path", "a\ud800")
    with pytest.raises(InvalidValueError, match=r"path: expected a path, got .a.*.: File name too long"):
        checked_path("path", "a" * 300)
    with pytest.raises(InvalidValueError, match=r"path: expected a path, got .a.*.: File name too long"):
        checked_path("path", "a/" * 3000)
    for url in ("s3://bucket/rows", "https://a.b/rows.parquet", "file:///rows"):
        with pytest.raises(InvalidValueError, match=f"^path: expected a path on this machine, got the URL '{url}'$"):
            checked_path("path", url)
    assert checked_path("path", "a:/b") == Path.cwd() / "a:" / "b"


def test_a_tilde_is_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checked_path("path", "~/a") == tmp_path / "a"
    assert checked_path("path", Path("~")) == tmp_path
    assert checked_path("path", "a/~") == Path.cwd() / "a" / "~"
    assert checked_path("path", "~nobody-of-this-name/a") == Path.cwd() / "~nobody-of-this-name" / "a"
