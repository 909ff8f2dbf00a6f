# SPDX-License-Identifier: Apache-2.0
"""Whole turns on loopback, without root and without systemd: what `./dev demo` relies on."""


def test_a_turn_on_loopback(lab):
    lab.run()
    status = lab.status()
    assert status["state"] == "turned"
    assert status["old_key"]["kcv"] != status["new_key"]["kcv"]
    lab.assert_turned()


def test_a_second_turn_starts_from_the_new_key(lab):
    lab.run()
    first = lab.assert_turned()
    lab.cluster.key_text = first
    lab.run()
    assert lab.assert_turned() != first
    assert len(lab.keyturn.run("--json", "runs").events()) >= 1


def test_plan_changes_nothing_and_has_one_digest_per_plan(lab):
    lab.keyturn.run("plan")
    lab.assert_on_old_key()


def test_from_file_to_env(make_lab):
    lab = make_lab(enroll=False)
    lab.cluster.write_cluster_json(lab.token, key={"to": "env:LKR_MASTER_KEY_ENV"})
    lab.enroll()
    lab.run()
    lab.assert_turned()
    for node in lab.nodes:
        assert "LKR_MASTER_KEY_FILE" not in lab.env(node)
