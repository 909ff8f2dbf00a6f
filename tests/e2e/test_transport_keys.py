# SPDX-License-Identifier: Apache-2.0
"""Transport keys in tokens of the nodes: enrolled with a proof, used in a turn, rotated, lost and replaced."""
import json
import os
import shutil

import pytest
from ktlab.coordinator import KEY, OK, REFUSED
from ktlab.faultpoints import COORDINATOR
from ktlab.running import TO, Running, told

FILE, TOKEN = "web01", "web02"


@pytest.fixture(scope="module")
def module_cluster(module_lab):
    """web01 has its key in a file, web02 in a SoftHSM token."""
    lab = module_lab(n=2, items=30, enroll=False, faults=True, node_tokens=[None, "softhsm"])
    lab.rewrite(key=TO)
    lab.enroll()
    return lab


@pytest.fixture
def lab(module_cluster):
    lab = module_cluster
    lab.rewrite(key=TO)
    yield lab
    lab.fault_places[COORDINATOR].disarm(COORDINATOR)
    lab.recover()


def pin(lab, name):
    with open(os.path.join(lab.cluster.state_folder, "nodes", f"{name}.json"), encoding="utf-8") as f:
        return json.loads(f.readline())


def spki(lab, name):
    return pin(lab, name)["transport_key"]["spki_sha256"]


def agent_state(lab, name, *path):
    return os.path.join(lab.cluster.node_folder(name), "agent-state", *path)


def private_keys(lab, name):
    """How many transport keys the node has, by what lies there and by what another program sees in the token."""
    files = [f for f in ("transport.key", "transport.new") if os.path.exists(agent_state(lab, name, f))]
    token = lab.node(name).token
    return len(files) + (token.objects().count("Private Key Object") if token else 0)


def can(lab, *arguments):
    """The rehearsal: each node opens what the HSM wraps for its pinned key."""
    return lab.keyturn.run("doctor", *arguments)


def enroll(lab, *arguments, check=OK):
    return lab.keyturn.run("enroll", *arguments, check=check)


def test_a_turn_with_a_file_and_tokens(lab):
    assert pin(lab, FILE)["transport_key"]["at"] == "file"
    key = pin(lab, TOKEN)["transport_key"]
    assert key["at"].startswith("pkcs11:token=kt-web02;")
    assert key["bits"] == 3072
    assert key["formats"] == ["rsa-oaep-sha1", "rsa-aes-sha1"]  # SoftHSM does no other hash
    assert private_keys(lab, TOKEN) == 1
    assert not os.path.exists(agent_state(lab, TOKEN, "transport.key"))
    seen = lab.node(TOKEN).token.objects()
    assert "Usage:      decrypt, unwrap" in seen and "sign" not in seen.partition("Public")[0], seen
    assert "rsa-oaep-sha256" in pin(lab, FILE)["transport_key"]["formats"]
    plan = lab.keyturn.run("plan").out
    for node in lab.nodes:
        assert f"{spki(lab, node.name)}  {pin(lab, node.name)['transport_key']['at']}" in plan
    lab.run()
    lab.assert_turned()


def test_a_rotation(lab):
    old = {node.name: spki(lab, node.name) for node in lab.nodes}
    said = enroll(lab, "--rotate-transport").out
    for node in lab.nodes:
        now = pin(lab, node.name)
        assert now["transport_key"]["spki_sha256"] != old[node.name]
        assert (now["history"][0]["spki_sha256"], now["history"][0]["why"]) == (old[node.name], "rotated")
        assert f"{now['transport_key']['spki_sha256'][:16]}… rotated" in said
        assert private_keys(lab, node.name) == 1
    can(lab)
    # The new key was wrapped for keys that are gone: better said before anything is stopped.
    told(lab.keyturn.run("rollback", lab.journal.latest(), "--yes", check=REFUSED),
         "the transport key of web01 was changed since")
    assert all(node.app.status()["running"] for node in lab.nodes)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_rotation_that_is_broken_off(lab, moment):
    """Killed before or after the first node's new key is pinned: what is pinned works, and enrolling again ends it."""
    old = {node.name: spki(lab, node.name) for node in lab.nodes}
    place = lab.fault_places[COORDINATOR]
    place.below(COORDINATOR, os.path.join(lab.cluster.state_folder, "nodes"))
    place.arm(COORDINATOR, "1 before" if moment == "before" else "4 after")
    killed = enroll(lab, "--rotate-transport", check=None)
    assert place.fired(COORDINATOR), killed
    place.disarm(COORDINATOR)
    os.unlink(os.path.join(place.folder, f"below.{COORDINATOR}"))
    assert killed.code != OK
    assert private_keys(lab, FILE) == 2 and private_keys(lab, TOKEN) == 2
    assert (spki(lab, FILE) == old[FILE]) == (moment == "before")
    assert spki(lab, TOKEN) == old[TOKEN]
    can(lab)
    enroll(lab, "--rotate-transport" if moment == "before" else "web[01-02]")
    for node in lab.nodes:
        assert private_keys(lab, node.name) == 1
    can(lab)


def test_a_key_moves_between_file_and_token(lab):
    lab.rewrite(key=TO, transport_key="file", nodes=[{k: v for k, v in n.items() if k != "transport_key"}
                                                     for n in lab.cluster.document(lab.token)["nodes"]])
    told(lab.keyturn.run("plan", check=REFUSED), "web02: cluster.json has its transport key in file",
         "enroll --rotate-transport")
    told(enroll(lab, TOKEN, check=REFUSED), "another transport key")
    enroll(lab, "--rotate-transport", TOKEN)
    assert pin(lab, TOKEN)["transport_key"]["at"] == "file"
    assert os.path.exists(agent_state(lab, TOKEN, "transport.key"))
    assert "Private Key Object" not in lab.node(TOKEN).token.objects()
    lab.rewrite(key=TO)
    enroll(lab, "--rotate-transport", TOKEN)
    assert private_keys(lab, TOKEN) == 1 and "Private Key Object" in lab.node(TOKEN).token.objects()
    can(lab)


def test_a_lost_key(lab):
    """Found by the rehearsal, which names token and remedy; a person takes the node's new key, and the old pin is kept."""
    old = spki(lab, TOKEN)
    for kind in ("privkey", "pubkey"):
        lab.node(TOKEN).token.tool("--delete-object", "--type", kind, "--label", "keyturn-transport")
    found = lab.keyturn.run("doctor", check=None)
    assert found.code != OK
    told(found, 'token "kt-web02"', "the transport key is not in it any more", "enroll --replace NODE")
    refused = lab.run(check=KEY)
    told(refused, 'token "kt-web02"', "the transport key is not in it any more")
    told(enroll(lab, check=REFUSED), "another transport key", "enroll --replace web02")
    told(enroll(lab, "--replace", TOKEN, check=REFUSED), "no terminal")
    assert spki(lab, TOKEN) == old
    enroll(lab, "--replace", "--yes", TOKEN)
    now = pin(lab, TOKEN)
    assert now["transport_key"]["spki_sha256"] != old
    assert (now["history"][0]["spki_sha256"], now["history"][0]["why"]) == (old, "replaced")
    can(lab)


def test_a_wrong_pin_is_tried_once(lab):
    token = lab.node(TOKEN).token
    os.chmod(token.pin_file, 0o600)
    with open(token.pin_file, "w", encoding="utf-8") as f:
        f.write("not-the-pin")
    first = lab.keyturn.run("doctor", check=None)
    told(first, 'token "kt-web02"', "the PIN is wrong (CKR_PIN_INCORRECT)", "one try was used")
    second = lab.keyturn.run("doctor", check=None)
    told(second, "was refused by the token before, and is not tried a second time", token.pin_file)
    assert "CKR_PIN_INCORRECT" not in second.out + second.err
    with open(token.pin_file, "w", encoding="utf-8") as f:
        f.write(token.pin)
    can(lab)


def test_a_pin_that_others_can_read(lab):
    token = lab.node(TOKEN).token
    os.chmod(token.pin_file, 0o444)
    told(lab.keyturn.run("doctor", check=None), "is open to everybody", "the PIN was not used", "chmod 0400")
    os.chmod(token.pin_file, 0o400)
    can(lab)


def test_a_token_that_goes_in_the_middle(lab):
    """Rehearsed and stopped, then a node's token vanishes: back to the old key, and no node is down."""
    tokens = os.path.join(lab.node(TOKEN).token.folder, "tokens")
    run = Running(lab)
    run.wait("stop")
    os.rename(tokens, tokens + ".gone")
    os.mkdir(tokens)
    result = run.finish()
    assert lab.assert_settled() == "rolled-back", result
    assert "token" in result.err + result.out
    shutil.rmtree(tokens)
    os.rename(tokens + ".gone", tokens)
    can(lab)


def test_no_rotation_under_a_run(lab):
    lab.run_killed_at("stop")
    old = spki(lab, TOKEN)
    told(enroll(lab, "--rotate-transport", check=None), "this node is held by run")
    assert spki(lab, TOKEN) == old and private_keys(lab, TOKEN) == 1
    lab.keyturn.run("resume")
    lab.assert_settled()
    enroll(lab, "--rotate-transport", TOKEN)
    assert spki(lab, TOKEN) != old


def test_a_key_that_was_replaced_in_the_middle_of_a_run(lab):
    """What was agreed to is wrapping to the keys that the plan names: another one, pinned since, gets nothing."""
    lab.run_killed_at("backup-key")
    old = spki(lab, TOKEN)
    for kind in ("privkey", "pubkey"):
        lab.node(TOKEN).token.tool("--delete-object", "--type", kind, "--label", "keyturn-transport")
    enroll(lab, "--replace", "--yes", TOKEN)
    assert spki(lab, TOKEN) != old
    result = lab.keyturn.run("resume", check=None)
    assert "another transport key was pinned" in result.out + result.err, result
    assert lab.assert_settled() == "rolled-back"
    can(lab)


IMPOSTOR = '''#!/usr/bin/python3
"""The agent, but for the public key that it shows: another's."""
import json, os, struct, subprocess, sys, threading
here = os.path.dirname(os.path.abspath(__file__))
agent = subprocess.Popen([os.path.join(here, "real-agent"), *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def forward():
    while True:
        bytes_ = os.read(0, 65536)
        if not bytes_:
            agent.stdin.close()
            return
        agent.stdin.write(bytes_)
        agent.stdin.flush()
threading.Thread(target=forward, daemon=True).start()
while True:
    head = agent.stdout.read(8)
    if len(head) < 8:
        break
    payload = agent.stdout.read(struct.unpack(">I", head[4:])[0])
    frame = json.loads(payload)
    if "public_pem" in (frame.get("result") or {}):
        frame["result"]["public_pem"] = open(os.path.join(here, "another.pem")).read()
    elif "was wrapped for" in (frame.get("error") or {}).get("message", "") and os.path.exists(os.path.join(here, "lies")):
        frame = {"id": frame["id"], "status": "ok", "result": {"kcv": "000000", "proof": "00" * 16}}
    payload = json.dumps(frame).encode()
    os.write(1, head[:4] + struct.pack(">I", len(payload)) + payload)
'''


@pytest.mark.parametrize("lies", [False, True])
def test_nobody_else_s_key_is_pinned(lab, tmp_path, lies):
    """A node that shows a public key whose private half it has not (a spoiled agent, or a man in the middle) is refused,
    also when it makes an answer up."""
    old = pin(lab, FILE)
    bundle = tmp_path / "bundle"
    shutil.copytree(os.path.join(lab.bin, "agent"), bundle)
    os.rename(bundle / "keyturn-agent", bundle / "real-agent")
    (bundle / "keyturn-agent").write_text(IMPOSTOR)
    (bundle / "keyturn-agent").chmod(0o755)
    shutil.copy(os.path.join(lab.cluster.state_folder, "nodes", f"{TOKEN}.pem"), bundle / "another.pem")
    if lies:
        (bundle / "lies").write_text("")
    result = enroll(lab, "--replace", "--yes", "--agent", str(bundle), FILE, check=None)
    assert result.code != OK
    told(result, "it did not prove that it has its transport key")
    if lies:
        told(result, "it cannot open what is wrapped for the transport key that it shows")
    assert pin(lab, FILE) == old
    enroll(lab, FILE)
