# SPDX-License-Identifier: Apache-2.0
"""The main job on three real systemd nodes: whole turns, what refuses one, and a coordinator that is killed."""
import subprocess
import time

import pytest
from ktlab.coordinator import OK, REFUSED, ROLLED_BACK, UNREACHABLE

pytestmark = pytest.mark.systemd

APP = "/home/lookerops"


@pytest.fixture(scope="module")
def lab(module_lab):
    """One cluster for all tests of this module: each leaves it up, on the key that is in force then."""
    lab = module_lab("systemd", items=10_000)
    lab.rewrite(key={"to": "file:${dir}/cmk-${run}"})
    return lab


def test_ten_thousand_items_open_with_the_new_key_alone(lab):
    result = lab.run()
    assert "TURNED" in result.out and "downtime" in result.out
    assert len(lab.journal.intents(lab.journal.step_of("exec"))) == 1
    assert lab.assert_settled() == "turned"
    for node in lab.nodes:
        assert not [name for name in lab.env(node) if name.endswith(("_SOURCE", "_DESTINATION"))]


def test_the_next_turn_starts_from_the_key_of_the_last(lab):
    lab.run()
    assert lab.assert_settled() == "turned"


@pytest.mark.parametrize("to", ["env:LKR_MASTER_KEY_ENV", "file:${dir}/cmk-${run}"])
def test_to_a_variable_and_back_to_a_file(lab, to):
    lab.rewrite(key={"to": to})
    lab.run()
    assert lab.assert_settled() == "turned"
    for node in lab.nodes:
        names = set(lab.env(node))
        assert names == {"LKR_MASTER_KEY_ENV" if to.startswith("env:") else "LKR_MASTER_KEY_FILE"}


def refused(lab, *named, code=None):
    """A run is refused or turned back before the rekey, names who is in the way, and leaves all up with the old key."""
    result = lab.run(check=code)
    assert result.code in (REFUSED, ROLLED_BACK, UNREACHABLE), result
    for name in named:
        assert name in result.err, f"{name} is not named in\n{result}"
    assert not lab.journal.intents(lab.journal.step_of("exec")), "the rekey was begun"
    lab.assert_on_old_key()


def quickly(lab):
    """A gate that gives up after a few seconds: what is in the way does not go away."""
    variables = {**lab.cluster.variables(), "quiet_times": 2, "quiet_every_s": 1}
    lab.rewrite(key={"to": "file:${dir}/cmk-${run}"}, vars=variables)


class Copy:
    """A second copy of the application on a node, which the service manager does not know, under another name."""

    def __init__(self, node, name):
        self.node, self.name, self.folder = node, name, f"{APP}/{name}"

    def __enter__(self):
        self.node.root_run(["cp", "-a", self.node.looker, self.folder])
        self.node.root_run(["sed", "-i", f"s/\"{self.node.name}\"/\"{self.name}\"/; s/:9999/:18888/",
                            f"{self.folder}/store.json"])
        self.node.root_run(["rm", "-f", f"{self.folder}/looker.pid"])
        self.node.root_run(["systemd-run", "--quiet", f"--unit={self.name}", "--uid=lookerops",
                            f"--property=EnvironmentFile={self.node.env_file}",
                            f"--working-directory={self.folder}", "--", f"{self.folder}/looker", "start",
                            "--foreground"])
        time.sleep(1)
        assert self.node.root_run(["systemctl", "is-active", self.name]).stdout.strip() == "active"
        return self

    def __exit__(self, *_):
        self.node.root_run(["systemctl", "stop", self.name])
        self.node.root_run(["rm", "-r", self.folder])


def test_a_node_whose_application_still_runs_is_refused(lab):
    quickly(lab)
    node = lab.node("web02")
    # Started by hand out of the installation itself: the unit is stopped, the process is not.
    node.root_run(["systemd-run", "--quiet", "--unit=byhand", "--uid=lookerops", "--", "/bin/sh", "-c",
                   f"cd {node.looker} && exec sleep 600"])
    try:
        refused(lab, "web02", "sleep")
    finally:
        node.root_run(["systemctl", "stop", "byhand"])


def test_an_unknown_node_in_the_heartbeat_table_is_refused(lab):
    quickly(lab)
    with Copy(lab.node("web01"), "web77"):
        refused(lab, "web77", "unknown")


def test_a_connected_client_is_refused(lab):
    """Somebody has the database open: an independent program on a node."""
    quickly(lab)
    node = lab.node("web03")
    client = subprocess.Popen([*node.client.command, "--", "sudo -n sqlite3 /srv/looker/store.db"],
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        client.stdin.write(b"SELECT count(*) FROM sqlite_master;\n")
        client.stdin.flush()
        time.sleep(1)
        refused(lab, "web03", "sqlite3")
    finally:
        client.stdin.close()
        client.wait(20)


def test_an_unreachable_node_is_refused(lab):
    node = lab.node("web03")
    node.partition()
    try:
        result = lab.run(check=UNREACHABLE)
    finally:
        node.heal()
    assert "web03" in result.err
    lab.assert_on_old_key()


@pytest.mark.parametrize("verb, delay", [("service.stop", 0), ("backup.create", 0), ("exec", 0), ("exec", 0.3)])
def test_a_killed_coordinator_is_resumed(lab, verb, delay):
    """SIGKILL during stop, backup and rekey. `resume` ends turned or rolled back, and the rekey ran at most once."""
    lab.rewrite(key={"to": "file:${dir}/cmk-${run}"})
    lab.run_killed_at({"service.stop": "stop", "backup.create": "backup", "exec": "rekey"}[verb], delay)
    run = lab.journal.latest()
    again = lab.run(check=None)
    assert again.code != OK and run in again.err and "resume" in again.err, again
    result = lab.keyturn.run("resume", check=None)
    state = lab.assert_settled()
    assert result.code == {"turned": OK, "rolled-back": ROLLED_BACK}[state], result
    assert lab.journal.latest() == run and len(lab.journal.intents(lab.journal.step_of("exec"), run)) <= 1
    assert rekeys(lab, run) <= 1


def rekeys(lab, run):
    """How often the application itself says in its log that it was rekeyed to this run's key."""
    node = lab.nodes[0]
    log = node.root_run(["cat", f"{node.looker}/log/looker.log"]).stdout
    done = [line for line in log.splitlines() if "Rekey complete" in line]
    kcv = next((s["new_key"]["kcv"] for s in [lab.status(run)] if "kcv" in s["new_key"]), None)
    return len([line for line in done if kcv and f"to {kcv}," in line])


def test_resume_of_a_finished_run_changes_nothing(lab):
    before = len(lab.journal.entries())
    result = lab.keyturn.run("resume", check=None)
    assert result.code in (OK, ROLLED_BACK), result
    assert len(lab.journal.entries()) == before
    assert all(lab.states().values())
