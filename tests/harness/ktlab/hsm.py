# SPDX-License-Identifier: Apache-2.0
"""A throw-away SoftHSM token: own configuration, own folder, random PINs in 0400 files."""
import os
import re
import shutil

from . import LabError
from .token import Token


class SoftHsm(Token):
    KIND, LABEL, MODULE, PACKAGE = "softhsm", "keyturn-lab", "softhsm/libsofthsm2.so", "softhsm2"

    def _create(self):
        self.tokens = os.path.join(self.folder, "tokens")
        self.conf = os.path.join(self.folder, "softhsm2.conf")
        self.env = {"SOFTHSM2_CONF": self.conf}
        os.makedirs(self.tokens, mode=0o700)
        self._write_conf(self.conf, self.tokens)
        # softhsm2-util takes PINs as arguments only: this token is thrown away, and so is this process.
        self._util("--init-token", "--free", "--label", self.label, "--so-pin", self.so_pin, "--pin", self.pin)
        self.serial = self._read_serial()

    @staticmethod
    def _write_conf(path, tokens):
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
                    "slots.removable = false\nslots.mechanisms = ALL\n")

    def copy(self, folder):
        """The token with everything that is in it, as another machine would have it: the environment for it. (A process that
        opens this module while another one logs in may find the token damaged: two machines must not share its files.)"""
        tokens, conf = os.path.join(folder, "tokens"), os.path.join(folder, "softhsm2.conf")
        shutil.copytree(self.tokens, tokens)
        self._write_conf(conf, tokens)
        return {"SOFTHSM2_CONF": conf}

    def _util(self, *arguments):
        return self.run(["softhsm2-util", *arguments]).stdout

    def _read_serial(self):
        """The serial of the slot that holds our label, as the token itself says it."""
        for slot in re.split(r"^Slot \d+", self._util("--show-slots"), flags=re.M):
            label = re.search(r"^\s*Label:\s*(.*?)\s*$", slot, re.M)
            serial = re.search(r"^\s*Serial number:\s*(\S+)", slot, re.M)
            if label and serial and label.group(1) == self.label:
                return serial.group(1)
        raise LabError(f"the new token {self.label} is not listed by softhsm2-util")

    def delete(self):
        """The token is gone, as if its HSM had burnt; the others of this configuration stay."""
        self._util("--delete-token", "--token", self.label, "--serial", self.serial)

    def create_again(self):
        """A fresh token of the same label, with another serial and nothing in it."""
        self._util("--init-token", "--free", "--label", self.label, "--so-pin", self.so_pin, "--pin", self.pin)
        self.serial = self._read_serial()

    def add(self, label):
        """The URI of a further token in the same configuration: a module serves one configuration for each process."""
        self._util("--init-token", "--free", "--label", label, "--so-pin", self.so_pin, "--pin", self.pin)
        return lambda object, **changes: self.uri(object, token=label, serial=None, **changes)
