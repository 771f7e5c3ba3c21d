"""Film: writes episodes as a GIF or MP4 with ffmpeg, frame by frame; the file appears complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from really._utils.atomic_files import check_replaceable, replacing, writable_folder
from really._utils.checks import checked_path
from really._utils.packages import needed
from really.envs.batch import EnvironmentBatch
from really.envs.environment import Environment
from really.envs.spec import EnvironmentSpec
from really.errors import EnvironmentFailedError, InvalidValueError
from really.evaluation.rendering import frame_of, frames_per_second, with_frames
from really.evaluation.viewer import Viewer, Watcher, watched_batch

EXPECTED = "expected True, False, 'gif', 'mp4' or a path that ends in .gif or .mp4"
# Browsers slow a GIF down tenfold if its frames last less than 0.02 s.
MAX_GIF_FPS = 50
# Smaller frames are enlarged by an integer factor: a gridworld may render one pixel per field.
MIN_SIDE = 320
# First bytes of a file. An MP4 starts with the length of its first box, which is short.
MAGIC = {".gif": b"GIF8", ".mp4": b"\0\0\0"}
ENCODERS = {
    # One palette for each frame: a common palette would need all frames in memory first.
    ".gif": "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1",
    # H.264 in the pixel format that every player knows needs even sides.
    ".mp4": "pad=ceil(iw/2)*2:ceil(ih/2)*2,format=yuv420p",
}
# ffmpeg omits parts of a GIF frame that have the same colour numbers as before. That is wrong here, since each frame
# has a palette of its own, so `-gifflags 0` turns it off.
OPTIONS = {
    ".gif": ["-gifflags", "0", "-global_palette", "0", "-f", "gif"],
    ".mp4": ["-c:v", "libx264", "-movflags", "+faststart", "-f", "mp4"],
}


class Film(Viewer, Watcher):
    """Films episodes one after the other, each from its first to its last state.

    Args:
        render: a path that ends in .gif or .mp4, whose folder is created if it is missing; or 'gif' or 'mp4' for
            `<name>.gif` or `<name>.mp4` in the current folder. An existing film is replaced.
        name: name of the environment.

    Attributes:
        path: path of the film, which exists after the episodes have ended.
        frames: number of frames written.

    Raises:
        InvalidValueError: the path has another ending or cannot be written.
        MissingPackageError: the extra `video` is not installed.
    """

    at_once = 1

    def __init__(self, render: str | os.PathLike[str], name: str) -> None:
        self.path: Path = _path_of(render, name)
        self.frames = 0
        self._what, self._name = f"render={os.fspath(render)!r}", name
        self._kind = self.path.suffix.lower()
        self._ffmpeg = _ffmpeg(self._what)
        writable_folder(self._what, self.path.parent)
        check_replaceable(self.path, MAGIC[self._kind], "a film", self._what)
        self._seen: list[NDArray[np.uint8]] = []
        self._start: NDArray[np.uint8] | None = None
        self._encoder: _Encoder | None = None
        self._first: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
        self._fps = 0.0

    def batch(
        self, spec: EnvironmentSpec, seeds: Sequence[np.random.SeedSequence], vector: str = "auto"
    ) -> EnvironmentBatch:
        """Makes one plain instance. Raises InvalidValueError if it renders no frames."""
        environment, self._first = with_frames(spec, self._what)
        self._fps = frames_per_second(environment)
        return watched_batch(spec, seeds[0], environment, self)

    def see(self, environment: Environment, is_start: bool) -> None:
        """Keeps the frame until the step has ended, and a start frame until an episode continues from it."""
        frame = frame_of(environment, self._name, self._what)
        if frame.shape != self._first.shape:
            raise EnvironmentFailedError(
                f"{self._what}: expected frames {list(self._first.shape)} as before, got {list(frame.shape)}"
            )
        if is_start:
            self._start = frame
            return
        self._seen += [frame] if self._start is None else [self._start, frame]
        self._start = None

    def after_step(self) -> None:
        """Passes the frames of this step to the encoder."""
        for frame in self._seen:
            self._encoder.write(frame)  # type: ignore[union-attr]
        self.frames += len(self._seen)
        self._seen.clear()

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Films the episodes that are played in this context. Raises FileError if the film cannot be written."""
        with replacing(self.path, MAGIC[self._kind], "a film") as file:
            self._encoder = _Encoder(self._ffmpeg, file.name, self._kind, self._first.shape, self._fps)
            try:
                yield
                self._encoder.finish()
            finally:
                self._encoder.end()
        print(f"film of {self.frames:,} frames: {self.path}")


class _Encoder:
    """An ffmpeg process that reads frames from a pipe and writes the film to disk, so memory stays small."""

    def __init__(self, ffmpeg: str, path: str, kind: str, shape: Sequence[int], fps: float) -> None:
        height, width = shape[:2]
        command = [ffmpeg, "-y", "-loglevel", "error", "-nostats"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "pipe:0"]
        command += ["-filter_complex", _filters(kind, max(height, width), fps), *OPTIONS[kind], path]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it with the process
        # In a process group of its own ffmpeg gets no Ctrl-C; `end` ends it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log, process_group=0
        )

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Writes one frame `[height, width, 3]`; waits if encoding is slower than playing."""
        try:
            self._process.stdin.write(frame.data)  # type: ignore[union-attr]
        except BrokenPipeError:
            raise self._failed() from None

    def finish(self) -> None:
        """Completes the film. Raises OSError with ffmpeg's message if that fails."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        if self._process.wait():
            raise self._failed()

    def end(self) -> None:
        """Ends the process, in whatever state it is."""
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._log.close()

    def _failed(self) -> OSError:
        self._process.wait()
        self._log.seek(0)
        messages = self._log.read().decode(errors="replace").strip().splitlines()
        return OSError(errno.EIO, f"ffmpeg ended with {self._process.returncode}: {' / '.join(messages[-3:])}")


def _filters(kind: str, side: int, fps: float) -> str:
    scale = max(1, MIN_SIDE // side)
    filters = [f"scale=iw*{scale}:ih*{scale}:flags=neighbor"] if scale > 1 else []
    if kind == ".gif" and fps > MAX_GIF_FPS:
        filters.append(f"fps={MAX_GIF_FPS}")
    return ",".join([*filters, ENCODERS[kind]])


def _path_of(render: str | os.PathLike[str], name: str) -> Path:
    path = checked_path("render", render)
    if os.fspath(render) in ("gif", "mp4"):
        return path.parent / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-.') or 'film'}.{render}"
    if path.suffix.lower() not in MAGIC or not path.stem:
        raise InvalidValueError(f"render: {EXPECTED}, got {os.fspath(render)!r}")
    return path


def _ffmpeg(what: str) -> str:
    with needed(what, "imageio-ffmpeg for films", "video"):
        import imageio_ffmpeg
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise InvalidValueError(f"{what}: expected imageio-ffmpeg to have a program for films, got {error}") from error
