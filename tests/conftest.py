# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end and the fault suite. `make_lab` makes laboratories; `lab` and `systemd_lab` are the usual ones, enrolled."""
import contextlib
import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "harness"))

from ktlab import cleanup, systemd_nodes, tokens  # noqa: E402  (the path is set above)
from ktlab.lab import Lab  # noqa: E402


@pytest.fixture(scope="session")
def bin_folder():
    """The programs under test: build/dev/bin, or KT_BIN_DIR."""
    folder = os.environ.get("KT_BIN_DIR", os.path.join(ROOT, "build", "dev", "bin"))
    for name in ("keyturn", "keyturn-store", "agent/keyturn-agent"):
        assert os.access(os.path.join(folder, name), os.X_OK), f"{folder}/{name} is not built: ./dev build"
    return folder


@pytest.fixture(scope="session", autouse=True)
def leftovers():
    """Removes what a killed earlier session left, and sees to it that this one leaves nothing."""
    cleanup.cleanup()
    yield
    assert cleanup.cleanup() == 0


@pytest.fixture(scope="session")
def need_token():
    """need_token(kind) skips, and says what is missing; under CI, which installs as root what the tests need, it is a failure."""

    def need(kind):
        why = tokens.missing(kind)
        if why and os.environ.get("CI") == "true" and os.getuid() == 0:
            pytest.fail(f"token {kind}: {why}")
        if why:
            pytest.skip(f"token {kind}: {why}")

    return need


def laboratories(bin_folder, need_token):
    """A function that makes laboratories; when they are closed it is checked that no secret was written (S6)."""
    labs = []

    def make(kind="loopback", enroll=True, **options):
        if kind == "systemd" and systemd_nodes.missing():
            pytest.skip(systemd_nodes.missing())
        need_token(options.get("token", "softhsm"))
        lab = Lab(bin_folder, kind, **options)
        labs.append(lab)
        if enroll:
            lab.enroll()
        return lab

    yield make
    failures = []
    for lab in labs:
        try:
            lab.assert_no_secrets()
        except Exception as error:  # the other laboratories must be closed all the same
            failures.append(error)
        finally:
            lab.close()
    if failures:
        raise failures[0]


@pytest.fixture
def make_lab(bin_folder, need_token):
    """make_lab(kind="loopback", n=3, items=100, enroll=True, settings=None) → Lab; closed at the end of the test."""
    yield from laboratories(bin_folder, need_token)


@pytest.fixture(scope="module")
def module_lab(bin_folder, need_token):
    """The same for a whole module: each of its tests must leave the laboratory up and on a key that all nodes have."""
    yield from laboratories(bin_folder, need_token)


@pytest.fixture
def make_token(tmp_path_factory, need_token):
    """make_token("softhsm" | "nss" | "opencryptoki" | "tpm") → a running token (ktlab/token.py); ended after the test."""
    with contextlib.ExitStack() as stack:

        def make(kind):
            need_token(kind)
            return stack.enter_context(tokens.make(kind, str(tmp_path_factory.mktemp(kind) / "token")))

        yield make


@pytest.fixture
def softhsm(make_token):
    return make_token("softhsm")


@pytest.fixture
def nss(make_token):
    return make_token("nss")


@pytest.fixture
def opencryptoki(make_token):
    return make_token("opencryptoki")


@pytest.fixture
def tpm(make_token):
    return make_token("tpm")


@pytest.fixture
def lab(make_lab):
    """Three nodes on loopback with 100 items, enrolled."""
    return make_lab()


@pytest.fixture
def systemd_lab(make_lab):
    """Three real systemd nodes with 1,000 items, enrolled. Mark the test with @pytest.mark.systemd."""
    return make_lab("systemd", items=1000)


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what keyturn printed, in every run of it."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for value in item.funcargs.values():
            history = getattr(getattr(value, "keyturn", None), "history", [])
            for result in history[-5:]:
                report.sections.append(("keyturn", str(result)[-8000:]))
