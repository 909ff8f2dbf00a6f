# SPDX-License-Identifier: Apache-2.0
"""`keyturn backup`: the encrypted backups of a real turn listed, verified and unpacked, with the key that only the token has."""
import os
import sqlite3
import subprocess

import pytest
from ktlab.coordinator import INPUT, IO, KEY, OK, REFUSED, USAGE


def turned(lab):
    run = lab.run().run_id()
    assert lab.assert_turned()
    return run


def backups(lab, *run):
    return {b["node"]: b for b in lab.keyturn.run("--json", "backup", "list", *run).events()}


def archive(lab, backup):
    return lab.local(lab.node(backup["node"]), backup["archive"])


def says(lab, code, words, *arguments):
    result = lab.keyturn.run("backup", *arguments, check=None)
    assert result.code == code, result
    for word in words:
        assert word in result.out + result.err, (word, str(result))
    return result


def test_list_verify_and_restore(make_lab, tmp_path):
    lab = make_lab(n=2, items=30)
    run = turned(lab)
    made = backups(lab, run)
    assert sorted(made) == sorted(node.name for node in lab.nodes) and made == backups(lab)
    for backup in made.values():
        assert backup["encrypted"] is True and backup["run"] == run and backup["files"] > 0
        with open(archive(lab, backup), "rb") as f:
            text = f.read()
        assert text.startswith(b"KTBACKUP\x01\x01") and f"looker/{run}/{backup['node']}".encode() in text[:331]
        assert b"\x28\xb5\x2f\xfd" not in text and b"SQLite" not in text and len(text) == backup["archive_bytes"]
        assert os.stat(archive(lab, backup)).st_mode & 0o777 == 0o600

    # The data has turned; what is in the backup still opens with the old key.
    rekey, other = (node.name for node in lab.nodes)
    rows = {row["node"]: row for row in lab.keyturn.run("--json", "backup", "verify", run, check=OK).events()}
    assert rows[rekey]["ok"] and rows[rekey]["checked"] and rows[other]["ok"] and not rows[other]["checked"]
    one = says(lab, OK, [rekey, "the data in it opens"], "verify", run, rekey)
    assert other not in one.out

    # Into a new folder of the node; what is there is never touched.
    folder = os.path.join(lab.cluster.node_folder(rekey), "unpacked")
    says(lab, OK, [rekey, folder], "restore", run, rekey, "--to", folder)
    restored = folder + lab.cluster.database
    with sqlite3.connect(f"file:{restored}?immutable=1", uri=True) as db:
        assert db.execute("SELECT count(*) FROM item").fetchone()[0] == 30
    says(lab, IO, [folder, "not there yet"], "restore", run, rekey, "--to", folder)

    # And by hand, as keyturn-recovery(7) has it: nothing but escrow, token, archive and the agent's program.
    key = str(tmp_path / "key")
    escrow = os.path.join(lab.cluster.state_folder, "escrow", run + "-backup.json")
    lab.keyturn.run("key", "unwrap", escrow, "file:" + key, "--plaintext-file", check=OK)
    agent = os.path.join(os.path.dirname(lab.keyturn.binary), "agent", "keyturn-agent")
    with open(tmp_path / "plain", "wb") as f:
        subprocess.run([agent, "unseal", key, archive(lab, made[rekey])], stdout=f, check=True)
    names = subprocess.run(["tar", "--zstd", "-tf", tmp_path / "plain"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert lab.cluster.database[1:] in names.split("\n") and "KEYTURN-MANIFEST" in names

    says(lab, USAGE, ["web99"], "verify", run, "web99")
    says(lab, USAGE, ["name the run"], "verify")
    says(lab, USAGE, ["rollback"], "restore", run, rekey)
    says(lab, USAGE, ["absolute"], "restore", run, rekey, "--to", "here")
    says(lab, REFUSED, ["20200101T000000Z-000000"], "verify", "20200101T000000Z-000000")


def test_what_was_altered_is_named(make_lab):
    lab = make_lab(n=2, items=5)
    run = turned(lab)
    rekey, other = (node.name for node in lab.nodes)
    made = backups(lab, run)
    with open(archive(lab, made[other]), "r+b") as f:
        f.seek(-1, os.SEEK_END)
        last = f.read(1)
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last[0] ^ 1]))
    result = says(lab, INPUT, [other, "is not the backup that was made"], "verify", run)
    assert f"ok   {rekey}" in result.out and f"FAIL {other}" in result.out
    # One node's backup in the place of another's.
    os.replace(archive(lab, made[rekey]), archive(lab, made[other]))
    says(lab, INPUT, [other, "is not the backup that was made"], "verify", run, other)
    says(lab, IO, [rekey], "verify", run, rekey)


@pytest.mark.parametrize("to", ["env:LKR_MASTER_KEY_ENV"])
def test_an_old_key_that_is_in_no_variable_any_more(make_lab, to):
    """Then nothing can look inside, and that is said; before the second turn it can."""
    lab = make_lab(n=1, items=5, enroll=False)
    lab.rewrite(key={"to": to})
    lab.enroll()
    first = turned(lab)
    says(lab, OK, ["the data in it opens"], "verify", first)
    lab.cluster.key_text = lab.current_key(lab.nodes[0]).strip() + "\n"
    lab.rewrite(key={"to": "file:${dir}/cmk-${run}"})
    second = turned(lab)
    says(lab, OK, ["nothing looked into the data"], "verify", second)


def test_the_backup_key_is_lost_and_recovered(make_lab):
    """Without its key a backup is nothing: the token says so, and the escrow brings the key back."""
    lab = make_lab(n=1, items=5)
    run = turned(lab)
    keys = lab.keyturn.run("--json", "key", "list").events()
    key = next(k for k in keys if k["kind"] == "backup")
    assert key["run"] == run and key["state"] == "deactivated"
    assert [need["what"] for need in key["dependants"]] == [b["archive"] for b in backups(lab).values()]
    refused = lab.keyturn.run("key", "destroy", key["id"], "--yes", check=REFUSED)
    assert "backup " + key["dependants"][0]["what"] in refused.err, refused

    lab.token.tool("--delete-object", "--type", "secrkey", "--id", key["id"])
    says(lab, KEY, ["keyturn key recover"], "verify", run)
    escrow = os.path.join(lab.cluster.state_folder, "escrow", run + "-backup.json")
    done = lab.keyturn.run("--json", "key", "recover", key["label"], escrow).events()[-1]
    assert done["id"] == key["id"] and done["kcv"] == key["kcv"]
    says(lab, OK, ["the data in it opens"], "verify", run)

    # Once the backups are gone the key may go, with its escrow.
    for backup in backups(lab).values():
        os.unlink(archive(lab, backup))
    lab.keyturn.run("key", "destroy", key["id"], "--gone", run, "--with-escrows", "--yes", check=OK)
    assert not os.path.exists(escrow) and key["label"] not in lab.token.objects()
