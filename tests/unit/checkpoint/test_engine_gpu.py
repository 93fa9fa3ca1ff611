"""Copies from a GPU, in the order of its streams; CUDA is played here."""

from __future__ import annotations

import contextlib
import threading

from slurmext.checkpoint.engine.torch_arrays import DeviceCopies


class PlayedCuda:
    """torch.cuda as far as copies need it; `done` tells in which order it was used."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.Stream = lambda device: PlayedStream(self, f"side {device}")
        self.Event = lambda: PlayedEvent(self)

    def current_stream(self, device: str) -> PlayedStream:
        return PlayedStream(self, f"main {device}")

    def synchronize(self, device: str) -> None:
        self.done.append(f"everything on {device}")

    @contextlib.contextmanager
    def stream(self, stream: PlayedStream):
        self.done.append(f"on {stream.name}")
        yield
        self.done.append("back")


class PlayedStream:
    def __init__(self, cuda: PlayedCuda, name: str) -> None:
        self.name, self._done = name, cuda.done

    def wait_stream(self, other: PlayedStream) -> None:
        self._done.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: PlayedEvent) -> None:
        self._done.append(f"{self.name} waits for the event of {event.of}")


class PlayedEvent:
    def __init__(self, cuda: PlayedCuda) -> None:
        self.of, self._done = "", cuda.done

    def record(self, stream: PlayedStream) -> None:
        self.of = stream.name

    def synchronize(self) -> None:
        self._done.append(f"the processor waits for {self.of}")


class PlayedTensor:
    def __init__(self, cuda: PlayedCuda) -> None:
        self._done = cuda.done

    def record_stream(self, stream: PlayedStream) -> None:
        self._done.append(f"held for {stream.name}")


def copied(cuda: PlayedCuda) -> DeviceCopies:
    copies = DeviceCopies(["gpu0"], cuda)
    copies.copy("gpu0", [(PlayedTensor(cuda), lambda: cuda.done.append("copy"))])
    copies.end()
    return copies


QUEUED = ["side gpu0 waits for main gpu0", "on side gpu0", "held for side gpu0", "copy", "back",
          "main gpu0 waits for the event of side gpu0"]  # fmt: skip


def test_gpu_copies_stand_between_what_came_before_and_what_comes_after():
    """The copies wait for the work queued so far and later work for them, while the processor goes on until it writes."""
    cuda = PlayedCuda()
    copies = copied(cuda)
    assert cuda.done == QUEUED
    copies.wait()
    assert cuda.done == [*QUEUED, "the processor waits for side gpu0"]


def test_gpu_copies_from_another_thread_wait_for_all_the_gpu_s_work():
    """A thread's current stream is not the one that the program trains on: before and after nothing may be under way."""
    cuda = PlayedCuda()
    thread = threading.Thread(target=copied, args=(cuda,))
    thread.start()
    thread.join()
    assert cuda.done == ["everything on gpu0", *QUEUED, "the processor waits for side gpu0"]
