# SPDX-License-Identifier: Apache-2.0
"""Real nodes: systemd-nspawn containers that boot Debian, each with its own root, network namespace, address and sshd.

They share one kernel, but nothing else: a node can be powered off, killed, booted again, and cut off from the network.
All nodes see one folder, /srv/looker, with the application's database. Needs root.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time

from . import RUN, LabError, app, image, node_tokens, process, ssh
from .cluster import QUIET, Cluster, Node
from .state import State

APP_HOME = f"/home/{image.APP_USER}"
LOOKER = f"{APP_HOME}/looker"
SHARED = "/srv/looker"
ENV_FILE = "/etc/looker.env"
APP_PORT = 9999
MEMLOCK = 8 * 1024 * 1024  # what Debian 12's kernel gives to a real machine's init; nspawn's own default is 64 KiB and no mlock
POWER_OFF = signal.SIGRTMIN + 4  # systemd(1): start poweroff.target
CUT = ("table inet keyturn_lab {\n"
       " chain in { type filter hook input priority 0; iifname host0 drop; }\n"
       " chain out { type filter hook output priority 0; oifname host0 drop; }\n}\n")


def missing():
    """Why real nodes cannot be had here; None when they can."""
    if os.getuid() != 0:
        return "not root: systemd nodes need network namespaces and mounts"
    for tool in ("debootstrap", "systemd-nspawn", "ip", "nft", "ssh"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    return None


def _cgroup_parents():
    """The hierarchies in which a container needs a cgroup of its own; none where the host's systemd gives it a scope."""
    if os.path.isdir("/run/systemd/system"):
        return []
    parents = [p for p in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified") if os.path.isdir(p)]
    return parents or ["/sys/fs/cgroup"]


class SystemdNode(Node):
    """A Node that can be switched off and on. `path("/etc/x")` is the file of a node as seen from this machine (also while
    it is off)."""

    def place(self, cluster, number):
        self.cluster = cluster
        self.folder = os.path.join(cluster.folder, "nodes", self.name)
        self.root = os.path.join(self.folder, "root")
        self.machine = f"{cluster.tag}-{number}"
        self.link = f"{cluster.tag}-{number}"
        self.log = os.path.join(self.folder, "console.log")
        self.nspawn = None

    def path(self, inside):
        if inside == SHARED or inside.startswith(SHARED + "/"):
            return os.path.join(self.cluster.shared, os.path.relpath(inside, SHARED))
        return os.path.join(self.root, inside.lstrip("/"))

    def root_run(self, command, **options):
        """As root, through ssh and sudo."""
        return self.client.run(["sudo", "-n", *command], **options)

    def init_pid(self):
        pids = process.children(self.nspawn["pid"]) if self.running() else []
        return pids[0] if pids else None

    def running(self):
        return self.nspawn is not None and process.alive(self.nspawn["pid"], self.nspawn["start"])

    def boot(self, wait=True):
        """Power on; with `wait` until a login works and systemd says that it has started."""
        if self.running():
            raise LabError(f"{self.name} is running")
        self.nspawn = self.cluster.spawn(self)
        if wait:
            self.wait()

    def wait(self, seconds=60):
        self.client.wait(seconds, self.running, self.log)
        state = self.client.run(["systemctl", "is-system-running", "--wait"], check=False).stdout.strip()
        if state not in ("running", "degraded"):
            raise LabError(f"{self.name}: systemd says {state}\n{self.console()}")

    def _gone(self, seconds):
        if not process.wait_gone(self.nspawn["pid"], self.nspawn["start"], seconds):
            raise LabError(f"{self.name} does not end within {seconds} s\n{self.console()}")
        self.cluster.reap(self)
        self.nspawn = None

    def power_off(self, seconds=30):
        """An orderly shutdown."""
        os.kill(self.init_pid(), POWER_OFF)
        self._gone(seconds)

    def kill(self):
        """The power cord: SIGKILL to everything in the container at once."""
        os.kill(self.init_pid(), signal.SIGKILL)
        self._gone(10)

    def partition(self):
        """Drop all packets from and to the node; connections stay open and silent, as with a pulled cable."""
        process.run(["ip", "netns", "exec", self.machine, "nft", "-f", "-"], input=CUT)

    def heal(self):
        process.run(["ip", "netns", "exec", self.machine, "nft", "delete", "table", "inet", "keyturn_lab"])

    def console(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()[-4000:]

    def journal(self, unit="looker.service"):
        return self.root_run(["journalctl", "--no-pager", "-u", unit]).stdout

    def wait_for_app(self, seconds=20):
        """systemd calls a simple service started once it was forked: wait until it answers for itself."""
        deadline = time.monotonic() + seconds
        while True:
            done = self.app.run("status", "--json", check=False)
            if done.returncode == 0 and json.loads(done.stdout)["running"]:
                return
            if time.monotonic() > deadline or self.run(["systemctl", "is-failed", "looker"], check=False).returncode == 0:
                raise LabError(f"{self.name}: the application does not start\n{self.journal()}")
            time.sleep(0.1)

    def service(self, *verb):
        """systemctl VERB looker.service as root."""
        return self.root_run(["systemctl", *verb, "looker.service"], timeout=90)


class SystemdCluster(Cluster):
    """A context manager. The folder is made below build/run and removed at the end, unless one is given."""

    def __init__(self, n, bin_folder, folder=None, name="looker", settings=None, start=True, preload=None,
                 node_tokens=None):
        """`node_tokens`: the kinds of the nodes' tokens by position, None for a node without one."""
        why = missing()
        if why:
            raise LabError(why)
        os.makedirs(RUN, exist_ok=True)
        self.own_folder = folder is None
        super().__init__(folder or tempfile.mkdtemp(prefix="nodes-", dir=RUN), name)
        self.bin = os.path.abspath(bin_folder)
        self.settings = settings or {}
        self.preload = preload
        self.node_tokens = node_tokens or []
        self.tag = f"kt{random.SystemRandom().randrange(16 ** 6):06x}"
        self.shared = os.path.join(self.folder, "shared")
        self.processes = {}
        self.state = State(self.folder)
        try:
            self._build(n, start)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.state.teardown()
        for child in self.processes.values():
            child.poll()
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _build(self, n, start):
        self.base = image.base()
        self.app_ids = self._ids(image.APP_USER)
        self.login_ids = self._ids(image.LOGIN_USER)
        for folder in ("ssh", "nodes", "shared"):
            os.makedirs(os.path.join(self.folder, folder), mode=0o755)
        os.chown(self.shared, *self.app_ids)
        self.identity = os.path.join(self.folder, "ssh", "id_ed25519")
        self.public = ssh.make_key(self.identity, "keyturn-lab")
        self.known_hosts = os.path.join(self.folder, "ssh", "known_hosts")
        for name in ("known_hosts", "config"):
            with open(os.path.join(self.folder, "ssh", name), "w", encoding="utf-8"):
                pass
        self.key_text = app.new_key_text()
        self._make_bridge()
        for number in range(1, n + 1):
            self.nodes.append(self._make_node(number))
        if start:
            for node in self.nodes:
                node.boot(wait=False)
            for node in self.nodes:
                node.wait()

    def _ids(self, user):
        with open(os.path.join(self.base, "etc/passwd"), encoding="utf-8") as f:
            for line in f:
                fields = line.split(":")
                if fields[0] == user:
                    return int(fields[2]), int(fields[3])
        raise LabError(f"the base system has no user {user}")

    def _make_bridge(self):
        """A bridge with a network of its own, 10.77.x.0/24, that no route of this machine knows yet."""
        taken = process.run(["ip", "-4", "-o", "addr"]).stdout + process.run(["ip", "-4", "route"]).stdout
        free = [x for x in range(1, 255) if f"10.77.{x}." not in taken]
        if not free:
            raise LabError("no free network among 10.77.0.0/16")
        self.network = f"10.77.{random.SystemRandom().choice(free)}"
        self.state.add("link", name=self.tag)
        process.run(["ip", "link", "add", self.tag, "type", "bridge"])
        process.run(["ip", "addr", "add", f"{self.network}.1/24", "dev", self.tag])
        process.run(["ip", "link", "set", self.tag, "up"])

    def _make_node(self, number):
        name, address = f"web{number:02}", f"{self.network}.{10 + number}"
        client = ssh.Client(image.LOGIN_USER, address, 22, self.identity, self.known_hosts)
        node = SystemdNode(name, address, 22, client, LOOKER, ENV_FILE, APP_PORT, "")
        node.place(self, number)
        self._make_root(node)
        self._make_network(node)
        self._fill_root(node)
        kind = self.node_tokens[number - 1] if number <= len(self.node_tokens) else None
        node.token = node_tokens.place(kind, node) if kind else None
        node.host_key = node.path("/etc/ssh/ssh_host_ed25519_key.pub")
        with open(node.host_key, encoding="utf-8") as f:
            public = " ".join(f.read().split()[:2])
        with open(self.known_hosts, "a", encoding="utf-8") as f:
            f.write(f"{address} {public}\n")
        node.app = app.App(node, lambda command, **options: self._as_app(node, command, **options))
        return node

    def _make_root(self, node):
        """An overlay over the base; a copy where this filesystem cannot be the upper side of one."""
        for name in ("upper", "work", "root"):
            os.makedirs(os.path.join(node.folder, name))
        self.state.add("mount", path=node.root)
        done = process.run(["mount", "-t", "overlay", "keyturn-lab", "-o", f"lowerdir={self.base},"
                            f"upperdir={node.folder}/upper,workdir={node.folder}/work", node.root], check=False)
        if done.returncode != 0:
            process.run(["cp", "-a", "--reflink=auto", self.base + "/.", node.root], timeout=300)

    def _make_network(self, node):
        self.state.add("netns", name=node.machine)
        process.run(["ip", "netns", "add", node.machine])
        process.run(["ip", "link", "add", node.link, "type", "veth", "peer", "name", "host0", "netns", node.machine])
        process.run(["ip", "link", "set", node.link, "master", self.tag, "up"])
        inside = ["ip", "-n", node.machine]
        process.run([*inside, "addr", "add", f"{node.host}/24", "dev", "host0"])
        process.run([*inside, "link", "set", "host0", "up"])
        process.run([*inside, "link", "set", "lo", "up"])

    def _fill_root(self, node):
        """Host key, login key, host name, and the application with its unit's env file."""
        ssh.make_key(node.path("/etc/ssh/ssh_host_ed25519_key"), node.name)
        login = node.path(f"/home/{image.LOGIN_USER}/.ssh")
        os.makedirs(login, mode=0o700)
        with open(os.path.join(login, "authorized_keys"), "w", encoding="utf-8") as f:
            f.write(self.public + "\n")
        for path in (login, os.path.join(login, "authorized_keys")):
            os.chown(path, *self.login_ids)
        with open(node.path("/etc/hostname"), "w", encoding="utf-8") as f:
            f.write(node.name + "\n")
        with open(node.path("/etc/hosts"), "w", encoding="utf-8") as f:
            f.write(f"127.0.0.1 localhost\n127.0.1.1 {node.name}\n")
        app.install(node.path(LOOKER), os.path.join(self.bin, "keyturn-store"), node.name, f"{SHARED}/store.db",
                    APP_PORT, self.key_text, **self.settings)
        for where, folders, files in os.walk(node.path(LOOKER)):
            for path in [where, *(os.path.join(where, name) for name in folders + files)]:
                os.chown(path, *self.app_ids)
        os.makedirs(node.path(SHARED + "/.."), exist_ok=True)
        fd = os.open(node.path(ENV_FILE), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(app.env_text(LKR_MASTER_KEY_FILE=f"{LOOKER}/cmk"))
        if self.preload:
            self._preload_root(node)

    def fault_folder(self, node):
        return node.path("/etc/keyturn-faults")

    def _preload_root(self, node):
        """Into every program of the node, also through sudo: the library of faultpoints.py."""
        library = f"/usr/local/lib/{os.path.basename(self.preload)}"
        shutil.copy2(self.preload, node.path(library))
        with open(node.path("/etc/ld.so.preload"), "w", encoding="utf-8") as f:
            f.write(library + "\n")

    def _own_cgroup(self, node):
        """The process that becomes nspawn enters a cgroup of its own: containers that share one see each other's units."""
        folders = [os.path.join(parent, node.machine) for parent in _cgroup_parents()]
        for folder in folders:
            self.state.add("cgroup", path=folder)
            os.makedirs(folder, exist_ok=True)

        def enter():
            os.setsid()
            for folder in folders:
                with open(os.path.join(folder, "cgroup.procs"), "w", encoding="utf-8") as f:
                    f.write(str(os.getpid()))
        return enter, bool(folders)

    def spawn(self, node):
        enter, keep_unit = self._own_cgroup(node)
        for folder in ("/run/systemd", "/run/systemd/nspawn", "/run/systemd/nspawn/propagate", "/run/systemd/nspawn/locks"):
            if not os.path.isdir(folder):
                self.state.add("empty-folder", path=folder)
        self.state.add("empty-folder", path=f"/run/systemd/nspawn/propagate/{node.machine}")
        command = ["systemd-nspawn", "-q", "-D", node.root, "-M", node.machine, f"--hostname={node.name}",
                   f"--network-namespace-path=/run/netns/{node.machine}", "--register=no", "--console=pipe",
                   "--resolv-conf=off", "--timezone=off", f"--rlimit=MEMLOCK={MEMLOCK}", "--system-call-filter=@memlock",
                   f"--bind={self.shared}:{SHARED}",
                   *(["--keep-unit"] if keep_unit else []), "-b"]
        with open(node.log, "ab") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=enter)
        self.processes[child.pid] = child
        self.state.add_process(child.pid, f"nspawn of {node.name}", kind="container")
        return {"pid": child.pid, "start": process.start_time(child.pid)}

    def reap(self, node):
        pid = node.nspawn["pid"]
        self.processes.pop(pid).wait(10)
        self.state.forget_process(pid)

    def _as_app(self, node, command, check=True, env=None, timeout=300):
        """As the application's user in its folder, with the unit's EnvironmentFile= (or with `env`), in a unit of its own."""
        if env is None:
            variables = [f"--property=EnvironmentFile={ENV_FILE}"]
        else:
            variables = [f"--setenv={name}={value}" for name, value in env.items()]
        program = os.path.join(LOOKER, command[0]) if "/" in command[0] else command[0]
        return node.root_run(["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--uid={image.APP_USER}",
                              f"--working-directory={LOOKER}", *variables, "--", program, *command[1:]],
                             check=check, timeout=timeout)

    def start_app(self, items=0):
        for node in self.nodes:
            node.service("start")
        for node in self.nodes:
            node.wait_for_app()
        if items:
            self.nodes[0].app.fill(items)

    def stop_app(self):
        for node in self.nodes:
            node.service("stop")

    def ssh_members(self):
        return {"user": image.LOGIN_USER, "identity": self.identity,
                "config": os.path.join(self.folder, "ssh", "config"), "connect_timeout_s": 10}

    def agent_members(self):
        return {"path": "/usr/local/lib/keyturn", "state": "/var/lib/keyturn", "sudo": True}

    def variables(self):
        return {"dir": LOOKER, "env_file": ENV_FILE, "service": {"unit": "looker.service"}, "run_user": image.APP_USER,
                "database": f"{SHARED}/store.db", "ports": [APP_PORT], "backup_dir": "/var/backups/keyturn", **QUIET}

    def node_variables(self, node):
        return {}
