"""The hook client: `python3 -I -S client.py prolog|preload|epilog|task SOCKET DEADLINE_S LOG [wait]`.

Asks the node's agent over its unix socket. Whatever goes wrong (no agent, a slow one, garbage, a fault here) ends in
exit status 0 and one log line, because a prolog that fails drains the node. Status FINDING, which only the wrapper
sees, says that the agent found a reason why the job must not start here.
"""

import os
import sys

# The C halves: `socket` and `json` pull in enum, re and selectors, which doubles the start-up time of this process.
try:
    from _signal import ITIMER_REAL, SIG_UNBLOCK, SIGALRM, pthread_sigmask, setitimer, signal
except ImportError:  # pragma: no cover - other Pythons
    from signal import ITIMER_REAL, SIG_UNBLOCK, SIGALRM, pthread_sigmask, setitimer, signal
try:
    from _socket import AF_UNIX, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, socket
except ImportError:  # pragma: no cover
    from socket import AF_UNIX, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, socket
try:
    from _json import encode_basestring_ascii as quoted
    from _json import make_scanner
except ImportError:  # pragma: no cover
    make_scanner = None
    from json.encoder import encode_basestring_ascii as quoted

FINDING = 10
RETRY_S = 10
REPLY_BYTES = 65536
VALUE_BYTES = 4096
# What the agent uses of a hook's environment (Slurm's prolog_epilog guide lists all of it); a job's owner decides
# most of the rest, so it is not passed on.
NAMES = (
    "SLURM_JOB_ID", "SLURM_JOB_UID", "SLURM_JOB_GPUS", "SLURM_JOB_RESTART_COUNT", "SLURM_RESTART_COUNT",
    "SLURM_JOB_EXIT_CODE2",
)  # fmt: skip
PREFIX = "SPANK_SLURMEXT_"


class _Scan:
    """The decoder `_json.make_scanner` reads its settings from."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo = {}  # noqa: RUF012


def request(op: str, env: dict) -> bytes:
    """The request line of a hook."""
    sent = []
    for name, value in env.items():
        if (name in NAMES or name.startswith(PREFIX)) and len(value) <= VALUE_BYTES:
            sent.append(f"{quoted(name)}:{quoted(value)}")
    uid = int(env.get("SLURM_JOB_UID") or os.getuid())
    node = quoted(env.get("SLURMD_NODENAME", ""))
    line = f'{{"op":"{op}","job_id":{int(env["SLURM_JOB_ID"])},"uid":{uid},"node":{node},"env":{{{",".join(sent)}}}}}\n'
    return line.encode()


def ask(op: str, path: str, deadline_s: float) -> dict:
    """One request, one reply line."""
    connection = socket(AF_UNIX, SOCK_STREAM)
    # Kernel timeouts rather than settimeout(): a non-blocking connect() fails at once when the agent's backlog is full.
    timeval = int(deadline_s).to_bytes(8, sys.byteorder) + int(deadline_s % 1 * 1e6).to_bytes(8, sys.byteorder)
    connection.setsockopt(SOL_SOCKET, SO_SNDTIMEO, timeval)
    connection.setsockopt(SOL_SOCKET, SO_RCVTIMEO, timeval)
    connection.connect(path)
    connection.sendall(request(op, os.environ))
    received = b""
    while not received.endswith(b"\n"):
        chunk = connection.recv(REPLY_BYTES)
        if not chunk:
            raise ConnectionResetError("the agent hung up")
        if len(received) + len(chunk) > REPLY_BYTES:
            raise ValueError(f"unusable reply {received[:60]!r}")
        received += chunk
    reply = parse(received.decode())
    if not isinstance(reply, dict):
        raise ValueError(f"unusable reply {received[:60]!r}")  # noqa: TRY004
    if reply.get("ok") is not True:
        raise ValueError(f"agent refused: {reply.get('error')}")
    return reply


def ask_when_there(op: str, path: str, deadline_s: float) -> dict:
    """A job's slices are worth waiting for an agent that is just being restarted: nobody else makes them.
    The alarm ends it.
    """
    while True:
        try:
            return ask(op, path, deadline_s)
        except (FileNotFoundError, ConnectionRefusedError):
            import time

            time.sleep(0.1)


def ask_again(op: str, path: str, deadline_s: float, retry_s: float = RETRY_S) -> dict:
    """A job's models are worth waiting for an agent that is just being restarted, whenever that happens."""
    import time

    lost_s = asked_s = time.monotonic()
    while True:
        try:
            return ask(op, path, deadline_s)
        except OSError:
            now_s = time.monotonic()
            if now_s - asked_s > 1:
                lost_s = now_s  # it was there until now
            if now_s > lost_s + retry_s:
                raise
            time.sleep(0.5)
            asked_s = time.monotonic()


def parse(text: str) -> object:
    """A JSON text."""
    if make_scanner is not None:
        try:
            return make_scanner(_Scan)(text, 0)[0]
        except StopIteration:
            raise ValueError(f"unusable reply {text[:60]!r}") from None
    import json

    return json.loads(text)


def note(log: str, text: str) -> None:
    """One log line, to syslog where the file cannot be written."""
    import time

    job, node = os.environ.get("SLURM_JOB_ID", "?"), os.environ.get("SLURMD_NODENAME", "?")
    line = f"slurmext-hook: node={node} job={job}: {text}".encode(errors="backslashreplace").replace(b"\n", b" ")[:1000]
    try:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z ").encode()
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        os.write(descriptor, stamp + line + b"\n")
    except OSError:
        try:
            syslog = socket(AF_UNIX, SOCK_DGRAM)
            syslog.setblocking(False)  # noqa: FBT003
            syslog.sendto(b"<28>" + line, "/dev/log")  # daemon.warning
        except OSError:
            pass


def tell_tasks(base: str) -> None:
    """No agent answered about a job's models: its tasks are told where those are stored, as the agent last knew."""
    env = os.environ
    uid = int(env["SLURM_JOB_UID"])
    try:
        gids = os.getgrouplist(env["SLURM_JOB_USER"], int(env["SLURM_JOB_GID"]))
    except (KeyError, ValueError, OSError):
        gids = []
    newest = {}
    with open(base + ".catalogue", encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes as long as all the rest
        for line in file:
            name, revision, _, owner, gid, public, storage = line.rstrip("\n").split("\t")
            if public == "1" or uid in (0, int(owner)) or (gid != "-" and int(gid) in gids):
                newest[name] = newest[name + "@" + revision] = name + "@" + revision + "=" + storage
    stored = [newest[word] for word in env["SPANK_SLURMEXT_PRELOAD"].split(",") if word in newest]
    if not stored:
        return
    path = base + ".models/" + str(int(env["SLURM_JOB_ID"]))
    # A step's tasks have the environment of the job's first node, which may have its models.
    line = "unset SLURMEXT_STAGED\nexport SLURMEXT_PRELOAD_FALLBACK=" + ":".join(dict.fromkeys(stored)) + "\n"
    draft = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
    os.write(draft, line.encode())
    os.fchown(draft, uid, -1)
    os.close(draft)
    os.rename(path + ".new", path)  # noqa: PTH104


def main(argv: list) -> int:
    """Run the hook; the status is 0 or FINDING."""
    op, path, deadline, log = argv[1:5]
    deadline_s = float(deadline)

    def give_up(*_: object) -> None:
        note(log, f"{op}: no answer within {deadline} s, going on without the agent")
        without_models()
        os._exit(0)

    def without_models() -> None:
        if op == "preload":
            try:
                tell_tasks(path[: -len(".root.sock")])
            except Exception as fault:  # noqa: BLE001
                note(log, f"{op}: {type(fault).__name__}: {fault}")

    signal(SIGALRM, give_up)
    pthread_sigmask(SIG_UNBLOCK, {SIGALRM})  # the mask is inherited from slurmd
    setitimer(ITIMER_REAL, deadline_s)
    try:
        asking = ask_again if op == "preload" else ask_when_there if argv[5:] else ask
        reply = asking(op, path, deadline_s)
        if op == "prolog" and reply.get("finding"):
            note(log, f"{op}: {reply['finding']}")
            return FINDING
    except BaseException as error:  # noqa: BLE001 - a hook never fails a job by its own fault
        note(log, f"{op}: {type(error).__name__}: {error}; going on without the agent")
        without_models()
    return 0


if __name__ == "__main__":
    status = 0
    try:
        status = main(sys.argv)
    finally:
        os._exit(status)  # skips the interpreter's own clean-up, and with it 2 ms
