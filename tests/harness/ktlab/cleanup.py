# SPDX-License-Identifier: Apache-2.0
"""Removes what laboratories of ended processes left behind: `python3 -m ktlab.cleanup`. Those that were kept on purpose
(`./dev demo --keep`) stay, unless --all is given."""
import glob
import os
import sys

from . import RUN, LabError
from .state import State


def cleanup(everything=False):
    """The number of laboratories removed."""
    removed = 0
    for link in glob.glob(os.path.join(RUN, "*.state")):
        path = os.path.realpath(link)
        if not os.path.exists(path):
            os.unlink(link)
            continue
        state = State.load(path)
        if state.owned() or (state.owner is None and not everything):
            continue
        state.teardown()
        if os.path.lexists(link):
            os.unlink(link)
        removed += 1
    return removed


if __name__ == "__main__":
    try:
        print(f"{cleanup('--all' in sys.argv[1:])} removed")
    except LabError as error:
        sys.exit(f"cleanup: {error}")
