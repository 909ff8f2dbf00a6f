# SPDX-License-Identifier: Apache-2.0
"""The installed libkeyturn-envelope, as an application meets it: headers, pkg-config, shared library, manual page."""
import os
import re
import sqlite3
import subprocess

import pytest
from ktlab import app, process
from ktlab.state import make_private

HERE = os.path.dirname(os.path.abspath(__file__))
CONTENT = bytes(range(256)) + b"the content of an item"


@pytest.fixture(scope="module")
def library(bin_folder, tmp_path_factory):
    """Installed below a scratch folder: the environment in which pkg-config, and then the loader, find it there."""
    destination = str(tmp_path_factory.mktemp("library"))
    build = os.path.dirname(os.path.realpath(bin_folder))
    process.run(["cmake", "--install", build, "--prefix", "/usr/local"], env={**os.environ, "DESTDIR": destination})
    lib = os.path.join(destination, "usr", "local", "lib")
    return {**os.environ, "PKG_CONFIG_PATH": os.path.join(lib, "pkgconfig"), "LD_LIBRARY_PATH": lib}


def flags(library, *arguments):
    return process.run(["pkg-config", *arguments, "libkeyturn-envelope"], env=library).stdout.split()


def compiled(library, compiler, source, output):
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    process.run([*compiler, *warnings, str(source), "-o", str(output), *flags(library, "--cflags", "--libs")], env=library)
    return str(output)


@pytest.fixture(scope="module")
def outside(library, tmp_path_factory):
    """outside(arguments..., input=bytes, code=0): what the program wrote (bytes; with another code what it said, lines)."""
    program = compiled(library, ["cc"], f"{HERE}/envelope_app.c", tmp_path_factory.mktemp("app") / "app")

    def call(*arguments, input=b"", code=0, env=None):
        done = subprocess.run([program, *map(str, arguments)], input=input, capture_output=True, timeout=60, check=False,
                              env={**library, **(env or {})})
        assert done.returncode == code, done
        return done.stdout if code == 0 else done.stderr.decode().splitlines()

    return call


@pytest.fixture
def keys(tmp_path):
    """The URIs of two master keys in files."""
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        make_private(str(path), app.new_key_text())
    return [f"file:{path}" for path in paths]


def test_only_the_documented_functions_are_exported(library):
    header = os.path.join(flags(library, "--cflags")[0][2:], "keyturn-envelope.h")
    with open(header, encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    declared = set(re.findall(r"\b(kte_\w+)\(", text))
    assert len(declared) >= 16
    assert set(re.findall(r'#include [<"](.+)[>"]', text)) == {"stddef.h", "stdint.h"}, "it leans on headers of others"
    shared = os.path.join(library["LD_LIBRARY_PATH"], "libkeyturn-envelope.so.0")
    defined = process.run(["nm", "-D", "--defined-only", "--without-symbol-versions", shared]).stdout
    assert {line.split()[-1] for line in defined.splitlines()} - {"KTE_0"} == declared
    assert "[libkeyturn-envelope.so.0]" in re.search(r"SONAME.*", process.run(["readelf", "-d", shared]).stdout).group()
    with open(os.path.join(HERE, "../../docs/man/libkeyturn-envelope.3"), encoding="utf-8") as f:
        page = f.read()
    synopsis = page[:page.index(".Sh DESCRIPTION")]
    assert set(re.findall(r"^\.F[no] (kte_\w+)", synopsis, re.M)) == declared
    codes = set(re.findall(r"\bKTE_E_\w+", text))
    assert set(re.findall(r"^\.It Dv (KTE_E_\w+)", page, re.M)) == codes


def test_the_example_of_the_manual_page(library, keys, tmp_path):
    """Made out of the page as it is shown, compiled and run."""
    page = os.path.join(library["LD_LIBRARY_PATH"], "../share/man/man3/libkeyturn-envelope.3")
    shown = process.run(["groff", "-mandoc", "-Tascii", "-P-cbou", "-rLL=200n", page]).stdout
    source = tmp_path / "example.c"
    source.write_text(re.search(r"^EXAMPLES\n.*?^( +#include.*?)^SEE ALSO", shown, re.M | re.S).group(1))
    program = compiled(library, ["cc", "-std=c99"], source, tmp_path / "example")
    assert process.run([program, keys[0]], env=library).stdout == "the content of an item\n"
    refused = process.run([program, "file:" + str(tmp_path / "nothing")], env=library, check=False)
    assert refused.returncode == 1 and str(tmp_path / "nothing") in refused.stderr


def test_the_header_in_cplusplus(library, tmp_path):
    source = tmp_path / "app.cc"
    source.write_text("#include <keyturn-envelope.h>\n#include <stdio.h>\nint main() { kte_error err; kte_keystore *ks;\n"
                      "if (kte_keystore_open(\"env:NOTHING\", &ks, &err) != KTE_E_KEY) return 1;\nputs(kte_version()); }\n")
    program = compiled(library, ["c++", "-std=c++98"], source, tmp_path / "app")
    assert process.run([program], env=library).stdout.strip() == flags(library, "--modversion")[0]


def test_items_are_sealed_opened_and_moved(outside, keys, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    outside("make", keys[0], old)
    outside("make", keys[0], new)
    sealed = outside("seal", keys[0], old, "a/1", input=CONTENT)
    assert CONTENT[:32] not in sealed and len(sealed) == len(CONTENT) + 136
    outside("wrap", keys[0], old, keys[1], tmp_path / "wrapped")  # another CMK: the envelope stays
    assert outside("open", keys[1], tmp_path / "wrapped", "a/1", input=sealed) == CONTENT
    for verb in "move", "anew":  # another KEK; other data keys, too
        moved = outside(verb, keys[0], old, keys[0], new, "a/1", input=sealed)
        assert outside("open", keys[0], new, "a/1", input=moved) == CONTENT
        assert (moved[120:] == sealed[120:]) == (verb == "move")
        said = outside("open", keys[0], old, "a/1", input=moved, code=11)
        assert said[0] == "key" and 'item "a/1": ' in said[1] and moved[44:60].hex() in said[1]


def test_what_is_damaged_is_refused_by_name(outside, keys, tmp_path):
    record = tmp_path / "record"
    outside("make", keys[0], record)
    sealed = outside("seal", keys[0], record, "a/1", input=CONTENT)
    for at, what in (0, "does not begin with KTEV"), (4, "version 254"), (50, "KEK"), (80, "header was altered"), (200, "content was altered"):
        damaged = sealed[:at] + bytes([sealed[at] ^ 0xff]) + sealed[at + 1:]
        for verb in "open", "anew":
            more = (keys[0], record) if verb == "anew" else ()
            said = outside(verb, keys[0], record, *more, "a/1", input=damaged, code=11 if at == 50 else 3)
            assert what in said[1] and 'item "a/1": ' in said[1] and "offset" in said[1]
    assert "belongs to another item" in outside("open", keys[0], record, "a/2", input=sealed, code=3)[1]
    assert "there are" in outside("open", keys[0], record, "a/1", input=sealed[:-1], code=3)[1]
    assert f"the master key {keys[1]} " in outside("open", keys[1], record, "a/1", input=sealed, code=11)[1]
    record.write_bytes(record.read_bytes()[:-1] + b"\0")
    assert "KEK record: it was altered" in outside("open", keys[0], record, "a/1", input=sealed, code=3)[1]


def test_it_reads_what_keyturn_store_wrote(outside, bin_folder, tmp_path):
    folder = str(tmp_path / "node")
    key = app.install(folder, os.path.join(bin_folder, "keyturn-store"), "web01", "looker.db", 0, app.new_key_text())
    env = {"PATH": os.environ["PATH"], "HOME": folder, "LKR_MASTER_KEY_FILE": key}
    process.run(["./looker", "start"], env=env, cwd=folder)
    try:
        process.run(["./looker", "put", "customer/17", "written by the store"], env=env, cwd=folder)
    finally:
        process.run(["./looker", "stop"], env=env, cwd=folder)
    with sqlite3.connect(os.path.join(folder, "looker.db")) as db:
        (record,), (envelope,) = db.execute("SELECT record FROM kek").fetchone(), db.execute("SELECT envelope FROM item").fetchone()
    (tmp_path / "record").write_bytes(record)
    assert outside("open", f"file:{key}", tmp_path / "record", "customer/17", input=envelope) == b"written by the store"


def test_a_master_key_that_stays_in_a_token(outside, softhsm, bin_folder, tmp_path):
    """The token's module is loaded into a process that knows nothing of it."""
    process.run(["openssl", "genpkey", "-algorithm", "RSA", "-out", tmp_path / "private"])
    process.run(["openssl", "pkey", "-in", tmp_path / "private", "-pubout", "-out", tmp_path / "public"])
    softhsm.run([os.path.join(bin_folder, "kt_interop"), "make", softhsm.uri(), "label:wrap", tmp_path / "public"])
    record, uri = tmp_path / "record", softhsm.uri("wrap")
    outside("make", uri, record, env=softhsm.env)
    sealed = outside("seal", uri, record, "a/1", input=CONTENT, env=softhsm.env)
    assert outside("open", uri, record, "a/1", input=sealed, env=softhsm.env) == CONTENT
    said = outside("open", softhsm.uri("gone"), record, "a/1", input=sealed, env=softhsm.env, code=11)
    assert said[0] == "key" and 'no wrapping key "gone"' in said[1]
