"""Files that are read: every failure of a parser is an error of this package that names the file."""

import pytest

from really._utils.input_files import reading
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
