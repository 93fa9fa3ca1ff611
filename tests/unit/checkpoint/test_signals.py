"""When the checkpoint signal comes: heard at once, by the right process, and nobody dies of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import slurmext
from slurmext.checkpoint.signals import wanted_signal

ROOT = Path(slurmext.__file__).parent.parent


def start(code: str, *arguments: object, **environment: str) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.PIPE, env=clean | {"PYTHONPATH": str(ROOT)} | environment)  # fmt: skip


def ended(program: subprocess.Popen) -> tuple[int, str]:
    out, err = program.communicate(timeout=60)
    return program.returncode, out + err


@pytest.mark.parametrize(
    ("spec", "number"), [("auto", 10), ("USR2@30", 12), ("SIGTERM@5", 15), ("auto,chain", 10), ("", 10)]
)
def test_the_signal_of_ckpt(spec, number):
    """--ckpt names the signal; what follows a comma is not about it."""
    assert wanted_signal(spec) == number


LOOP = """
    import os, sys, time
    from slurmext.checkpoint import Checkpointer
    state = {"n": 0}
    ckpt = Checkpointer(state, sys.argv[1], every_s=None)
    first = ckpt.restore() or 0
    print("ready", first, flush=True)
    for step in range(first + 1, 100_000):
        state["n"] = step
        if ckpt.due(step):
            ckpt.save(step)
            print("saved", step, flush=True)
        if step == 50:
            print("fifty", flush=True)
        time.sleep(0.002)
"""


def test_a_term_saves_and_ends_as_a_term_does(tmp_path):
    """The program saves its last step and dies of the signal: never exit status 0, which Slurm would call completed."""
    program = start(LOOP, tmp_path)
    assert program.stdout.readline() == "ready 0\n"
    assert program.stdout.readline() == "fifty\n"
    program.send_signal(signal.SIGTERM)
    status, _ = ended(program)
    assert status == -signal.SIGTERM
    again = start(LOOP, tmp_path)
    assert int(again.stdout.readline().split()[1]) >= 50
    again.kill()
    again.communicate()


def test_a_storm_of_signals(tmp_path):
    """Hundreds of signals cost a few saves, and the program goes on."""
    program = start(LOOP, tmp_path)
    program.stdout.readline()
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        program.send_signal(signal.SIGUSR1)
        time.sleep(0.003)
    program.send_signal(signal.SIGTERM)
    _, text = ended(program)
    assert 1 <= text.count("saved") <= 5, text


def test_children_neither_die_nor_act(tmp_path):
    """A helper that the program forked and a command that it started survive the signals that are sent to all."""
    program = start("""
        import os, signal, subprocess, sys, time
        from slurmext.checkpoint import Checkpointer
        os.setpgid(0, 0)
        ckpt = Checkpointer({}, sys.argv[1], every_s=None)
        command = subprocess.Popen(["sleep", "30"])
        forked = os.fork()
        if forked == 0:
            while True:
                time.sleep(0.05)
        os.killpg(0, signal.SIGUSR1)
        while not ckpt.due():
            time.sleep(0.01)
        ckpt.save(1)
        os.killpg(0, signal.SIGUSR2)
        time.sleep(0.2)
        gone, _ = os.waitpid(forked, os.WNOHANG)
        print("alive", command.poll() is None, gone == 0, flush=True)
        os.kill(forked, signal.SIGTERM)          # a TERM meant for the child ends it
        _, status = os.waitpid(forked, 0)
        print("ended by", os.WTERMSIG(status), flush=True)
        command.kill()
    """, tmp_path)  # fmt: skip
    status, text = ended(program)
    assert status == 0, text
    assert "alive True True" in text and "ended by 15" in text, text


def test_a_term_to_all_spares_forked_helpers_while_the_program_saves(tmp_path):
    """Without its DataLoader workers a program could not finish the step that it is in."""
    program = start("""
        import os, signal, sys, time
        from slurmext.checkpoint import Checkpointer
        os.setpgid(0, 0)
        ckpt = Checkpointer({}, sys.argv[1], every_s=None)
        forked = os.fork()
        if forked == 0:
            while os.getppid() != 1:
                time.sleep(0.05)
            os._exit(0)
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.5)
        print("child gone" if os.waitpid(forked, os.WNOHANG)[0] else "child alive", flush=True)
        while True:
            if ckpt.due():
                ckpt.save(1)
                print("saved", flush=True)
            time.sleep(0.01)
    """, tmp_path)  # fmt: skip
    status, text = ended(program)
    assert status == -15 and text.startswith("child alive\n")
    assert list(tmp_path.glob("save-*-step-1"))


def test_heard_during_a_long_c_call(tmp_path):
    """A thread hears the signal while the main thread is in a call that Python's own handlers wait for."""
    program = start("""
        import ctypes, os, signal, sys, time, threading
        from slurmext.checkpoint import Checkpointer
        with Checkpointer({"n": 1}, sys.argv[1], every_s=None) as ckpt:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with ckpt.quiet(7):
                left = ctypes.CDLL(None).sleep(2)
                returned_s = time.time()
            saved = os.stat(sys.argv[1] + "/save-00000001-step-7").st_mtime
            print("early", saved < returned_s, "call not interrupted", left == 0)
    """, tmp_path)  # fmt: skip
    assert ended(program) == (0, "early True call not interrupted True\n")


def test_a_wake_up_descriptor_that_was_there_before(tmp_path):
    """Whoever had one before is woken by every signal as before."""
    program = start("""
        import os, signal, socket, sys
        from slurmext.checkpoint import Checkpointer
        reader, writer = socket.socketpair()
        reader.settimeout(20); writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        with Checkpointer({}, sys.argv[1], every_s=None):
            os.kill(os.getpid(), signal.SIGUSR1)
            print(reader.recv(1) == bytes([signal.SIGUSR1]), flush=True)
        print(signal.set_wakeup_fd(-1) == writer.fileno(), flush=True)
    """, tmp_path)  # fmt: skip
    assert ended(program) == (0, "True\nTrue\n")


def test_another_library_s_wake_up_descriptor(tmp_path):
    """Asyncio puts its own in place of ours: the signal is heard all the same, and by asyncio as well."""
    program = start("""
        import asyncio, os, signal, sys
        from slurmext.checkpoint import Checkpointer
        ckpt = Checkpointer({}, sys.argv[1], every_s=None)
        async def main():
            heard = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, heard.set)
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGHUP)
            await heard.wait()
            for _ in range(500):
                if ckpt.due():
                    print("due", flush=True)
                    ckpt.save(1)
                    return
                await asyncio.sleep(0.01)
        asyncio.run(main())
        ckpt.close()
    """, tmp_path)  # fmt: skip
    assert ended(program) == (0, "due\n")


def test_a_flag_check_costs_less_than_a_microsecond(tmp_path):
    """`due` at rest is what every step pays."""
    program = start("""
        import sys, timeit
        from slurmext.checkpoint import Checkpointer
        with Checkpointer({}, sys.argv[1], every_s=None) as ckpt:
            print(min(timeit.repeat(lambda: ckpt.due(1), number=20000, repeat=5)) / 20000)
    """, tmp_path)  # fmt: skip
    status, text = ended(program)
    assert status == 0 and float(text) < 1e-6, text


def test_saving_fails_and_training_goes_on(tmp_path):
    """A disk that is full when the thread saves costs a line, not the job."""
    program = start("""
        import os, shutil, signal, sys, time
        from slurmext.checkpoint import Checkpointer
        ckpt = Checkpointer({}, sys.argv[1], every_s=None)
        ckpt.state["bad"] = object()
        os.kill(os.getpid(), signal.SIGUSR1)
        with ckpt.quiet(1):
            time.sleep(0.5)
        print("goes on", ckpt.due(2))
    """, tmp_path)  # fmt: skip
    status, text = ended(program)
    assert status == 0 and "goes on False" in text and "cannot be saved" in text, text
