# SPDX-License-Identifier: Apache-2.0
"""`keyturn key`: the ledger of a real turn, a lost token that comes back by a custodian, and every verb's ways to fail."""
import base64
import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess

import pytest
from ktlab import faultpoints, process
from ktlab.coordinator import AUDIT, BUSY, HSM, INPUT, IO, KEY, OK, REFUSED, USAGE


class Desk:
    """keyturn key on one laboratory."""

    def __init__(self, lab):
        self.lab = lab
        self.folder = lab.cluster.state_folder

    def run(self, *arguments, check=OK, **options):
        return self.lab.keyturn.run("key", *arguments, check=check, **options)

    def json(self, *arguments, check=OK):
        return self.lab.keyturn.run("--json", "key", *arguments, check=check).events()

    def says(self, code, words, *arguments):
        """The verb fails with this class, and says these words."""
        result = self.run(*arguments, check=None)
        assert result.code == code, result
        for word in words:
            assert word in result.err, (word, str(result))
        return result

    def keys(self):
        return {key["id"]: key for key in self.json("list")}

    def of_run(self, run):
        return next(key for key in self.keys().values() if key.get("run") == run and key["kind"] == "cluster")

    def escrow(self, name):
        return os.path.join(self.folder, "escrow", name + ".json")

    @property
    def ledger(self):
        return os.path.join(self.folder, "ledger.json")


def custodians(lab, folder, *names):
    """A token with an RSA key for each; {name: its URI}. The public halves go into cluster.json."""
    uris, listed = {}, []
    for name in names:
        uris[name] = lab.token.add(name)(name)
        path = os.path.join(folder, name + ".pem")
        lab.keyturn.run("key", "generate", "--custodian", uris[name], "--output", path, check=OK)
        listed.append({"name": name, "public_key": path})
    lab.rewrite(custodians=listed)
    return uris


def key_text_of(lab, desk, key, folder):
    """A key of the token as its text: wrapped for a key pair of openssl's, and opened by openssl."""
    private, public, blob = (os.path.join(folder, name) for name in ("own.key", "own.pem", "own.json"))
    process.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", private])
    process.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public])
    desk.run("wrap", key, "--to", public, "--output", blob)
    with open(blob, encoding="utf-8") as f:
        wrapped = json.load(f)
    hash_name = {"rsa-oaep-sha256": "sha256", "rsa-oaep-sha1": "sha1"}[wrapped["format"]]
    done = subprocess.run(["openssl", "pkeyutl", "-decrypt", "-inkey", private, "-pkeyopt", "rsa_padding_mode:oaep",
                           "-pkeyopt", f"rsa_oaep_md:{hash_name}", "-pkeyopt", f"rsa_mgf1_md:{hash_name}"],
                          input=base64.b64decode(wrapped["wrapped"]), stdout=subprocess.PIPE, check=True)
    return base64.b64encode(done.stdout).decode()


# --- the disaster ---

def test_the_token_is_lost(make_lab, tmp_path):
    """A turn with two custodians; the HSM and its wrapping key are gone; a custodian's token brings the key back into a
    fresh token, and it opens the store's data. Every escrow is judged, not only the first one that opens."""
    lab = make_lab(n=1, items=20, enroll=False)
    desk = Desk(lab)
    uris = custodians(lab, str(tmp_path), "alice", "bob")
    lab.enroll()
    plan = lab.keyturn.run("plan").out
    assert "custodian alice, public key sha256 " in plan and "custodian bob" in plan
    run = lab.run().run_id()
    key = desk.of_run(run)
    assert [e["custodian"] for e in key["escrows"]] == ["", "alice", "bob"]
    assert [e["path"] for e in key["escrows"]] == [desk.escrow(run), desk.escrow(run + ".alice"), desk.escrow(run + ".bob")]
    assert key["state"] == "active" and key["on_data"] and key["proof"]
    assert [c["path"] for c in lab.status()["custodians"]] == [desk.escrow(run + ".alice"), desk.escrow(run + ".bob")]

    lab.token.delete()
    lab.token.create_again()
    lab.rewrite(custodians=[{"name": name, "public_key": str(tmp_path / (name + ".pem"))} for name in uris])
    rows = desk.json("verify", check=KEY)[0]["escrows"]
    assert [row["status"] for row in rows] == 2 * ["no-key", "untried", "untried"]  # the backup key's, and the new key's

    # Bob's escrow was damaged; the HSM's own needs what was lost; Alice's is good.
    damaged = str(tmp_path / "damaged.json")
    with open(desk.escrow(run + ".bob"), encoding="utf-8") as f:
        text = f.read()
    with open(damaged, "w", encoding="utf-8") as f:
        f.write(text.replace('"custodian":"bob"', '"custodian":"rob"'))
    escrows = [desk.escrow(run), damaged, desk.escrow(run + ".alice"), desk.escrow(run + ".bob")]
    done = desk.json("recover", run, *escrows, "--custodian", uris["alice"])[-1]
    assert [row["status"] for row in done["escrows"]] == ["no-key", "untried", "good", "untried"]
    assert done["id"] == key["id"] and done["kcv"] == key["kcv"] and done["state"] == "active"
    shown = desk.json("show", lab.token.uri("keyturn:looker:" + run))[0]
    assert shown["token"] == {"label": key["label"], "id": key["id"], "kind": "cluster", "kcv": key["kcv"]}

    text = key_text_of(lab, desk, run, str(tmp_path))
    assert text == lab.current_key(lab.nodes[0]).strip()
    assert lab.opened(lab.nodes[0], text) == (lab.items, lab.items)

    # The other custodian sees that theirs was damaged, and that it is good where it was not.
    rows = desk.json("verify", damaged, desk.escrow(run + ".bob"), "--custodian", uris["bob"], check=KEY)[0]["escrows"]
    assert [row["status"] for row in rows] == ["bad", "good"]
    desk.says(REFUSED, ["is there"], "recover", run, desk.escrow(run + ".alice"), "--custodian", uris["alice"])

    # And the cluster goes on: a new wrapping key, the escrows anew, the next turn.
    lab.enroll()
    desk.run("escrow", run)
    rows = desk.json("verify", "--custodian", uris["bob"], check=None)[0]["escrows"]
    assert {row["path"]: row["status"] for row in rows}[desk.escrow(key["id"])] == "good"
    lab.cluster.key_text = text + "\n"
    lab.run()
    assert lab.assert_turned()


def test_doctor_tries_each_custodian(make_lab, tmp_path):
    """A key file that is not there, or of which the token opens nothing that the HSM gives, is found before a turn."""
    lab = make_lab(n=1, items=3)
    public = str(tmp_path / "alice.pem")
    lab.keyturn.run("key", "generate", "--custodian", lab.token.add("alice")("alice"), "--output", public, check=OK)
    lab.rewrite(custodians=[{"name": "alice", "public_key": public}])
    lab.keyturn.run("doctor", check=OK)
    with open(public, encoding="utf-8") as f:
        text = f.read()
    with open(public, "w", encoding="utf-8") as f:
        f.write("Opens: rsa-oaep-sha256\n" + text.partition("\n")[2])  # SoftHSM gives SHA-1 alone
    result = lab.keyturn.run("doctor", check=None)
    assert result.code == HSM and "custodian alice" in result.out, result
    os.unlink(public)
    result = lab.keyturn.run("doctor", check=None)
    assert result.code == IO and "custodian alice" in result.err and public in result.err, result


def test_the_key_alone_is_lost(make_lab):
    """The HSM's backup has restored the wrapping key (here it has stayed), and the escrow gives the key back."""
    lab = make_lab(n=1, items=5)
    desk = Desk(lab)
    run = lab.run().run_id()
    key = desk.of_run(run)
    lab.token.tool("--delete-object", "--type", "secrkey", "--id", key["id"])
    desk.says(KEY, ["with id " + key["id"]], "wrap", run, "--under", "keyturn-escrow", "--output", desk.escrow("x"))
    assert desk.json("recover", run, desk.escrow(run))[-1]["id"] == key["id"]
    assert [row["status"] for row in desk.json("verify")[-1]["escrows"]] == ["good", "good"]


def test_a_custodian_with_another_kind_of_token(make_lab, nss, tmp_path):
    """The custodian's token is of another maker than the HSM, as it should be."""
    lab = make_lab(n=1, items=3)
    desk = Desk(lab)
    public, uri = str(tmp_path / "carol.pem"), nss.uri("carol")
    lab.keyturn.run("key", "generate", "--custodian", uri, "--output", public, check=OK)
    with open(public, encoding="utf-8") as f:
        assert f.readline() == "Opens: rsa-oaep-sha256 rsa-oaep-sha1\n"
    lab.rewrite(custodians=[{"name": "carol", "public_key": public}])
    made = desk.json("generate", lab.token.uri("shared"))[-1]
    desk.run("escrow", "shared")
    lab.token.tool("--delete-object", "--type", "secrkey", "--id", made["id"])
    done = desk.json("recover", "shared", desk.escrow(made["id"] + ".carol"), "--custodian", uri)[-1]
    assert done["kcv"] == made["kcv"] and done["id"] == made["id"]


def test_a_token_that_is_not_fit_for_a_custodian(lab, opencryptoki):
    """What it unwraps could be read: that is found when the key is made, not on the day of the disaster."""
    lab.keyturn.env.update(opencryptoki.env)
    lab.keyturn.prefix = opencryptoki.prefix
    Desk(lab).says(HSM, ["destroyed", "does not open"], "generate", "--custodian", opencryptoki.uri("carol"))
    assert "carol" not in opencryptoki.objects()


# --- what a turn leaves in the ledger, and what may go ---

def test_destroy_is_refused_with_names_then_allowed(make_lab):
    lab = make_lab(n=2, items=5)
    desk = Desk(lab)
    first = lab.run().run_id()
    lab.cluster.key_text = lab.assert_turned() + "\n"
    old = desk.of_run(first)
    desk.says(REFUSED, ["the key is needed (1): the data of looker"], "destroy", first, "--yes")
    desk.says(REFUSED, ["keyturn run"], "deactivate", first)
    second = lab.run().run_id()
    assert desk.keys()[old["id"]]["state"] == "deactivated" and desk.of_run(second)["state"] == "active"
    needs = desk.keys()[old["id"]]["dependants"]
    assert sorted(need["node"] for need in needs) == [node.name for node in lab.nodes]
    refused = desk.says(REFUSED, [f"of run {second}", *(node.name for node in lab.nodes)], "destroy", first, "--yes")
    assert all(need["what"] in refused.err for need in needs)
    desk.says(REFUSED, ["no run"], "destroy", first, "--gone", "20260101T000000Z-000000", "--yes")
    # A person's word is held against what the nodes have.
    desk.says(REFUSED, [f"still has a backup of run {second}", lab.nodes[0].name], "destroy", first, "--gone", second, "--yes")
    for need in needs:
        os.unlink(lab.local(lab.node(need["node"]), need["what"]))
    desk.says(REFUSED, [desk.escrow(first), "--with-escrows"], "destroy", first, "--gone", second, "--yes")
    assert "keyturn:looker:" + first in lab.token.objects()
    desk.says(REFUSED, ["terminal", "--yes"], "destroy", first, "--with-escrows")
    # The escrow key cannot go while escrows need it.
    desk.says(REFUSED, ["escrow", desk.escrow(first), desk.escrow(second)], "destroy", "keyturn-escrow", "--yes")
    assert desk.json("destroy", first, "--with-escrows", "--yes", "--reason", "the audit says so")[-1]["state"] == "destroyed"
    assert not os.path.exists(desk.escrow(first)) and "keyturn:looker:" + first not in lab.token.objects()
    assert "keyturn:looker:" + second in lab.token.objects()
    assert desk.keys()[old["id"]]["history"][-1]["why"] == "the audit says so"
    desk.says(REFUSED, ["destroyed"], "destroy", first, "--yes")
    desk.says(REFUSED, ["destroyed"], "recover", first, desk.escrow(second))
    lab.cluster.key_text = lab.assert_turned() + "\n"


def test_a_destruction_that_was_cut_off(make_lab):
    """Killed between the intent and its end: it is said, and the same command finishes it, whether the key went or not."""
    lab = make_lab(n=1, items=5)
    desk = Desk(lab)
    for gone_already in (False, True):
        label = f"doomed-{gone_already}"
        made = desk.json("generate", lab.token.uri(label))[-1]
        with open(desk.ledger, encoding="utf-8") as f:
            ledger = json.loads(f.readlines()[0])
        for entry in ledger["keys"]:
            if entry["id"] == made["id"]:
                entry["pending"] = {"what": "destroy", "since_ms": 1}
        write_ledger(desk, ledger)
        if gone_already:
            lab.token.tool("--delete-object", "--type", "secrkey", "--id", made["id"])
        assert any("destroy" in warning for warning in desk.json("show", label)[0]["warnings"])
        assert desk.json("destroy", label, "--yes")[-1]["state"] == "destroyed"
        assert label not in lab.token.objects()
        assert "pending" not in desk.keys()[made["id"]]


def settled(desk, label, states):
    """One key of this name in the ledger, in one of these states, with nothing pending."""
    found = [key for key in desk.keys().values() if key["label"] == label]
    assert len(found) == 1 and found[0]["state"] in states and "pending" not in found[0], found
    return found[0]


def test_killed_at_any_step(make_lab):
    """Killed before and after each durable step of the ledger; the same command again finishes it, or says that it is done."""
    lab = make_lab(n=1, items=3, faults=True)
    desk = Desk(lab)
    place = lab.fault_places[faultpoints.COORDINATOR]
    place.below(faultpoints.COORDINATOR, desk.folder)

    def at_every_step(verb, prepare, arguments, finished):
        prepare(verb + "-counted")
        place.arm(faultpoints.COORDINATOR)
        desk.run(*arguments(verb + "-counted"))
        steps = place.count(faultpoints.COORDINATOR)
        place.disarm(faultpoints.COORDINATOR)
        assert steps >= 6
        finished(verb + "-counted")
        for n in range(1, steps + 1):
            label = f"{verb}-{n}"
            prepare(label)
            place.arm(faultpoints.COORDINATOR, f"{n} {'before' if n % 2 else 'after'}")
            killed = desk.run(*arguments(label), check=None)
            assert place.fired(faultpoints.COORDINATOR) and killed.code == -signal.SIGKILL, killed
            place.disarm(faultpoints.COORDINATOR)
            again = desk.run(*arguments(label), check=None)
            assert again.code in (OK, REFUSED), again  # refused: the first one came to its end
            finished(label)

    def made(label):
        key = settled(desk, label, ["pre-active"])
        assert lab.token.objects().count(f"label:      {label}\n") == 1 and key["kcv"]

    def gone(label):
        settled(desk, label, ["destroyed"])
        assert f"label:      {label}\n" not in lab.token.objects()

    at_every_step("generate", lambda label: None, lambda label: ["generate", lab.token.uri(label)], made)
    at_every_step("destroy", lambda label: desk.run("generate", lab.token.uri(label)),
                  lambda label: ["destroy", label, "--yes"], gone)

    blobs = {}

    def lose(label):
        made = desk.json("generate", lab.token.uri(label))[-1]
        blobs[label] = desk.json("escrow", label)[-1]["escrows"][0]["path"]
        lab.token.tool("--delete-object", "--type", "secrkey", "--id", made["id"])

    at_every_step("recover", lose, lambda label: ["recover", label, blobs[label]], made)


def typed(desk, arguments, answer):
    """(exit code, what the terminal showed) of a verb that asks a person, who types this."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(desk.lab.keyturn.binary, desk.lab.keyturn.command("key", *arguments), desk.lab.keyturn.env)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, answer.encode() + b"\n")
    try:
        while more := os.read(terminal, 4096):
            shown += more
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_a_person_is_asked(desk):
    made = desk.json("generate", desk.lab.token.uri("asked"))[-1]
    code, shown = typed(desk, ["destroy", "asked"], "n")
    assert code == REFUSED and made["id"] in shown and "nothing was changed" in shown
    assert desk.keys()[made["id"]]["state"] == "pre-active"
    code, shown = typed(desk, ["destroy", "asked"], "y")
    assert code == OK, shown
    assert desk.keys()[made["id"]]["state"] == "destroyed"


def write_ledger(desk, ledger):
    """As keyturn writes it: canonical, with its checksum."""
    text = json.dumps(ledger, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    digest = process.run(["sha256sum"], input=text).stdout.split()[0]
    with open(desk.ledger, "w", encoding="utf-8") as f:
        f.write(text + f'{{"sha256":"{digest}"}}\n')


# --- the verbs on one token, without a turn ---

@pytest.fixture(scope="module")
def desk(module_lab):
    return Desk(module_lab(n=1, items=3))


def test_making_keys(desk, tmp_path):
    token = desk.lab.token
    made = desk.json("generate", token.uri("plain"), "--cryptoperiod", "30")[-1]
    assert made["state"] == "pre-active" and made["kind"] == "cluster" and len(made["id"]) == 32
    assert desk.json("generate", token.uri("hot"), "--activate")[-1]["state"] == "active"
    assert desk.json("generate", "--wrapping", token.uri("wrapping"))[-1]["kind"] == "wrapping"
    for label in ("plain", "wrapping"):
        desk.says(REFUSED, [label, "already"], "generate", token.uri(label))
    objects = token.objects()
    assert all(f"label:      {label}" in objects for label in ("plain", "hot", "wrapping"))
    path = str(tmp_path / "cmk")
    made = desk.json("generate", "file:" + path)[-1]
    assert os.stat(path).st_mode & 0o7777 == 0o400
    with open(path, encoding="utf-8") as f:
        desk.lab.canaries.add_key_text("a generated key file", f.read())
    desk.says(REFUSED, [path, "already"], "generate", "file:" + path)
    desk.says(INPUT, ["absolute"], "generate", "file:cmk")
    desk.says(REFUSED, ["token only"], "generate", "--wrapping", "file:" + path + "2")
    desk.says(IO, ["/nowhere"], "generate", "file:/nowhere/at/all")
    assert all(key["uri"] != "file:/nowhere/at/all" for key in desk.keys().values())
    desk.says(USAGE, ["--cryptoperiod"], "generate", token.uri("x"), "--cryptoperiod", "soon")
    desk.run("destroy", "file:" + path, "--yes")
    assert not os.path.exists(path)


def test_wrap_unwrap_rewrap(desk, tmp_path):
    """From one wrapping key to another, and back into the token under a new name; at each place the proof holds."""
    token = desk.lab.token
    blob, again = str(tmp_path / "blob.json"), str(tmp_path / "again.json")
    desk.json("generate", token.uri("travels"))
    desk.json("generate", "--wrapping", token.uri("second"))
    desk.run("wrap", "travels", "--under", "keyturn-escrow", "--output", blob)
    assert os.stat(blob).st_mode & 0o7777 == 0o600
    desk.run("rewrap", blob, "--under", "second", "--output", again)
    assert [row["status"] for row in desk.json("verify", blob, again)[-1]["escrows"]] == ["good", "good"]
    desk.says(REFUSED, [again], "destroy", "second", "--yes")
    desk.run("rewrap", again, "--under", "keyturn-escrow")  # in its place
    assert desk.json("show", "second")[0]["dependants"] == []
    key = desk.json("show", "travels")[0]
    token.tool("--delete-object", "--type", "secrkey", "--id", key["id"])
    desk.says(REFUSED, ["--plaintext-file"], "unwrap", again, f"file:{tmp_path}/cmk")
    assert desk.json("unwrap", again, token.uri("travels"))[-1]["id"] == key["id"]
    desk.run("unwrap", again, f"file:{tmp_path}/cmk", "--plaintext-file")
    with open(tmp_path / "cmk", encoding="utf-8") as f:
        text = f.read()
    desk.lab.canaries.add_key_text("an unwrapped key", text)
    assert text == key_text_of(desk.lab, desk, "travels", str(tmp_path))
    desk.says(REFUSED, ["wrapping key"], "wrap", "second", "--under", "keyturn-escrow", "--output", blob)
    desk.says(USAGE, ["--to", "--under"], "wrap", "travels", "--output", blob)
    desk.says(USAGE, ["--output"], "wrap", "travels", "--under", "second")
    desk.says(KEY, ["no wrapping key"], "wrap", "travels", "--under", "third", "--output", blob)
    desk.says(IO, ["nowhere"], "wrap", "travels", "--under", "second", "--output", "/nowhere/at/all")
    desk.says(INPUT, ["own.key"], "wrap", "travels", "--to", str(tmp_path / "own.key"), "--output", blob)


def test_every_byte_of_an_escrow_counts(desk, tmp_path):
    """A flipped bit anywhere: never good."""
    desk.json("generate", desk.lab.token.uri("counted"))
    path = desk.json("escrow", "counted")[-1]["escrows"][0]["path"]
    with open(path, "rb") as f:
        good = f.read()
    variants = []
    for at in range(0, len(good), 37):
        name = tmp_path / f"{at}.json"
        name.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
        variants.append(str(name))
    (tmp_path / "cut.json").write_bytes(good[:-20])
    variants.append(str(tmp_path / "cut.json"))
    for i in range(0, len(variants), 7):
        rows = desk.json("verify", path, *variants[i:i + 7], check=KEY)[0]["escrows"]
        assert rows[0]["status"] == "good"
        assert all(row["status"] in ("bad", "no-key") and row["message"] for row in rows[1:]), rows


def test_the_recorded_proof_counts(desk):
    """A check value has three bytes only: what tells the key that was escrowed from every other is the proof recorded then."""
    made = desk.json("generate", desk.lab.token.uri("proved"))[-1]
    path = desk.json("escrow", "proved")[-1]["escrows"][0]["path"]
    with open(desk.ledger, encoding="utf-8") as f:
        good = f.read()
    ledger = json.loads(good.splitlines()[0])
    for entry in ledger["keys"]:
        if entry["id"] == made["id"]:
            entry["proof"]["proof"] = "00" * 16
    write_ledger(desk, ledger)
    try:
        rows = desk.json("verify", path, check=KEY)[0]["escrows"]
        assert rows[0]["status"] == "bad" and "proof of possession" in rows[0]["message"]
        desk.lab.token.tool("--delete-object", "--type", "secrkey", "--id", made["id"])
        desk.says(KEY, ["proof of possession"], "recover", "proved", path)
        assert "label:      proved\n" not in desk.lab.token.objects()
    finally:
        with open(desk.ledger, "w", encoding="utf-8") as f:
            f.write(good)
    assert desk.json("recover", "proved", path)[-1]["id"] == made["id"]


def test_states(desk):
    token = desk.lab.token
    desk.json("generate", token.uri("short"), "--activate")
    desk.says(REFUSED, ["data"], "destroy", "short", "--yes")
    assert desk.json("deactivate", "short", "--reason", "moved")[-1]["state"] == "deactivated"
    desk.says(REFUSED, ["deactivated"], "deactivate", "short")
    assert desk.json("deactivate", "short", "--compromised")[-1]["state"] == "compromised"
    history = desk.json("show", "short")[0]["history"]
    assert [event["state"] for event in history] == ["pre-active", "active", "deactivated", "compromised"]
    assert history[2]["why"] == "moved"
    assert desk.json("destroy", "short", "--yes")[-1]["state"] == "destroyed"
    desk.says(KEY, ["nobody"], "show", "nobody")
    desk.says(USAGE, ["KEY"], "show")
    assert "short" in desk.run("list").out


def test_a_token_that_cannot_be_asked(desk, tmp_path):
    token = desk.lab.token
    wrong = str(tmp_path / "pin")
    with open(os.open(wrong, os.O_WRONLY | os.O_CREAT, 0o400), "w", encoding="utf-8") as f:
        f.write("000000")
    desk.says(HSM, ["PIN"], "generate", token.uri("x", pin_file=wrong))
    desk.says(HSM, ["nowhere"], "generate", token.uri("x", token="nowhere", serial=None))
    desk.says(IO, ["/nowhere/pin"], "generate", token.uri("x", pin_file="/nowhere/pin"))
    desk.says(INPUT, ["pin-source"], "generate", token.uri("x") + "&pin-value=1234")
    desk.says(INPUT, ["object="], "show", token.uri())
    desk.says(KEY, ["x"], "show", token.uri("x"))
    assert all(key["label"] != "x" for key in desk.keys().values())
    # A wrong PIN is tried once, however many escrows there are.
    desk.json("generate", token.uri("pinned"))
    desk.run("escrow", "pinned")
    paths = [e["path"] for e in desk.json("show", "pinned")[0]["escrows"]] * 3
    desk.lab.rewrite(hsm={"uri": token.uri(pin_file=wrong)})
    try:
        result = desk.run("--trace", "verify", *paths, check=None)
        assert result.err.count("C_Login") == 1, result
    finally:
        desk.lab.rewrite()


def test_a_damaged_ledger(desk):
    """It is named, nothing is done, and it is left as it is."""
    desk.json("generate", desk.lab.token.uri("before"))
    with open(desk.ledger, "rb") as f:
        good = f.read()
    bad = good.replace(b'"pre-active"', b'"destroyed0"', 1)
    with open(desk.ledger, "wb") as f:
        f.write(bad)
    try:
        for arguments in (["list"], ["generate", desk.lab.token.uri("not-made")], ["destroy", "before", "--yes"]):
            desk.says(AUDIT, [desk.ledger, "keyturn-keys(7)"], *arguments)
        with open(desk.ledger, "rb") as f:
            assert f.read() == bad
        assert "not-made" not in desk.lab.token.objects()
    finally:
        with open(desk.ledger, "wb") as f:
            f.write(good)


def test_a_second_one_waits_for_nobody(desk):
    """The folder's lock: a run, or another `keyturn key`, that is at work."""
    with open(os.path.join(desk.folder, "journal.lock"), "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        desk.says(BUSY, ["held by"], "generate", desk.lab.token.uri("busy"))
        assert isinstance(desk.keys(), dict)  # looking needs no lock
    assert "busy" not in desk.lab.token.objects()


@pytest.mark.skipif(os.getuid() != 0, reason="a small file system is mounted")
def test_a_full_disk(desk, tmp_path):
    """What cannot be recorded is not made."""
    small = tmp_path / "small"
    small.mkdir()
    process.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)])
    try:
        state = str(small / "state")
        shutil.copytree(desk.folder, state)
        desk.lab.rewrite(state=state)
        fill(str(small / "fill"))
        result = desk.run("generate", desk.lab.token.uri("no-room"), check=None)
        assert result.code in (AUDIT, IO) and "No space" in result.err, result
        assert "no-room" not in desk.lab.token.objects()
    finally:
        desk.lab.rewrite()
        process.run(["umount", str(small)])


def fill(path):
    """Until there is no room."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while os.write(fd, b"x" * 512):
            pass
    except OSError:
        os.close(fd)


def test_no_permission(desk, tmp_path):
    blob = str(tmp_path / "blob.json")
    desk.json("generate", desk.lab.token.uri("mine"))
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.getuid() != 0:
        desk.says(IO, [str(folder)], "wrap", "mine", "--under", "keyturn-escrow", "--output", str(folder / "x"))
    desk.says(KEY, ["not good"], "verify", blob)  # there is no such file
    os.symlink("/etc/hostname", blob)
    result = desk.run("wrap", "mine", "--under", "keyturn-escrow", "--output", blob, check=None)
    assert result.code != OK and blob in result.err, result


def test_nothing_new_is_wrapped_under_a_wrapping_key_that_is_out_of_use(desk):
    """A key that the ledger calls deactivated or compromised is no escrow key of a run any more."""
    token = desk.lab.token
    desk.json("generate", "--wrapping", token.uri("spent"), "--activate")
    desk.lab.rewrite(hsm={"uri": token.uri(), "escrow_key": "spent"})
    try:
        desk.lab.keyturn.run("doctor", check=OK)
        desk.json("deactivate", "spent", "--compromised")
        for verb in (["doctor"], ["run", "--yes"]):
            result = desk.lab.keyturn.run(*verb, check=REFUSED)
            for word in ('"spent" is compromised in the ledger', "hsm.escrow_key"):
                assert word in result.out + result.err, result
    finally:
        desk.lab.rewrite()
