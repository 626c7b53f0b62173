"""Entry scripts in processes of their own that begin with the libraries imported: forks of one that did so once.

To import them takes longer than most of what tests ask of a script. The suite's own modules are imported anew in each.
"""

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import types
from functools import lru_cache
from pathlib import Path

LIBRARIES = ("lightning.pytorch", "torchvision", "torchmetrics", "matplotlib.figure", "pandas", "omegaconf", "av", "PIL.Image")
LONGEST = 2**20  # bytes of a message


def run(path: Path, words: list[str], cwd: Path, environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess:
    """As ``subprocess.run`` of a script, with its output captured as text and nothing to read. On Linux."""
    channel = server()
    with open(os.devnull, "rb") as nothing, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        request = json.dumps([str(path), words, str(cwd), environment]).encode()
        socket.send_fds(channel, [request], [file.fileno() for file in (nothing, output, errors)])
        pid = int(channel.recv(LONGEST))
        channel.settimeout(timeout)
        try:
            returncode = int(channel.recv(LONGEST))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            channel.settimeout(None)
            channel.recv(LONGEST)
            raise
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([str(path), *words], returncode, *texts)


@lru_cache(maxsize=1)
def server() -> socket.socket:
    """The connection to the process that forks, which ends with this one's; coverage does not measure it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    subprocess.Popen([sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()], env=environment)
    its.close()
    return ours


def serve(channel: socket.socket) -> None:
    """Fork for each request, tell the new process's id and then its status; returns where there are no more requests."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has none of the threads"
    gc.freeze()  # whose memory forks then share
    while True:
        request, descriptors, *_ = socket.recv_fds(channel, LONGEST, 3)
        if not request:
            return
        pid = os.fork()
        if not pid:
            channel.close()
            return become(*json.loads(request), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(str(pid).encode())
        channel.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def become(path: str, words: list[str], cwd: str, environment: dict[str, str], descriptors: list[int]) -> None:
    """Go on as a script that was started in a folder."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if any(key.startswith("COVERAGE_") for key in environment):
        import coverage

        coverage.process_startup()
    sys.argv, sys.path[0] = [path, *words], str(Path(path).parent)
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    main.__file__ = path
    exec(compile(Path(path).read_bytes(), path, "exec"), main.__dict__)


if __name__ == "__main__":
    this = sys.modules["__main__"]  # kept while another stands in its place
    serve(socket.socket(fileno=int(sys.argv[1])))
