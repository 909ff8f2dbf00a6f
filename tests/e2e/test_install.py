# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install` puts where, and that it works from there: the programs, the agent's bundle, manual pages, data."""
import os
import re
import subprocess

import pytest
from ktlab.coordinator import Keyturn

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="module")
def prefix(bin_folder, tmp_path_factory):
    """Everything installed below a scratch folder; the programs must find one another there all the same."""
    destination = str(tmp_path_factory.mktemp("install"))
    build = os.path.dirname(os.path.realpath(bin_folder))
    result = subprocess.run(["cmake", "--install", build, "--prefix", "/usr/local"], capture_output=True, text=True,
                            env={**os.environ, "DESTDIR": destination}, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert os.listdir(destination) == ["usr"], "something was installed outside of the prefix"
    return os.path.join(destination, "usr", "local")


def files_below(folder):
    return {os.path.relpath(os.path.join(path, name), folder) for path, _, names in os.walk(folder) for name in names}


def verbs(prefix):
    text = subprocess.run([f"{prefix}/bin/keyturn", "help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  ([a-z]+(?: [a-z]+)?)  ", text.partition("Verbs:\n")[2].partition("\n\n")[0], re.M)


def test_nothing_is_missing_and_nothing_is_left_over(prefix):
    there = files_below(prefix)
    pages = {f"share/man/man1/keyturn-{verb.replace(' ', '-')}.1" for verb in verbs(prefix) if verb not in ("help", "version")}
    assert len(pages) >= 8
    playbooks = {os.path.join("share/keyturn", name) for name in files_below(ROOT) if name.startswith("playbooks/")
                 and name.endswith(".json")}
    assert there == pages | playbooks | {
        "bin/keyturn", "bin/keyturn-store", "libexec/keyturn/agent/keyturn-agent", "libexec/keyturn/agent/libcjson.so.1",
        "libexec/keyturn/agent/libp11-kit.so.0", "libexec/keyturn/agent/mariadb-load-check", "libexec/keyturn/agent/libffi.so.8",
        "include/keyturn-envelope.h", "lib/libkeyturn-envelope.so", "lib/libkeyturn-envelope.so.0",
        "lib/libkeyturn-envelope.so.0.1.0", "lib/pkgconfig/libkeyturn-envelope.pc", "share/man/man3/libkeyturn-envelope.3",
        "share/man/man1/keyturn.1", "share/man/man1/keyturn-store.1", "share/man/man5/keyturn-cluster.json.5",
        "share/man/man5/keyturn-playbook.5", "share/man/man7/keyturn-keys.7", "share/man/man7/keyturn-recovery.7", "share/man/man8/keyturn-agent.8",
        "share/doc/keyturn/DESIGN.md", "share/doc/keyturn/FORMATS.md", "share/doc/keyturn/SAFETY.md",
        "share/doc/keyturn/TOKENS.md"}
    for path in there:
        assert os.access(os.path.join(prefix, path), os.X_OK) == ("bin/" in path or path.endswith(("-agent", "-load-check"))), path


def test_the_agent_brings_its_libraries(prefix):
    """A node needs a libc and nothing else: whatever else is loaded lies beside the agent."""
    folder = os.path.join(prefix, "libexec/keyturn/agent")
    loaded = subprocess.run([os.path.join(folder, "keyturn-agent"), "--version"], capture_output=True, text=True, check=True,
                            env={**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"}).stdout
    places = dict(re.findall(r"^\s*(\S+) => (\S+)", loaded, re.M))
    assert "libp11-kit.so.0" in places and "libffi.so.8" in places, loaded
    for name, path in places.items():
        ours = os.path.dirname(path) == folder
        assert ours or re.match(r"(libc|libm|libpthread|libdl|ld-linux[-a-z0-9_]*)\.so", name), f"{name}: {path}"


def test_manual_pages_are_well_formed(prefix):
    pages = [path for path in files_below(prefix) if path.startswith("share/man/")]
    assert len(pages) >= 12
    for path in pages:
        shown = subprocess.run(["groff", "-mandoc", "-Tutf8", "-P-cbou", "-ww", "-rLL=100n", os.path.join(prefix, path)],
                               capture_output=True, text=True, check=True)
        assert shown.stderr == "", f"{path}: {shown.stderr}"
        assert re.search(r"^NAME\n +\S+ [-–—−] \S", shown.stdout, re.M), f"{path}: whatis and apropos need this line"
        assert path.endswith((".5", ".7")) or re.search("^SYNOPSIS$", shown.stdout, re.M), path


def test_the_installed_keyturn_enrolls_and_turns(prefix, make_lab):
    lab = make_lab(n=2, items=20, enroll=False)
    lab.keyturn = Keyturn(f"{prefix}/bin/keyturn", lab.cluster.cluster_file, lab.token.env, lab.canaries)
    assert not os.path.exists(f"{prefix}/bin/agent")
    lab.enroll()
    lab.run()
    lab.assert_turned()
