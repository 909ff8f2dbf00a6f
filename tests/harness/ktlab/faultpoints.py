# SPDX-License-Identifier: Apache-2.0
"""Control of tests/faults/killpoint.c, which is preloaded into the programs of a laboratory: one folder for each machine."""
import os

LIBRARY = "kt_killpoint.so"
COORDINATOR, OWNER, SERVE, RUN = "coordinator", "owner", "serve", "run"  # classes of programs


class Place:
    """One machine's folder: what is to happen in its programs, and what did."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def _path(self, what, kind):
        return os.path.join(self.folder, f"{what}.{kind}")

    def _write(self, path, text):
        with open(path + ".new", "w", encoding="utf-8") as f:
            f.write(f"{text}\n")
        os.rename(path + ".new", path)

    def _read(self, what, kind):
        try:
            with open(self._path(what, kind), encoding="utf-8") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def arm(self, kind, point="count"):
        """From now on steps are counted from 1; `point` is "N before" or "N after": the program dies there."""
        self.disarm(kind)
        self._write(self._path("point", kind), point)

    def disarm(self, kind):
        for what in ("point", "count", "log", "fired"):
            if os.path.exists(self._path(what, kind)):
                os.unlink(self._path(what, kind))

    def below(self, kind, folder):
        """Only steps on paths below this folder count (for programs that start from now on)."""
        self._write(self._path("below", kind), folder)

    def nap(self, kind, milliseconds):
        """No sleep is longer (for programs that start from now on)."""
        self._write(self._path("nap", kind), milliseconds)

    def warp(self, kind, factor):
        """Timers of event loops run so much faster (in programs that start from now on)."""
        self._write(self._path("warp", kind), factor)

    def pause(self, kind, text):
        """The next step on a path with this text waits until `go`."""
        self.go(kind)
        self._write(self._path("pause", kind), text)

    def go(self, kind):
        for what in ("pause", "paused"):
            if os.path.exists(self._path(what, kind)):
                os.unlink(self._path(what, kind))

    def paused(self, kind):
        """"step path" a line, of what waits or has waited."""
        return self._read("paused", kind).strip()

    def clock(self, seconds):
        """The clock of this machine's programs is ahead by so much, at once."""
        self._write(os.path.join(self.folder, "clock"), seconds)

    def count(self, kind):
        return int(self._read("count", kind).strip("\0\n") or 0)

    def steps(self, kind):
        """["N step path", ...] since it was armed."""
        return self._read("log", kind).splitlines()

    def fired(self, kind):
        """"N before|after step path" when the program was ended there, else ""."""
        return self._read("fired", kind).strip()
