"""A target of libFuzzer for what parses files: `python -m tests.fuzz_target NAME [options of libFuzzer]` (make fuzz).

atheris measures which lines of this package a content reaches, and looks for contents that reach others. An input is
the number of a file, in one byte, and its content; the other files of its kind stay whole. Names are those of
`tests.fuzzing.ATTACKS`. Those that begin with "crafted" get past checksums, which no fuzzer guesses.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzzing import Target


def inputs(target: Target) -> list[bytes]:
    """The inputs from which the search begins: each file as it was written."""
    return [bytes([number]) + content for number, content in target.contents()]


def try_one(target: Target, data: bytes) -> None:
    """Reads one input; raises AssertionError unless it was held."""
    ended = target.attack_with(data[0], data[1:]) if data else "held"
    assert ended == "held", ended


def search(name: str, folder: Path, options: list[str]) -> None:
    """Searches until an input falls or the options end it; libFuzzer then ends the process."""
    import atheris

    # Only what is imported here is measured.
    with atheris.instrument_imports(include=["really"], enable_loader_override=False):
        import really.replay.io.saving  # noqa: F401 - else imported while a file is read
        from tests.fuzzing import Target
    target, corpus = Target(name, folder / "target"), folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(inputs(target)):
        (corpus / str(number)).write_bytes(data)
    atheris.Setup([sys.argv[0], f"-max_len={1 << 18}", *options, str(corpus)], lambda data: try_one(target, data))
    atheris.Fuzz()


def main(name: str, options: list[str]) -> int:
    """Searches in a child process, and removes what it leaves; returns 0 if all inputs were held."""
    from tests.fuzzing import ATTACKS, ROOT, folder_in_memory

    if name not in ATTACKS:
        sys.exit(f"expected one of {', '.join(ATTACKS)}, got {name!r}")
    with folder_in_memory(ROOT / "fuzzing") as folder:
        return subprocess.run(
            [sys.executable, "-m", "tests.fuzz_target", "search", name, str(folder), *options]
        ).returncode


if __name__ == "__main__":
    if sys.argv[1:2] == ["search"]:
        search(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main(" ".join(sys.argv[1:2]), sys.argv[2:]))
