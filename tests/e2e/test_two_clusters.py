# SPDX-License-Identifier: Apache-2.0
"""Two clusters (two cluster.json, two state folders) that name the same machines: one run at a time on a node."""
import json
import os
import shutil
import time

import pytest
from ktlab import LabError
from ktlab.coordinator import OK, REFUSED, Keyturn

TO = {"to": "file:${dir}/cmk-${run}"}


class Other:
    """The second cluster over the nodes of a laboratory."""

    def __init__(self, lab):
        self.lab = lab
        self.file = os.path.join(lab.cluster.folder, "other.json")
        document = lab.cluster.document(lab.token, cluster="analytics", key=TO,
                                        state=os.path.join(lab.cluster.folder, "analytics.state"))
        with open(self.file, "w", encoding="utf-8") as f:
            json.dump(document, f)
        self.keyturn = Keyturn(lab.keyturn.binary, self.file, lab.token.env, lab.canaries)
        self.keyturn.run("enroll", "--accept-host-keys")

    def run(self, check):
        return self.keyturn.run("run", "--yes", check=check)


@pytest.fixture
def lab(make_lab):
    return make_lab(n=2, items=30)


def holder(lab, node):
    return os.path.join(lab.cluster.agent_members()["state"].replace("${node}", node.name), "holder")


def wait_for(process, question):
    deadline = time.monotonic() + 60
    while not question():
        if time.monotonic() > deadline or process.poll() is not None:
            raise LabError("the run ended, or did not come that far in time")
        time.sleep(0.01)


def names_the_holder(result, run):
    assert f"held by run {run} of cluster looker since 20" in result.err + result.out, result
    assert "keyturn resume" in result.err + result.out, result


def test_a_run_holds_its_nodes_until_its_end(lab, tmp_path):
    other = Other(lab)
    for node in lab.nodes:  # the rekey takes its time
        with open(node.env_file, "a", encoding="utf-8") as f:
            f.write("KEYTURN_STORE_REKEY_DELAY_MS=6000\n")
    kept = tmp_path / "holder"
    process = lab.keyturn.start("run", "--yes")
    wait_for(process, lambda: any(e["kind"] == "intent" and e["step"] == "stop" for e in lab.journal.entries()))
    run = lab.journal.latest()
    shutil.copy(holder(lab, lab.nodes[1]), kept)
    # Found before anything is stopped, by the preflight as a whole run does it and alone.
    names_the_holder(other.run(check=REFUSED), run)
    doctor = other.keyturn.run("doctor", check=REFUSED)
    names_the_holder(doctor, run)
    lab.keyturn.finish(process, check=OK)
    for node in lab.nodes:
        assert not os.path.exists(holder(lab, node))
    lab.cluster.key_text = lab.assert_turned() + "\n"

    # The release was lost: who holds it is said, and resuming that run says it again.
    shutil.copy(kept, holder(lab, lab.nodes[1]))
    names_the_holder(other.run(check=REFUSED), run)
    lab.assert_on_old_key()
    lab.cluster.stop_sshd(lab.nodes[1])
    untold = lab.keyturn.run("resume", check=OK)
    assert "web02 could not be told that this run is over" in untold.out + untold.err, untold
    lab.cluster.start_sshd(lab.nodes[1])
    lab.keyturn.run("resume", check=OK)
    assert not os.path.exists(holder(lab, lab.nodes[1]))
    other.run(check=OK)
    lab.cluster.key_text = lab.assert_turned() + "\n"
    for node in lab.nodes:
        assert not os.path.exists(holder(lab, node))

