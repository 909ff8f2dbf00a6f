#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One whole turn before your eyes: a SoftHSM token, three nodes behind sshd on loopback, an encrypted store with data, then
`keyturn enroll`, `plan`, `run`, and a check with the old and the new key that does not trust keyturn's own word.

Run by `./dev demo`. Everything lives in build/demo and ends with the demo, unless --keep is given.
"""
import argparse
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ktlab import BUILD, LabError, hsm, loopback  # noqa: E402  (the path is set above)
from ktlab.state import make_private  # noqa: E402

FOLDER = os.path.join(BUILD, "demo")
ITEMS = 1000
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")


def title(text):
    print(f"\n{BOLD}== {text}{PLAIN}", flush=True)


def keyturn(options, token, *arguments):
    """Run keyturn on our own terminal, so that its live progress is seen."""
    print(f"$ keyturn {shlex.join(arguments)}", flush=True)
    env = {**os.environ, **token.env, "KEYTURN_CLUSTER": os.path.join(FOLDER, "cluster.json")}
    done = subprocess.run([os.path.join(options.bin, "keyturn"), *arguments], env=env, stdin=subprocess.DEVNULL,
                          check=False)
    if done.returncode != 0:
        raise LabError(f"keyturn {arguments[0]} ended with {done.returncode}")


def keyturn_json(options, token, *arguments):
    env = {**os.environ, **token.env, "KEYTURN_CLUSTER": os.path.join(FOLDER, "cluster.json")}
    done = subprocess.run([os.path.join(options.bin, "keyturn"), "--json", *arguments], env=env, check=True,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def opened(node, key_file):
    """How many items open on this node with the key of `key_file` (None: as the node itself is set up), and of how many."""
    env = {"LKR_MASTER_KEY_FILE": key_file} if key_file else None
    answer = node.app.verify(env=env, check=False)
    if "error" in answer:
        return 0, ITEMS, answer["error"]["message"]
    return answer["opened"], answer["items"], ""


def downtime(journal, run):
    """Seconds from the first stop to the last start, out of the journal and nothing else."""
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as db:
        plan = json.loads(db.execute("SELECT body FROM entry WHERE run=? AND kind='begin'", (run,)).fetchone()[0])
        plan = plan.get("plan", plan)
        steps = {phase: [s["name"] for s in plan["steps"] if s["phase"] == phase] for phase in ("stop", "start")}

        def moment(function, kind, names):
            marks = ",".join("?" * len(names))
            return db.execute(f"SELECT {function}(time_ms) FROM entry WHERE run=? AND kind=? AND role='do' AND step IN "
                              f"({marks})", (run, kind, *names)).fetchone()[0]

        return (moment("max", "outcome", steps["start"]) - moment("min", "intent", steps["stop"])) / 1000


def build_cluster(options):
    title("a token, three nodes and a store with data")
    token = hsm.SoftHsm(os.path.join(FOLDER, "hsm"), label="keyturn-demo")
    print(f"SoftHSM token {token.label}, serial {token.serial}")
    cluster = loopback.LoopbackCluster(3, FOLDER, options.bin)
    cluster.write_cluster_json(token)
    cluster.start_app(ITEMS)
    for node in cluster.nodes:
        print(f"{node.name}: sshd at {node.host}:{node.port}, host key {node.fingerprint()}, keyturn-store at port "
              f"{node.app_port}")
    print(f"{ITEMS} items are in {os.path.relpath(cluster.database)}, encrypted under the customer master key (CMK)")
    return token, cluster


def check(cluster, summary):
    """The proof from outside: every node reads all with its new key, and nothing opens with the old one."""
    old = os.path.join(FOLDER, "old-key")
    make_private(old, cluster.key_text)
    bad = []
    for node in cluster.nodes:
        good, items, why = opened(node, None)
        none, _, _ = opened(node, old)
        print(f"{node.name}: {good} of {items} items open with the new key, {none} with the old one {why}".rstrip())
        if good != ITEMS or items != ITEMS or none != 0:
            bad.append(node.name)
    if bad or summary["state"] != "turned":
        raise LabError(f"the turn did not do what it should: {summary['state']}, see {', '.join(bad)}")


def say_summary(cluster, summary, seconds):
    title("what happened")
    run, state = summary["run"], cluster.state_folder
    old, new = summary.get("old_key", {}), summary.get("new_key", {})
    journal = os.path.join(state, "journal.db")
    rows = [("run", run), ("state", summary["state"]),
            ("old key", f"KCV {old.get('kcv')}  {old.get('uri', '')}"),
            ("new key", f"KCV {new.get('kcv')}  id {new.get('id')} in the token"),
            ("downtime", f"{downtime(journal, run):.1f} s from the first stop to the last start (journal)")]
    rows += [("backup", f"{b['node']}: {b['archive']}") for b in summary.get("backups", [])]
    rows += [("escrow", summary.get("escrow", "?")), ("journal", journal),
             ("whole demo", f"{seconds:.1f} s after the build")]
    for name, value in rows:
        print(f"  {name:10} {value}")


def say_play(options, token, cluster):
    title("the nodes are up: play with them")
    binary = os.path.relpath(options.bin)
    print(f"""  export SOFTHSM2_CONF={shlex.quote(token.conf)} KEYTURN_CLUSTER={shlex.quote(cluster.cluster_file)}
  {binary}/keyturn doctor            # every finding with its remedy
  {binary}/keyturn plan              # all that a run would do
  {binary}/keyturn run               # turn the key once more; Ctrl-C in the middle goes back
  {binary}/keyturn status; {binary}/keyturn runs
  (cd {os.path.relpath(cluster.nodes[1].looker)} && ./looker status)""")
    for line in cluster.describe():
        print("  " + line)
    print("  ./dev demo --stop           # end them")


def say_next():
    title("what to try next")
    print("  ./dev demo --keep           the same, and the nodes stay up to play with\n"
          "  build/dev/bin/keyturn help  the verbs\n"
          "  ./dev test                  everything that is tested, on real systemd nodes as well (as root)")


def demo(options):
    began = time.monotonic()
    token, cluster = build_cluster(options)
    try:
        title("enroll: pin host keys, put the agent there, make transport keys")
        keyturn(options, token, "enroll", "--accept-host-keys", "--create-escrow-key")
        title("plan: everything that will be done, before anything is")
        keyturn(options, token, "plan")
        title("run: turn the key")
        keyturn(options, token, "run", "--yes")
        summary = keyturn_json(options, token, "status")
        title("check from outside")
        check(cluster, summary)
        say_summary(cluster, summary, time.monotonic() - began)
        if options.keep:
            say_play(options, token, cluster)
            cluster.keep()
        else:
            say_next()
    finally:
        if not options.keep or sys.exc_info()[0]:
            cluster.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--stop", action="store_true")
    options = parser.parse_args()
    options.bin = os.path.abspath(options.bin)
    was_up = loopback.end(FOLDER)
    if options.stop:
        print("the nodes of the demo have ended" if was_up else "no nodes of the demo are up")
        return
    if was_up:
        print("the nodes of an earlier demo have been ended")
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER, mode=0o700)
    demo(options)


if __name__ == "__main__":
    try:
        main()
    except (LabError, subprocess.SubprocessError) as error:
        sys.exit(f"demo: {error}\ndemo: the logs are below {FOLDER}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
