"""SideChannel: answers for a runner's process while its main thread is busy, through a socket of its machine.

Ray runs the methods of an actor in the main thread, as environments expect that use signals, SQLite or asyncio. While
one of them runs, the actor answers no other call. So a thread of this channel answers instead.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping

# Seconds in which an answer must come.
PATIENCE = 2.0
# Bytes of the longest request.
REQUEST_BYTES = 64


class SideChannel:
    """Answers requests with text in a thread of its own.

    The address is an abstract Unix socket, which ends with the process and leaves no file. Only processes of the same
    user get answers.

    Args:
        address: the name of the socket.
        answers: for each request the function that gives its answer.
    """

    def __init__(self, address: str, answers: Mapping[str, Callable[[], str]]) -> None:
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(_path(address))
        self._listener.listen()
        threading.Thread(target=self._serve, name="really-side-channel", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                with connection:
                    self._answer(connection)
            except Exception:
                continue

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        if _user_of(connection) == os.getuid():
            answer = self._answers[connection.recv(REQUEST_BYTES).decode()]()
            connection.sendall(answer.encode(errors="backslashreplace"))


def ask(address: str, request: str) -> str | None:
    """The answer of the process with this address. Returns None if it is not on this machine, or gives no answer."""
    answer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(_path(address))
            connection.sendall(request.encode())
            while part := connection.recv(1 << 16):
                answer += part
        except OSError:
            return None
    return answer.decode() or None


def _path(address: str) -> str:
    """A name in the abstract namespace of Unix sockets, which Linux has."""
    return f"\0really-{address}"


def _user_of(connection: socket.socket) -> int:
    """The user of the process at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", credentials)[1]
    return user
