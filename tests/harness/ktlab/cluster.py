# SPDX-License-Identifier: Apache-2.0
"""What every kind of cluster has: nodes, cluster.json, and the application on each node."""
from __future__ import annotations

import dataclasses
import json
import os

from . import app, ssh


# How long the gate waits for a crashed node to count as dead: longer than app.LIVE_WINDOW_SECONDS, shorter than in
# production, where that window is a minute.
QUIET = {"quiet_every_s": 1, "quiet_times": 6}


@dataclasses.dataclass
class Node:
    name: str
    host: str
    port: int
    client: ssh.Client
    looker: str            # the application's folder, as the node sees it
    env_file: str
    app_port: int
    host_key: str          # path of the public host key, on this machine
    app: app.App = None
    token: object = None   # node_tokens.NodeToken, where its transport key is to be

    def run(self, command, **options):
        return self.client.run(command, **options)

    def fingerprint(self):
        return ssh.fingerprint(self.host_key)


class Cluster:
    """`nodes` by position, `node(name)`, and `write_cluster_json`. Subclasses start and stop the nodes."""

    def __init__(self, folder, name="looker"):
        self.folder = os.path.abspath(folder)
        self.name = name
        self.nodes = []
        self.cluster_file = os.path.join(self.folder, "cluster.json")
        self.state_folder = os.path.join(self.folder, f"{name}.state")
        self.key_text = None

    def node(self, name):
        return next(node for node in self.nodes if node.name == name)

    def names(self):
        return [node.name for node in self.nodes]

    def ssh_members(self):
        raise NotImplementedError

    def agent_members(self):
        raise NotImplementedError

    def variables(self):
        """Variables of the playbook that are the same for all nodes."""
        raise NotImplementedError

    def node_variables(self, node):
        raise NotImplementedError

    def document(self, token, **changes):
        """The content of cluster.json (docs/FORMATS.md, section 6) as a dictionary that a test may change."""
        return {
            "cluster": self.name, "playbook": "looker", "state": self.state_folder,
            "nodes": [{"name": n.name, "host": n.host, "port": n.port, "vars": self.node_variables(n),
                       **({"transport_key": n.token.uri()} if n.token else {})} for n in self.nodes],
            "roles": {"rekey": self.nodes[0].name, "canary": self.nodes[0].name},
            "vars": self.variables(),
            "ssh": self.ssh_members(), "agent": self.agent_members(),
            "hsm": {"uri": token.uri(), "escrow_key": "keyturn-escrow"},
            "key": {"to": "file:${dir}/cmk-${run}"},  # where the old one is, the nodes are asked
            **changes,
        }

    def write_cluster_json(self, token, **changes):
        with open(self.cluster_file, "w", encoding="utf-8") as f:
            f.write("// Written by the test harness.\n")
            json.dump(self.document(token, **changes), f, indent=2)
            f.write("\n")
        return self.cluster_file

    def start_app(self, items=0):
        """Start the application everywhere, and put that many items into the store."""
        for node in self.nodes:
            node.app.start()
        if items:
            self.nodes[0].app.fill(items)

    def stop_app(self):
        for node in self.nodes:
            node.app.stop()
