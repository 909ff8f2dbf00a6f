# SPDX-License-Identifier: Apache-2.0
"""S6 over a whole turn with tracing on, and the escrow opened by an independent program."""
import base64
import json
import os
import re
import threading
import time

from ktlab import aftermath, process
from ktlab.running import Running, owner_of, until

LEAST_LOCKED_KIB = 16  # of base/secret.c


class Watcher(threading.Thread):
    """Looks into the argument vector and the environment of every process of this machine while a turn runs."""

    def __init__(self, canaries, own_env_files):
        super().__init__(daemon=True)
        self.canaries, self.own_env_files = canaries, own_env_files
        self.hits, self.looked, self.stop = set(), 0, False

    def run(self):
        while not self.stop:
            for entry in os.listdir("/proc"):
                if not entry.isdigit() or int(entry) == os.getpid():
                    continue
                self.looked += 1
                for what, secret in self.canaries.scan_process(int(entry)):
                    self.hits.add((self._name(entry), what, secret))
            time.sleep(0.01)

    @staticmethod
    def _name(pid):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
                return f.read().strip()
        except OSError:
            return "?"


def new_key_of(lab, run):
    """The new key, from the one place where it may be in the clear: the file that the application reads."""
    with open(f"{lab.nodes[0].looker}/cmk-{run}", encoding="utf-8") as f:
        return f.read()


def test_no_secret_is_seen_anywhere(lab):
    watcher = Watcher(lab.canaries, [n.env_file for n in lab.nodes])
    watcher.start()
    result = lab.run("--trace")
    watcher.stop = True
    watcher.join()
    run = result.run_id()
    key_text = new_key_of(lab, run)
    lab.canaries.add_key_text("new key", key_text)
    assert watcher.looked > 100 and watcher.hits == set()
    assert "C_WrapKey" in result.err, "the trace shows no HSM call: was it on?"
    assert lab.canaries.find(result.out + result.err) == []

    # Everything that was written, on the coordinator and on the nodes, but the application's own files and the PIN's.
    allowed = {lab.token.pin_file}
    for node in lab.nodes:
        allowed |= {f"{node.looker}/cmk", f"{node.looker}/cmk-{run}"}
    hits = lab.canaries.scan(lab.cluster.folder, allowed) + lab.canaries.scan(lab.token.folder, allowed)
    assert hits == []
    assert lab.canaries.scan(lab.cluster.folder) != [], "the canaries are not found where they must be"


def agents_of(lab):
    """The agents that the coordinator talks to, one for each node. For a moment there are more: a process that such an agent
    has made looks like it until it executes its own program."""
    found = []

    def one_each():
        found[:] = [pid for node in lab.nodes for pid in aftermath.agents(lab, node, "serve")]
        return len(found) == len(lab.nodes)

    until(one_each, "the agents of the nodes, and no more")
    return found


def dump(pid, path):
    """All memory of a process, also what a core file would leave out: gcore reads it of the stopped process."""
    process.run(["gcore", "-a", "-o", str(path), str(pid)], timeout=120)
    data = next(path.parent.glob(path.name + ".*")).read_bytes()
    assert b"keyturn" in data and len(data) > 1_000_000
    return data


def locked_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return int(re.search(r"^VmLck:\s*(\d+) kB", f.read(), re.M).group(1))


def test_memory_of_coordinator_and_owner_holds_no_secret(lab, tmp_path):
    """In the middle of a turn, after the new key was made: neither the PIN nor a key is in the coordinator, nor in the process that
    owns the token, though the token here is software in that very process (SoftHSM keeps its keys encrypted there). What is
    meant for secrets is locked, in these and in the agents."""
    run = Running(lab).wait("rekey")
    pids = [run.process.pid, owner_of(run.process.pid)]
    agents = agents_of(lab)
    locked = {pid: locked_kib(pid) for pid in pids + agents}
    dumps = [dump(pid, tmp_path / str(pid)) for pid in pids]
    result = run.finish(check=0)
    lab.canaries.add_key_text("new key", new_key_of(lab, result.run_id()))
    assert min(locked.values()) >= LEAST_LOCKED_KIB, locked
    assert [lab.canaries.find(data) for data in dumps] == [[], []]


def test_escrow_opens_with_an_independent_tool(lab, tmp_path):
    """pkcs11-tool unwraps the escrow blob in the token; the key it gives equals the one on the nodes."""
    run = lab.run().run_id()
    with open(os.path.join(lab.cluster.state_folder, "escrow", f"{run}.json"), encoding="utf-8") as f:
        blob = json.load(f)
    assert blob["format"] == "rfc5649" and blob["purpose"] == "escrow"
    wrapped = tmp_path / "escrow.bin"
    wrapped.write_bytes(base64.b64decode(blob["wrapped"]))
    key = base64.b64decode(new_key_of(lab, run))
    tool = ["pkcs11-tool", "--module", lab.token.module, "--token-label", lab.token.label, "--login",
            "--pin", lab.token.pin]
    env = {**os.environ, **lab.token.env}
    process.run([*tool, "--unwrap", "--mechanism", "0x210A", "--id", blob["wrapping_key"]["id"],
                 "--input-file", str(wrapped), "--key-type", "AES:", "--application-label", "recovered",
                 "--application-id", "7777", "--extractable"], env=env)
    # The recovered key and the key of the nodes encrypt alike: pkcs11-tool on one side, openssl on the other.
    plain = tmp_path / "plain"
    plain.write_bytes(b"keyturn recovery")
    out = tmp_path / "out"
    process.run([*tool, "--encrypt", "--mechanism", "AES-ECB", "--id", "7777", "--input-file", str(plain),
                 "--output-file", str(out)], env=env)
    expected = process.run(["openssl", "enc", "-aes-256-ecb", "-nopad", "-K", key.hex(), "-in", str(plain), "-base64"])
    assert base64.b64encode(out.read_bytes()).decode() == expected.stdout.strip()
    for node in lab.nodes:
        with open(f"{node.looker}/cmk-{run}", encoding="utf-8") as f:
            assert base64.b64decode(f.read()) == key
