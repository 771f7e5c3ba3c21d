"""The size gates: small functions, short files, readable lines of Markdown. Ruff checks complexity and docstrings."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MEDIAN, P90, LONGEST, FILE = 8, 30, 60, 400
PROSE = 120
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def docstring(node: ast.AST) -> ast.stmt | None:
    """The docstring statement of a module, class or function, or None."""
    first = node.body[0] if getattr(node, "body", None) else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def bodies(source: str) -> Iterator[tuple[str, int]]:
    """Yields the name of each function and the number of lines in its body, docstring excluded."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DEFINITIONS):
            statements = node.body[1:] if docstring(node) else node.body
            yield node.name, node.end_lineno - statements[0].lineno + 1 if statements else 1


def code_line_numbers(source: str) -> set[int]:
    """Numbers of the lines that hold code: no blank lines, comments or docstrings."""
    documented = (ast.Module, ast.ClassDef, *DEFINITIONS.__args__)
    nodes = [
        found for node in ast.walk(ast.parse(source)) if isinstance(node, documented) and (found := docstring(node))
    ]
    text = {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in LAYOUT]
    return {line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - text


def code_lines(source: str) -> int:
    """How many lines hold code."""
    return len(code_line_numbers(source))


def violations(sources: Mapping[str, str]) -> list[str]:
    """Violations of the limits, as sentences."""
    sizes = [(lines, f"{path}:{name}") for path, source in sources.items() for name, lines in bodies(source)]
    lines = [size for size, _ in sizes]
    found = [f"{where} has a body of {size} lines, the limit is {LONGEST}" for size, where in sizes if size > LONGEST]
    for what, limit, value in (("median", MEDIAN, np.median(lines)), ("p90", P90, np.percentile(lines, 90))):
        if value > limit:
            longest = ", ".join(f"{where} ({size})" for size, where in sorted(sizes, reverse=True)[:10])
            found.append(f"the {what} of function bodies is {value:g} lines, the limit is {limit}; longest: {longest}")
    for path, source in sources.items():
        if (size := code_lines(source)) > FILE:
            found.append(f"{path} has {size} lines of code, the limit is {FILE}")
    return found


def long_lines(documents: Mapping[str, str]) -> list[str]:
    """Lines of Markdown prose that are too long. Tables, code blocks and the targets of links may be longer."""
    found = []
    for path, text in documents.items():
        in_code = False
        for number, line in enumerate(text.splitlines(), 1):
            in_code ^= line.startswith("```")
            size = len(re.sub(r"\]\([^)]*\)", "]", line))
            if size > PROSE and not in_code and not line.startswith("|"):
                found.append(f"{path}:{number} has {size} characters, the limit is {PROSE}")
    return found


def function(name: str, lines: int) -> str:
    body = "".join(f"    x = {number}\n" for number in range(lines))
    return f'def {name}():\n    """Two lines\n    of text."""\n\n{body}\n\n'


def test_really_keeps_the_limits():
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "really").rglob("*.py"))}
    assert len(sources) > 5
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (function("huge", 61) + function("small", 1) * 20, "bad.py:huge has a body of 61 lines, the limit is 60"),
        (function("middling", 9) * 10, "the median of function bodies is 9 lines, the limit is 8"),
        (
            function("long", 31) * 2 + function("short", 3) * 8,
            "the p90 of function bodies is 31 lines, the limit is 30",
        ),
        (function("small", 4) * 81, "bad.py has 405 lines of code, the limit is 400"),
    ],
)
def test_the_gate_is_seen_red(source, message):
    found = violations({"good.py": function("fine", 1), "bad.py": source})
    assert len(found) == 1
    assert found[0].startswith(message)


def test_what_is_no_code_is_not_counted():
    source = '"""Module."""\n\n# why\n' + function("fine", 2) + 'TEXT = """a\nb\nc"""\n'
    assert code_lines(source) == 6
    assert list(bodies(source)) == [("fine", 2)]
    assert violations({"good.py": function("at_the_limit", 60) + function("small", 8) * 20}) == []


def test_lines_of_markdown_are_short():
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert len(paths) > 4
    assert long_lines({str(path.relative_to(ROOT)): path.read_text() for path in paths}) == []


def test_a_long_line_of_markdown_is_seen():
    long = "word " * 24 + "x"
    kept = [f"```\n{long}\n```", f"| {long} |", f"[docs]({'x' * 130})", long[1:]]
    assert long_lines({"good.md": "\n".join(kept), "bad.md": f"\n{long}"}) == [
        "bad.md:2 has 121 characters, the limit is 120"
    ]
