# SPDX-License-Identifier: Apache-2.0
"""One cluster of three real nodes for a whole module of faults, and what must hold after each of them."""
import os

import pytest
from ktlab import aftermath
from ktlab.faultpoints import COORDINATOR, RUN, SERVE
from ktlab.running import TO, WARP


def pytest_collection_modifyitems(config, items):
    """KT_FAULTS_EVERY=N: every N-th case of this folder, from KT_FAULTS_START on (./dev faults quick)."""
    every, start = (int(os.environ.get(f"KT_FAULTS_{name}", default)) for name, default in (("EVERY", 1), ("START", 0)))
    here = os.path.dirname(os.path.abspath(__file__)) + os.sep
    ours = [item for item in items if str(item.path).startswith(here)]
    dropped = [item for position, item in enumerate(ours) if position % every != start % every]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]


@pytest.fixture(scope="module")
def cluster(module_lab):
    lab = module_lab("systemd", items=40, faults=True)
    lab.fault_places[COORDINATOR].below(COORDINATOR, lab.cluster.state_folder)
    lab.fault_places[COORDINATOR].warp(COORDINATOR, WARP)
    for node in lab.nodes:
        for kind in (SERVE, RUN):
            lab.fault_places[node.name].nap(kind, 200)
    return lab


@pytest.fixture
def lab(cluster):
    """Up, on one key, with its ordinary cluster.json; nothing is armed."""
    cluster.rewrite(key=TO)
    yield cluster
    for name, place in cluster.fault_places.items():
        place.clock(0)
        for kind in (COORDINATOR,) if name == COORDINATOR else (SERVE, RUN):
            place.disarm(kind)
            place.go(kind)
    for node in cluster.nodes:  # the rest is for the tests after a failed one
        if not node.running():
            node.boot()
    cluster.rewrite(key=TO)
    if not all(aftermath.app_pid(cluster, node) for node in cluster.nodes):
        assert aftermath.refresh(cluster)
    cluster.cluster.key_text = cluster.current_key(cluster.nodes[0]).strip() + "\n"
