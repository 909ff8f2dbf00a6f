# SPDX-License-Identifier: Apache-2.0
"""A whole laboratory: token, cluster, keyturn, and the questions that a test asks after a turn."""
import base64
import binascii
import glob
import os
import shutil
import signal
import tempfile
import time

from . import RUN, LabError, faultpoints, loopback, systemd_nodes, tokens
from .coordinator import Canaries, Keyturn
from .journal import Journal

KEY_FILES = "cmk*"


class Lab:
    """`kind` is "loopback" or "systemd", `token` the coordinator's, one of tokens.KINDS, `node_tokens` those of the
    nodes by position. The application runs with `items` items; nothing is enrolled yet. With `faults`, `fault_places` has a
    faultpoints.Place for "coordinator" and one for each node by name."""

    def __init__(self, bin_folder, kind="loopback", n=3, items=100, label="keyturn-lab", settings=None,
                 faults=False, token="softhsm", node_tokens=None):
        os.makedirs(RUN, exist_ok=True)
        self.folder = tempfile.mkdtemp(prefix="lab-", dir=RUN)
        self.bin = os.path.abspath(bin_folder)
        self.items = items
        self.canaries = Canaries()
        self.cluster = self.token = None
        try:
            self.token = tokens.KINDS[token](os.path.join(self.folder, "hsm"), label)
            self.canaries.add("the token's PIN", self.token.pin)
            cluster_class = {"loopback": loopback.LoopbackCluster, "systemd": systemd_nodes.SystemdCluster}[kind]
            self.cluster = cluster_class(n, folder=os.path.join(self.folder, "cluster"), bin_folder=bin_folder,
                                         settings=settings, preload=self._fault_library() if faults else None,
                                         **({"node_tokens": node_tokens} if node_tokens else {}))
            for node in self.nodes:
                if node.token:
                    self.canaries.add(f"the PIN of {node.name}'s token", node.token.pin)
            self.canaries.add_key_text("the first cluster key", self.cluster.key_text)
            self.cluster.write_cluster_json(self.token)
            self.keyturn = Keyturn(os.path.join(bin_folder, "keyturn"), self.cluster.cluster_file, self.token.env,
                                   self.canaries, self.token.prefix)
            if faults:
                self._make_fault_places()
            self.cluster.start_app(items)
        except BaseException:
            self.close()
            raise

    def _fault_library(self):
        return os.path.join(self.bin, faultpoints.LIBRARY)

    def _make_fault_places(self):
        folder = os.path.join(self.folder, "faults")
        self.fault_places = {node.name: faultpoints.Place(self.cluster.fault_folder(node)) for node in self.nodes}
        self.fault_places[faultpoints.COORDINATOR] = faultpoints.Place(folder)
        self.keyturn.env.update(LD_PRELOAD=self._fault_library(), KT_FAULTS=folder)

    def close(self):
        try:
            if self.cluster:
                self.cluster.close()
            if self.token:
                self.token.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def nodes(self):
        return self.cluster.nodes

    def node(self, name):
        return self.cluster.node(name)

    # --- doing ---

    def enroll(self, **options):
        return self.keyturn.run("enroll", "--accept-host-keys", "--create-escrow-key", **options)

    def run(self, *arguments, **options):
        return self.keyturn.run("run", "--yes", *arguments, **options)

    @property
    def journal(self):
        return Journal(self.cluster.state_folder)

    def run_killed_at(self, step, delay=0.0, seconds=120):
        """`keyturn run`, killed with SIGKILL when the journal has an intent of this step (and `delay` seconds later)."""
        before = len(self.journal.entries())
        process = self.keyturn.start("run", "--yes")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            if any(e["kind"] == "intent" and e["step"] == step for e in self.journal.entries()[before:]):
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                return self.keyturn.finish(process)
            time.sleep(0.005)
        raise LabError(f"the run ended before its step {step}\n{self.keyturn.finish(process)}")

    def rewrite(self, **changes):
        """cluster.json anew, with members changed."""
        return self.cluster.write_cluster_json(self.token, **changes)

    def recover(self):
        """After a test that may have failed in a shared laboratory: the run is at its end, the key in force counts as the old
        one, everything is up."""
        if self.journal.latest() and self.journal.end() not in ("turned", "rolled-back", "refused"):
            self.keyturn.run("resume", check=None)
        self.cluster.key_text = self.current_key(self.nodes[0]).strip() + "\n"
        for node in self.nodes:
            if not node.app.status()["running"]:
                node.app.start()

    def status(self, *arguments):
        """The JSON of `keyturn status`: run, state, old_key, new_key, backups, steps ..."""
        return self.keyturn.run("--json", "status", *arguments).events()[-1]

    # --- asking ---

    def local(self, node, path):
        """A node's file as a path on this machine."""
        return node.path(path) if isinstance(node, systemd_nodes.SystemdNode) else path

    def key_files(self, node):
        """{path on the node: key text} of every key file in the application's folder."""
        found = {}
        for path in glob.glob(os.path.join(self.local(node, node.looker), KEY_FILES)):
            with open(path, encoding="utf-8") as f:
                found[os.path.join(node.looker, os.path.basename(path))] = f.read()
        return found

    def env(self, node):
        """The variables of the application's env file."""
        with open(self.local(node, node.env_file), encoding="utf-8") as f:
            pairs = [line.rstrip("\n").partition("=") for line in f if line.strip() and not line.startswith("#")]
        return {name: value.strip("\"'") for name, _, value in pairs}

    def current_key(self, node):
        """The text of the key that the node's env file names."""
        env = self.env(node)
        if "LKR_MASTER_KEY_ENV" in env:
            return env["LKR_MASTER_KEY_ENV"]
        with open(self.local(node, env["LKR_MASTER_KEY_FILE"]), encoding="utf-8") as f:
            return f.read()

    def opened(self, node, key_text=None):
        """(items that open, items in all) with this key, or with the node's own. A key that does not open the store at all
        opens none."""
        env = {"LKR_MASTER_KEY_ENV": key_text.strip()} if key_text else None
        answer = node.app.verify(env=env, check=False)
        return (0, self.items) if "error" in answer else (answer["opened"], answer["items"])

    def states(self):
        """{node: is its application running}"""
        return {node.name: bool(node.app.status()["running"]) for node in self.nodes}

    # --- what must hold ---

    def assert_settled(self):
        """S7: after a resume the latest run is turned or rolled back. The key in force counts as the old one from here on."""
        state = self.journal.end()
        if state == "turned":
            self.cluster.key_text = self.assert_turned() + "\n"
        elif state == "rolled-back":
            self.assert_on_old_key()
        else:
            raise LabError(f"the run ended {state}")
        return state

    def _assert_data(self, key_now, key_not):
        for node in self.nodes:
            for text, want in ((None, self.items), (key_now, self.items), (key_not, 0)):
                if text is None and key_now is None or key_not is None and want == 0:
                    continue
                got, items = self.opened(node, text)
                if (got, items) != (want, self.items):
                    raise LabError(f"{node.name}: {got} of {items} items open, {want} of {self.items} should")

    def assert_turned(self):
        """All data opens with the new key and none with the old one, on every node, and every node is up."""
        keys = {self.current_key(node).strip() for node in self.nodes}
        if len(keys) != 1:
            raise LabError(f"{len(keys)} different keys on the nodes")
        new = keys.pop()
        if new == self.cluster.key_text.strip():
            raise LabError("the nodes still have the old key")
        self._assert_data(new, self.cluster.key_text)
        if not all(self.states().values()):
            raise LabError(f"not every node is up: {self.states()}")
        return new

    def assert_on_old_key(self, up=True):
        """All data opens with the old key, every node is set up with it, and (unless said otherwise) is up."""
        for node in self.nodes:
            if self.current_key(node).strip() != self.cluster.key_text.strip():
                raise LabError(f"{node.name} does not have the old key")
        self._assert_data(self.cluster.key_text, None)
        if up and not all(self.states().values()):
            raise LabError(f"not every node is up: {self.states()}")

    def learn_keys(self):
        """Every key that is on a node by now becomes a canary."""
        for node in self.nodes:
            texts = list(self.key_files(node).values()) + [
                value for name, value in self.env(node).items() if name.startswith("LKR_MASTER_KEY_ENV")]
            for text in texts:
                try:
                    if len(base64.b64decode(text, validate=False)) == 32:
                        self.canaries.add_key_text(f"a cluster key of {node.name}", text)
                except binascii.Error:
                    continue

    def assert_no_secrets(self):
        """S6 on the coordinator: nothing that keyturn wrote or printed holds a key or the PIN."""
        self.learn_keys()
        hits = self.canaries.scan(self.cluster.state_folder)
        for result in self.keyturn.history:
            hits += [(" ".join(result.command), name) for name in self.canaries.find(result.out + "\0" + result.err)]
        if hits:
            raise LabError("secrets were written: " + "; ".join(f"{path}: {name}" for path, name in hits))
