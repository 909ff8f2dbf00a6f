# SPDX-License-Identifier: Apache-2.0
"""A small machine in qemu, for what the kernel of a test's own machine may not have: Debian's cloud kernel, and an initramfs
with the programs that are named. Emulated: /dev/kvm may be there and not work where this machine is itself one. Packages of the
guest are downloaded by apt, once, and never installed here."""
import glob
import os
import re
import shutil
import stat
import subprocess

from ktlab import BUILD, process

CACHE = os.path.join(BUILD, "cache", "machine")
KERNEL = "linux-image-cloud-amd64"
BOOT_S = 400  # some 30 where nothing else runs


class Missing(Exception):
    """What keeps a machine from being made here, for people."""


def _apt(*arguments, **more):
    done = process.run(list(arguments), check=False, **more)
    if done.returncode:
        raise Missing(f"{' '.join(arguments)}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _unpacked(packages):
    """A folder with what is in these packages of Debian."""
    image = re.search(r"Depends: (linux-image-\S+)", _apt("apt-cache", "depends", KERNEL))
    if not image:
        raise Missing(f"apt knows no {KERNEL}")
    names = [image.group(1), *packages]
    folder = os.path.join(CACHE, "-".join(names))
    if os.path.isdir(folder):
        return folder
    shutil.rmtree(CACHE, ignore_errors=True)
    os.makedirs(CACHE)
    _apt("apt-get", "download", *names, cwd=CACHE)
    for package in glob.glob(os.path.join(CACHE, "*.deb")):
        process.run(["dpkg-deb", "-x", package, folder + ".new"])
        os.unlink(package)
    os.rename(folder + ".new", folder)
    return folder


class Initramfs:
    """The newc form of cpio (the kernel's Documentation/driver-api/early-userspace/buffer-format); not compressed, for the
    machine is slow."""

    def __init__(self, path):
        self.file, self.n, self.folders = open(path, "wb"), 0, {""}

    def _put(self, name, mode, data=b""):
        self.n += 1
        text = name.encode() + b"\0"
        numbers = [self.n, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0]
        for part in (b"070701" + b"".join(b"%08x" % number for number in numbers) + text, data):
            self.file.write(part + bytes(-len(part) % 4))

    def folder(self, name):
        if name not in self.folders:
            self.folder(os.path.dirname(name))
            self.folders.add(name)
            self._put(name, stat.S_IFDIR | 0o755)

    def add(self, name, data, mode=0o755):
        self.folder(os.path.dirname(name))
        self._put(name, stat.S_IFREG | mode, data)

    def link(self, name, to):
        self._put(name, stat.S_IFLNK | 0o777, to.encode())

    def close(self):
        self._put("TRAILER!!!", 0)
        self.file.close()


def _modules(folder, names):
    """The files of kernel modules, each after those that it depends on."""
    files = {os.path.basename(f)[:-3].replace("-", "_"): f for f in glob.glob(f"{folder}/lib/modules/**/*.ko", recursive=True)}
    order = []

    def need(name):
        if name in files and files[name] not in order:
            with open(files[name], "rb") as f:
                depends = re.search(rb"\0depends=([^\0]*)", f.read()).group(1).decode()
            for other in filter(None, depends.split(",")):
                need(other.replace("-", "_"))
            order.append(files[name])

    for name in names:
        need(name.replace("-", "_"))
    return order


def _read(path):
    with open(path, "rb") as f:
        return f.read()


def _add_programs(image, folder, programs):
    """Programs of the packages, else of this machine, and the libraries that they need, of the packages first."""
    places = [f"{folder}/usr/sbin", f"{folder}/usr/bin", f"{folder}/sbin", f"{folder}/bin", os.environ["PATH"], "/usr/sbin", "/sbin"]
    libraries = [f"{folder}/lib/x86_64-linux-gnu", f"{folder}/usr/lib/x86_64-linux-gnu"]
    done = set()
    for program in programs:
        path = program if "/" in program else shutil.which(program, path=":".join(places))
        if not path:
            raise Missing(f"there is no {program}")
        image.add(f"usr/bin/{os.path.basename(program)}", _read(path))
        told = process.run(["ldd", os.path.realpath(path)], env={"LD_LIBRARY_PATH": ":".join(libraries), "PATH": os.environ["PATH"]},
                           check=False).stdout
        for name, at in re.findall(r"^\s*(\S+) (?:=> )?(/?\S*) ?\(", told, re.M):
            library = at or name
            if not library.startswith("/") or library in done:
                continue
            done.add(library)
            to = name if name.startswith("/") else library.removeprefix(folder)
            image.add("usr/" + to.lstrip("/").removeprefix("usr/"), _read(library))


def boot(folder, script, programs, packages, modules, disk_mib, files=()):
    """Boot, run `script` by bash with /dev/vda of that size, and give what the machine printed. The programs need kt_volumes among
    them (insmod, poweroff). `files`: (path, text) of more that is there."""
    if not shutil.which("qemu-system-x86_64"):
        raise Missing("qemu-system-x86_64 is not installed")
    unpacked = _unpacked(packages)
    drivers = _modules(unpacked, modules)
    image = Initramfs(os.path.join(folder, "initramfs"))
    for name in ("proc", "sys", "dev", "run", "tmp", "state", "etc", "usr/sbin", "usr/lib64"):
        image.folder(name)
    for name in ("bin", "sbin", "lib", "lib64"):
        image.link(name, f"usr/{name}")
    _add_programs(image, unpacked, ["bash", "mount", *programs])
    for file in drivers:
        image.add("modules/" + os.path.basename(file), _read(file), 0o644)
    loaded = " ".join("/modules/" + os.path.basename(file) for file in drivers)
    image.add("init", f"""#!/bin/bash
export PATH=/usr/bin LC_ALL=C
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev; mount -t tmpfs r /run
kt_volumes insmod {loaded}
bash /script 2>&1
kt_volumes poweroff
""".encode())
    for path, text in (("script", script), *files):
        image.add(path, text.encode(), 0o644)
    image.close()
    disk = os.path.join(folder, "disk")
    with open(disk, "wb") as f:
        f.truncate(disk_mib << 20)
    kernel, = glob.glob(f"{unpacked}/boot/vmlinuz-*")
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "qemu64", "-m", "512", "-smp", "1", "-display", "none", "-no-reboot",
               "-nodefaults", "-serial", "stdio", "-kernel", kernel, "-initrd", os.path.join(folder, "initramfs"), "-append",
               "console=ttyS0 quiet panic=-1 mitigations=off nokaslr", "-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=BOOT_S,
                              check=False).stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as e:
        raise AssertionError(f"the machine did not end in {BOOT_S} s:\n{(e.stdout or b'').decode(errors='replace')[-4000:]}") from e
