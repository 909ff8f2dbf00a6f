#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Kills keyturn and its agents just before and just after every durable step of a turn, each in a turn of its own, resumes, and
checks what is left. `./dev faults` runs it; see there for the options.

A counting turn tells how many points there are. Then lanes, each with a laboratory of its own, take one point after the other
and begin from where their cluster is then.
"""
import argparse
import collections
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "harness"))

from ktlab import aftermath, cleanup, systemd_nodes  # noqa: E402  (the path is set above)
from ktlab.faultpoints import COORDINATOR, OWNER, RUN, SERVE  # noqa: E402
from ktlab.lab import Lab  # noqa: E402

ITEMS = 20
UNDO_LEAD = 4  # steps that an undo takes before its folder is named: epoch, lock
TURNS_PER_LAB = 40  # then a new one: its journal, token and backups have grown
TO = {"to": "file:${dir}/cmk-${run}"}

# title: (machine, class of programs, what is done)
TURN, WAY_BACK, ROLLBACK = "turn", "way back", "rollback"
CLASSES = {
    "coordinator": (COORDINATOR, COORDINATOR, TURN),
    "owner of the token": (COORDINATOR, OWNER, TURN),
    "agent on the rekey node": ("web01", SERVE, TURN),
    "agent on another node": ("web02", SERVE, TURN),
    "runner of the rekey": ("web01", RUN, TURN),
    "coordinator, way back": (COORDINATOR, COORDINATOR, WAY_BACK),
    "agent on the rekey node, way back": ("web01", SERVE, WAY_BACK),
    "agent on another node, way back": ("web02", SERVE, WAY_BACK),
    "coordinator, rollback of a turned run": (COORDINATOR, COORDINATOR, ROLLBACK),
    "agent on the rekey node, rollback of a turned run": ("web01", SERVE, ROLLBACK),
}


# kind of failure: what aftermath.py says then
KINDS = {"ended in between": r"^run \S+ ended|^still ", "with items lost": r"items open", "with a second rekey": r"rekeyed|attempts"}


class Bench:
    """A laboratory for points, replaced by a new one when it has done its turns or is spoilt."""

    def __init__(self, bin_folder, kind):
        self.bin, self.kind = bin_folder, kind
        self.lab, self.turns = None, 0

    def ready(self):
        if self.lab and self.turns >= TURNS_PER_LAB:
            self.close()
        if not self.lab:
            self.lab, self.turns = Lab(self.bin, self.kind, n=2, items=ITEMS, faults=True), 0
            self.lab.fault_places[COORDINATOR].below(COORDINATOR, self.lab.cluster.state_folder)
            self.lab.fault_places[COORDINATOR].below(OWNER, self.lab.token.folder)
            for node in self.lab.nodes:
                for kind in (SERVE, RUN):
                    self.lab.fault_places[node.name].nap(kind, 100)
            self.lab.enroll()
            self.turn()
        self.turns += 1
        return self.lab

    def turn(self):
        """One whole turn, undisturbed."""
        self.lab.rewrite(key=TO)
        self.lab.run()
        aftermath.assert_whole(self.lab)

    def prepare(self, action):
        """What comes before `action`. The run that must not be the latest one afterwards, unless none was begun."""
        lab = self.lab
        if action == ROLLBACK:
            old = lab.cluster.key_text
            self.turn()
            lab.cluster.key_text = old  # what it must come back to
            return None
        # The way back begins after the rekey, so that it restores.
        changes = {"verify_command": ["/bin/false"]} if action == WAY_BACK else {}
        lab.rewrite(key=TO, vars={**lab.cluster.variables(), **changes})
        return lab.journal.latest()

    def act(self, action):
        lab = self.lab
        if action == ROLLBACK:
            return lab.keyturn.run("rollback", "--yes", lab.journal.latest(), check=None)
        return lab.run(check=None)

    def close(self):
        if self.lab:
            self.lab.close()
        self.lab = None


def count(bench, title):
    """How many points this class has, and what they are: of the second of two turns, as the first one makes folders."""
    machine, kind, action = CLASSES[title]
    for _ in range(2):
        lab = bench.ready()
        bench.prepare(action)
        lab.fault_places[machine].arm(kind)
        bench.act(action)
        steps = lab.fault_places[machine].steps(kind)
        lab.fault_places[machine].disarm(kind)
        aftermath.assert_whole(lab)
    return steps


def try_point(bench, title, point):
    """{"fired": where ("": this turn had fewer steps), "state": …, "resumes": n, "seconds": x}; an exception when something does
    not hold."""
    machine, kind, action = CLASSES[title]
    lab = bench.ready()
    place = lab.fault_places[machine]
    began, before = time.monotonic(), bench.prepare(action)
    place.arm(kind, point)
    bench.act(action)
    fired = place.fired(kind)
    place.disarm(kind)
    resumes = aftermath.resume_to_the_end(lab, before)
    state = aftermath.assert_whole(lab, before)
    if kind == OWNER and "/token.object" in fired:
        bench.close()  # SoftHSM writes it in place at each login: killed there, it has lost the token, and no turn begins any more
    return {"fired": fired, "state": state, "resumes": resumes, "seconds": time.monotonic() - began}


def lane(options):
    """Reads requests (a JSON object a line) and answers each; ends with its input."""
    bench = Bench(options.bin, options.kind)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = ({"steps": count(bench, request["title"])} if request["point"] == "count"
                          else try_point(bench, request["title"], request["point"]))
            except Exception as error:  # whatever it was: this point failed, and the next one gets a new laboratory
                history = "".join(f"\n{result}" for result in bench.lab.keyturn.history[-4:]) if bench.lab else ""
                answer = {"error": f"{error}", "detail": traceback.format_exc() + history}
                bench.close()
            print(json.dumps(answer), flush=True)
    finally:
        bench.close()


class Lane:
    def __init__(self, options):
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--lane", "--kind", options.kind,
                                         "--bin", options.bin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the lane ended", "detail": ""}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def own_steps(title, steps):
    """Of a way back: from its first undo on; what comes before is the turn of another class."""
    undo = next((i for i, step in enumerate(steps) if ".undo." in step), 0)
    return steps[max(undo - UNDO_LEAD, 0):] if CLASSES[title][2] == WAY_BACK else steps


def points_of(step):
    """When to die at "N step path". A sync changes nothing that a killed process leaves: of one that ends a write (of a folder,
    of a file in its place) it is the end of the write that counts; one in the middle (of a temporary file, of what makes up a
    commit of the journal, which counts once its rollback journal is cut off) is where the next step's "before" is."""
    number, what, path = step.split(" ", 2)
    if what not in ("fsync", "fdatasync"):
        return [f"{number} before", f"{number} after"]
    middle = re.search(r"\.kt\w{6}$|\.db(-journal)?$|\.state$", path)
    return [] if middle else [f"{number} after"]


class Campaign:
    def __init__(self, options):
        self.options = options
        self.work = queue.Queue()
        self.results = collections.defaultdict(list)
        self.lock = threading.Lock()
        self.log = open(os.path.join(options.log, "killpoints.log"), "w", encoding="utf-8")

    def note(self, title, point, answer):
        with self.lock:
            self.results[title].append((point, answer))
            ok = "error" not in answer
            print(json.dumps({"class": title, "point": point, **{k: v for k, v in answer.items() if k != "detail"}}),
                  file=self.log, flush=True)
            if not ok:
                print(f"   FAILED {title}, point {point}: {answer['error'].splitlines()[0]}", flush=True)
                print(answer.get("detail", ""), file=self.log, flush=True)

    def worker(self, one):
        while True:
            try:
                title, point = self.work.get_nowait()
            except queue.Empty:
                return
            answer = one.ask(title=title, point=point)
            if answer.get("fired") == "":  # how much of a turn shares a commit is a matter of moments
                answer = one.ask(title=title, point=point)
            self.note(title, point, answer)

    def count_all(self, lanes):
        """Fills the queue; the number of points of each class."""
        numbers, position = {}, self.options.start
        for title in self.options.classes:
            answer = lanes[0].ask(title=title, point="count")
            if "error" in answer:
                self.note(title, "count", answer)
                continue
            points = [point for step in own_steps(title, answer["steps"]) for point in points_of(step)]
            numbers[title] = len(points)
            chosen = [point for i, point in enumerate(points) if (position + i) % self.options.every == 0]
            position += len(points)
            print(f"   {title}: {len(answer['steps'])} steps, {len(points)} kill points, {len(chosen)} of them tried", flush=True)
            for point in chosen:
                self.work.put((title, point))
        return numbers

    def run(self):
        lanes = [Lane(self.options) for _ in range(self.options.lanes)]
        try:
            self.count_all(lanes)
            threads = [threading.Thread(target=self.worker, args=(one,)) for one in lanes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for one in lanes:
                one.close()
            self.log.close()

    def report(self):
        """Prints a line a class; (passed, [failed])."""
        passed, failed = 0, []
        for title, answers in self.results.items():
            bad = [point for point, answer in answers if "error" in answer]
            states = collections.Counter(answer.get("state") for _, answer in answers if "error" not in answer)
            missed = sum(1 for _, answer in answers if "error" not in answer and not answer["fired"])  # not tried
            resumes = max((answer.get("resumes", 0) for _, answer in answers), default=0)
            seconds = sum(answer.get("seconds", 0) for _, answer in answers)
            print(f"   {title}: {len(answers) - missed} points tried, {len(bad)} failed; "
                  + ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
                  + f"; at most {resumes} resumes, {missed} more lay beyond the end of their turn; {seconds:.0f} s")
            passed += len(answers) - missed - len(bad)
            failed += [f"{title}, point {point}" for point in bad]
        tried = passed + len(failed)
        errors = [answer["error"] for answers in self.results.values() for _, answer in answers if "error" in answer]
        kinds = collections.Counter(next((kind for kind, text in KINDS.items() if re.search(text, error)), "failed otherwise")
                                    for error in errors)
        print(f"   {tried} kill points tried: " + ", ".join(f"{kinds[kind]} {kind}" for kind in (*KINDS, "failed otherwise")),
              flush=True)
        return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lane", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bin", default=os.path.join(ROOT, "build", "dev", "bin"))
    parser.add_argument("--kind", choices=["systemd", "loopback"], default=None)
    parser.add_argument("--lanes", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--only", default="", help="classes whose title has this text")
    parser.add_argument("--results", help="a line of JSON is added there")
    parser.add_argument("--log", default=os.path.join(ROOT, "build", "faults"))
    options = parser.parse_args()
    options.kind = options.kind or ("loopback" if systemd_nodes.missing() else "systemd")
    if options.lane:
        return lane(options)
    options.classes = [title for title in CLASSES if options.only in title]
    os.makedirs(options.log, exist_ok=True)
    cleanup.cleanup()
    print(f"   kill points on {options.kind} nodes, {options.lanes} at once", flush=True)
    campaign = Campaign(options)
    campaign.run()
    passed, failed = campaign.report()
    if options.results:
        with open(options.results, "a", encoding="utf-8") as f:
            print(json.dumps({"stage": "kill points", "passed": passed, "failed": failed, "skipped": []}), file=f)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
