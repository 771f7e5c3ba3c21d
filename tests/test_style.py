"""The size gate of the house rules: functions stay small, files short. Ruff holds complexity and docstrings."""

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MEDIAN, P90, LONGEST, FILE = 8, 30, 60, 400
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def docstring(node: ast.AST) -> ast.stmt | None:
    """The statement that documents a module, class or function."""
    first = node.body[0] if getattr(node, "body", None) else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def bodies(source: str) -> Iterator[tuple[str, int]]:
    """Name of each function and how many lines its body spans, from the first statement after the docstring."""
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
    """What the sources break, in words; empty where they keep every limit."""
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
