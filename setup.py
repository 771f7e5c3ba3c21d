"""Builds the compiled extension `really._ring` from csrc/; everything else stands in pyproject.toml.

`REALLY_DEBUG=1` builds it with bounds checks, C assertions and line tracing, without optimisation.
"""

import os
from glob import glob

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("REALLY_DEBUG") == "1"
MODE = "debug" if DEBUG else "release"
TRACE = [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]

extension = Extension(
    "really._ring",
    ["csrc/_ring.pyx"],
    include_dirs=["csrc", np.get_include()],
    depends=glob("csrc/*.pxd") + glob("csrc/*.h"),
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), *(TRACE if DEBUG else [])],
    extra_compile_args=["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-DNDEBUG"],
)

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
        [extension], include_path=["csrc"], compiler_directives=directives, build_dir=f"build/cython-{MODE}"
    )
)
