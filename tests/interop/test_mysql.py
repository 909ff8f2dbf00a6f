# SPDX-License-Identifier: Apache-2.0
"""keyturn-store on a real MySQL server: the same commands with the same answers as on MariaDB (tests/e2e/test_store.py), where values
go row by row and passwords by caching_sha2_password, which MariaDB's client library speaks, too."""
import os
import signal
import sys

import pytest

from ktlab import LabError, mysql

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))

# What is said there for each database, and here for this one.
from test_store import (Store, await_beats, await_rows, kill_connections, test_a_connection_without_a_heartbeat_counts,  # noqa: E402,F401
                        test_a_lock_that_is_held, test_a_rekey_there_and_back, test_a_server_that_is_away, test_by_url,
                        test_killed_anywhere, test_killed_before_the_commit, test_live_nodes_refuse,
                        test_the_password_is_seen_nowhere, test_the_privilege_that_is_missing_is_named,
                        test_the_server_is_killed_in_the_middle, test_tls, test_verbs)

pytestmark = pytest.mark.registry


@pytest.fixture(scope="session")
def server():
    why = mysql.missing()
    if why:
        pytest.skip(why)
    try:
        mysql.tree()
    except LabError as error:
        pytest.skip(f"MySQL cannot be had from Debian's {mysql.SUITE} today: {error}")
    with mysql.Server(os.path.join("/tmp", f"kt-mysql-{os.getpid()}")) as it:
        yield it


@pytest.fixture
def on_server(tmp_path, bin_folder, server):
    made = []

    def make(**options):
        made.append(Store(tmp_path, os.path.join(bin_folder, "keyturn-store"), server, **options))
        return made[-1]

    yield make
    for it in made:
        it.close()


@pytest.fixture
def store(on_server):
    return on_server()


def test_it_is_mysql(server):
    """Not MariaDB under its name, and the way of its passwords."""
    version, comment = server.sql("SELECT @@version, @@version_comment").strip().split("\t")
    assert "MariaDB" not in version + comment and int(version.split(".")[0]) >= 8
    user = server.create("plugins")
    assert server.sql(f"SELECT plugin FROM mysql.user WHERE user='{user}'").strip() == "caching_sha2_password"


@pytest.mark.parametrize("ssl", (False, True))
def test_over_tcp(on_server, ssl):
    """As a user who has host, port and a password: the first login of a user sends the password (by RSA or within TLS), the next ones
    are from the server's cache."""
    store = on_server()
    host = "localhost" if ssl else "127.0.0.1"
    store.server.sql(f"CREATE USER {store.user}@'127.0.0.1' IDENTIFIED BY '{mysql.mariadb.PASSWORD}';"
                     f" GRANT ALL ON {store.database}.* TO {store.user}@'127.0.0.1'; GRANT PROCESS ON *.* TO {store.user}@'127.0.0.1'")
    os.unlink(os.path.join(store.folder, "db.yaml"))
    mysql.mariadb.make_private(os.path.join(store.folder, "db.yaml"),
                               f"host: {host}\nusername: {store.user}\npassword: \"{mysql.mariadb.PASSWORD}\"\n"
                               f"database: {store.database}\ndialect: mysql\nport: {store.server.port}\n", 0o600)
    store.made(100)
    assert store.json("rekey", to="cmk2")["items"] == 100
    assert store.opens("cmk2") == (100, 100)


def test_a_connection_that_is_lost(on_server):
    """As by wait_timeout: the next heartbeat makes a new one, and none is missed."""
    store = on_server().made(5)
    store.run("start")
    kill_connections(store)
    await_beats(store, 2)
    assert "no heartbeat" not in store.log()


def test_shards(on_server):
    """The worker dies with a range in hand; another one takes it over when the lease has ended."""
    store = on_server().made(5000, 100)
    child = store.spawn("rekey", "--shards", "2", "--depth", "data", to="cmk2", KEYTURN_STORE_REKEY_DELAY_MS="1000")
    await_rows(store, lambda rows: any(items for items, _, _ in rows.values()))
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert store.run("probe", to="cmk2").stdout == "mixed\n"
    answer = store.json("rekey", "--join", to="cmk2")
    assert answer["items"] == answer["opened"] == 5000 and answer["shards"] == {"ranges": 2, "taken_over": 1, "ended": True}
    assert store.opens("cmk2") == (5000, 5000)
