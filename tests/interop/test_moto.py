# SPDX-License-Identifier: Apache-2.0
"""awskms: against moto's server, and what it wrapped opened by AWS's own SDK. `./dev interop` installs both from PyPI."""
import json
import os
import socket
import sqlite3
import time

import pytest

from ktlab import BUILD, app, process

pytestmark = pytest.mark.registry

HERE = os.path.dirname(os.path.abspath(__file__))
ENVIRONMENT = os.path.join(BUILD, "moto")
AT_BLOB = 48  # of a KEK record, docs/FORMATS.md


def listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def moto(tmp_path):
    """The environment of somebody who uses moto's server as AWS."""
    program = os.path.join(ENVIRONMENT, "bin", "moto_server")
    if not os.access(program, os.X_OK):
        pytest.skip("moto is not installed: ./dev interop does that where PyPI can be reached")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with open(tmp_path / "moto.log", "w", encoding="utf-8") as log:
        server = process.subprocess.Popen([program, "-p", str(port)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 30
        while not listening(port):
            assert server.poll() is None and time.monotonic() < end, (tmp_path / "moto.log").read_text()
            time.sleep(0.1)
        yield {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_ENDPOINT_URL_KMS": f"http://127.0.0.1:{port}",
               "AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "testing",
               "AWS_SECRET_ACCESS_KEY": "testing", "AWS_SESSION_TOKEN": "testing"}
    finally:
        server.terminate()
        server.wait()


def side(environment, *arguments, **more):
    python = os.path.join(ENVIRONMENT, "bin", "python")
    return process.run([python, os.path.join(HERE, "moto_side.py"), *arguments], env=environment, **more).stdout.strip()


def wrapped_kek(database):
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        record, = db.execute("SELECT record FROM kek").fetchone()
    return json.JSONDecoder().raw_decode(record[AT_BLOB:].decode(errors="replace"))[0]


def test_the_sdk_opens_what_the_store_wrapped(moto, bin_folder, tmp_path):
    arn = side(moto, "setup")
    folder = str(tmp_path / "node")
    app.install(folder, os.path.join(bin_folder, "keyturn-store"), "web01", "looker.db", 0, app.new_key_text())

    def store(*arguments, check=True, **variables):
        return process.run(["./looker", *arguments], env={**moto, **variables}, cwd=folder, check=check)

    def opens(database, kind, key=arn, contexts=("mine", "Looker_Encryption_Context")):
        blob = wrapped_kek(os.path.join(folder, database))
        assert (blob["format"], blob["mechanism"], blob["wrapping_key"]) == ("aws-kms", kind, {"arn": key})
        assert side(moto, "open", contexts[0], input=json.dumps(blob)) == blob["key"]["kcv"]
        assert side(moto, "open", contexts[1], input=json.dumps(blob)) == "InvalidCiphertextException"
        return blob["key"]["kcv"]

    aws = {"LKR_AWS_CMK": "alias/looker", "LKR_AWS_CMK_EC": "mine"}
    store("start", **aws)
    try:
        store("fill", "--count", "10", "--size", "50", **aws)
    finally:
        store("stop", **aws)
    opens("looker.db", "GenerateDataKey")
    assert "10" in store("verify", "--content", **aws).stdout
    refused = store("verify", check=False, LKR_AWS_CMK="alias/looker")
    assert refused.returncode == 11 and "InvalidCiphertextException" in refused.stderr
    missing = store("verify", check=False, LKR_AWS_CMK="alias/nothing")
    assert missing.returncode == 11 and "NotFoundException" in missing.stderr
    store("rekey", LKR_AWS_CMK_SOURCE=arn, LKR_AWS_CMK_EC_SOURCE="mine", LKR_MASTER_KEY_FILE_DESTINATION="cmk")
    assert "10" in store("verify", "--content", LKR_MASTER_KEY_FILE="cmk").stdout
    store("rekey", "--depth", "cmk", LKR_MASTER_KEY_FILE_SOURCE="cmk", LKR_AWS_CMK_DESTINATION="alias/looker",
          LKR_AWS_CMK_EC_DESTINATION="mine")
    kek = opens("looker.db", "Encrypt")
    other = side(moto, "another")
    store("rekey", "--depth", "cmk", LKR_AWS_CMK_SOURCE="alias/looker", LKR_AWS_CMK_EC_SOURCE="mine", LKR_AWS_CMK_DESTINATION=other,
          LKR_AWS_CMK_EC_DESTINATION="theirs")
    assert opens("looker.db", "ReEncrypt", other, ("theirs", "mine")) == kek
    assert "10" in store("verify", "--content", LKR_AWS_CMK=other, LKR_AWS_CMK_EC="theirs").stdout


def test_a_key_that_keyturn_made(moto, bin_folder, tmp_path):
    """CreateKey and CreateAlias, and how moto refuses an alias that is taken."""
    cluster = tmp_path / "cluster.json"
    cluster.write_text(json.dumps({"cluster": "c", "playbook": "looker", "nodes": [{"name": "a"}], "hsm": {"uri": "pkcs11:token=none"},
                                   "key": {"to": "awskms:alias/made"}}))
    command = [os.path.join(bin_folder, "keyturn"), "--json", "--cluster", str(cluster), "key", "generate", "awskms:alias/made"]
    told = json.loads(process.run(command, env=moto).stdout)
    assert told["arn"] == side(moto, "arn", "alias/made")
    again = process.run(command, env=moto, check=False)
    assert again.returncode == 4 and "AWS KMS has a key under alias/made" in again.stderr
