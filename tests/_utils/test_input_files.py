"""Files that are read: every failure of a parser is an error of this package that names the file."""

import tracemalloc
from pathlib import Path

import pytest

from really._utils.input_files import read_small, reading
from really.errors import FileError, InvalidFileError, NotEnoughMemoryError


@pytest.mark.parametrize("raised", [ValueError, KeyError, OverflowError, RecursionError, SyntaxError])
def test_what_a_parser_raises_names_the_file(raised):
    with (
        pytest.raises(InvalidFileError, match=r"folder/file: expected a form, but \w+: '?x"),
        reading("folder/file", "a form"),
    ):
        raise raised("x")


def test_a_size_that_no_memory_has_names_the_file():
    pyarrow = pytest.importorskip("pyarrow")
    message = r"folder/file: expected a form that fits into memory, but .*malloc"
    with pytest.raises(NotEnoughMemoryError, match=message), reading("folder/file", "a form"):
        pyarrow.allocate_buffer(1 << 60)


def test_an_error_that_names_its_file_stays():
    error = FileError(5, "other/file: expected to read it, but no")
    with pytest.raises(FileError) as raised, reading("folder/file", "a form"):
        raise error
    assert raised.value is error


def test_a_small_file_takes_no_more_memory_than_its_content(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100)
    tracemalloc.start()
    try:
        assert read_small(tmp_path / "file") == b"x" * 100
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_may_have_as_many_bytes_as_are_allowed_and_no_more(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert len(read_small(tmp_path / "file", 100)) == 100
    with pytest.raises(InvalidFileError, match="file: expected at most 99 bytes, got 100"):
        read_small(tmp_path / "file", 99)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="a system that tells the size of every file")
def test_a_file_whose_system_tells_no_size_is_read_whole():
    assert read_small("/proc/version") == Path("/proc/version").read_bytes() != b""
