"""Builds the extensions `really._ring` and `really._sum_tree` from csrc/; everything else stands in pyproject.toml.

`REALLY_DEBUG=1` builds them with bounds checks, C assertions and line tracing, without optimisation;
`REALLY_SANITIZE=address,undefined` with those sanitizers; `REALLY_UNLOCKED=1` without their locks,
`REALLY_EARLY_COMMIT=1` with rows committed before they are written, for the tests that must fail then.
"""

import os
from glob import glob

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

SETTINGS = {
    "include_dirs": ["csrc", np.get_include()],
    "depends": glob("csrc/*.pxd") + glob("csrc/*.h"),
    "define_macros": [
        ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
        *(TRACE if DEBUG else []),
        *((name, "1") for name in BROKEN),
    ],
    "extra_compile_args": FLAGS.get(MODE, ["-O3", "-funroll-loops", "-DNDEBUG"]),
    "extra_link_args": [f"-fsanitize={SANITIZE}"] if SANITIZE else [],
}

extensions = [Extension(f"really.{name}", [f"csrc/{name}.pyx"], **SETTINGS) for name in ("_ring", "_sum_tree")]

directives = {
    "language_level": "3",
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "linetrace": DEBUG,
    "cdivision": True,
    "embedsignature": True,
}

# A folder a mode: C code is made anew only where its source is newer, so one mode would compile the other's.
setup(
    ext_modules=cythonize(
        extensions, include_path=["csrc"], compiler_directives=directives, build_dir=f"build/cython-{MODE}"
    )
)
