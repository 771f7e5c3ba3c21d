"""film: makes a GIF of an episode from the frames that a buffer holds, of a long one from its last 5,000."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from really.cli.sources import opened, path_of
from really.errors import InvalidValueError, one_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from really.replay.buffer import ReplayBuffer
    from really.service.sharded_buffer import ShardedBuffer

EXAMPLES = """really film pong_buffer pong.gif
really film pong_buffer pong.gif --episode 3 --fps 15
"""
# More frames make a file that no viewer likes.
MOST_FRAMES = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("path", metavar="PATH", type=path_of, help="a buffer's folder, a saved buffer, a Parquet file")
    parser.add_argument("out", metavar="OUT", type=path_of, help="the film, a file .gif")
    parser.add_argument("--column", default="state", metavar="KEY", help="the frames (default: state)")
    parser.add_argument(
        "--episode", type=int, default=0, metavar="N", help="which of those that ended, 0 is the oldest"
    )
    parser.add_argument("--fps", type=float, default=30.0, help="frames a second (default: 30)")


def run(given: argparse.Namespace) -> None:
    """Writes the film and prints its path and length."""
    from really._utils.packages import needed

    if given.out.suffix.lower() != ".gif":
        raise InvalidValueError(f"OUT: expected a file .gif, got {str(given.out)!r}")
    if not 0 < given.fps <= 100:
        raise InvalidValueError(f"--fps: expected a number > 0 and up to 100, got {given.fps}")
    with needed("OUT", "Pillow, which writes it", "video"):
        from PIL import Image
    with opened(given.path) as buffer:
        if given.column not in (buffer.spec or {}):
            raise InvalidValueError(one_of("--column", given.column, buffer.spec or {}))
        rows = _episode(buffer, given.episode)
        states = buffer.take(rows[-MOST_FRAMES:])[given.column]
        frames = [Image.fromarray(newest_frame(state)) for state in states]
    frames[0].save(given.out, save_all=True, append_images=frames[1:], duration=1000 / given.fps, loop=0)
    left_out = f", the last of the episode's {len(rows):,}" if len(rows) > len(frames) else ""
    print(f"{given.out}: {len(frames):,} frames{left_out}")


def newest_frame(row: NDArray[Any]) -> NDArray[Any]:
    """The picture in a row, `[height, width]` or `[height, width, 3]` uint8: of a stack the newest frame.

    Raises InvalidValueError if the row has none.
    """
    if row.dtype == "uint8" and row.ndim == 3 and row.shape[-1] not in (1, 3):
        row = row[-1] if row.shape[0] < row.shape[-1] else row[..., -1]
    if row.dtype == "uint8" and row.ndim == 3 and row.shape[-1] == 1:
        row = row[..., 0]
    if row.dtype != "uint8" or row.ndim not in (2, 3):
        raise InvalidValueError(
            f"--column: expected frames [height, width], [height, width, 3] or a stack of them, uint8, "
            f"got {row.dtype}{list(row.shape)}"
        )
    return row


def _episode(buffer: ReplayBuffer | ShardedBuffer, number: int) -> NDArray[np.int64]:
    """The rows of the episode with this number, by their places in the buffer."""
    import numpy as np

    from really.cli.info import read_ends

    if (read := read_ends(buffer, ["agent"])) is None:
        raise InvalidValueError(
            "film: expected rows with a column not_done or terminal, which tells where episodes end, got none"
        )
    done, columns = read
    last = np.flatnonzero(done)
    if not 0 <= number < last.size:
        raise InvalidValueError(
            f"--episode: expected a number below {last.size}, the episodes that ended, got {number}"
        )
    agents = columns.get("agent", np.zeros(len(done)))
    own = np.flatnonzero(agents == agents[last[number]])
    earlier = own[own < last[number]]
    start = earlier[done[earlier]].max(initial=-1)
    rows: NDArray[np.int64] = own[(own > start) & (own <= last[number])]
    return rows
