# SPDX-License-Identifier: Apache-2.0
"""The laboratory: throw-away tokens, nodes and stores for the demo and the end-to-end tests. Standard library only.

Everything that is made outside of a folder (processes, mounts, network, cgroups) is written to a state file before it is
made, so that `python3 -m ktlab.cleanup` finds and removes it even after a kill -9 of the maker.
"""
import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.path.join(ROOT, "build")
RUN = os.path.join(BUILD, "run")


class LabError(Exception):
    """What, where, why; with the log of the thing that failed where there is one."""
