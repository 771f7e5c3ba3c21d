"""Builds the extensions from csrc/, and the long description from README.md.

pyproject.toml has everything else.

`REALLY_DEBUG=1` builds them with bounds checks, C assertions and line tracing, without optimisation;
`REALLY_SANITIZE=address,undefined` with those sanitizers; `REALLY_UNLOCKED=1` without their locks,
`REALLY_EARLY_COMMIT=1` with rows committed before they are written, for the tests that must fail then.
"""

import os
import re
import sys
import tomllib
from glob import glob
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("REALLY_DEBUG") == "1"
SANITIZE = os.environ.get("REALLY_SANITIZE")
BROKEN = [name for name in ("REALLY_UNLOCKED", "REALLY_EARLY_COMMIT") if os.environ.get(name) == "1"]
MODE = "debug" if DEBUG else "sanitized" if SANITIZE else BROKEN[0].lower() if BROKEN else "release"
FLAGS = {
    "debug": ["-O0", "-g", "-UNDEBUG"],
    "sanitized": ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=undefined"],
}
TRACE = [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]

PARTS = ("common", "rows", "frames", "priorities", "trajectories", "steps", "layers")
FOLDERS = ["csrc", *(f"csrc/{name}" for name in PARTS)]

SETTINGS = {
    "include_dirs": [*FOLDERS, np.get_include()],
    "depends": [path for folder in FOLDERS for path in glob(f"{folder}/*.pxd") + glob(f"{folder}/*.h")],
    "define_macros": [
        ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
        *(TRACE if DEBUG else []),
        *((name, "1") for name in BROKEN),
    ],
    "extra_compile_args": FLAGS.get(
        # Without contraction, a product is rounded before it is added, as NumPy does it.
        MODE,
        ["/O2"] if sys.platform == "win32" else ["-O3", "-funroll-loops", "-ffp-contract=off", "-DNDEBUG"],
    ),
    "extra_link_args": [f"-fsanitize={SANITIZE}"] if SANITIZE else [],
}

PACKAGES = {"_step": "really._utils", "_locks": "really._utils", "_layers": "really.policies"}
MODULES = ("_ring", "_sum_tree", "_trajectories", "_step", "_locks", "_layers")
NAMES = [f"{PACKAGES.get(name, 'really.replay')}.{name}" for name in MODULES]
extensions = [Extension(name, [f"csrc/{name.rpartition('.')[2]}.pyx"], **SETTINGS) for name in NAMES]

directives = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "linetrace": DEBUG,
    "cdivision": True,
    "embedsignature": True,
}


def long_description() -> str:
    """README.md for an index of packages: its links are absolute, and lead to the files of this version."""
    root = Path(__file__).parent
    repository = tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    version = re.search(r'^__version__ = "(.+)"$', (root / "really" / "__init__.py").read_text(), re.MULTILINE)[1]
    raw = repository.replace("github.com", "raw.githubusercontent.com")
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:|#)", rf"\1{raw}/v{version}/", (root / "README.md").read_text())
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!https?:|#)", rf"\1{repository}/blob/v{version}/", text)


# A folder a mode: C code is made anew only where its source is newer, so one mode would compile the other's.
setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    ext_modules=cythonize(
        extensions, include_path=FOLDERS, compiler_directives=directives, build_dir=f"build/cython-{MODE}"
    ),
)
