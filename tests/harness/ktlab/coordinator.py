# SPDX-License-Identifier: Apache-2.0
"""keyturn itself as a test runs it: every run is recorded, and no output may hold a secret."""
import base64
import dataclasses
import json
import os
import re
import subprocess
import time

from . import LabError

# Exit codes by class (keyturn(1), EXIT STATUS).
OK, INTERNAL, USAGE, INPUT, REFUSED, ROLLED_BACK, HELD, HSM, UNREACHABLE, AUDIT, IO, KEY, BUSY, UNKNOWN, INTERRUPTED = range(15)


class Canaries:
    """Secrets that must never be seen (S6), each in the shapes in which it could leak."""

    def __init__(self):
        self.shapes = {}

    def add(self, name, secret):
        raw = secret.encode() if isinstance(secret, str) else secret
        for shape in (raw, base64.b64encode(raw).rstrip(b"="), raw.hex().encode(), raw.hex().upper().encode()):
            if len(shape) >= 8:
                self.shapes[shape] = name

    def add_key_text(self, name, text):
        """A key as its file holds it: base64 of the bytes."""
        self.add(name, base64.b64decode(text))

    def find(self, data):
        data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        return sorted({name for shape, name in self.shapes.items() if shape in data})

    def scan(self, folder, allowed=()):
        """[(path, secret's name)] of every file below `folder` that holds one, but for the paths in `allowed`."""
        hits = []
        allowed = {os.path.realpath(path) for path in allowed}
        for where, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(where, name)
                if os.path.realpath(path) in allowed or not os.path.isfile(path):
                    continue
                with open(path, "rb") as f:
                    hits += [(path, secret) for secret in self.find(f.read())]
        return hits

    def scan_process(self, pid):
        """[(what, secret's name)] in the argument vector and the environment of a running process."""
        hits = []
        for what in ("cmdline", "environ"):
            try:
                with open(f"/proc/{pid}/{what}", "rb") as f:
                    hits += [(what, secret) for secret in self.find(f.read())]
            except OSError:
                continue
        return hits


@dataclasses.dataclass
class Result:
    command: list
    code: int
    out: str
    err: str
    seconds: float

    def events(self):
        """The objects of `--json`, one a line."""
        return [json.loads(line) for line in self.out.splitlines() if line.strip()]

    def run_id(self):
        found = re.search(r"\b\d{8}T\d{6}Z-[0-9a-f]{6}\b", self.out + self.err)
        if not found:
            raise LabError(f"no run id in the output of {' '.join(self.command)}\n{self.out}{self.err}")
        return found.group(0)

    def __str__(self):
        return f"$ {' '.join(self.command)}\nexit {self.code} after {self.seconds:.1f} s\n{self.out}{self.err}"


class Keyturn:
    """Runs the program for one cluster. `history` has every Result; `canaries` are looked for in each of them. `prefix` is
    what a token needs before the program's name (token.py)."""

    def __init__(self, binary, cluster_file, env=None, canaries=None, prefix=()):
        self.binary = os.path.realpath(binary)
        self.cluster_file = cluster_file
        self.env = {**{name: value for name, value in os.environ.items() if not name.startswith("KEYTURN_")},
                    "NO_COLOR": "1", **(env or {})}
        self.canaries = canaries or Canaries()
        self.prefix = list(prefix)
        self.history = []

    def command(self, *arguments):
        return [*self.prefix, self.binary, "--cluster", self.cluster_file, *arguments]

    def start(self, *arguments, env=None, **options):
        """A running process (Popen), for the tests that kill it. Give it to `finish` afterwards."""
        process = subprocess.Popen(self.command(*arguments), env={**self.env, **(env or {})}, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        process.began = time.monotonic()
        return process

    def finish(self, process, check=None, timeout=300):
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            out, err = process.communicate()
            raise LabError(f"{process.args}: no end after {timeout} s\n{out.decode()}{err.decode()}") from error
        result = Result(process.args, process.returncode, out.decode("utf-8", "replace"),
                        err.decode("utf-8", "replace"), time.monotonic() - process.began)
        self.history.append(result)
        leaked = self.canaries.find(out + b"\0" + err)
        if leaked:
            raise LabError(f"{' '.join(process.args)} printed a secret: {', '.join(leaked)}")
        if check is not None and result.code != check:
            raise LabError(f"exit {result.code} instead of {check}\n{result}")
        return result

    def run(self, *arguments, check=0, env=None, timeout=300):
        """To the end. `check` is the exit code that is right; None: any."""
        return self.finish(self.start(*arguments, env=env), check=check, timeout=timeout)
