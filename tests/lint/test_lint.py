# SPDX-License-Identifier: Apache-2.0
"""The lint scripts find what they are for, in a real tree and by their exit status; their own tables cover each rule."""
import os
import re
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(script, *arguments):
    return subprocess.run([os.path.join(ROOT, "scripts", script), *arguments], capture_output=True, text=True,
                          check=False)


@pytest.mark.parametrize("script", ["lint-layers", "lint-mistakes"])
def test_self_test(script):
    done = run(script, "--self-test")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script, path, text, rule", [
    ("lint-layers", "base/a.c", '/* SPDX-License-Identifier: Apache-2.0 */\n#include "agent/spool.h"\n', "layer"),
    ("lint-layers", "agent/a.c", "int x;\n", "licence"),
    ("lint-mistakes", "agent/a.c", "int f(void)\n{\n\treturn system(0);\n}\n", "system"),
])
def test_finds_and_fails(tmp_path, script, path, text, rule):
    file = tmp_path / path
    file.parent.mkdir()
    file.write_text(text)
    done = run(script, str(tmp_path))
    assert done.returncode == 1
    assert f"{path}:" in done.stdout and f": {rule}:" in done.stdout


@pytest.mark.parametrize("script", ["lint-layers", "lint-mistakes"])
def test_passes_a_clean_tree(tmp_path, script):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/a.c").write_text("/* SPDX-License-Identifier: Apache-2.0 */\nint kt_x(void);\n")
    done = run(script, str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", ["lint-layers", "lint-mistakes"])
def test_wrong_usage(script):
    assert run(script, "--nonsense").returncode not in (0,)
    assert run(script, "a", "b").returncode not in (0,)


def test_the_map_of_files_is_whole():
    """docs/DESIGN.md, "Map of files": a row for every source, and none for what is not there."""
    listed = subprocess.run(["git", "ls-files", "*.c", "*.h", "*.py", "*.json", "scripts"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.split()
    sources = {path for path in listed if "/" in path and not re.match("tests/unit/|tests/fuzz/corpus/", path)}
    with open(os.path.join(ROOT, "docs/DESIGN.md"), encoding="utf-8") as page:
        text = page.read().partition("\n## Map of files\n")[2]
    mapped, folder = set(), None
    for line in text.splitlines():
        folder = line.strip("*") if re.fullmatch(r"\*\*[\w/]+/\*\*", line) else folder
        row = re.match(r"\| `([\w./-]+)` \| \S", line)
        if row:
            name = row.group(1)
            pair = [name[:-5] + ".c", name[:-5] + ".h"] if name.endswith(".c/.h") else [name]
            mapped |= {folder + one for one in pair}
    assert sources - mapped == set(), "not in the map"
    assert {path for path in mapped if not os.path.exists(os.path.join(ROOT, path))} == set(), "in the map, but gone"


def test_the_safety_page_names_what_exists():
    """docs/SAFETY.md: every test and every planted bug that it relies on is there, and no planted bug is left out."""
    listed = subprocess.run(["git", "ls-files", "*.c", "*.py"], cwd=ROOT, check=True, capture_output=True,
                            text=True).stdout.split()
    defined = set()
    for path in listed:
        with open(os.path.join(ROOT, path), encoding="utf-8") as source:
            defined |= set(re.findall(r"^(?:static void|def) (\w+)\(", source.read(), re.M))
    with open(os.path.join(ROOT, "base/planted.h"), encoding="utf-8") as header:
        planted = set(re.findall(r"^\t([A-Z_]+),", header.read(), re.M)) - {"KT_PLANTED_NONE"}
    with open(os.path.join(ROOT, "docs/SAFETY.md"), encoding="utf-8") as page:
        named = re.findall(r"`([A-Za-z]\w+)`", page.read())
    bugs = {name for name in named if name.isupper() and "_" in name}
    tests = {name for name in named if "_" in name} - bugs
    assert bugs == planted
    assert tests - defined == set(), "named, but not there"
