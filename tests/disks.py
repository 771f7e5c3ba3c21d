"""Small file systems of many kinds, as images where root can mount them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SMALLEST = {"xfs": 320 << 20, "btrfs": 160 << 20}
"""Bytes of file systems that are never smaller than that; the others have 48 MB."""
KINDS = ("ext4", "ext2", "ext3", "xfs", "btrfs", "tmpfs", "overlay")
"""ext2 and ext3 have no fallocate: the C library writes into each block instead."""


@contextlib.contextmanager
def disk(folder: Path, kind: str, make: tuple[str, ...] = (), mount: tuple[str, ...] = ()) -> Iterator[Path]:
    """Mounts a new file system of this kind; yields where. `make` are options of mkfs, `mount` options of mount.

    An overlay is over ext4. Skips the test if this machine cannot mount it.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root")
    place = folder / f"disk {kind}"
    place.mkdir(parents=True)
    with contextlib.ExitStack() as ending:
        if kind == "overlay":
            upper = ending.enter_context(disk(folder, "ext4", make, mount))
            for name in ("lower", "upper", "work"):
                (upper / name).mkdir()
            layers = f"lowerdir={upper}/lower,upperdir={upper}/upper,workdir={upper}/work"
            _mount("-t", "overlay", "overlay", "-o", layers, str(place))
        elif kind == "tmpfs":
            _mount("-t", "tmpfs", "tmpfs", "-o", ",".join(("size=48m", *mount)), str(place))
        else:
            image = _image(folder, kind, make)
            ending.callback(image.unlink)  # pytest keeps folders of earlier runs
            _mount("-o", ",".join(("loop", *mount)), str(image), str(place))
        # Lazily: an error may still refer to a mapping.
        ending.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
        yield place


def free_bytes(folder: Path) -> int:
    """Bytes that are left to this user."""
    left = os.statvfs(folder)
    return left.f_bavail * left.f_frsize


def _image(folder: Path, kind: str, make: tuple[str, ...]) -> Path:
    if shutil.which(f"mkfs.{kind}") is None or not os.path.exists("/dev/loop-control"):
        pytest.skip(f"needs loop devices and mkfs.{kind}")
    image = folder / f"image {kind}"
    image.touch()
    os.truncate(image, SMALLEST.get(kind, 48 << 20))
    subprocess.run([f"mkfs.{kind}", "-q", *make, str(image)], check=True, capture_output=True)
    return image


def _mount(*arguments: str) -> None:
    if (done := subprocess.run(["mount", *arguments], capture_output=True, text=True)).returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr}")
