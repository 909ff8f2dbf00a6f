# SPDX-License-Identifier: Apache-2.0
"""What every token of the laboratory has: a folder, a PIN in a 0400 file, a URI, and what a program needs to reach it."""
import glob
import os
import secrets
import urllib.parse

from . import LabError, process
from .state import make_private


def module_path(pattern, package):
    """The first module file that fits; package says what to install when there is none."""
    found = sorted(path for place in ("/usr/lib", "/usr/lib/*") for path in glob.glob(os.path.join(place, pattern)))
    if not found:
        raise LabError(f"{os.path.basename(pattern)} is not installed (package {package})")
    return found[0]


class Token:
    """`uri()` for keyturn; `env` and `prefix` for every program that loads the module (`[*prefix, program, ...]`); `pin` for
    the canary check. Started when it is made; `stop()` and `start()` as often as one likes, `close()` in the end."""

    KIND, LABEL, MODULE, PACKAGE = None, None, None, None
    PIN_BYTES = 12

    def __init__(self, folder, label=None):
        self.folder = os.path.abspath(folder)
        self.label = label or self.LABEL
        self.module = module_path(self.MODULE, self.PACKAGE)
        self.env, self.prefix, self.serial, self.init_reserved = {}, [], None, None
        os.makedirs(self.folder, mode=0o700)
        self.pin_file, self.pin = self._new_pin("pin")
        self.so_pin_file, self.so_pin = self._new_pin("so-pin")
        try:
            self._create()
        except BaseException:
            self.close()
            raise

    def _new_pin(self, name):
        pin, path = secrets.token_hex(self.PIN_BYTES), os.path.join(self.folder, name)
        make_private(path, pin)
        return path, pin

    def _create(self):
        raise NotImplementedError

    def start(self):
        """What must run for the token to answer; nothing for most."""

    def stop(self):
        """Ends what `start` started, orderly."""

    def close(self):
        self.stop()

    def run(self, command, **options):
        """A program that reaches the token."""
        return process.run([*self.prefix, *command], env={**os.environ, **self.env}, **options)

    def tool(self, *arguments, **options):
        """pkcs11-tool on the token, logged in. This token is thrown away: its PIN may stand in an argument vector."""
        return self.run(["pkcs11-tool", "--module", self.module, "--token-label", self.label, "--login", "--pin",
                         self.pin, *arguments], **options)

    def objects(self):
        """What pkcs11-tool, an independent program, sees in the token."""
        return self.tool("--list-objects").stdout

    def uri(self, object=None, pin_file=None, **changes):
        """RFC 7512. A change sets an attribute (`serial="x"`), None removes it."""
        path = {"token": self.label, "serial": self.serial, "object": object}
        query = {"module-path": self.module, "x-init-reserved": self.init_reserved,
                 "pin-source": "file:" + (pin_file or self.pin_file)}
        for name, value in changes.items():
            name = name.replace("_", "-")
            (query if name in query or name == "module-name" else path)[name] = value

        def pairs(attributes, joint):
            return joint.join(f"{name}={urllib.parse.quote(value, safe='/:-._~')}"
                              for name, value in attributes.items() if value is not None)

        return f"pkcs11:{pairs(path, ';')}?{pairs(query, '&')}"
