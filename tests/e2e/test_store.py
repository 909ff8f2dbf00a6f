# SPDX-License-Identifier: Apache-2.0
"""keyturn-store on both of its back ends, SQLite and a real MariaDB server: the same commands, the same answers."""
import json
import os
import signal
import subprocess
import time

import pytest

from ktlab import app, dbproxy, mariadb, process

REFUSAL = ("There are other live nodes connected to this backend Looker database. If Looker was shutdown within the last minute, "
           "try again shortly, otherwise verify all nodes in the cluster are shut down.")
DEPTHS = ("cmk", "kek", "data")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    why = mariadb.missing()
    if why and os.environ.get("CI") == "true" and os.getuid() == 0:
        pytest.fail(why)
    if why:
        pytest.skip(why)
    with mariadb.Server(os.path.join("/tmp", f"kt-mariadb-{os.getpid()}")) as it:
        yield it


class Store:
    """A folder with one node, and others beside it, on a database of the back end."""

    def __init__(self, folder, binary, server=None, **options):
        self.folder, self.binary, self.server = str(folder), binary, server
        self.database = "t" + os.path.basename(self.folder).replace("-", "_")[-40:]
        if server:
            self.user = server.create(self.database, **options)
            server.write_creds(os.path.join(self.folder, "db.yaml"), self.database, self.user)
        self.nodes = []
        for name in ("cmk", "cmk2"):
            with open(os.path.join(self.folder, name), "w", encoding="utf-8") as f:
                f.write(app.new_key_text())
            os.chmod(os.path.join(self.folder, name), 0o400)
        self.looker = self.node("web01")

    def node(self, name):
        folder = os.path.join(self.folder, name)
        os.makedirs(folder)
        where = {"internal_db_creds": "../db.yaml"} if self.server else {"database": "../looker.db"}
        with open(os.path.join(folder, "store.json"), "w", encoding="utf-8") as f:
            json.dump({"node": name, "listen": "127.0.0.1:0", "heartbeat_seconds": 1, "live_window_seconds": 3, **where}, f)
        os.symlink(self.binary, os.path.join(folder, "looker"))
        self.nodes.append(folder)
        return folder

    def env(self, key="cmk", to=None):
        path = os.path.join(self.folder, key)
        env = {"PATH": os.environ["PATH"], "LKR_MASTER_KEY_FILE": path}
        if to:
            env.update(LKR_MASTER_KEY_FILE_SOURCE=path, LKR_MASTER_KEY_FILE_DESTINATION=os.path.join(self.folder, to))
        return env

    def run(self, *words, node=None, key="cmk", to=None, check=True, **env):
        return process.run(["./looker", *words], check=check, cwd=node or self.looker, env={**self.env(key, to), **env}, timeout=120)

    def json(self, *words, **options):
        return json.loads(self.run(*words, "--json", **options).stdout)

    def spawn(self, *words, key="cmk", to=None, node=None, **env):
        return subprocess.Popen(["./looker", *words], cwd=node or self.looker, env={**self.env(key, to), **env}, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def log(self, node=None):
        try:
            with open(os.path.join(node or self.looker, "log", "looker.log"), encoding="utf-8") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def await_log(self, text, seconds=60, node=None):
        deadline = time.monotonic() + seconds
        while text not in self.log(node):
            assert time.monotonic() < deadline, f"{text!r} does not come: {self.log(node)}"
            time.sleep(0.02)

    def made(self, count, size=200):
        """Initialised, stopped, with items."""
        self.run("start")
        self.run("stop")
        if count:
            self.run("fill", "--count", str(count), "--size", str(size))
        return self

    def opens(self, key):
        done = self.run("verify", "--content", "--json", key=key, check=False)
        answer = json.loads(done.stdout)
        return (answer["opened"], answer["items"]) if "opened" in answer else None

    def close(self):
        for folder in self.nodes:
            process.run(["./looker", "stop"], check=False, cwd=folder, env=self.env())


@pytest.fixture(params=["sqlite", "mariadb"])
def store(request, tmp_path, bin_folder):
    server = request.getfixturevalue("server") if request.param == "mariadb" else None
    it = Store(tmp_path, os.path.join(bin_folder, "keyturn-store"), server)
    yield it
    it.close()


@pytest.fixture
def on_server(tmp_path, bin_folder, server):
    """The same on MariaDB alone; on_server(process_privilege=False) for a user who sees his own connections only."""
    made = []

    def make(**options):
        made.append(Store(tmp_path, os.path.join(bin_folder, "keyturn-store"), server, **options))
        return made[-1]

    yield make
    for it in made:
        it.close()


def test_verbs(store):
    assert store.json("status")["initialized"] is False
    assert store.run("put", "a", "b", check=False).returncode == (3 if store.server else 10)
    store.run("start")
    status = store.json("status")
    assert status["running"] and status["nodes"][0]["live"] and status["epoch"] == 1
    store.run("put", "a b/ü", "one")
    store.run("put", "a b/ü", "two")
    store.run("put", "empty", "")
    with open(os.path.join(store.folder, "large"), "wb") as f:
        f.write(os.urandom(3_000_000))
    with open(os.path.join(store.folder, "large"), "rb") as f:
        subprocess.run(["./looker", "put", "large"], cwd=store.looker, env=store.env(), stdin=f, check=True)
    assert store.run("get", "a b/ü").stdout == "two" and store.run("get", "a b/ü").stdout == "two"  # the second from the cache
    assert store.run("get", "empty").stdout == ""
    got = subprocess.run(["./looker", "get", "large"], cwd=store.looker, env=store.env(), stdout=subprocess.PIPE, check=True).stdout
    with open(os.path.join(store.folder, "large"), "rb") as f:
        assert got == f.read()
    assert store.run("get", "absent", check=False).returncode == 3
    assert store.run("list").stdout.splitlines() == ["a b/ü", "empty", "large"]
    assert "is not running" not in store.run("stop").stdout
    assert store.json("status")["nodes"] == []
    answer = store.json("rekey", "--depth", "data", to="cmk2")  # with an item that is larger than a batch
    assert (answer["items"], answer["opened"]) == (3, 3)
    assert store.run("get", "a b/ü", key="cmk2").stdout == "two"


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_rekey_there_and_back(store, depth):
    store.made(3000, 256)
    keys = ["cmk", "cmk2"]
    for epoch in (2, 3):
        assert store.run("probe", key=keys[0], to=keys[1]).stdout == "old\n"
        answer = store.json("rekey", "--depth", depth, key=keys[0], to=keys[1])
        assert (answer["depth"], answer["items"], answer["epoch"]) == (depth, 3000, epoch)
        assert answer["opened"] == (0 if depth == "cmk" else 3000)
        assert store.run("probe", key=keys[0], to=keys[1]).stdout == "new\n"
        assert store.opens(keys[0]) is None and store.opens(keys[1]) == (3000, 3000)
        again = store.run("rekey", "--depth", depth, key=keys[0], to=keys[1], check=False)
        assert again.returncode == 11 and "has been turned already" in again.stderr
        keys.reverse()


def test_killed_before_the_commit(store):
    store.made(3000)
    child = store.spawn("rekey", "--depth", "data", to="cmk2", KEYTURN_STORE_REKEY_DELAY_MS="60000")
    store.await_log("Pausing for")  # all is written, nothing is committed
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert store.run("probe", to="cmk2").stdout == "old\n"
    assert store.opens("cmk") == (3000, 3000)
    assert store.json("rekey", to="cmk2")["items"] == 3000


def test_killed_anywhere(store):
    """Old or new, never a mixture; and nothing is left behind that a person would have to remove."""
    store.made(4000)
    key, other = "cmk", "cmk2"
    for i in range(12):
        child = store.spawn("rekey", "--depth", DEPTHS[i % 3], key=key, to=other)
        time.sleep(i * 0.015)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        verdict = store.json("probe", key=key, to=other)
        assert verdict["verdict"] in ("old", "new") and verdict[verdict["verdict"]] == 4000
        if verdict["verdict"] == "new":
            key, other = other, key
    assert store.json("rekey", key=key, to=other)["items"] == 4000
    assert store.opens(other) == (4000, 4000)


def test_live_nodes_refuse(store):
    store.made(10)
    other = store.node("web02")
    store.run("start", node=other)
    for words in (("rekey",), ("migrate_encryption",)):
        refused = store.run(*words, to="cmk2", check=False)
        assert refused.returncode == 4 and refused.stderr.splitlines()[0] == REFUSAL
        assert "web02" in refused.stderr
    store.run("stop", node=other)
    store.run("rekey", to="cmk2")


def legacy(store, bin_folder, count):
    place = os.path.join(store.folder, "db.yaml" if store.server else "looker.db")
    said = process.run([os.path.join(bin_folder, "legacy_store"), place, str(count), "100"]).stdout
    if store.server:
        store.server.sql(said, store.database)


def test_migration(store, bin_folder):
    legacy(store, bin_folder, 12000)
    refused = store.run("verify", check=False)
    assert refused.returncode == 3 and "12000 of 12000 items are still in the legacy form" in refused.stderr
    child = store.spawn("migrate_encryption", KEYTURN_STORE_REKEY_DELAY_MS="300")
    store.await_log("Pausing for")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    answer = store.json("migrate_encryption")
    assert answer["items"] == 12000 and answer["migrated"] <= 12000
    assert "Starting migration from AES-128-CBC Legacy to AES-GCM-256" in store.log()
    assert store.opens("cmk") == (12000, 12000)


def test_the_privilege_that_is_missing_is_named(on_server):
    store = on_server(process_privilege=False).made(10)
    refused = store.run("rekey", to="cmk2", check=False)
    assert refused.returncode == 4
    assert "has no PROCESS privilege" in refused.stderr and f"GRANT PROCESS ON *.* TO the user {store.user}@localhost" in refused.stderr
    store.server.sql(f"GRANT PROCESS ON *.* TO {store.user}@localhost")
    store.run("rekey", to="cmk2")


def test_a_connection_without_a_heartbeat_counts(on_server):
    """Of another user, who never registered: the server's own list has it."""
    store = on_server().made(10)
    client = subprocess.Popen(["mariadb", "--no-defaults", "-uroot", f"--socket={store.server.socket}", store.database, "-e",
                               "SELECT SLEEP(60)"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while "SLEEP" not in store.server.sql("SELECT info FROM information_schema.processlist WHERE command='Query' AND db="
                                          f"'{store.database}'"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    refused = store.run("rekey", to="cmk2", check=False)
    client.kill()
    client.wait()
    assert refused.returncode == 4 and refused.stderr.splitlines()[0] == REFUSAL
    assert "of root from localhost (Query)" in refused.stderr
    store.server.sql(f"KILL {refused.stderr.split('connection ')[1].split()[0]}", check=False)  # it would sleep on
    store.run("rekey", to="cmk2")


def test_a_node_that_sleeps_is_seen_by_its_connection(on_server):
    """Its heartbeat is older than the window, and it would go on under the old key."""
    store = on_server().made(5)
    other = store.node("web02")
    store.run("start", node=other)
    pid = store.json("status", node=other)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 30
        while store.json("status")["nodes"][0]["live"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        refused = store.run("rekey", to="cmk2", check=False)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert refused.returncode == 4 and refused.stderr.splitlines()[0] == REFUSAL
    assert f"of {store.user} from localhost (Sleep)" in refused.stderr


def test_the_password_is_seen_nowhere(on_server):
    store = on_server().made(10)
    texts = [store.run("status", "--json").stdout]
    store.server.sql(f"ALTER USER {store.user}@localhost IDENTIFIED BY 'another'")
    refused = store.run("status", check=False)
    assert refused.returncode == 10 and "check username and password" in refused.stderr
    texts += [refused.stderr, store.log()]
    os.chmod(os.path.join(store.folder, "db.yaml"), 0o644)
    exposed = store.run("status", check=False)
    assert exposed.returncode == 11 and "everybody can read the password" in exposed.stderr
    for url in (f"mariadb://u:{mariadb.PASSWORD}@localhost/x", f"mariadb://u@localhost/x?pass={mariadb.PASSWORD}"):
        bad = store.run("list", "--database", url, check=False)
        assert bad.returncode == 3
        texts.append(bad.stderr)
    for text in texts:
        assert mariadb.PASSWORD not in text and "canary" not in text


def test_by_url(on_server):
    store = on_server().made(7)
    with open(os.path.join(store.folder, "pw"), "w", encoding="utf-8") as f:
        f.write(mariadb.PASSWORD + "\n")
    os.chmod(os.path.join(store.folder, "pw"), 0o400)
    url = f"mariadb://{store.user}@localhost/{store.database}?socket={store.server.socket}&password_file={store.folder}/pw"
    assert store.json("verify", "--database", url)["opened"] == 7
    with open(os.path.join(store.looker, "store.json"), "w", encoding="utf-8") as f:
        json.dump({"database": url, "node": "web01", "listen": "127.0.0.1:0"}, f)
    assert store.json("verify")["opened"] == 7
    absent = store.run("list", "--database", url.replace(f"/{store.database}?", "/nothing?"), check=False)
    assert absent.returncode in (3, 10) and "nothing" in absent.stderr


def make_certificate(folder, name):
    """A self-signed one for localhost, with its key."""
    process.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                 "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"])
    return f"{folder}/{name}.pem", f"{folder}/{name}.key"


def test_tls(on_server):
    """The server's certificate is verified; a user who must encrypt is let in with ssl alone."""
    store = on_server().made(5)
    certificate, key = make_certificate(store.folder, "server")
    make_certificate(store.folder, "other")
    store.server.stop()
    store.server.start(*store.server.tls(certificate, key))
    try:
        store.server.sql(f"ALTER USER {store.user}@localhost REQUIRE SSL")
        assert store.run("verify", check=False).returncode == 10  # in the clear: denied
        for more, code in (("ssl: true\nssl_ca: server.pem\n", 0), ("ssl: true\nssl_ca: other.pem\n", 8), ("ssl: true\n", 8)):
            os.unlink(os.path.join(store.folder, "db.yaml"))
            store.server.write_creds(os.path.join(store.folder, "db.yaml"), store.database, store.user, more)
            done = store.run("verify", check=False)
            assert done.returncode == code, (more, done)
            assert code == 0 or "certificate" in done.stderr
    finally:
        store.server.stop()
        store.server.start()


@pytest.mark.parametrize("depth", ("cmk", "data"))
def test_the_server_is_killed_in_the_middle(on_server, depth):
    store = on_server().made(2000)
    child = store.spawn("rekey", "--depth", depth, to="cmk2", KEYTURN_STORE_REKEY_DELAY_MS="2000")
    store.await_log("Pausing for")
    store.server.kill()
    store.server.start()
    _, err = child.communicate(timeout=60)
    assert child.returncode == 8 and "nothing was changed" in err and "run it again" in err, err
    assert store.run("probe", to="cmk2").stdout == "old\n"
    assert store.opens("cmk") == (2000, 2000)
    store.run("rekey", "--depth", depth, to="cmk2")
    assert store.opens("cmk2") == (2000, 2000)


def await_beats(store, more):
    """`more` heartbeats than now."""
    beats = "SELECT beats FROM keyturn_node"
    enough = int(store.server.sql(beats, store.database)) + more
    deadline = time.monotonic() + 30
    while int(store.server.sql(beats, store.database)) < enough:
        assert time.monotonic() < deadline, store.log()
        time.sleep(0.1)


def kill_connections(store):
    for line in store.server.sql(f"SELECT id FROM information_schema.processlist WHERE db='{store.database}'").split():
        store.server.sql(f"KILL {line}", check=False)


def test_a_node_comes_back(on_server):
    store = on_server().made(5)
    store.run("start")
    kill_connections(store)  # as by wait_timeout: the next heartbeat makes a new one, and none is missed
    await_beats(store, 2)
    assert "no heartbeat" not in store.log()
    store.server.kill()
    store.server.start()
    await_beats(store, 1)
    assert store.json("status")["running"]


def test_a_server_that_is_away(on_server):
    store = on_server().made(5)
    store.server.stop()
    try:
        done = store.run("rekey", to="cmk2", check=False)
        assert done.returncode == 8 and "check that the server runs" in done.stderr
    finally:
        store.server.start()


def test_the_probe_waits_for_a_commit_under_way(on_server):
    """A server may still commit for a rekey that was killed: the probe must not say what was before."""
    store = on_server().made(5)
    writer = subprocess.Popen(["mariadb", "--no-defaults", "-uroot", f"--socket={store.server.socket}", store.database],
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    writer.stdin.write("BEGIN; SELECT * FROM keyturn_meta WHERE name='lock' FOR UPDATE; DELETE FROM keyturn_item WHERE id=1;\n")
    writer.stdin.flush()
    locks = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_rows_modified > 0"
    waits = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state='LOCK WAIT'"
    await_sql(store, locks)
    probe = store.spawn("probe", "--json", to="cmk2")
    await_sql(store, waits)
    assert probe.poll() is None
    writer.stdin.write("COMMIT;\n")
    writer.stdin.close()
    writer.wait()
    assert finish(probe)["items"] == 4


def await_sql(store, query):
    deadline = time.monotonic() + 30
    while store.server.sql(query).strip() == "0":
        assert time.monotonic() < deadline, query
        time.sleep(0.2)  # InnoDB renews what it shows there only when nobody has asked for 0.1 s


def test_a_lock_that_is_held(on_server):
    """A writer that does not end: waited for, then said."""
    store = on_server().made(5)
    client = subprocess.Popen(["mariadb", "--no-defaults", "-uroot", f"--socket={store.server.socket}", "mysql", "-e",
                               f"BEGIN; SELECT * FROM {store.database}.keyturn_meta FOR UPDATE; SELECT SLEEP(100)"],
                              stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while "SLEEP" not in store.server.sql("SELECT info FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        done = store.run("put", "a", "b", check=False)
        assert done.returncode == 12 and "another process is using the database" in done.stderr
    finally:
        client.kill()
        client.wait()
        for line in store.server.sql("SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'").split():
            store.server.sql(f"KILL {line}", check=False)


def through(store, proxy):
    """The store's nodes reach their server by the proxy."""
    path = os.path.join(store.folder, "db.yaml")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace(f"socket: {store.server.socket}", f"socket: {proxy.socket}"))


@pytest.mark.parametrize("depth", ("kek", "data"))
def test_a_server_without_bulk_statements(on_server, tmp_path, depth):
    """As MySQL: a row each, which is counted."""
    store = on_server().made(3000, 100)
    with dbproxy.Proxy(str(tmp_path / "p"), store.server.socket) as proxy:
        through(store, proxy)
        assert store.json("rekey", "--depth", depth, to="cmk2")["opened"] == 3000
        assert proxy.requests > 3000
        assert store.opens("cmk2") == (3000, 3000)
        answer = store.json("rekey", "--shards", "3", "--depth", depth, key="cmk2", to="cmk")
        assert answer["items"] == answer["opened"] == 3000 and store.opens("cmk") == (3000, 3000)


@pytest.mark.parametrize("cut", (20_000, 300_000))
def test_a_connection_lost_within_an_answer(on_server, tmp_path, cut):
    """Between rows and in the middle of one: it is said that the connection was lost, and nothing has changed."""
    store = on_server().made(4000, 100)
    with dbproxy.Proxy(str(tmp_path / "p"), store.server.socket, bulk=True) as proxy:
        through(store, proxy)
        proxy.cut = cut
        for words in (("verify",), ("rekey",), ("rekey", "--depth", "data")):
            lost = store.run(*words, to="cmk2", check=False)
            assert lost.returncode == 8 and "the connection to the server was lost" in lost.stderr, (words, lost)
        proxy.cut = None
        assert store.run("probe", to="cmk2").stdout == "old\n"
        assert store.json("rekey", to="cmk2")["opened"] == 4000


# --- a rekey in shards ---

def rekey_rows(store):
    """{range: (items, done, pid of the worker that has claimed it)} of the rekey under way."""
    lines = store.server.sql("SELECT id, items, done, IF(worker='', 0, SUBSTRING_INDEX(SUBSTRING(worker, 5), ' ', 1)) FROM keyturn_range",
                             store.database).splitlines()
    return {int(line.split()[0]): tuple(map(int, line.split()[1:])) for line in lines}


def await_rows(store, test, seconds=60):
    deadline = time.monotonic() + seconds
    while not test(rekey_rows(store)):
        assert time.monotonic() < deadline, rekey_rows(store)
        time.sleep(0.02)


def finish(child):
    out, err = child.communicate(timeout=120)
    return json.loads(out) if child.returncode == 0 else pytest.fail(f"exit {child.returncode}: {out}{err}")


def test_three_workers_and_one_is_killed(on_server):
    depth = "data"
    store = on_server().made(30000, 100)
    nodes = [store.looker, store.node("web02"), store.node("web03")]
    slow = {"KEYTURN_STORE_REKEY_DELAY_MS": "100"}  # before each commit of a batch: so that all three have something to do
    first = store.spawn("rekey", "--shards", "9", "--depth", depth, "--json", to="cmk2", **slow)
    await_rows(store, len)
    others = [store.spawn("rekey", "--join", "--json", to="cmk2", node=node, **slow) for node in nodes[1:]]
    await_rows(store, lambda rows: len({pid for _, done, pid in rows.values() if pid and not done}) == 3)  # each has one
    others[1].send_signal(signal.SIGKILL)
    others[1].communicate()
    left = sum(pid == others[1].pid and not done for _, done, pid in rekey_rows(store).values())
    # while it is under way nothing else opens the store, and everything says so
    for words in (("verify",), ("put", "a", "b"), ("rekey",), ("rekey", "--shards", "2"), ("start",)):
        refused = store.run(*words, to="cmk2", check=False)
        assert refused.returncode in (3, 4), (words, refused)
    assert "a rekey in shards has not ended" in store.run("verify", check=False).stderr
    assert store.run("probe", to="cmk2").stdout == "mixed\n"
    assert store.json("status")["rekey"]["depth"] == depth
    answers = [finish(first), finish(others[0])]
    assert all(answer["items"] == 30000 for answer in answers)
    assert sum(answer["shards"]["ranges"] for answer in answers) >= 8  # the killed one may have done one
    assert [answer["shards"]["ended"] for answer in answers].count(True) == 1
    assert sum(answer["shards"]["taken_over"] for answer in answers) == left <= 1
    assert all(answer["shards"]["ranges"] > 0 for answer in answers)
    assert store.run("probe", to="cmk2").stdout == "new\n"
    assert store.opens("cmk") is None and store.opens("cmk2") == (30000, 30000)
    assert rekey_rows(store) == {} and "rekey" not in store.json("status")
    assert store.run("rekey", "--join", key="cmk2", to="cmk", check=False).returncode == 4


def test_all_workers_die_and_the_server_too(on_server):
    """Killed at many moments; each time --join goes on where it was, and nothing is done twice."""
    store = on_server().made(20000, 100)
    child = store.spawn("rekey", "--shards", "4", "--depth", "data", to="cmk2", KEYTURN_STORE_REKEY_DELAY_MS="300")
    await_rows(store, lambda rows: any(items for items, _, _ in rows.values()))
    child.send_signal(signal.SIGKILL)
    child.communicate()
    moved = sum(items for items, _, _ in rekey_rows(store).values())
    assert 0 < moved < 20000
    child = store.spawn("rekey", "--join", "--json", to="cmk2", KEYTURN_STORE_REKEY_DELAY_MS="300")
    await_rows(store, lambda rows: sum(items for items, _, _ in rows.values()) > moved)
    store.server.kill()
    store.server.start()
    answer = finish(child)  # it has waited for the server, and gone on
    assert answer["items"] == answer["opened"] == 20000 and "tried again" in store.log()
    assert store.opens("cmk2") == (20000, 20000)


def test_a_worker_that_slept_is_fenced(on_server):
    """It wakes up when its range is another one's, who is in the middle of it: it must not write a byte of it."""
    store = on_server().made(8000, 100)
    other = store.node("web02")
    sleeper = store.spawn("rekey", "--shards", "1", "--json", to="cmk2", KEYTURN_STORE_REKEY_DELAY_MS="700")
    await_rows(store, lambda rows: any(items for items, _, _ in rows.values()))
    sleeper.send_signal(signal.SIGSTOP)
    try:
        kill_connections(store)  # it may stand in the middle of a transaction, which would hold the range
        second = store.spawn("rekey", "--join", "--json", node=other, to="cmk2", KEYTURN_STORE_REKEY_DELAY_MS="700")
        await_rows(store, lambda rows: any(pid == second.pid for _, _, pid in rows.values()))
    finally:
        sleeper.send_signal(signal.SIGCONT)
    late, answer = finish(sleeper), finish(second)
    assert "another worker has taken over range 1" in store.log()
    ended = [of["shards"].pop("ended") for of in (late, answer)]  # whoever sees first that all ranges are done
    assert answer["shards"] == {"ranges": 1, "taken_over": 1} and late["shards"] == {"ranges": 0, "taken_over": 0}
    assert sorted(ended) == [False, True]
    assert store.opens("cmk2") == (8000, 8000)


def test_a_damaged_item_stops_the_shards(on_server):
    store = on_server().made(3000, 100)
    store.server.sql("UPDATE keyturn_item SET envelope=INSERT(envelope, 80, 1, 'x') WHERE name='fill/00001234'", store.database)
    failed = store.run("rekey", "--shards", "3", to="cmk2", check=False)
    assert failed.returncode == 3 and 'item "fill/00001234"' in failed.stderr
    assert store.run("probe", to="cmk2").stdout == "mixed\n"
    assert "rekey --join" in store.run("verify", check=False).stderr


def test_shards_are_for_a_server(store):
    store.made(10)
    if store.server:
        assert store.run("rekey", "--shards", "3", "--depth", "cmk", to="cmk2", check=False).returncode == 2
        assert store.run("rekey", "--join", "--depth", "kek", to="cmk2", check=False).returncode == 2
        refused = store.run("rekey", "--join", to="cmk2", check=False)
        assert refused.returncode == 4 and "no rekey in shards is under way" in refused.stderr
        assert store.run("rekey", "--shards", "0", to="cmk2", check=False).returncode == 2
        assert store.json("rekey", "--shards", "4096", to="cmk2")["items"] == 10  # more ranges than items
    else:
        refused = store.run("rekey", "--shards", "3", to="cmk2", check=False)
        assert refused.returncode == 2 and "needs a database on a server" in refused.stderr
        assert store.run("probe", to="cmk2").stdout == "old\n"


# --- whole turns over a server ---

@pytest.fixture(scope="module")
def server_lab(module_lab, server, tmp_path_factory):
    """Three nodes that share a database of the server, enrolled."""
    database = "lab"
    creds = str(tmp_path_factory.mktemp("server-lab") / "db.yaml")
    server.write_creds(creds, database, server.create(database))
    lab = module_lab(settings={"internal_db_creds": creds}, items=200)
    lab.canaries.add("the database's password", mariadb.PASSWORD)
    lab.database = database
    return lab


def test_a_client_of_the_database_stops_the_turn(server_lab, server):
    """Connected past the nodes and their heartbeats: the rekey itself refuses, and everything goes back. Without it the
    turn turns."""
    client = subprocess.Popen(["mariadb", "--no-defaults", "-uroot", f"--socket={server.socket}", server_lab.database, "-e",
                               "SELECT SLEEP(300)"],
                              stdout=subprocess.DEVNULL)
    try:
        result = server_lab.run(check=5)  # rolled back
        assert "There are other live nodes connected" in result.out + result.err
        server_lab.assert_on_old_key()
    finally:
        client.kill()
        client.wait()
        for line in server.sql("SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP(300)%'").split():
            server.sql(f"KILL {line}", check=False)
    server_lab.run()
    server_lab.assert_settled()


def test_a_turn_over_a_server_is_taken_back(server_lab, server, tmp_path):
    """The dump in the rekey node's backup is loaded again: the old key opens it, and what was written since is gone."""
    client = str(tmp_path / "client.cnf")
    with open(client, "w", encoding="utf-8") as f:
        f.write(f"[client]\nuser=root\nsocket={server.socket}\n")
    os.chmod(client, 0o600)
    commands = {"dump_command": ["mariadb-dump", f"--defaults-file={client}", "--single-transaction", server_lab.database],
                "load_command": ["mariadb", f"--defaults-file={client}", server_lab.database]}
    settings = server_lab.cluster.variables()
    server_lab.rewrite(vars={**settings, "dump_command": commands["dump_command"]})
    refused = server_lab.keyturn.run("run", "--yes", check=5)
    assert "load_command" in refused.out + refused.err, refused
    server_lab.rewrite(vars={**settings, **commands})
    server_lab.run()
    server_lab.assert_turned()
    server_lab.nodes[0].app.run("put", "written-later", "x")
    server_lab.keyturn.run("rollback", "--yes", server_lab.journal.latest())
    server_lab.assert_on_old_key()
    assert "written-later" not in server_lab.nodes[0].app.run("list").stdout.split()
    server_lab.rewrite()  # the laboratory is the next test's, too


def test_a_dump_is_loaded_before_the_rekey(server_lab, server, tmp_path):
    """Into a server of its own, with sample items opened. A dump that is cut off, one that lacks a table and one of data
    under another key are refused there; `backup verify` loads it again as long as the old key can be had."""
    client, dump = str(tmp_path / "client.cnf"), str(tmp_path / "dump")
    with open(client, "w", encoding="utf-8") as f:
        f.write(f"[client]\nuser=root\nsocket={server.socket}\n")
    os.chmod(client, 0o600)
    helper = server_lab.cluster.agent_members()["path"] + "/mariadb-load-check"  # beside the agent, where enroll put it
    made = ["mariadb-dump", f"--defaults-file={client}", "--single-transaction", server_lab.database]
    commands = {"load_command": ["mariadb", f"--defaults-file={client}", server_lab.database],
                "load_check_command": [helper, "${scratch}", "copy", "./looker", "verify", "-d", "${scratch}/load-check/db.yaml"]}
    settings = server_lab.cluster.variables()

    def dumping(*command):
        server_lab.rewrite(vars={**settings, **commands, "dump_command": list(command)})

    whole = subprocess.run(made, check=True, capture_output=True).stdout
    scratch = tmp_path / "scratch"
    for spoiled, words in ((whole[:whole.rindex(b"-- Dump completed")], "the dump is cut off"),
                           (whole[:len(whole) // 2], "the dump does not load")):
        scratch.mkdir(exist_ok=True)
        done = subprocess.run([helper.replace("${node}", server_lab.nodes[0].name), str(scratch), "copy"], input=spoiled,
                              capture_output=True, check=False)
        assert done.returncode == 1 and words.encode() in done.stderr, done
        assert not os.listdir(scratch)
    with open(dump, "wb") as f:
        f.write(whole.replace(b"`keyturn_item`", b"`other`"))
    dumping("cat", dump)
    refused = server_lab.run(check=5)
    assert "the database was not loaded" in refused.out + refused.err and "keyturn_item" in refused.out + refused.err, refused
    server_lab.assert_on_old_key()
    dumping(*made)
    assert "load_check_command" not in server_lab.keyturn.run("plan").out
    server_lab.run()
    server_lab.assert_settled()
    run = server_lab.journal.latest()
    said = server_lab.keyturn.run("backup", "verify", run).out
    assert "its dump loads" in said, said
    commands.pop("load_check_command")
    dumping(*made)
    assert "load_check_command" in server_lab.keyturn.run("plan").out
    server_lab.rewrite()


def test_keyturn_and_the_server_are_killed_in_the_rekey(server_lab, server):
    server_lab.run_killed_at("rekey", 0.05)
    server.kill()
    server.start()
    server_lab.keyturn.run("resume", check=None)
    server_lab.assert_settled()
