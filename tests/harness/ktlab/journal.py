# SPDX-License-Identifier: Apache-2.0
"""The coordinator's journal, read by an independent program: Python's sqlite3 (docs/FORMATS.md, section 8)."""
import json
import os
import shutil
import sqlite3
import tempfile


class Journal:
    def __init__(self, state_folder):
        self.path = os.path.join(state_folder, "journal.db")

    def entries(self, run=None):
        """All entries as dictionaries, or those of one run. Empty when there is no journal yet."""
        if not os.path.exists(self.path):
            return []
        try:
            rows = self._rows(f"file:{self.path}?mode=ro")
        except sqlite3.OperationalError:
            rows = self._rows_of_copy()
        return [row for row in rows if run is None or row["run"] == run]

    @staticmethod
    def _rows(uri):
        db = sqlite3.connect(uri, uri=True, timeout=10)
        try:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute("SELECT * FROM entry ORDER BY seq")]
        finally:
            db.close()

    def _rows_of_copy(self):
        """A coordinator that was killed in a commit leaves a rollback journal, which cannot be read by without writing."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("journal.db", "journal.db-journal"):
                source = os.path.join(os.path.dirname(self.path), name)
                if os.path.exists(source):
                    shutil.copy2(source, folder)
            try:
                return self._rows(f"file:{folder}/journal.db")
            except sqlite3.OperationalError:
                return []  # it is just being made

    def latest(self):
        """The id of the run that was begun last, None when there is none."""
        begun = [e["run"] for e in self.entries() if e["kind"] == "begin"]
        return begun[-1] if begun else None

    def plan(self, run=None):
        run = run or self.latest()
        return json.loads(next(e["body"] for e in self.entries(run) if e["kind"] == "begin"))

    def step_of(self, verb, run=None):
        """The name of the first step of the run's plan with this verb."""
        return next(s["name"] for s in self.plan(run)["steps"] if s["verb"] == verb)

    def intents(self, step, run=None, role="do"):
        return [e for e in self.entries(run or self.latest())
                if e["kind"] == "intent" and e["step"] == step and e["role"] == role]

    def end(self, run=None):
        """What the latest `end` of a run says ("turned", "rolled-back", ...), None while there is none, or once a coordinator
        has taken the run again."""
        last = [e for e in self.entries(run or self.latest()) if e["kind"] in ("take", "end")][-1:]
        return json.loads(last[0]["body"])["state"] if last and last[0]["kind"] == "end" else None
