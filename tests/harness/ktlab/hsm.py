# SPDX-License-Identifier: Apache-2.0
"""A throw-away SoftHSM token: own configuration, own folder, random PINs in 0400 files."""
import glob
import os
import re
import secrets
import urllib.parse

from . import LabError, process
from .state import make_private

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so")


def module_path():
    for pattern in MODULES:
        for path in glob.glob(pattern):
            return path
    raise LabError("libsofthsm2.so is not installed (package softhsm2)")


class SoftHsm:
    """`uri()` for keyturn, `env` for every program that loads the module, `pin` for the canary check."""

    def __init__(self, folder, label="keyturn-lab"):
        self.folder = os.path.abspath(folder)
        self.label = label
        self.module = module_path()
        self.conf = os.path.join(self.folder, "softhsm2.conf")
        self.pin_file = os.path.join(self.folder, "pin")
        self.pin = secrets.token_hex(12)
        self.env = {"SOFTHSM2_CONF": self.conf}
        self._create()

    def _create(self):
        tokens = os.path.join(self.folder, "tokens")
        os.makedirs(tokens, mode=0o700)
        with open(self.conf, "w", encoding="utf-8") as f:
            f.write(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
                    "slots.removable = false\nslots.mechanisms = ALL\n")
        make_private(self.pin_file, self.pin)
        so_pin = secrets.token_hex(12)
        make_private(os.path.join(self.folder, "so-pin"), so_pin)
        # softhsm2-util takes PINs as arguments only: this token is thrown away, and so is this process.
        self._util("--init-token", "--free", "--label", self.label, "--so-pin", so_pin, "--pin", self.pin)
        self.serial = self._read_serial()

    def _util(self, *arguments):
        return process.run(["softhsm2-util", *arguments], env={**os.environ, **self.env}).stdout

    def _read_serial(self):
        """The serial of the slot that holds our label, as the token itself says it."""
        for slot in re.split(r"^Slot \d+", self._util("--show-slots"), flags=re.M):
            label = re.search(r"^\s*Label:\s*(.*?)\s*$", slot, re.M)
            serial = re.search(r"^\s*Serial number:\s*(\S+)", slot, re.M)
            if label and serial and label.group(1) == self.label:
                return serial.group(1)
        raise LabError(f"the new token {self.label} is not listed by softhsm2-util")

    def uri(self, pin_file=None, **changes):
        """RFC 7512. A change sets an attribute (`serial="x"`), None removes it."""
        path = {"token": self.label, "serial": self.serial}
        query = {"module-path": self.module, "pin-source": "file:" + (pin_file or self.pin_file)}
        for name, value in changes.items():
            name = name.replace("_", "-")
            (query if name in query else path)[name] = value

        def pairs(attributes, joint):
            return joint.join(f"{name}={urllib.parse.quote(value, safe='/:-._~')}"
                              for name, value in attributes.items() if value is not None)

        return f"pkcs11:{pairs(path, ';')}?{pairs(query, '&')}"

    def objects(self):
        """What pkcs11-tool, an independent program, sees in the token."""
        return process.run(["pkcs11-tool", "--module", self.module, "--token-label", self.label, "--login", "--pin",
                            self.pin, "--list-objects"], env={**os.environ, **self.env}).stdout
