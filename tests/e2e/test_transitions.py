# SPDX-License-Identifier: Apache-2.0
"""Every keystore as source and as destination of a whole turn on three nodes: file, env, a token of the nodes (pkcs11) and AWS
KMS. The same kind means another key of it. Each transition runs once from its beginning to its end, and once more with a
coordinator that is killed while the rekey is under way. And from data in the legacy form, which has no key, to each of them."""
import json
import os
import signal

import pytest
from ktlab import awskms, keystores
from ktlab.coordinator import OK, REFUSED, ROLLED_BACK
from ktlab.running import Running, told, until

ITEMS = 40
# Each transition once, and each begins where the one before it ended.
CIRCUIT = "file file env env pkcs11 pkcs11 awskms awskms env file pkcs11 env awskms pkcs11 file awskms file".split()
TRANSITIONS = list(zip(CIRCUIT, CIRCUIT[1:]))
assert len(set(TRANSITIONS)) == len(keystores.KINDS) ** 2

# The rekey, or the migration, as the playbook's command: a script that waits where the test wants it to. "inside" takes the
# number of the batch before whose commit it dies; the log is tampered with by "silent" and "rotated".
SCRIPT = """#!/bin/sh
here=$(dirname "$0")
reached() { echo $PPID >"$here/reached.new" && mv "$here/reached.new" "$here/reached"; until test -e "$here/go"; do sleep 0.02; done; }
pauses() { grep -c "Pausing for" log/looker.log; }
case $(cat "$here/mode") in
before) reached; exec ./looker "$@" ;;
after) ./looker "$@"; code=$?; reached; exit $code ;;
inside1 | inside2) if test "$(cat "$here/mode")" = inside1; then n=1 ms=600000; else n=2 ms=1500; fi
	last=$(($(pauses) + n))
	KEYTURN_STORE_REKEY_DELAY_MS=$ms ./looker "$@" & pid=$!
	while test "$(pauses)" != "$last"; do sleep 0.02; done
	kill -KILL $pid; wait $pid; reached; exit 9 ;;
silent) cp log/looker.log "$here/log"; ./looker "$@" && cp "$here/log" log/looker.log ;;
rotated) ./looker "$@" && mv log/looker.log log/looker.log.1 ;;
untold) echo "Could not find task \\"$1\\""; exit 1 ;;
*) exec ./looker "$@" ;;
esac
"""
# Where the coordinator dies: before the application's rekey has begun, after its commit, or after it and so that the process
# that runs it for the agent dies as well, and nobody knows how the rekey ended. ("inside": the rekey itself before its commit.)
POINTS = ("before", "after", "runner")


class Turns:
    """The laboratory, the keys of all kinds, and the script that stands for the rekey."""

    def __init__(self, lab, keys):
        self.lab, self.keys = lab, keys
        self.folder = os.path.join(lab.folder, "rekey")
        os.makedirs(self.folder)
        self.write("rekey.sh", SCRIPT)
        os.chmod(self.path("rekey.sh"), 0o755)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)

    def mode(self, mode):
        for name in ("reached", "go"):
            if os.path.exists(self.path(name)):
                os.unlink(self.path(name))
        self.write("mode", mode)

    def prepare(self, kind, depth=None, mode="plain"):
        """cluster.json for a turn to another key of this kind. What must hold after it."""
        to, expected = self.keys.next(kind)
        self.mode(mode)
        source = {"from": "legacy:"} if self.keys.kind() == keystores.LEGACY else {}
        self.lab.rewrite(key={**source, "to": to},
                         vars={**self.lab.cluster.variables(), "rekey_depth": depth,
                               "rekey_command": [self.path("rekey.sh"), "rekey"],
                               "migrate_command": [self.path("rekey.sh"), "migrate_encryption"]})
        return {"env": expected, "envs": [self.lab.env(node) for node in self.lab.nodes],
                "old": self.keys.own(self.lab.nodes[0]), "rekeys": self.keys.rekeys(), "kek": self.keys.kek()}

    def bring(self, kind):
        """The key in force is of this kind; by a turn of its own when a test is run alone."""
        if kind == keystores.LEGACY:
            self.keys.make_legacy(ITEMS)
        elif self.keys.kind() != kind:
            self.prepare(kind)
            self.lab.run()

    def assert_turned(self, before):
        lab, run = self.lab, self.lab.journal.latest()
        assert lab.journal.end(run) == "turned"
        assert len(lab.journal.intents("rekey", run)) == 1
        assert self.keys.rekeys() == before["rekeys"] + 1
        self.keys.assert_env(before["env"], run)
        self.keys.assert_only(None, before["old"])
        lab.keyturn.run("runs")  # reads, and so verifies, the journal's whole chain

    def assert_rolled_back(self, before, result):
        """Everything opens under the old key, and the env files are as they were."""
        lab = self.lab
        assert lab.journal.end() == "rolled-back", result
        assert len(lab.journal.intents("rekey")) == 1 and self.keys.rekeys() == before["rekeys"]
        assert [lab.env(node) for node in lab.nodes] == before["envs"]
        for node in lab.nodes:
            assert self.keys.verify(node, self.keys.own(node)) == (lab.items, lab.items)
        assert all(lab.states().values())

    def killed(self, kill_runner):
        """`keyturn run` up to the point where the script waits, and there killed."""
        run = Running(self.lab)
        until(lambda: os.path.exists(self.path("reached")) or run.process.poll() is not None, "the point of the rekey", 60)
        if not os.path.exists(self.path("reached")):
            pytest.fail(f"the run ended before it\n{run.finish()}")
        run.signal(signal.SIGKILL).finish()
        if kill_runner:
            with open(self.path("reached"), encoding="utf-8") as f:
                os.kill(int(f.read()), signal.SIGKILL)
        self.write("go", "")


@pytest.fixture(scope="module")
def turns(module_lab, tmp_path_factory):
    with awskms.Server() as kms:
        lab = module_lab(items=ITEMS)
        keys = keystores.Keystores(lab, kms, str(tmp_path_factory.mktemp("nodes") / "token"))
        yield Turns(lab, keys)
        keys.close()


def depth_of(source, destination):
    """Tokens at cmk, the others at what a turn does when nothing is said, and at data."""
    return "cmk" if "pkcs11" in (source, destination) else "data" if source == "env" else None


@pytest.mark.parametrize("source,destination", TRANSITIONS)
def test_a_turn(turns, source, destination):
    turns.bring(source)
    depth = depth_of(source, destination)
    before = turns.prepare(destination, depth)
    plan = turns.lab.keyturn.run("plan").out
    assert ("made in the token, escrowed" in plan) == (destination in ("file", "env"))
    assert ("each node tries it before anything stops" in plan) == (destination in ("pkcs11", "awskms"))
    turns.lab.run()
    turns.assert_turned(before)
    assert (turns.keys.kek() == before["kek"]) == (depth == "cmk")


def kills():
    """Each transition with one of the points, and each to another key of the same kind also with a rekey that dies itself."""
    for i, (source, destination) in enumerate(TRANSITIONS):
        if source == destination:
            yield source, destination, "inside1"
        yield source, destination, POINTS[i % len(POINTS)]


@pytest.mark.parametrize("source,destination,point", kills())
def test_killed_around_the_rekey(turns, source, destination, point):
    turns.bring(source)
    before = turns.prepare(destination, mode="after" if point == "runner" else point)
    turns.killed(point == "runner")
    if point == "inside1":
        turns.assert_rolled_back(before, turns.lab.keyturn.run("resume", check=ROLLED_BACK))
    else:
        turns.lab.keyturn.run("resume", check=OK)
        turns.assert_turned(before)


# --- refused before anything stops ---------------------------------------------------------------------------------------


def refused(turns, *words):
    lab = turns.lab
    before = [(lab.env(node), lab.cluster.app_pid(node)) for node in lab.nodes]
    result = lab.keyturn.run("run", "--yes", check=REFUSED)
    told(result, *words)
    assert lab.journal.end() == "refused"
    assert [(lab.env(node), lab.cluster.app_pid(node)) for node in lab.nodes] == before


def test_a_key_that_cannot_be_used_is_found_before_the_stop(turns):
    turns.bring("file")
    turns.prepare("awskms")
    kms = turns.keys.kms.kms
    kms.denied = "Decrypt"
    try:
        refused(turns, "step tried", "AccessDeniedException")
        found = turns.lab.keyturn.run("doctor", check=REFUSED)
        assert found.out.count("each node uses the new key where it is: the command exited with 4") == 3, str(found)
    finally:
        kms.denied = "-"
    assert turns.lab.keyturn.run("doctor", check=OK)
    turns.lab.rewrite(key={"to": "awskms:alias/nothing?region=" + awskms.REGION})
    refused(turns, "step tried", "NotFoundException")


def test_nodes_whose_tokens_hold_different_keys(turns):
    """The same label in each node's own token, and another key under it: they could not share one store."""
    turns.bring("file")
    lab, keys = turns.lab, turns.keys
    for node in lab.nodes:
        conf = {"SOFTHSM2_CONF": keys.others[node.name]["SOFTHSM2_CONF"]}
        lab.keyturn.run("key", "generate", "--wrapping", keys.token.uri("cmk-apart"), env=conf)
    lab.rewrite(key={"to": keys.token.uri("cmk-apart")})
    refused(turns, "step same-key", "not alike")


# --- afterwards ----------------------------------------------------------------------------------------------------------


def in_ledger(turns, uri):
    return next(key for key in turns.lab.keyturn.run("--json", "key", "list").events() if key["uri"] == uri)


def needs(key, kind):
    return {need["node"] for need in key["dependants"] if need["kind"] == kind}


def test_a_finished_turn_is_taken_back_to_a_key_that_stayed(turns):
    """In the ledger such a key goes by its place, with the backups that need it; and it was never away."""
    turns.bring("awskms")
    lab = turns.lab
    before = turns.prepare("file")
    lab.run()
    turns.assert_turned(before)
    run = lab.journal.latest()
    own = before["old"]
    context = f"&context={keystores.CONTEXT.replace(' ', '%20')}" if "LKR_AWS_CMK_EC" in own else ""
    uri = f"awskms:{own['LKR_AWS_CMK']}?region={awskms.REGION}{context}"
    old = in_ledger(turns, uri)
    assert (old["state"], old["kcv"], old["id"][:3]) == ("deactivated", "", "at-")
    assert needs(old, "backup") == {node.name for node in lab.nodes} and not needs(old, "data")
    lab.keyturn.run("rollback", "--yes", run)
    turns.assert_rolled_back({**before, "rekeys": before["rekeys"] + 1}, lab.keyturn.history[-1])
    old = in_ledger(turns, uri)
    assert old["state"] == "active" and needs(old, "data") and any("cannot be escrowed" in text for text in old["warnings"])
    told_again = json.loads(lab.keyturn.run("--json", "key", "deactivate", "--compromised", uri).out)
    assert (told_again["id"], told_again["state"]) == (old["id"], "compromised")


def test_the_key_in_force_under_another_name_is_no_new_key(turns):
    turns.bring("awskms")
    own = turns.keys.own(turns.lab.nodes[0])
    same = awskms.KEY if own["LKR_AWS_CMK"] == "alias/looker" else awskms.OTHER
    context = f"?context={keystores.CONTEXT.replace(' ', '%20')}" if "LKR_AWS_CMK_EC" in own else ""
    turns.lab.rewrite(key={"to": f"awskms:{awskms.arn_of(same)}{context}"})
    refused(turns, "step tried", "the same master key")


# --- from the legacy form: there is no key, and what is done once is migrate_encryption -----------------------------------

OLD_LINE = "2018-10-29 22:42:20.279 +0000 [INFO|007d0|crypt] :: Starting migration from AES-128-CBC Legacy to AES-GCM-256\n"


def test_from_the_legacy_form(turns):
    """With a log that is rotated in between. (To a file: the last test here; to the others: they are killed on the way, too.)"""
    turns.bring(keystores.LEGACY)
    before = turns.prepare("env", mode="rotated")
    plan = turns.lab.keyturn.run("plan").out
    assert "none: the data is in the legacy form" in plan and "migrate_encryption" in plan
    result = turns.lab.run()
    assert "none: the data was in the legacy form" in result.out
    turns.assert_turned(before)
    assert not [key for key in turns.lab.keyturn.run("--json", "key", "list").events() if key["uri"].startswith("legacy:")]


@pytest.mark.parametrize("destination,point", zip(keystores.KINDS, ("runner", "before", "after", "before")))
def test_killed_around_the_migration(turns, destination, point):
    turns.bring(keystores.LEGACY)
    before = turns.prepare(destination, mode="after" if point == "runner" else point)
    turns.killed(point == "runner")
    turns.lab.keyturn.run("resume", check=OK)
    turns.assert_turned(before)
    if destination == "file":  # and the next turn is as any other
        before = turns.prepare("file")
        turns.lab.run()
        turns.assert_turned(before)


def test_a_migration_that_dies_is_taken_back(turns):
    """After its first batch was committed: some of the data is in the new form then, and some in the old one."""
    lab = turns.lab
    turns.keys.make_legacy(6000)
    before = turns.prepare("env", mode="inside2")
    turns.write("go", "")
    result = lab.run(check=ROLLED_BACK)
    answers = [json.loads(e["body"]) for e in lab.journal.entries(lab.journal.latest())
               if (e["kind"], e["step"], e["role"]) == ("outcome", "rekey", "probe")]
    assert answers[0]["result"]["verdict"] == "mixed"
    assert "all data is in the legacy form" in result.out + result.err
    turns.assert_rolled_back(before, result)


def test_a_migration_of_which_the_log_tells_nothing(turns):
    """What it told years ago does not count."""
    turns.bring(keystores.LEGACY)
    before = turns.prepare("file", mode="silent")
    for node in turns.lab.nodes:
        with open(f"{node.looker}/log/looker.log", "a", encoding="utf-8") as f:
            f.write(OLD_LINE)
    result = turns.lab.run(check=ROLLED_BACK)
    told(result, "step migrated", 'does not say "GCM"')
    turns.assert_rolled_back(before, result)


def test_an_application_that_cannot_migrate(turns):
    turns.bring(keystores.LEGACY)
    before = turns.prepare("file", mode="untold")
    result = turns.lab.run(check=ROLLED_BACK)
    told(result, 'Could not find task "migrate_encryption"', "update Looker to 6.4")
    turns.assert_rolled_back(before, result)


def test_legacy_has_to_be_said_and_is_no_destination(turns):
    turns.bring(keystores.LEGACY)
    for key, words in (({"to": "file:${dir}/cmk-${run}"}, ("no variable names the key in force", "legacy:")),
                       ({"from": "legacy:", "to": "legacy:"}, ("nothing is turned into the legacy form",))):
        turns.lab.rewrite(key=key)
        told(turns.lab.keyturn.run("plan", check=REFUSED), *words)


def test_a_finished_migration_is_taken_back(turns):
    """By the backup; there is no old key that anybody would have to have."""
    lab = turns.lab
    turns.bring(keystores.LEGACY)
    before = turns.prepare("file")
    lab.run()
    turns.assert_turned(before)
    run = lab.journal.latest()
    made = next(key for key in lab.keyturn.run("--json", "key", "list").events()
                if (key.get("run"), key["kind"]) == (run, "cluster"))
    # The restored data is looked into, and without any key, though the env file has one by now.
    assert "web01            restores, and the data in it opens" in lab.keyturn.run("backup", "verify", run).out
    lab.keyturn.run("rollback", "--yes", run)
    turns.assert_rolled_back({**before, "rekeys": before["rekeys"] + 1}, lab.keyturn.history[-1])
    made = in_ledger(turns, made["uri"])
    assert made["state"] == "deactivated" and {need["kind"] for need in made["dependants"]} == {"kept"}
    told(lab.keyturn.run("key", "destroy", "--yes", made["uri"], check=REFUSED), "what its restore replaced")
