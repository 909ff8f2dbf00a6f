# SPDX-License-Identifier: Apache-2.0
"""The other tokens: NSS softokn, openCryptoki's soft token, and a TPM (tpm2-pkcs11 on swtpm); SoftHSM is in hsm.py.

    with tokens.make("nss", folder) as token: ...
"""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

from . import LabError, process
from .hsm import SoftHsm
from .state import State
from .token import Token, module_path

OPTIONS = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}


class Nss(Token):
    """Its database is the token; the module has to be told where it is (x-init-reserved)."""

    KIND, LABEL, MODULE, PACKAGE = "nss", "keyturn-nss", "libsoftokn3.so", "libnss3"
    TOOLS = {"certutil": "libnss3-tools"}

    def _create(self):
        self.database = os.path.join(self.folder, "database")
        os.makedirs(self.database, mode=0o700)
        self.run(["certutil", "-N", "-d", f"sql:{self.database}", "-f", self.pin_file])
        self.init_reserved = f"configdir='sql:{self.database}' dbTokenDescription='{self.label}'"
        self.serial = "0" * 16  # of every NSS database

    def tool(self, *arguments, **options):
        raise LabError("pkcs11-tool cannot give NSS its parameter string")


class _Daemon(Token):
    """A token that a process of ours stands for. It is recorded before anything else is done, and ended by its pid."""

    child = None

    def __init__(self, folder, label=None):
        self.state = State(folder + ".state")
        super().__init__(folder, label)

    def _spawn(self, command):
        with open(self.log, "ab") as log:
            child = subprocess.Popen(command, stdout=log, **OPTIONS)
        self.state.add_process(child.pid, f"{self.KIND} token {self.label}")
        return child

    def _await(self, child, answers, seconds=10):
        """Until `answers()`; else its own log."""
        deadline = time.monotonic() + seconds
        while not answers():
            if child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise LabError(f"the {self.KIND} token does not start\n--- {self.log}\n{self.log_text()}")
            time.sleep(0.01)

    @property
    def log(self):
        return os.path.join(self.folder, "log")

    def log_text(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()[-4000:]

    def _end(self, child, number):
        if child is not None and child.returncode is None:
            child.send_signal(number)
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(5)
            self.state.forget_process(child.pid)

    def stop(self):
        self._end(self.child, signal.SIGTERM)

    def kill(self):
        """As a crash ends it."""
        self._end(self.child, signal.SIGKILL)

    def close(self):
        super().close()
        self.state.teardown()
        shutil.rmtree(os.path.dirname(self.state.path), ignore_errors=True)


class OpenCryptoki(_Daemon):
    """pkcsslotd with one soft token, in mount and IPC namespaces of its own: what a machine has of openCryptoki otherwise is
    neither seen nor touched. Programs enter them through `prefix`. Needs root."""

    KIND, LABEL, MODULE, PACKAGE = "opencryptoki", "keyturn-ock", "pkcs11/libopencryptoki.so", "opencryptoki"
    TOOLS = {"pkcsslotd": "opencryptoki", "pkcsconf": "opencryptoki", "unshare": "util-linux", "nsenter": "util-linux"}
    PIN_BYTES = 4  # 8 characters are the most
    HOLD = """set -e
mount -t tmpfs -o mode=755 keyturn-lab /run
mount -t tmpfs -o mode=1777 keyturn-lab /dev/shm
mkdir -p /run/lock/opencryptoki/swtok
chgrp -R pkcs11 /run/lock/opencryptoki "$1/lib"
chmod -R 770 /run/lock/opencryptoki "$1/lib"
mount --bind "$1/lib" /var/lib/opencryptoki
mount --bind "$1/opencryptoki.conf" /etc/opencryptoki/opencryptoki.conf
exec sleep infinity
"""

    holder = None

    def _create(self):
        self.serial = "123"  # of every one
        os.makedirs(os.path.join(self.folder, "lib", "swtok", "TOK_OBJ"))
        os.chmod(self.folder, 0o711)  # the group pkcs11 works in lib
        with open(os.path.join(self.folder, "opencryptoki.conf"), "w", encoding="utf-8") as f:
            f.write("version opencryptoki-3.1\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n")
        self._hold_namespaces()
        self.start()
        initialise_opencryptoki(self.run, self.label, self.so_pin, self.pin)

    def _hold_namespaces(self):
        """They last as long as this process, so that programs can enter them while the daemon is down."""
        self.holder = self._spawn(["unshare", "--mount", "--ipc", "--propagation", "private", "sh", "-c", self.HOLD, "sh",
                                   self.folder])
        namespaces = f"/proc/{self.holder.pid}/ns"
        self.prefix = ["nsenter", f"--mount={namespaces}/mnt", f"--ipc={namespaces}/ipc", "--"]
        self._await(self.holder, lambda: _comm(self.holder.pid) == "sleep")

    def start(self):
        self.child = self._spawn([*self.prefix, "pkcsslotd", "-f"])
        self._await(self.child, lambda: self.run(["pkcsconf", "-t"], check=False).returncode == 0)

    def close(self):
        self.stop()
        self._end(self.holder, signal.SIGKILL)
        super().close()


def initialise_opencryptoki(run, label, so_pin, pin, slot="0"):
    """From the factory's PINs to ours, by pkcsconf: it exits 0 also when a PIN was refused, so the end is looked at.
    `run(command, input=text)` runs a program where the token is."""
    factory = "87654321"
    for option, answers in (("-I", [factory, label]), ("-P", [factory, so_pin, so_pin]), ("-u", [so_pin, pin, pin])):
        run(["pkcsconf", option, "-c", slot], input="".join(answer + "\n" for answer in answers))
    # The PIN that the security officer gave must be changed by the user once.
    other = so_pin[::-1]
    for old, new in ((pin, other), (other, pin)):
        run(["pkcsconf", "-p", "-c", slot], input=f"{old}\n{new}\n{new}\n")
    shown = run(["pkcsconf", "-t"], check=False).stdout
    if label not in shown or "TO_BE_CHANGED" in shown:
        raise LabError(f"the openCryptoki token {label} was not initialised\n{shown}")


class Tpm(_Daemon):
    """tpm2-pkcs11 on a software TPM that listens on two free ports of loopback."""

    KIND, LABEL, MODULE, PACKAGE = "tpm", "keyturn-tpm", "pkcs11/libtpm2_pkcs11.so", "libtpm2-pkcs11-1"
    TOOLS = {"swtpm": "swtpm", "pkcs11-tool": "opensc", "tpm2_flushcontext": "tpm2-tools"}

    def _create(self):
        self.serial = "0" * 16  # of every one
        for name in ("tpm", "store"):
            os.makedirs(os.path.join(self.folder, name), mode=0o700)
        self._choose_ports()
        module = ["pkcs11-tool", "--module", self.module]
        self.run([*module, "--init-token", "--slot-index", "0", "--label", self.label, "--so-pin", self.so_pin])
        self.run([*module, "--token-label", self.label, "--init-pin", "--so-pin", self.so_pin, "--pin", self.pin])

    def _choose_ports(self):
        """Somebody else may take a port between our look and swtpm's: then others are tried."""
        for attempt in range(5):
            self.port = _two_free_ports()
            self.tcti = f"swtpm:host=127.0.0.1,port={self.port}"
            self.env = {"TPM2_PKCS11_STORE": os.path.join(self.folder, "store"), "TPM2_PKCS11_TCTI": self.tcti}
            try:
                return self.start()
            except LabError:
                if attempt == 4 or "Address already in use" not in self.log_text():
                    raise

    def start(self):
        self.child = self._spawn(swtpm_command(os.path.join(self.folder, "tpm"), self.port))
        self._await(self.child, lambda: _listens(self.port))

    def stop(self):
        """In order: a TPM that is switched off while it is in use takes that for a wrong PIN, and locks after three."""
        if self.child is not None and self.child.poll() is None:
            self.tpm2("shutdown", "-c", check=False)
        super().stop()

    def tpm2(self, name, *arguments, **options):
        """One of tpm2-tools on this TPM."""
        return process.run([f"tpm2_{name}", *arguments], env={**os.environ, "TPM2TOOLS_TCTI": self.tcti}, **options)


def swtpm_command(state_folder, port):
    return ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state_folder}",
            "--server", f"type=tcp,port={port},bindaddr=127.0.0.1",
            "--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1", "--flags", "startup-clear,not-need-init"]


def _listens(port):
    """Something does (not tried by a connection, of which swtpm serves one at a time)."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    with open("/proc/net/tcp", encoding="ascii") as f:
        return any(wanted in line for line in f)


def _two_free_ports():
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                two.bind(("127.0.0.1", one.getsockname()[1] + 1))
                return one.getsockname()[1]


def _comm(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8") as f:
        return f.read().strip()
    return None


KINDS = {kind.KIND: kind for kind in (SoftHsm, Nss, OpenCryptoki, Tpm)}


def missing(kind):
    """Why a token of this kind cannot be had here; None when it can."""
    token = KINDS[kind]
    if token is OpenCryptoki and os.getuid() != 0:
        return "not root: openCryptoki gets namespaces of its own"
    for tool, package in getattr(token, "TOOLS", {"softhsm2-util": "softhsm2"}).items():
        if not shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            return f"{tool} is not installed (package {package})"
    try:
        module_path(token.MODULE, token.PACKAGE)
    except LabError as error:
        return str(error)
    return None


@contextlib.contextmanager
def make(kind, folder):
    """A running token of this kind in a new folder; ended afterwards."""
    token = KINDS[kind](folder)
    try:
        yield token
    finally:
        token.close()
