# SPDX-License-Identifier: Apache-2.0
"""What the lint scripts share: the list of files, C without its comments, findings and how one is allowed."""
import os
import re
import subprocess
import sys

# On the line of the finding, or alone on the line above: lint: allow RULE: why
ALLOW = re.compile(r"lint: allow ([a-z0-9-]+): *\w")
SKIPPED = ("build/", ".git/", "tests/fuzz/corpus/")


def files(root):
    """Paths of all files of the tree, relative to root: what git tracks or would; everything where there is no git."""
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            capture_output=True, check=False)
    if listed.returncode == 0 and os.path.exists(os.path.join(root, ".git")):
        paths = [p for p in listed.stdout.decode().split("\0") if p]
    else:
        paths = [os.path.relpath(os.path.join(d, f), root) for d, _, names in os.walk(root) for f in names]
    return sorted({p for p in paths if not p.startswith(SKIPPED) and os.path.isfile(os.path.join(root, p))})


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
        return f.read()


def blank_comments(text, strings=False):
    """C text with comments (and the inside of strings, if asked) as spaces, line breaks kept."""
    def blank(match):
        piece = match.group(0)
        if piece[0] in "\"'":
            return piece if not strings else piece[0] + re.sub(r"[^\n]", " ", piece[1:-1]) + piece[-1]
        return re.sub(r"[^\n]", " ", piece)
    return re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|//[^\n]*', blank, text, flags=re.S)


def allowed(lines, number, rule):
    for at in (number - 1, number - 2):
        if 0 <= at < len(lines):
            match = ALLOW.search(lines[at])
            if match and match.group(1) == rule and (at == number - 1 or re.match(r"\s*(/\*|//|#)", lines[at])):
                return True
    return False


class Findings:
    """Collects (path, line, rule, text), without those that the source itself allows."""

    def __init__(self):
        self.all = []

    def add(self, path, source, number, rule, text):
        if not allowed(source.splitlines(), number, rule):
            self.all.append((path, number, rule, text))

    def report(self):
        for path, number, rule, text in sorted(self.all):
            print(f"{path}:{number}: {rule}: {text}")
        if self.all:
            print(f"{len(self.all)} finding(s). Where one is right, say why on the line: lint: allow RULE: reason")
        return 1 if self.all else 0


def self_test(check, good, bad):
    """`check(tree)` on small trees ({path: text}): nothing found in the good ones, exactly `want` in the bad ones."""
    wrong = 0
    for name, tree in good.items():
        found = check(tree)
        if found:
            wrong += 1
            print(f"self-test: {name}: found where nothing is wrong: {found}")
    for name, (tree, want) in bad.items():
        found = [(path, number, rule) for path, number, rule, _ in check(tree)]
        if found != want:
            wrong += 1
            print(f"self-test: {name}: {found} instead of {want}")
    print(f"self-test: {len(good) + len(bad) - wrong} of {len(good) + len(bad)} as expected")
    return 1 if wrong else 0


def main(lint, good, bad, usage):
    """`lint(tree)` takes {path: text} and gives Findings."""
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test(lambda tree: sorted(lint(tree).all), good, bad))
    if len(sys.argv) > 2 or (sys.argv[1:] and sys.argv[1].startswith("-")):
        sys.exit(usage)
    root = sys.argv[1] if sys.argv[1:] else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.exit(lint({path: read(root, path) for path in files(root)}).report())
