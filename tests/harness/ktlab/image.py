# SPDX-License-Identifier: Apache-2.0
"""The base system of the real nodes: debootstrapped once, cached under build/cache, never changed afterwards."""
import fcntl
import hashlib
import os
import shutil
import subprocess
import time

from . import BUILD, LabError, process

PACKAGES = ["systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "procps", "iproute2", "sqlite3", "libsqlite3-0",
            "libssl3", "libcjson1", "libuv1", "libp11-kit0", "libarchive13", "libzstd1", "libcurl4", "libmariadb3",
            # the tokens of node_tokens.py
            "softhsm2", "libnss3", "opencryptoki", "libtpm2-pkcs11-1", "libtss2-tcti-swtpm0", "swtpm"]
APP_USER, LOGIN_USER = "lookerops", "release"
RECIPE = 4  # to be raised when what is done to the base system below changes

UNIT = """\
[Unit]
Description=Looker (keyturn-store)

[Service]
User=lookerops
WorkingDirectory=/home/lookerops/looker
EnvironmentFile=/etc/looker.env
ExecStart=/home/lookerops/looker/looker start --foreground
Restart=no
TimeoutStopSec=20

[Install]
WantedBy=multi-user.target
"""


def suite():
    with open("/etc/os-release", encoding="utf-8") as f:
        for line in f:
            if line.startswith("VERSION_CODENAME="):
                return line.split("=", 1)[1].strip().strip('"')
    raise LabError("/etc/os-release names no VERSION_CODENAME: real nodes need a Debian host")


def mirror(codename):
    """The mirror that this machine's own apt uses for its release."""
    targets = process.run(["apt-get", "indextargets", "--no-release-info", "--format",
                           "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]).stdout
    for line in targets.splitlines():
        release, component, uri = line.split(" ", 2)
        if (release, component) == (codename, "main"):
            return uri.rstrip("/")
    raise LabError(f"apt has no source for {codename} main: the base system of the test nodes cannot be made")


def proxy_environment():
    """debootstrap downloads with wget, which does not know of apt's proxy."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    shown = process.run(["apt-config", "shell", "proxy", "Acquire::http::Proxy"], check=False).stdout
    if shown.startswith("proxy='") and "http_proxy" not in env:
        env["http_proxy"] = shown.split("'")[1]
    return env


def _write(root, path, text, mode=0o644):
    full = os.path.join(root, path.lstrip("/"))
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(full, mode)


def _prepare(root):
    for user in (APP_USER, LOGIN_USER):
        process.run(["chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", user])
    # "*": no password, but not locked either (sshd refuses locked accounts without PAM).
    process.run(["chroot", root, "usermod", "--password", "*", LOGIN_USER])
    _write(root, f"/etc/sudoers.d/{LOGIN_USER}", f"{LOGIN_USER} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    _write(root, "/etc/systemd/system/looker.service", UNIT)
    _write(root, "/etc/ssh/sshd_config.d/lab.conf", "UseDNS no\nPrintMotd no\nPrintLastLog no\nMaxStartups 256\n"
           "PasswordAuthentication no\n")
    # A node that has openCryptoki's token enables it.
    process.run(["systemctl", "--root", root, "--quiet", "disable", "pkcsslotd.service"])
    _write(root, "/etc/machine-id", "")
    for name in os.listdir(os.path.join(root, "etc/ssh")):
        if name.startswith("ssh_host_"):
            os.unlink(os.path.join(root, "etc/ssh", name))  # each node makes its own
    shutil.rmtree(os.path.join(root, "var/cache/apt/archives"), ignore_errors=True)


def _build(final, codename, log):
    work = f"{final}.{os.getpid()}.new"
    shutil.rmtree(work, ignore_errors=True)
    began = time.monotonic()
    with open(log, "w", encoding="utf-8") as output:
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", codename, work, mirror(codename)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=proxy_environment(), check=False)
    try:
        if done.returncode != 0:
            with open(log, encoding="utf-8") as f:
                raise LabError(f"debootstrap failed ({done.returncode}); the end of {log}:\n" + f.read()[-2000:])
        _prepare(work)
        os.rename(work, final)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return time.monotonic() - began


def base(cache=os.path.join(BUILD, "cache")):
    """The path of the base system; made when it is not there yet (about 45 s, with the network of apt)."""
    codename = suite()
    recipe = f"{RECIPE} {codename} {' '.join(PACKAGES)} {UNIT}"
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    final = os.path.join(cache, f"base-{codename}-{key}")
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(final):
            for name in os.listdir(cache):
                if name.startswith("base-") and not name.endswith(key):
                    shutil.rmtree(os.path.join(cache, name), ignore_errors=True)
            _build(final, codename, os.path.join(cache, "debootstrap.log"))
    return final
