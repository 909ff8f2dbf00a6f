# SPDX-License-Identifier: Apache-2.0
import json
import os
import sys

import pytest

from ktlab import process

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import blobs  # noqa: E402  (the path is set above)


@pytest.fixture
def openssl(tmp_path):
    return blobs.Openssl(tmp_path)


@pytest.fixture
def keyturn(bin_folder):
    """keyturn(token, verb, argument..., blob=None): kt_interop with the token; its JSON, or the text on its stdout."""
    program = os.path.join(bin_folder, "kt_interop")
    assert os.access(program, os.X_OK), f"{program} is not built: ./dev build"

    def call(token, verb, *arguments, blob=None, check=True):
        text = json.dumps(blob) if blob else ""
        where = [token.uri(), *arguments] if token else arguments
        done = (token.run if token else process.run)([program, verb, *where], input=text, check=check)
        if not check:
            return done
        return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout

    return call
