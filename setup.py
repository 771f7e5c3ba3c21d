"""Builds the compiled extension `really._ring` from csrc/; everything else stands in pyproject.toml."""

import os
from glob import glob

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("REALLY_DEBUG") == "1"

extension = Extension(
    "really._ring",
    ["csrc/_ring.pyx"],
    include_dirs=["csrc", np.get_include()],
    depends=glob("csrc/*.pxd") + glob("csrc/*.h"),
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
    + ([("CYTHON_TRACE", "1")] if DEBUG else []),
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

setup(ext_modules=cythonize([extension], include_path=["csrc"], compiler_directives=directives))
