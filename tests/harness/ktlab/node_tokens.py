# SPDX-License-Identifier: Apache-2.0
"""Tokens in real nodes, where an administrator would put them: made on this machine, then placed into a node's root, with
their daemon as a unit of its systemd and their settings in its own files. The agent runs there as root.

`place(kind, node)` → NodeToken, before the node is booted.
"""
import dataclasses
import os
import shutil
import urllib.parse

from . import process, tokens
from .state import make_private

HOME = "/etc/keyturn-token"  # of PIN, database and the like, in the node
PORT = 2321                  # of the node's own loopback, where nobody else is; tpm2-pkcs11 tries it by itself


@dataclasses.dataclass
class NodeToken:
    """`uri(object)` as the agent is to be told it; `pin` for the canaries; `unit` to stop or start, None when it has none."""
    kind: str
    label: str
    pin: str
    module: dict
    unit: str = None

    def uri(self, object="keyturn-transport"):
        def pairs(attributes, joint):
            return joint.join(f"{name}={urllib.parse.quote(value, safe='/:')}" for name, value in attributes.items())
        query = {**self.module, "pin-source": f"file:{HOME}/pin"}
        return f"pkcs11:{pairs({'token': self.label, 'object': object}, ';')}?{pairs(query, '&')}"


def _write(node, path, text):
    full = node.path(path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as f:
        f.write(text)


def _copy(source, node, path):
    shutil.copytree(source, node.path(path), symlinks=True, dirs_exist_ok=True)


def _module(token):
    """The same file is in the node, which is the same release of the same system."""
    return {"module-path": token.module}


def _enable(node, unit):
    wants = node.path("/etc/systemd/system/multi-user.target.wants")
    os.makedirs(wants, exist_ok=True)
    found = next(f"{folder}/{unit}" for folder in ("/etc/systemd/system", "/lib/systemd/system")
                 if os.path.exists(node.path(f"{folder}/{unit}")))
    os.symlink(found, os.path.join(wants, unit))


def _softhsm(token, node):
    _copy(token.tokens, node, f"{HOME}/tokens")
    _write(node, "/etc/softhsm/softhsm2.conf", f"directories.tokendir = {HOME}/tokens\nobjectstore.backend = file\n"
           "log.level = ERROR\nslots.removable = false\nslots.mechanisms = ALL\n")
    return _module(token), None


def _nss(token, node):
    """With a .module file of p11-kit, which says where the database is."""
    _copy(token.database, node, f"{HOME}/database")
    _write(node, "/etc/pkcs11/modules/nss.module", f"module: {token.module}\n"
           f"x-init-reserved: configdir='sql:{HOME}/database' dbTokenDescription='{token.label}'\n")
    return {"module-name": "nss"}, None


def _opencryptoki(token, node):
    token.stop()
    _copy(os.path.join(token.folder, "lib"), node, "/var/lib/opencryptoki")
    shutil.copy(os.path.join(token.folder, "opencryptoki.conf"), node.path("/etc/opencryptoki/opencryptoki.conf"))
    process.run(["chroot", node.root, "chgrp", "-R", "pkcs11", "/var/lib/opencryptoki"])
    _enable(node, "pkcsslotd.service")
    return _module(token), "pkcsslotd.service"


def _tpm(token, node):
    token.stop()
    _copy(os.path.join(token.folder, "tpm"), node, "/var/lib/swtpm")
    _copy(os.path.join(token.folder, "store"), node, "/etc/tpm2_pkcs11")  # where it is looked for by itself
    command = tokens.swtpm_command("/var/lib/swtpm", PORT)
    # A TPM that is switched off without TPM2_Shutdown(CLEAR) takes that for a wrong PIN, and locks after three.
    words = "".join(f"\\\\x{byte:02x}" for byte in bytes.fromhex("80010000000c000001450000"))
    shutdown = f"exec 3<>/dev/tcp/127.0.0.1/{PORT} && printf \"{words}\" >&3 && head -c 10 <&3 >/dev/null"
    _write(node, "/etc/systemd/system/swtpm.service",
           f"[Unit]\nDescription=Software TPM\nBefore=ssh.service\n[Service]\nExecStart=/usr/bin/{' '.join(command)}\n"
           f"ExecStop=/bin/bash -c '{shutdown}'\n"
           "[Install]\nWantedBy=multi-user.target\n")
    _enable(node, "swtpm.service")
    return _module(token), "swtpm.service"


PLACES = {"softhsm": _softhsm, "nss": _nss, "opencryptoki": _opencryptoki, "tpm": _tpm}


def place(kind, node):
    with tokens.make(kind, os.path.join(node.folder, "token")) as token:
        os.makedirs(node.path(HOME), mode=0o700)
        make_private(node.path(f"{HOME}/pin"), token.pin)
        module, unit = PLACES[kind](token, node)
        return NodeToken(kind, token.label, token.pin, module, unit)
