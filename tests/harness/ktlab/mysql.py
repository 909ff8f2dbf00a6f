# SPDX-License-Identifier: Apache-2.0
"""A MySQL server of a test's own. Debian 12 has none: it comes out of Debian's sid, debootstrapped once, cached under build/cache and
never changed afterwards, and runs in there (its own libraries) as nobody, with its data in a folder that goes at the end."""
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess

from . import BUILD, LabError, image, mariadb, process

SUITE, PACKAGE, RECIPE = "sid", "mysql-server-core", 1
NOBODY = 65534


def missing():
    """What is not there, None when the server can be had."""
    if os.getuid() != 0:
        return "MySQL's server needs root (debootstrap, chroot)"
    if not shutil.which("debootstrap"):
        return "the package debootstrap is not installed"
    return mariadb.missing()  # its client is the one that the tests use


def tree(cache=os.path.join(BUILD, "cache")):
    """The path of the tree with mysqld; made when it is not there yet (about a minute). LabError: it cannot be had."""
    key = hashlib.sha256(f"{RECIPE} {SUITE} {PACKAGE}".encode()).hexdigest()[:12]
    final = os.path.join(cache, f"mysql-{SUITE}-{key}")
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(final):
            _build(final, os.path.join(cache, "mysql.log"))
    return final


def _build(final, log):
    """The packages unpacked; none of them is set up, for nothing but mysqld is run."""
    work = f"{final}.{os.getpid()}.new"
    shutil.rmtree(work, ignore_errors=True)
    try:
        with open(log, "w", encoding="utf-8") as output:
            done = subprocess.run(["debootstrap", "--foreign", "--variant=minbase", f"--include={PACKAGE}", SUITE, work,
                                   image.mirror(image.suite())], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                  env=image.proxy_environment(), timeout=300, check=False)
        if done.returncode != 0:
            with open(log, encoding="utf-8") as f:
                raise LabError(f"debootstrap of {SUITE} with {PACKAGE} failed ({done.returncode}): {f.read()[-300:]}")
        archives = os.path.join(work, "var/cache/apt/archives")
        for name in sorted(os.listdir(archives)):
            if name.endswith(".deb"):
                process.run(["dpkg-deb", "-x", os.path.join(archives, name), work])
        shutil.rmtree(archives)
        process.run(["chroot", work, "/usr/sbin/mysqld", "--no-defaults", "--version"])  # all that it needs is there
        os.rename(work, final)
    except subprocess.TimeoutExpired as error:
        shutil.rmtree(work, ignore_errors=True)
        raise LabError(f"debootstrap of {SUITE} with {PACKAGE} takes too long") from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


class Server(mariadb.Server):
    """As mariadb.Server, whose client it is asked with; on a port of 127.0.0.1, too (self.port)."""
    name = "mysqld"

    def __init__(self, folder):
        self.root = tree()
        self.inside = os.path.join("/tmp", os.path.basename(folder))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        super().__init__(folder)

    def _in_tree(self, *argv):
        return ["chroot", f"--userspec={NOBODY}:{NOBODY}", self.root, "/usr/sbin/mysqld", "--no-defaults",
                f"--datadir={self.inside}/data", "--innodb-redo-log-capacity=32M", "--innodb-flush-method=nosync",
                "--secure-file-priv=NULL", *argv]

    def install(self):
        outside = self.root + self.inside
        os.makedirs(outside, mode=0o700)
        os.chown(outside, NOBODY, NOBODY)
        os.rmdir(self.folder)
        os.symlink(outside, self.folder)  # a short path for the socket
        with open(os.path.join(self.folder, "log"), "wb") as log:
            done = subprocess.run(self._in_tree("--initialize-insecure"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if done.returncode != 0:
            with open(os.path.join(self.folder, "log"), encoding="utf-8", errors="replace") as f:
                raise LabError(f"mysqld cannot be set up ({done.returncode}):\n" + f.read()[-4000:])

    def command(self):
        return self._in_tree(f"--socket={self.inside}/s", f"--pid-file={self.inside}/pid", "--bind-address=127.0.0.1",
                             f"--port={self.port}", "--mysqlx=OFF", "--skip-log-bin", "--innodb-buffer-pool-size=64M")

    def tls(self, certificate, key):
        for path, name in ((certificate, "certificate.pem"), (key, "key.pem")):
            own = os.path.join(self.folder, name)
            shutil.copyfile(path, own)
            os.chmod(own, 0o600)
            os.chown(own, NOBODY, NOBODY)
        return super().tls(f"{self.inside}/certificate.pem", f"{self.inside}/key.pem")

    def close(self):
        super().close()
        shutil.rmtree(self.root + self.inside, ignore_errors=True)
        if os.path.islink(self.folder):
            os.unlink(self.folder)
