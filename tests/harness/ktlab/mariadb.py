# SPDX-License-Identifier: Apache-2.0
"""A MariaDB server of a test's own: data in a folder, a Unix socket and no network, ended by pid."""
import os
import shutil
import signal
import subprocess
import time

from . import RUN, LabError, process
from .state import State, make_private

PASSWORD = "kt-canary-Pässword:#1"  # with what YAML could trip over; quoted in db.yaml
USER = "looker"
SERVER_OPTIONS = ["--skip-networking", "--skip-log-bin", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M",
                  "--performance-schema=OFF", "--skip-name-resolve"]


def _program(name):
    return shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:" + os.environ.get("PATH", ""))


def missing():
    """What is not installed, None when a server can be had."""
    return None if _program("mariadbd") and _program("mariadb-install-db") else "the package mariadb-server is not installed"


class Server:
    """with Server(folder) as server: server.create("looker"), server.sql("..."), server.restart(). The folder is made, and
    removed at the end."""
    name = "mariadbd"

    def __init__(self, folder):
        os.makedirs(RUN, exist_ok=True)
        self.folder = os.path.abspath(folder)
        os.makedirs(self.folder, mode=0o700)
        self.socket = os.path.join(self.folder, "s")
        if len(self.socket) > 100:
            raise LabError(f"{self.socket} is too long for a socket")
        self.state = State(self.folder + ".state")
        self.child = None
        self.users = 0
        try:
            self.install()
            self.start()
        except BaseException:
            self.close()
            raise

    def install(self):
        """Its first databases."""
        process.run([_program("mariadb-install-db"), "--no-defaults", f"--datadir={self.folder}/data", *self._user(),
                     "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
                     "--innodb-log-file-size=32M", "--innodb-flush-method=nosync"])

    def command(self):
        """What runs it, in the foreground."""
        return [_program("mariadbd"), "--no-defaults", *self._user(), f"--datadir={self.folder}/data",
                f"--socket={self.socket}", f"--pid-file={self.folder}/pid", *SERVER_OPTIONS]

    def tls(self, certificate, key):
        """Options of start(): with this certificate."""
        return [f"--ssl-cert={certificate}", f"--ssl-key={key}"]

    @staticmethod
    def _user():
        return ["--user=root"] if os.getuid() == 0 else []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self, *options):
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.child = subprocess.Popen([*self.command(), *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          start_new_session=True)
        self.state.add_process(self.child.pid, self.name)
        deadline = time.monotonic() + 60
        while self.sql("SELECT 1", check=False) is None:
            if self.child.poll() is not None or time.monotonic() > deadline:
                with open(os.path.join(self.folder, "log"), encoding="utf-8", errors="replace") as f:
                    raise LabError(f"{self.name} does not start\n" + f.read()[-4000:])
            time.sleep(0.02)

    def _end(self, number):
        if self.child is not None and self.child.returncode is None:
            self.child.send_signal(number)
            self.child.wait(60)
            self.state.forget_process(self.child.pid)

    def stop(self):
        self._end(signal.SIGTERM)

    def kill(self):
        """As a crash ends it."""
        self._end(signal.SIGKILL)

    def close(self):
        self.kill()
        self.state.teardown()
        shutil.rmtree(os.path.dirname(self.state.path), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, text, database="mysql", check=True):
        """The rows as text, a line each; with check=False None when it fails."""
        done = process.run([_program("mariadb"), "--no-defaults", "-uroot", f"--socket={self.socket}", "-N", "-B", database, "-e", text],
                           check=check)
        return done.stdout if done.returncode == 0 else None

    def create(self, database, process_privilege=True):
        """A new database, with a user of its own (its name is returned)."""
        self.users += 1
        user = f"{USER}{self.users}"
        self.sql(f"DROP DATABASE IF EXISTS {database}; CREATE DATABASE {database}; CREATE USER {user}@localhost IDENTIFIED BY"
                 f" '{PASSWORD}'; GRANT ALL ON {database}.* TO {user}@localhost")
        if process_privilege:
            self.sql(f"GRANT PROCESS ON *.* TO {user}@localhost")
        return user

    def write_creds(self, path, database, user, more=""):
        """The documented credentials file, and more lines."""
        make_private(path, f"# the internal database\nhost: localhost\nusername: {user}\npassword: \"{PASSWORD}\"\n"
                           f"database: {database}\ndialect: mysql\nport: 3306\nsocket: {self.socket}\n{more}", 0o600)
