# SPDX-License-Identifier: Apache-2.0
"""Nodes on loopback: one sshd each (127.42.0.1, .2, ...) with its own host key, and a login as the caller. No root needed.

The nodes share the machine, so there is no systemd unit and no power switch: for those see systemd_nodes.
"""
import fcntl
import os
import pwd
import shlex
import shutil
import signal
import struct
import subprocess

from . import app, process, ssh, tokens
from .cluster import QUIET, Cluster, Node
from .state import State

SSHD_CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {authorized}
AllowUsers {user}
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM {pam}
StrictModes no
PrintMotd no
PrintLastLog no
UseDNS no
LogLevel VERBOSE
MaxStartups 256
MaxSessions 32
SetEnv SHLVL=5{environment}
Subsystem sftp internal-sftp
"""
# SHLVL: Debian's bash under sshd reads ~/.bashrc when it is 1; what stands there is no part of a test.


def _sshd():
    return shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ.get("PATH", ""))


def _needs_pam():
    """sshd without PAM refuses an account whose password field begins with "!" (locked), which only root can see."""
    try:
        with open("/etc/shadow", encoding="utf-8") as f:
            return any(line.startswith("root:!") for line in f)
    except OSError:
        return False


FLOCK = "hhqqi"  # struct flock of fcntl(2) on 64-bit Linux


def app_pid(looker):
    """The pid of the application that runs from this folder, None when it does not run: the holder of its pid file's lock.
    (/proc/PID/exe of a process that holds keys is for root alone.)"""
    try:
        with open(os.path.join(looker, "looker.pid"), "rb") as f:
            asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(f, fcntl.F_GETLK, asked))
            return pid if kind != fcntl.F_UNLCK and pid > 0 else None
    except OSError:
        return None


def kill_app(looker):
    pid = app_pid(looker)
    if pid is not None:
        start = process.start_time(pid)
        os.kill(pid, signal.SIGKILL)
        process.wait_gone(pid, start, 5)


def end(folder):
    """Ends what an earlier process left of the cluster in `folder`: applications and sshds. True when there was one."""
    nodes = os.path.join(folder, "nodes")
    for name in os.listdir(nodes) if os.path.isdir(nodes) else []:
        kill_app(os.path.join(nodes, name, "looker"))
    path = os.path.join(folder, "state.json")
    if not os.path.exists(path):
        return False
    State.load(path).teardown()
    return True


class NodeToken:
    """A token of this machine as one node's: the variables that its module needs stand in cluster.json, for that node alone."""

    def __init__(self, token):
        self.token = token

    def __getattr__(self, name):
        return getattr(self.token, name)

    def uri(self, object="keyturn-transport", **changes):
        return {"uri": self.token.uri(object, **changes), "environment": self.token.env}


class LoopbackCluster(Cluster):
    """A context manager; `keep()` lets it outlive the process. `node_tokens`: the kinds of the nodes' tokens by position, None
    for a node without one (openCryptoki cannot be one of several here)."""

    def __init__(self, n, folder, bin_folder, name="looker", settings=None, preload=None, node_tokens=None):
        super().__init__(folder, name)
        self.preload = preload
        self.node_tokens = node_tokens or []
        self.bin = os.path.abspath(bin_folder)
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.settings = settings or {}
        os.makedirs(self.folder, exist_ok=True)
        self.state = State(self.folder)
        try:
            self._build(n)
        except BaseException:
            self.state.teardown()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the applications and the sshds."""
        for node in self.nodes:
            self.kill_app(node)
            if node.token:
                node.token.close()
        self.state.teardown()

    def keep(self):
        self.state.keep()

    def _build(self, n):
        for folder in ("ssh", "nodes", "shared"):
            os.makedirs(os.path.join(self.folder, folder), mode=0o700)
        self.identity = os.path.join(self.folder, "ssh", "id_ed25519")
        public = ssh.make_key(self.identity, "keyturn-lab")
        for name, text in (("authorized_keys", public + "\n"), ("config", ""), ("known_hosts", "")):
            with open(os.path.join(self.folder, "ssh", name), "w", encoding="utf-8") as f:
                f.write(text)
        # a file, or the database of a server, named by a credentials file
        self.creds = self.settings.get("internal_db_creds")
        self.database = None if self.creds else os.path.join(self.folder, "shared", "store.db")
        self.key_text = app.new_key_text()
        self._privilege_separation_folder()
        for number in range(1, n + 1):
            self.nodes.append(self._make_node(f"web{number:02}", f"127.42.0.{number}"))
        for node in self.nodes:
            self.start_sshd(node)

    def _privilege_separation_folder(self):
        if os.getuid() == 0 and not os.path.isdir("/run/sshd"):
            self.state.add("sshd-folder", path="/run/sshd")
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)

    def node_folder(self, name):
        return os.path.join(self.folder, "nodes", name)

    def _make_node(self, name, address):
        folder = self.node_folder(name)
        os.makedirs(folder, mode=0o700)
        host_key = os.path.join(folder, "host_key")
        public = ssh.make_key(host_key, name)
        port = ssh.free_port(address)
        with open(os.path.join(self.folder, "ssh", "known_hosts"), "a", encoding="utf-8") as f:
            f.write(f"[{address}]:{port} {' '.join(public.split()[:2])}\n")
        looker = os.path.join(folder, "looker")
        app_port = ssh.free_port(address)
        key_file = app.install(looker, os.path.join(self.bin, "keyturn-store"), name, self.database, app_port,
                               self.key_text, listen=f"{address}:{app_port}", **self.settings)
        env_file = os.path.join(folder, "looker.env")
        fd = os.open(env_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(app.env_text(LKR_MASTER_KEY_FILE=key_file))
        client = ssh.Client(self.user, address, port, self.identity, os.path.join(self.folder, "ssh", "known_hosts"))
        node = Node(name, address, port, client, looker, env_file, app_port, host_key + ".pub")
        kind = self.node_tokens[len(self.nodes)] if len(self.nodes) < len(self.node_tokens) else None
        if kind:
            node.token = NodeToken(tokens.KINDS[kind](os.path.join(folder, "token"), f"kt-{name}"))
        node.app = app.App(node, lambda command, **options: self._in_looker(node, command, **options))
        return node

    def _in_looker(self, node, command, check=True, env=None, timeout=300):
        """Run locally (it is the same machine) in the application's folder, with its env file as a service would have."""
        if env is None:
            env = {}
            with open(node.env_file, encoding="utf-8") as f:
                for line in f:
                    name, _, value = line.strip().partition("=")
                    if name and not name.startswith("#"):
                        env[name] = value.strip("\"'")
        base = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LANG") if name in os.environ}
        return process.run(command, check=check, timeout=timeout, cwd=node.looker, env={**base, **env})

    def fault_folder(self, node):
        return os.path.join(self.node_folder(node.name), "faults")

    def _preloaded(self, node):
        """Of every login: the library of faultpoints.py, and its folder."""
        return f" LD_PRELOAD={self.preload} KT_FAULTS={self.fault_folder(node)}" if self.preload else ""

    def start_sshd(self, node):
        folder = self.node_folder(node.name)
        config = os.path.join(folder, "sshd_config")
        with open(config, "w", encoding="utf-8") as f:
            f.write(SSHD_CONFIG.format(port=node.port, address=node.host, folder=folder, user=self.user,
                                       authorized=os.path.join(self.folder, "ssh", "authorized_keys"),
                                       environment=self._preloaded(node),
                                       pam="yes" if _needs_pam() else "no"))
        log = os.path.join(folder, "sshd.log")
        with open(log, "ab") as output:
            sshd = subprocess.Popen([_sshd(), "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stdout=output,
                                    stderr=output, start_new_session=True)
        self.state.add_process(sshd.pid, f"sshd of {node.name}")
        start = process.start_time(sshd.pid)
        node.client.wait(20, lambda: process.alive(sshd.pid, start), log)

    def _sshd_process(self, node):
        return next((e for e in self.state.entries
                     if e["kind"] == "process" and e["what"] == f"sshd of {node.name}"), None)

    def stop_sshd(self, node):
        """The node is unreachable from now on: no listener, and open sessions are cut."""
        entry = self._sshd_process(node)
        for session in process.children(entry["pid"]):
            process.end(session, process.start_time(session))
        process.end(entry["pid"], entry["start"])
        self.state.forget_process(entry["pid"])

    def new_host_key(self, node):
        """The node comes back with another host key, as after a reinstallation (or with a man in the middle)."""
        self.stop_sshd(node)
        path = node.host_key[:-len(".pub")]
        for name in (path, node.host_key):
            os.unlink(name)
        public = ssh.make_key(path, node.name)
        known = os.path.join(self.folder, "ssh", "known_hosts")
        with open(known, encoding="utf-8") as f:
            lines = [line for line in f if not line.startswith(f"[{node.host}]:{node.port} ")]
        with open(known, "w", encoding="utf-8") as f:
            f.writelines([*lines, f"[{node.host}]:{node.port} {' '.join(public.split()[:2])}\n"])
        self.start_sshd(node)

    def app_pid(self, node):
        return app_pid(node.looker)

    def kill_app(self, node):
        """SIGKILL: a crash, which leaves the heartbeat behind."""
        kill_app(node.looker)

    def ssh_members(self):
        return {"user": self.user, "identity": self.identity, "config": os.path.join(self.folder, "ssh", "config"),
                "connect_timeout_s": 10}

    def agent_members(self):
        nodes = os.path.join(self.folder, "nodes")
        return {"path": nodes + "/${node}/agent", "state": nodes + "/${node}/agent-state", "sudo": False}

    def variables(self):
        # Without root the gate cannot look into processes that hold keys (they are undumpable), not even its own user's; and
        # here the agents and applications of all nodes share one machine. They are excused: heartbeats, ports and the
        # processes that can be seen still count.
        node = os.path.join(self.folder, "nodes") + "/${node}"
        return {"dir": node + "/looker", "env_file": node + "/looker.env", "run_user": None, "database": self.database,
                **({"internal_db_creds": self.creds} if self.creds else {}), "backup_dir": node + "/backup", "process_users": None if os.getuid() == 0 else [],
                **QUIET}

    def service(self, node):
        """The service object of docs/FORMATS.md, section 2: commands instead of a systemd unit."""
        return {"start": ["./looker", "start"], "stop": ["./looker", "stop"], "status": ["./looker", "status"],
                "cwd": node.looker, "env_file": node.env_file}

    def node_variables(self, node):
        return {"service": self.service(node), "ports": [node.app_port]}

    def describe(self):
        """How a person plays with it: one line a node."""
        return [f"{node.name}: ssh -i {shlex.quote(self.identity)} -o UserKnownHostsFile="
                f"{shlex.quote(os.path.join(self.folder, 'ssh', 'known_hosts'))} -p {node.port} {self.user}@{node.host}"
                for node in self.nodes]
