"""Builds a wheel for aarch64 on another processor, and runs its buffer tests in an emulator, with larger pages.

Debian's packages bring the compiler, the emulator, and the Python that the wheel is for: that of this machine's
release, whose packages for arm64 are unpacked below `build/`. The tests run once with each kernel and each size of a
page; no kernel depends on that size. They take some 20 minutes on two cores. `make wheel-aarch64` runs this.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

from wheels import ROOT, TESTS, TOOLS, copy_tests, interpreters, repaired_wheel, run

FOLDER = ROOT / "build" / "aarch64"
DEBIAN = FOLDER / "root"
PACKAGES = FOLDER / "packages"
APT = FOLDER / "apt"
NEEDS = {"aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross", "qemu-aarch64": "qemu-user"}
# Debian gives Python and the library of C++ that NumPy needs; wheels give the rest.
UNPACKED = ("python3", "libpython3-dev", "libstdc++6")
INSTALLED = ("pytest", "pytest-timeout", "hypothesis", "scipy", "duckdb")
PLATFORM = "aarch64-manylinux_2_36"
RUNS = (("neon", 16_384), ("plain", 65_536))
# Beside those of all wheels: folders, whose files are mapped page by page, and kernels that no other test has.
MORE_TESTS = (
    *(f"tests/replay/disk/test_{name}.py" for name in ("disk", "priority_files")),
    *(f"tests/replay/test_{name}.py" for name in ("long_rows", "priorities")),
)
DISK, PRIORITIES = (f"tests/replay/disk/test_{name}.py::test_" for name in ("disk", "priority_files"))
# What cannot run there, and why.
DESELECTED = {
    f"{DISK}batches_that_start_again_in_a_forked_process_write_no_generator_to_the_folder": "a fork ends with 127",
    f"{DISK}reopening_a_large_one_takes_no_time": "qemu keeps a table of all pages that are mapped",
    f"{DISK}all_that_goes_in_and_out_works_on_it": "DuckDB's wheel ends with SIGSEGV at pages of 64 kB",
    f"{PRIORITIES}their_memory_counts_on_disk_too": "qemu keeps a table of all pages that are mapped",
    f"{DISK}a_manager_keeps_its_buffer_on_disk": "it needs Keras",
}
# `sys.executable` of the tests: it starts the emulator, also in processes whose PYTHONPATH is another.
START = """#!/bin/sh
PYTHONPATH="$PYTHONPATH:{packages}"
export PYTHONPATH
exec qemu-aarch64 -p "$PAGE_NBYTES" -L '{root}' -0 '{python}' '{root}/usr/bin/{version}' "$@"
"""


def unpack() -> str:
    """Unpacks Debian's packages; returns the name of their Python, such as python3.11."""
    for folder in (APT / "lists" / "partial", APT / "cache" / "archives" / "partial", DEBIAN):
        folder.mkdir(parents=True, exist_ok=True)
    (APT / "status").touch()
    # Lists and archives of its own: this machine gets no package, and its architecture stays the only one.
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "0",
        "Debug::NoLocking": "1",
        "Dir::Cache": APT / "cache",
        "Dir::State": APT,
        "Dir::State::lists": APT / "lists",
        "Dir::State::status": APT / "status",
    }
    apt = ("apt-get", "-qq", *(part for name, value in options.items() for part in ("-o", f"{name}={value}")))
    run(*apt, "update")
    run(*apt, "install", "--yes", "--download-only", *UNPACKED)
    for archive in sorted((APT / "cache" / "archives").glob("*.deb")):
        run("dpkg-deb", "-x", archive, DEBIAN)
    return (DEBIAN / "usr" / "bin" / "python3").readlink().name


def build(version: str, python: Path) -> Path:
    """Builds the wheel by the Python of this machine with the settings of the other one; returns its path in `dist`."""
    source, settings, headers = FOLDER / "source", FOLDER / "settings", FOLDER / "headers"
    run(TOOLS / "uv", "build", "--quiet", "--sdist", "--out-dir", FOLDER)
    (sdist,) = FOLDER.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(source, filter="data")
    (inside,) = source.iterdir()
    for folder in (settings, headers):
        folder.mkdir()
    (data,) = (DEBIAN / "usr" / "lib" / version).glob("_sysconfigdata__aarch64-*.py")
    shutil.copy(data, settings)
    # `pyconfig.h` includes that of its architecture from here; the headers of C are those of the compiler.
    (headers / "aarch64-linux-gnu").symlink_to(DEBIAN / "usr" / "include" / "aarch64-linux-gnu")
    venv = FOLDER / "venv"
    run(TOOLS / "uv", "venv", "--quiet", "--python", python, venv)
    run(TOOLS / "uv", "pip", "install", "--quiet", "--python", venv, "setuptools>=77", "cython>=3.1", "numpy>=2.0")
    variables = {
        "CC": "aarch64-linux-gnu-gcc",
        "LDSHARED": "aarch64-linux-gnu-gcc -shared -Wl,-s",
        "CFLAGS": f"-g0 -I{DEBIAN / 'usr' / 'include' / version} -I{headers}",
        "PYTHONPATH": str(settings),
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "_PYTHON_SYSCONFIGDATA_NAME": data.stem,
    }
    code = f"import setuptools.build_meta as build; build.build_wheel({str(FOLDER)!r})"
    run(venv / "bin" / "python", "-c", code, cwd=inside, **variables)
    return repaired_wheel(FOLDER)


def test(wheel: Path, version: str, python: Path) -> None:
    """Installs the wheel and what it depends on for aarch64, and runs the copied tests there."""
    target = ("--python", python, "--python-platform", PLATFORM, "--python-version", version.removeprefix("python"))
    binary = ("--only-binary", ":all:", "--target", PACKAGES)
    run(TOOLS / "uv", "pip", "install", "--quiet", *target, *binary, wheel, *INSTALLED)
    start = DEBIAN / "usr" / "bin" / "python"
    start.write_text(START.format(root=DEBIAN, python=start, version=version, packages=PACKAGES))
    start.chmod(0o755)
    tests = (*TESTS, *MORE_TESTS)
    copy_tests(FOLDER / "copy", (*tests, "tests/replay/disk/*.py"))
    for name, reason in DESELECTED.items():
        print(f"aarch64: left out, as {reason}: {name}")
    deselected = [part for name in DESELECTED for part in ("--deselect", name)]
    for level, page in RUNS:
        variables = {"PAGE_NBYTES": str(page), "REALLY_CPU": level, "PYTHONPATH": ""}
        print(f"aarch64: kernels {level}, pages of {page:,} bytes", flush=True)
        where = f"import mmap, really; assert mmap.PAGESIZE == {page} and really.__file__.startswith({str(PACKAGES)!r})"
        run(start, "-c", where, cwd=FOLDER / "copy", **variables)
        pytest = ("-m", "pytest", "-p", "no:cacheprovider", "--timeout", "3600", *deselected)
        run(start, *pytest, *tests, cwd=FOLDER / "copy", **variables)


def main() -> None:
    """Builds and tests the wheel; says which tools are missing."""
    if missing := [packages for program, packages in NEEDS.items() if shutil.which(program) is None]:
        sys.exit(f"aarch64: apt-get install {' '.join(missing)}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    version = unpack()
    python = next(interpreters((version.removeprefix("python"),)), None)
    if python is None:
        sys.exit(f"aarch64: the Python of Debian is {version}, and this machine needs the same to build for it")
    test(build(version, python), version, python)


if __name__ == "__main__":
    main()
