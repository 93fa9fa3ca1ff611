"""Plain TCP between nodes: a sender and a receiver of nothing in particular, and sendfile as it is at best.

python flows.py sink PORT            counts what arrives, a line for each half second
python flows.py send HOST PORT       sends until it is ended
python flows.py take PORT SIZE FILE  receives a file into its mapping, says how long it took
python flows.py give HOST PORT FILE  sends it with sendfile
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import time
from pathlib import Path


def sink(port: str) -> None:
    """Count."""
    with socket.create_server(("", int(port))) as listener:
        print("ready", flush=True)
        connection, _ = listener.accept()
        buffer = bytearray(1 << 20)
        since, total = time.monotonic(), 0
        while count := connection.recv_into(buffer):
            total += count
            now = time.monotonic()
            if now - since >= 0.5:
                print(f"{total * 8 / (now - since) / 1e6:.1f}", flush=True)
                since, total = now, 0


def send(host: str, port: str) -> None:
    """Send."""
    block = bytes(1 << 20)
    with socket.create_connection((host, int(port))) as connection:
        while True:
            connection.sendall(block)


def take(port: str, size: str, path: str) -> None:
    """Receive, as fast as it goes, into a file in memory whose pages are there; it is mapped anew for each transfer."""
    total = int(size)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(descriptor, 0, total)
    with socket.create_server(("", int(port))) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            started, done = time.monotonic(), 0
            mapping = mmap.mmap(descriptor, total, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            with memoryview(mapping) as view:
                while done < total:
                    with view[done : done + (1 << 22)] as place:
                        count = connection.recv_into(place)
                    if not count:
                        break
                    done += count
            print(time.monotonic() - started, flush=True)
            mapping.close()
            connection.close()


def give(host: str, port: str, path: str) -> None:
    """Send a file."""
    with Path(path).open("rb") as file, socket.create_connection((host, int(port))) as connection:
        size, done = os.fstat(file.fileno()).st_size, 0
        connection.setblocking(True)
        while done < size:
            done += os.sendfile(connection.fileno(), file.fileno(), done, size - done)


if __name__ == "__main__":
    {"sink": sink, "send": send, "take": take, "give": give}[sys.argv[1]](*sys.argv[2:])
