# SPDX-License-Identifier: Apache-2.0
"""S6 over a whole turn with tracing on, and the escrow opened by an independent program."""
import base64
import json
import os
import threading
import time

from ktlab import process

ITEMS = 200


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


def test_core_dump_of_the_coordinator_holds_no_secret(lab, tmp_path):
    """A dump forced in the middle of a turn, after the new key was made: gcore reads the memory of the stopped process."""
    running = lab.keyturn.start("--trace", "run", "--yes")
    step = "rekey"
    deadline = time.monotonic() + 60
    while running.poll() is None and time.monotonic() < deadline:
        if any(e["kind"] == "intent" and e["step"] == step for e in lab.journal.entries()):
            break
        time.sleep(0.01)
    assert running.poll() is None
    process.run(["gcore", "-a", "-o", str(tmp_path / "core"), str(running.pid)], timeout=120)
    result = lab.keyturn.finish(running, check=0)
    lab.canaries.add_key_text("new key", new_key_of(lab, result.run_id()))
    core = next(tmp_path.glob("core.*"))
    data = core.read_bytes()
    assert b"keyturn" in data and len(data) > 1_000_000
    assert lab.canaries.find(data) == []


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
