# SPDX-License-Identifier: Apache-2.0
"""keyturn-store with a master key in AWS KMS, against a server that checks signatures and contexts (ktlab/awskms.py)."""
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
