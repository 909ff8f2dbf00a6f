#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The shipped schemas, playbooks and examples checked with python3-jsonschema (Debian); exit 77: it is not installed.

usage: check_schemas.py PLAYBOOKS-FOLDER
"""
import copy
import glob
import json
import os
import sys

try:
    import jsonschema
except ImportError:
    print("skipped: python3-jsonschema is not installed")
    sys.exit(77)


def load(path):
    """JSON with // and /* */ comments outside of strings."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    out, i = [], 0
    while i < len(text):
        if text[i] == '"':
            end = i + 1
            while text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            out.append(text[i:end + 1])
            i = end + 1
        elif text.startswith("//", i):
            i = text.index("\n", i)
        elif text.startswith("/*", i):
            i = text.index("*/", i) + 2
        else:
            out.append(text[i])
            i += 1
    return json.loads("".join(out))


def validator(path):
    schema = load(path)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def must_be_valid(check, document, name):
    faults = [f"{name}: {e.json_path}: {e.message}" for e in check.iter_errors(document)]
    if faults:
        sys.exit("\n".join(faults))


def must_be_refused(check, document, name, change):
    changed = copy.deepcopy(document)
    change(changed)
    if check.is_valid(changed):
        sys.exit(f"{name}: a fault was not seen")


LEDGER = {"format": "keyturn-ledger/1", "cluster": "looker", "keys": [{
    "id": "0a0b", "label": "looker", "uri": "pkcs11:token=t;id=%0A%0B", "kind": "cluster", "kcv": "a1b2c3", "cryptoperiod_days": 365,
    "history": [{"state": "active", "time_ms": 1, "why": "recovered"}], "released": [{"run": "r", "time_ms": 2}],
    "escrows": [{"path": "/e", "custodian": "", "under": "w", "under_kcv": "ffffff", "time_ms": 3, "gone": False}],
    "proof": {"label": "keyturn-escrow/1", "nonce": "00", "proof": "00"}, "pending": {"what": "destroy", "since_ms": 4}}]}


def main():
    folder = sys.argv[1]
    cluster = validator(os.path.join(folder, "cluster.schema.json"))
    playbook = validator(os.path.join(folder, "playbook.schema.json"))
    playbooks = [f for f in glob.glob(os.path.join(folder, "*.json")) if not f.endswith(".schema.json")]
    examples = glob.glob(os.path.join(folder, "examples", "*.json"))
    if not playbooks or not examples:
        sys.exit(f"{folder}: no playbooks, or no examples")
    for path in playbooks:
        document = load(path)
        must_be_valid(playbook, document, path)
        must_be_refused(playbook, document, path, lambda d: d["steps"][0].pop("name"))
        must_be_refused(playbook, document, path, lambda d: d["steps"][0].update(fase="stop"))
        must_be_refused(playbook, document, path, lambda d: d.update(version="1"))
    for path in examples:
        document = load(path)
        must_be_valid(cluster, document, path)
        must_be_refused(cluster, document, path, lambda d: d["nodes"][0].pop("name"))
        must_be_refused(cluster, document, path, lambda d: d.update(cluster="Big"))
    ledger = validator(os.path.join(folder, "ledger.schema.json"))
    must_be_valid(ledger, LEDGER, "a ledger")
    must_be_refused(ledger, LEDGER, "a ledger", lambda d: d["keys"][0].pop("kcv"))
    must_be_refused(ledger, LEDGER, "a ledger", lambda d: d["keys"][0].update(id="0"))
    must_be_refused(ledger, LEDGER, "a ledger", lambda d: d["keys"][0]["history"][0].update(state="suspended"))
    print(f"{len(playbooks)} playbooks and {len(examples)} examples are valid, and every planted fault was seen")


main()
