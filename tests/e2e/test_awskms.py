# SPDX-License-Identifier: Apache-2.0
"""keyturn-store with a master key in AWS KMS, against a server that checks signatures and contexts (ktlab/awskms.py)."""
import fnmatch
import json
import os

import pytest

from ktlab import app, awskms, process

KINDS = {"file": {"LKR_MASTER_KEY_FILE": "cmk"}, "env": {"LKR_MASTER_KEY_ENV": app.new_key_text().strip()},
         "aws": {"LKR_AWS_CMK": "alias/looker"}, "aws-context": {"LKR_AWS_CMK": "alias/looker", "LKR_AWS_CMK_EC": "mine, \"only\""},
         "aws-other": {"LKR_AWS_CMK": awskms.arn_of(awskms.OTHER)}}


@pytest.fixture
def kms():
    with awskms.Server() as server:
        yield server


@pytest.fixture
def store(kms, bin_folder, tmp_path):
    """store(verb..., key=KIND, rekey=(KIND, KIND)): the finished process."""
    folder = str(tmp_path / "node")
    app.install(folder, os.path.join(bin_folder, "keyturn-store"), "web01", "looker.db", 0, app.new_key_text())

    def call(*arguments, key=None, rekey=None, check=True, **more):
        env = {"PATH": os.environ["PATH"], "HOME": folder, **kms.environment, **more}
        if key:
            env.update(KINDS[key])
        for role, kind in zip(("_SOURCE", "_DESTINATION"), rekey or ()):
            env.update({name + role: value for name, value in KINDS[kind].items()})
        return process.run(["./looker", *arguments], env=env, cwd=folder, check=check)

    return call


def fill(store, key):
    store("start", key=key)
    try:
        store("fill", "--count", "20", "--size", "100", key=key)
    finally:
        store("stop", key=key)


@pytest.mark.parametrize("source,destination,depth", [
    ("file", "aws", "kek"), ("aws", "file", "kek"), ("env", "aws", "kek"), ("aws", "env", "kek"), ("aws", "aws-other", "kek"),
    ("aws", "aws-context", "kek"), ("file", "aws", "cmk"), ("aws", "aws-context", "cmk"), ("aws", "file", "cmk"), ("file", "aws", "data")])
def test_rekey(store, source, destination, depth):
    fill(store, source)
    told = json.loads(store("rekey", "--depth", depth, "--json", rekey=(source, destination)).stdout)
    assert told["items"] == 20
    assert (told["new"]["cmk_kcv"] == "none") == destination.startswith("aws")
    assert (told["old"]["cmk_kcv"] == "none") == source.startswith("aws")
    assert store("probe", rekey=(source, destination)).stdout == "new\n"
    assert "20" in store("verify", "--content", key=destination).stdout
    old = store("verify", key=source, check=False)
    assert old.returncode == 11, old.stderr
    assert ("InvalidCiphertextException" if destination == "aws-context" else "does not open the data") in old.stderr


def moved(store, kms, source, destination):
    """What KMS was asked for by a rekey at depth cmk, but for finding the keys; everything opens afterwards."""
    fill(store, source)
    kms.kms.asked.clear()
    store("rekey", "--depth", "cmk", rekey=(source, destination))
    asked = [operation for operation in kms.kms.asked if operation != "DescribeKey"]
    assert store("probe", rekey=(source, destination)).stdout == "new\n"
    assert "20" in store("verify", "--content", key=destination).stdout
    return asked


@pytest.mark.parametrize("denied", ["-", "ReEncryptFrom", "ReEncryptTo"])
def test_a_kek_moves_within_kms(store, kms, denied):
    """The source is opened once by itself, the destination twice: what ReEncrypt gave, and what was written."""
    kms.kms.denied = denied
    way = ["ReEncrypt", "Decrypt"] if denied == "-" else ["ReEncrypt", "Decrypt", "Encrypt"]
    assert moved(store, kms, "aws", "aws-other") == ["Decrypt", *way, "Decrypt"]


def test_another_kek_of_kms_is_not_taken(store, kms):
    fill(store, "aws")
    kms.kms.faults = [None] * 3 + ["otherkek"]  # two keys found, the source opened
    done = store("rekey", "--depth", "cmk", rekey=("aws", "aws-other"), check=False)
    assert done.returncode == 11 and "cannot be moved" in done.stderr, done.stderr
    assert store("probe", rekey=("aws", "aws-other")).stdout == "old\n"
    assert "20" in store("verify", "--content", key="aws").stdout


@pytest.mark.parametrize("depth,asks", [("kek", True), ("data", True), ("cmk", False)])
def test_where_keys_are_made_kms_gives_random_bytes(store, kms, depth, asks):
    fill(store, "file")
    assert "GenerateRandom" not in kms.kms.asked
    store("rekey", "--depth", depth, rekey=("file", "aws"))
    assert ("GenerateRandom" in kms.kms.asked) == asks


def test_a_refused_generator_is_said_and_passed(store, kms, tmp_path):
    kms.kms.denied = "GenerateRandom"
    fill(store, "aws")
    store("rekey", rekey=("aws", "aws-other"))
    assert "20" in store("verify", "--content", key="aws-other").stdout
    log = (tmp_path / "node" / "log" / "looker.log").read_text()
    assert log.count("Keys are made of this machine's entropy alone") == 2  # the first start and the rekey
    assert "kms:GenerateRandom" in log


def test_the_same_key_is_not_turned_to(store):
    fill(store, "aws")
    done = store("rekey", rekey=("aws", "aws"), check=False)
    assert done.returncode == 11 and "the same master key" in done.stderr


def test_a_key_that_cannot_be_asked_changes_nothing(store, kms):
    """Throttled for good, denied, disabled: refused by its class and name, and the old key still opens everything."""
    fill(store, "file")
    for fault, code in (("ThrottlingException", 8), ("AccessDeniedException", 4), ("DisabledException", 4)):
        kms.kms.faults = [fault] * 50
        done = store("rekey", rekey=("file", "aws"), check=False, AWS_MAX_ATTEMPTS="2")
        assert done.returncode == code and fault in done.stderr and "what to do" in done.stderr, done.stderr
        assert awskms.USERS["AKIDEXAMPLE"][0] not in done.stderr + done.stdout
    kms.kms.faults = []
    assert store("probe", rekey=("file", "aws")).stdout == "old\n"
    assert "20" in store("verify", key="file").stdout


def test_a_disabled_key_stops_a_start_and_not_what_runs(store, kms):
    store("start", key="aws")
    kms.kms.states[awskms.KEY] = "Disabled"
    assert json.loads(store("status", "--json").stdout)["running"]
    store("stop")
    done = store("start", key="aws", check=False)
    assert done.returncode == 4 and "Disabled" in done.stderr, done.stderr
    kms.kms.states[awskms.KEY] = "Enabled"
    store("start", key="aws")
    store("stop")


# --- keyturn key generate, keyturn key policy ----------------------------------------------------------------------------


@pytest.fixture
def keyturn(kms, bin_folder, tmp_path):
    """keyturn("key", ...): the finished process, for a cluster that has nothing but a name."""
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"cluster": "c", "playbook": "looker", "nodes": [{"name": "a"}], "hsm": {"uri": "pkcs11:token=none"},
                                "key": {"to": "awskms:alias/new"}}))

    def call(*arguments, check=True, **more):
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **kms.environment, **more}
        return process.run([os.path.join(bin_folder, "keyturn"), "--cluster", str(path), *arguments], env=env, check=check)

    return call


def test_a_key_is_made_and_used(keyturn, store, kms):
    told = json.loads(keyturn("--json", "key", "generate", "awskms:alias/made").stdout)
    assert (told["uri"], told["kind"], told["kcv"], told["state"]) == ("awskms:alias/made", "cluster", "", "pre-active")
    assert kms.kms.aliases["alias/made"] == told["arn"].rpartition("/")[2]
    assert "alias/made" in keyturn("key", "list").stdout
    assert store("check_key", LKR_AWS_CMK="alias/made").stdout == f"awskms:alias/made?region={awskms.REGION} wraps and opens (ARN {told['arn']})\n"
    fill(store, "file")
    store("rekey", LKR_MASTER_KEY_FILE_SOURCE="cmk", LKR_AWS_CMK_DESTINATION="alias/made")
    assert "20" in store("verify", "--content", LKR_AWS_CMK="alias/made").stdout
    again = keyturn("key", "generate", "awskms:alias/made", check=False)
    assert again.returncode == 4 and "AWS KMS has a key under alias/made" in again.stderr
    wrapped = keyturn("key", "escrow", "awskms:alias/made", check=False)
    assert wrapped.returncode == 4 and "it stays there" in wrapped.stderr


def test_a_key_of_which_the_answer_was_lost_is_finished_by_the_same_command(keyturn, kms):
    kms.kms.faults = [None, None, "drop", "http500"]  # of CreateAlias, and of looking whether there is one
    lost = keyturn("key", "generate", "awskms:alias/lost", check=False, AWS_MAX_ATTEMPTS="1")
    assert lost.returncode == 8 and "was made and has no alias yet" in lost.stderr, lost.stderr
    assert "was begun" in keyturn("key", "list").stdout
    keys = len(kms.kms.masters)
    told = json.loads(keyturn("--json", "key", "generate", "awskms:alias/lost").stdout)
    assert told["state"] == "pre-active" and len(kms.kms.masters) == keys
    assert "was begun" not in keyturn("key", "list").stdout


def test_what_is_refused_leaves_nothing_in_the_ledger(keyturn, kms):
    kms.kms.denied = "CreateKey"
    refused = keyturn("key", "generate", "awskms:alias/no", check=False)
    assert refused.returncode == 4 and "keyturn key policy" in refused.stderr
    assert keyturn("key", "list").stdout == "No key is known.\n"


def test_the_policy_is_what_the_operations_need(keyturn, store, kms):
    """Every operation that the server was asked for is allowed by it, and nothing else of AWS KMS but what Looker documents."""
    policy = json.loads(keyturn("key", "policy", "--create").stdout)
    keyturn("key", "generate", "awskms:alias/made")
    fill(store, "aws")
    store("rekey", rekey=("aws", "aws-other"))
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    store("rekey", "--depth", "cmk", rekey=("aws-other", "aws"))
    assert {"ReEncrypt", "GenerateRandom", "CreateKey"} <= set(kms.kms.asked)
    for operation in kms.kms.asked:
        needed = ["ReEncryptFrom", "ReEncryptTo"] if operation == "ReEncrypt" else [operation]
        assert all(any(fnmatch.fnmatchcase(f"kms:{one}", pattern) for pattern in allowed) for one in needed), operation
    assert {s["Resource"] for s in policy["Statement"] if "kms:GenerateRandom" in s["Action"]} == {"*"}
    assert {s["Resource"] for s in policy["Statement"] if "kms:Decrypt" in s["Action"]} == {"arn:aws:kms:*:*:key/*"}
    assert allowed == {"kms:GenerateRandom", "kms:DescribeKey", "kms:Generate*", "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:CreateKey",
                       "kms:CreateAlias"}
