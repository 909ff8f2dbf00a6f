# SPDX-License-Identifier: Apache-2.0
"""A cluster whose key can be in any keystore: file, env, a token of the nodes, AWS KMS (awskms.Server); or whose data is in
the legacy form, without any key. Which variables each
of them means for the application is written down here once more, from its documentation, not taken from the playbook."""
import glob
import json
import os
import subprocess

from . import awskms
from .hsm import SoftHsm
from .lab import LabError

KINDS = ("file", "env", "pkcs11", "awskms")
LEGACY = "legacy"
CONTEXT = "another context"


class Keystores:
    """`lab` is a loopback laboratory that has not been enrolled yet; `kms` a running awskms.Server. Of pkcs11 and awskms
    there are two keys each, so that a turn can go from one to the other."""

    def __init__(self, lab, kms, folder):
        self.lab, self.kms = lab, kms
        self.token = SoftHsm(folder, "kt-nodes")
        lab.canaries.add("the PIN of the nodes' token", self.token.pin)
        for label in ("cmk-a", "cmk-b"):
            lab.keyturn.run("key", "generate", "--wrapping", self.token.uri(label), env=self.token.env)
        # What the application needs to reach either of them; no turn may touch these.
        self.others = {node.name: {"LANG": "C.UTF-8", **self.token.copy(os.path.join(folder, node.name)), **kms.environment}
                       for node in lab.nodes}
        for node in lab.nodes:
            self.others[node.name].pop("AWS_REGION")
            node.app.stop()
            self.write_env(node, {**lab.env(node), **self.others[node.name]})
            node.app.start()

    def close(self):
        self.token.close()

    def write_env(self, node, variables):
        with open(node.env_file, "w", encoding="utf-8") as f:
            f.writelines(f"{name}={value}\n" for name, value in variables.items())

    def make_legacy(self, items):
        """The cluster as it was before there was any key: other data, in the legacy form; every node up."""
        lab = self.lab
        for node in lab.nodes:
            node.app.stop()
            self.write_env(node, self.others[node.name])
        os.unlink(lab.cluster.database)
        subprocess.run([os.path.join(lab.bin, "legacy_store"), lab.cluster.database, str(items), "200"], check=True)
        lab.items = items
        for node in lab.nodes:
            node.app.start()

    # --- which key is in force ---

    def own(self, node):
        """The variables of the env file that are about keys."""
        return {name: value for name, value in self.lab.env(node).items() if name not in self.others[node.name]}

    def kind(self):
        names = {name for node in self.lab.nodes for name in self.own(node)}
        found = [kind for kind, name in (("file", "LKR_MASTER_KEY_FILE"), ("env", "LKR_MASTER_KEY_ENV"),
                                         ("pkcs11", "LKR_PKCS11_CMK"), ("awskms", "LKR_AWS_CMK")) if name in names]
        if not names:
            return LEGACY
        if len(found) != 1:
            raise LabError(f"not one keystore: {sorted(names)}")
        return found[0]

    def next(self, kind):
        """`key.to` of cluster.json for a key of this kind that is not the one in force, and the variables that the nodes then
        have: {name: value}, {node} and {run} in them. None stands for a value that nobody can foresee (a new key)."""
        now = self.own(self.lab.nodes[0])
        if kind == "file":
            return "file:${dir}/cmk-${run}", {"LKR_MASTER_KEY_FILE": "{looker}/cmk-{run}"}
        if kind == "env":
            return "env:LKR_MASTER_KEY_ENV", {"LKR_MASTER_KEY_ENV": None}
        if kind == "pkcs11":
            label = "cmk-b" if "cmk-a" in now.get("LKR_PKCS11_CMK", "") else "cmk-a"
            uri = self.token.uri(label)
            return uri, {"LKR_PKCS11_CMK": uri}
        if now.get("LKR_AWS_CMK") == "alias/looker":
            return (f"awskms:alias/other?region={awskms.REGION}&context={CONTEXT.replace(' ', '%20')}",
                    {"LKR_AWS_CMK": "alias/other", "LKR_AWS_CMK_EC": CONTEXT, "AWS_REGION": awskms.REGION})
        return f"awskms:alias/looker?region={awskms.REGION}", {"LKR_AWS_CMK": "alias/looker", "AWS_REGION": awskms.REGION}

    def verify(self, node, own):
        """(items that open, items in all) with a key as these variables name it."""
        answer = node.app.verify(env={**self.others[node.name], **own}, check=False)
        return (0, self.lab.items) if "error" in answer else (answer["opened"], answer["items"])

    # --- what must hold ---

    def assert_env(self, expected, run):
        """The env file of each node has exactly these variables about keys, and everything else as it was."""
        for node in self.lab.nodes:
            now = self.lab.env(node)
            want = {name: value and value.format(looker=node.looker, run=run) for name, value in expected.items()}
            have = {name: None if name in want and want[name] is None else value for name, value in now.items()}
            want.update(self.others[node.name])
            if have != want:
                wrong = sorted(name for name in {*have, *want} if have.get(name, "") != want.get(name, ""))
                raise LabError(f"{node.name}: the env file has {sorted(have)}, it should have {sorted(want)}; wrong: {wrong}")

    def assert_only(self, own, not_own):
        """On every node everything opens with its own key, which is that of `own`, and nothing with that of `not_own`."""
        items = self.lab.items
        for node in self.lab.nodes:
            for variables, want in ((self.own(node), items), (own or self.own(node), items), (not_own, 0)):
                if self.verify(node, variables) != (want, items):
                    raise LabError(f"{node.name}: {self.verify(node, variables)} items open, {want} of {items} should: {sorted(variables)}")
        if not all(self.lab.states().values()):
            raise LabError(f"not every node is up: {self.lab.states()}")

    def rekeys(self):
        """How often the application was turned, or migrated, by its own logs."""
        count = 0
        for node in self.lab.nodes:
            for path in glob.glob(f"{node.looker}/log/looker.log*"):
                with open(path, encoding="utf-8") as f:
                    count += sum("Rekey complete" in line or "Migration complete" in line for line in f)
        return count

    def kek(self):
        """Its id; None: there is none."""
        kek = json.loads(self.lab.nodes[0].app.run("verify", "--json").stdout)["kek"]
        return kek and kek["id"]
