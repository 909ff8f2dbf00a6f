# SPDX-License-Identifier: Apache-2.0
"""Running commands on a node with the real ssh client, independent of keyturn's own fleet."""
import os
import shlex
import socket
import time

from . import LabError, process

OPTIONS = ["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=5",
           "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-o", "KexAlgorithms=curve25519-sha256"]


def make_key(path, comment):
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])
    with open(path + ".pub", encoding="utf-8") as f:
        return f.read().strip()


def fingerprint(public_key_file):
    return process.run(["ssh-keygen", "-l", "-f", public_key_file]).stdout.split()[1]


def free_port(address):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind((address, 0))
        return s.getsockname()[1]


class Client:
    def __init__(self, user, host, port, identity, known_hosts):
        self.user, self.host, self.port = user, host, port
        self.command = ["ssh", *OPTIONS, "-i", identity, "-o", f"UserKnownHostsFile={known_hosts}", "-p", str(port),
                        f"{user}@{host}"]

    def run(self, command, check=True, timeout=60, stdin=None):
        """`command` is a list (quoted here) or a line for the node's shell."""
        line = command if isinstance(command, str) else shlex.join(command)
        options = {"input": stdin} if stdin is not None else {}
        return process.run([*self.command, "--", line], check=check, timeout=timeout, **options)

    def wait(self, seconds, still_alive, log):
        """Until a real login works. `still_alive()` false or time over: an error with the server's own log."""
        deadline = time.monotonic() + seconds
        last = "no answer"
        while time.monotonic() < deadline and still_alive():
            try:
                with socket.create_connection((self.host, self.port), 0.5) as s:
                    s.settimeout(2)
                    if s.recv(4) == b"SSH-":
                        done = self.run(["true"], check=False, timeout=10)
                        if done.returncode == 0:
                            return
                        last = done.stderr.strip()
            except OSError as error:
                last = str(error)
            time.sleep(0.05)
        text = ""
        if os.path.exists(log):
            with open(log, encoding="utf-8", errors="replace") as f:
                text = "".join(f.readlines()[-40:])
        raise LabError(f"no ssh login at {self.user}@{self.host}:{self.port}: {last}\n--- {log}\n{text}")
