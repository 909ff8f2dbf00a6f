# SPDX-License-Identifier: Apache-2.0
"""Backups out of LVM snapshots, by the agent's own verbs, on real logical volumes: in a machine of its own, for the kernel that
a test runs on may have no device mapper."""
import json
import os
import re

import pytest

import machine

pytestmark = pytest.mark.registry  # once in .ci/run is enough for it

PACKAGES = ["lvm2", "libaio1", "libdevmapper1.02.1", "libdevmapper-event1.02.1", "libedit2", "libbsd0", "libmd0", "xfsprogs",
            "libinih1", "liburcu8"]

# There is no udev there, and no daemon that watches.
CONFIGURATION = ("etc/lvm/lvm.conf", """
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 reserved_memory = 64 reserved_stack = 16 thin_pool_autoextend_threshold = 100 }
devices { obtain_device_list_from_udev = 0 external_device_info_source = "none" }
backup { backup = 0 archive = 0 }
global { thin_check_executable = "" }
""")

# What is printed after "== name" belongs to it, to the next one.
SCRIPT = r"""
say() { echo "== $*"; }
left() { lvs --noheadings -o lv_name,lv_tags | grep keyturn; grep keyturn-snapshot /proc/mounts; ls /state | grep snapshot; }
create() { rm -rf /out; kt_volumes backup.create "$@"; }
into() { kt_volumes backup.restore "{\"archive\":\"$1\",\"sha256\":\"$(sha256sum < $1 | cut -d' ' -f1)\",\"into\":\"/out\"}"; }
for program in lvs lvcreate lvremove pvcreate vgcreate; do ln -s lvm /usr/bin/$program; done

pvcreate -q /dev/vda; vgcreate -q vg /dev/vda; lvcreate -q -y -L 64M -n data vg
mke2fs -q -t ext4 /dev/vg/data; mkdir -p /data /backup; mount -t ext4 /dev/vg/data /data
mkdir -p /data/app/log /data/app/.cache
echo first > /data/app/a; echo old > /data/app/z; echo no > /data/app/log/x; head -c 32 /dev/urandom | base64 > /data/app/key; chmod 0400 /data/app/key
ALL='"top":"/data/app","exclude":["log"],"paths":[],"secrets":[],"key_files":["/data/app/key"],"snapshot_size":"16M"'

say of-one-instant
create "{\"archive\":\"/backup/x\",\"snapshot\":\"lvm\",$ALL}" 'echo new > /data/app/z; echo more > /data/app/zz'
into /backup/x; find /out -type f | sort; cat /out/data/app/z /data/app/z; left

say without
echo old > /data/app/z
create "{\"archive\":\"/backup/x\",\"snapshot\":\"never\",$ALL}" 'echo new > /data/app/z'
into /backup/x; cat /out/data/app/z

say into-the-volume
create "{\"archive\":\"/data/backup/x\",\"snapshot\":\"lvm\",$ALL}"
into /data/backup/x; cat /out/data/app/z; left

say full
create "{\"archive\":\"/backup/full\",\"snapshot\":\"lvm\",${ALL/16M/4M}}" 'head -c 7000000 /dev/zero > /data/app/zz; sync'
ls /backup; left; rm /data/app/zz

say killed
create "{\"archive\":\"/backup/killed\",\"snapshot\":\"lvm\",$ALL}" kill; left
say killed-and-again
create "{\"archive\":\"/backup/killed\",\"snapshot\":\"lvm\",$ALL}"; left
say killed-and-over
create "{\"archive\":\"/backup/killed\",\"snapshot\":\"lvm\",$ALL}" kill; left | wc -l
kt_volumes run.release '{}'; left

say not-a-volume
create '{"archive":"/backup/y","snapshot":"lvm","top":"/tmp","exclude":[],"paths":[],"secrets":[],"key_files":[]}'
create '{"archive":"/backup/y","snapshot":"auto","top":"/tmp","exclude":[],"paths":[],"secrets":[],"key_files":[]}'; left

say mounted-below
mount -t tmpfs t /data/app/.cache
create "{\"archive\":\"/backup/x\",\"snapshot\":\"lvm\",$ALL}"
create "{\"archive\":\"/backup/x\",\"snapshot\":\"lvm\",${ALL/\"log\"/\"log\",\".cache\"}}"; left
umount /data/app/.cache

say preflight
for size in 16M 5G; do
    kt_volumes preflight "{\"backup\":{\"destination\":\"/backup\",\"snapshot\":\"lvm\",${ALL/16M/$size}},\"users\":[]}"
done
mv /usr/bin/lvs /usr/bin/no-lvs; kt_volumes preflight "{\"backup\":{\"destination\":\"/backup\",\"snapshot\":\"lvm\",$ALL},\"users\":[]}"
mv /usr/bin/no-lvs /usr/bin/lvs

say thin-and-xfs
lvcreate -q -y -L 120M -T vg/pool -V 320M -n thin; mkfs.xfs -q -K /dev/vg/thin; mkdir /thin; mount -t xfs /dev/vg/thin /thin
echo old > /thin/database
create "{\"archive\":\"/backup/x\",\"snapshot\":\"lvm\",${ALL/\"paths\":[]/\"paths\":[\"/thin/database\"]}}" 'echo new > /thin/database; echo newer > /data/app/z'
into /backup/x; cat /out/thin/database /out/data/app/z; left

say end
"""


@pytest.fixture(scope="module")
def printed(bin_folder, tmp_path_factory):
    """What was printed in the machine, by name: lines, outcomes of verbs as objects."""
    programs = ["lvm", "mke2fs", "mkfs.xfs", "umount", "ls", "cat", "mkdir", "rm", "ln", "mv", "cut", "sha256sum", "sort", "find", "grep",
                "wc", "sync", "head", "base64", "chmod", os.path.join(bin_folder, "kt_volumes")]
    try:
        text = machine.boot(str(tmp_path_factory.mktemp("machine")), SCRIPT, programs, PACKAGES,
                            ["virtio_pci", "virtio_blk", "dm-snapshot", "dm-thin-pool", "xfs"], 512, [CONFIGURATION])
    except machine.Missing as e:
        pytest.skip(f"no machine with LVM: {e}")
    parts = re.split(r"^== (\S+)\r?\n", text, flags=re.M)
    assert parts[-2] == "end", text[-6000:]
    found = {}
    for name, body in zip(parts[1::2], parts[2::2]):
        lines = [line for line in body.replace("\r", "").split("\n") if line and not line.startswith("  WARNING")]
        found[name] = [json.loads(line) if line.startswith('{"status"') else line.strip() for line in lines]
        print(name, *found[name], sep="\n    ")
    return found


def outcomes(lines):
    return [line for line in lines if isinstance(line, dict)]


def test_a_backup_is_of_one_instant(printed):
    """Under the files' own paths, without the key; and nothing of the snapshot is left."""
    made, restored, *rest = printed["of-one-instant"]
    assert made["status"] == "ok" and made["result"]["snapshots"] == ["vg/data"], made
    assert restored["status"] == "ok", restored
    assert rest == ["/out/data/app/a", "/out/data/app/z", "old", "new"]
    assert printed["without"][-1] == "new"  # else that test would have shown nothing


def test_the_backup_may_lie_on_the_same_volume(printed):
    made, restored, *rest = printed["into-the-volume"]
    assert made["status"] == restored["status"] == "ok", made
    assert rest == ["new"]


def test_a_snapshot_that_ran_full_gives_no_backup(printed):
    made, = outcomes(printed["full"])
    rest = [line for line in printed["full"] if isinstance(line, str)]
    assert made["status"] == "failed" and "had no room" in made["message"] and "backup_snapshot_size" in made["remedy"], made
    assert [line for line in rest if "device-mapper" not in line] == ["x"]  # the archive of before


def test_what_a_killed_agent_left_is_removed(printed):
    """By the next attempt, and by the end of the run."""
    assert not outcomes(printed["killed"])
    assert printed["killed"][-2:] == ["keyturn-20261126T120000Z-1a2b3c-0 keyturn/c/20261126T120000Z-1a2b3c/web01", "snapshot"]
    made, *rest = printed["killed-and-again"]
    assert made["status"] == "ok" and not rest, made
    left, released, *rest = printed["killed-and-over"][-2:]
    assert left == "2" and released["status"] == "ok" and not rest


def test_what_has_no_snapshot_is_refused_or_read_as_it_is(printed):
    refused, made, *rest = printed["not-a-volume"]
    assert refused["status"] == "failed" and "on a logical volume" in refused["message"] and refused["remedy"]
    assert made["status"] == "ok" and made["result"]["snapshots"] == [] and not rest, made
    below, excluded, *rest = printed["mounted-below"]
    assert below["status"] == "failed" and "/data/app/.cache (tmpfs)" in below["message"], below
    assert excluded["status"] == "ok" and excluded["result"]["snapshots"] == ["vg/data"] and not rest, excluded


def test_preflight_says_what_is_in_the_way(printed):
    good, large, none = printed["preflight"]
    assert good["status"] == "ok", good
    assert "465567744 bytes free" in large["message"] and "backup_snapshot_size" in large["remedy"], large
    assert "lvs is not there" in none["message"] and "install lvm2" in none["remedy"], none


def test_two_volumes_one_of_them_thin_and_xfs(printed):
    made, restored, *rest = [line for line in printed["thin-and-xfs"] if not str(line).startswith(("Thin pool", "Logical", "mkfs"))]
    assert made["status"] == restored["status"] == "ok", made
    assert made["result"]["snapshots"] == ["vg/data", "vg/thin"]
    assert rest == ["old", "new"]
