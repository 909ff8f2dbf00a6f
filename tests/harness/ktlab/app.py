# SPDX-License-Identifier: Apache-2.0
"""The application on the nodes: keyturn-store, installed under Looker's names (`looker`, `LKR_*`, /home/lookerops)."""
import base64
import json
import os
import secrets
import shutil

from .state import make_private

KEY_BYTES = 32
HEARTBEAT_SECONDS = 1
LIVE_WINDOW_SECONDS = 3  # 60 in production; the tests of the window itself set their own


def new_key_text():
    """base64 of 32 random bytes and a newline, as `openssl rand -base64 32` prints it."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n"


def store_json(node, database, port, **changes):
    """The text of a store.json; a change sets a member, None leaves it out."""
    members = {"database": database, "node": node, "listen": f"127.0.0.1:{port}",
               "heartbeat_seconds": HEARTBEAT_SECONDS, "live_window_seconds": LIVE_WINDOW_SECONDS, **changes}
    return json.dumps({name: value for name, value in members.items() if value is not None}, indent=2) + "\n"


def env_text(**variables):
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def install(folder, binary, node, database, port, key_text, **settings):
    """The folder of one node: program, store.json, key (0400). Returns the path of the key file."""
    os.makedirs(os.path.join(folder, "log"), exist_ok=True)
    shutil.copy2(os.path.realpath(binary), os.path.join(folder, "looker"))
    with open(os.path.join(folder, "store.json"), "w", encoding="utf-8") as f:
        f.write(store_json(node, database, port, **settings))
    key_file = os.path.join(folder, "cmk")
    make_private(key_file, key_text)
    return key_file


class App:
    """keyturn-store's verbs on one node. `command` runs a list of arguments there as the application's user, in its folder
    and with the variables of its env file (or with `env` instead), and gives the finished process."""

    def __init__(self, node, command):
        self.node = node
        self.command = command

    def run(self, *arguments, check=True, env=None, timeout=300):
        return self.command(["./looker", *arguments], check=check, env=env, timeout=timeout)

    def json(self, *arguments, check=True, env=None):
        done = self.run(*arguments, "--json", check=check, env=env)
        return json.loads(done.stdout)

    def start(self):
        return self.run("start")

    def stop(self):
        return self.run("stop")

    def status(self):
        return self.json("status")

    def fill(self, count, size=200):
        """`count` items whose content follows from their names, so that `verify --content` can compare it."""
        return self.run("fill", "--count", str(count), "--size", str(size))

    def verify(self, env=None, check=True):
        """{"items", "opened", "failed", "compared", ...}: how much opens, with the node's key or with that of `env`."""
        return self.json("verify", "--content", env=env, check=check)
