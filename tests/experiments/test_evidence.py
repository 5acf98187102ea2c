"""The evidence: every member of a sweep is a config that can be read, and tables say what the reports say."""

import pytest

from advjax.errors import InputError
from advjax.runs.networks import create_method
from experiments.evidence import page
from experiments.evidence.__main__ import chosen
from experiments.evidence.sweeps import SWEEPS


@pytest.mark.parametrize("name", sorted(SWEEPS))
def test_members_are_configs_with_names_of_their_own_and_teachers_before_them(name):
    members = SWEEPS[name]("root")
    assert len({member.name for member in members}) == len(members)
    before = []
    for member in members:
        config = member.config
        create_method(config)
        assert (member.name, config.seed) == (f"{member.label}-{member.seed}", member.seed)
        assert {teacher.path.removeprefix("root/") for teacher in config.teachers.values()} <= set(before)
        before.append(member.name)


def test_members_are_chosen_by_name_with_their_teachers():
    members = SWEEPS["cifar10"]("root")
    assert chosen(members, "") == members
    names = [member.name for member in chosen(members, "bmtard-1, natural-0")]
    assert names == ["natural-0", "teacher_clean-0", "teacher_robust-0", "bmtard-1"]
    with pytest.raises(InputError, match="--only names bmtard-7"):
        chosen(members, "bmtard-7")


def test_the_table_is_of_the_first_network_with_the_spread_of_the_seeds():
    def report(clean, robust):
        rows = []
        for network, more in (("first", 0.0), ("second", 0.5)):
            for attack, accuracy in (("clean", clean), ("autoattack", robust)):
                merit = None if attack == "clean" else (clean + robust) / 2
                row = {"network": network, "checkpoint": "last", "attack": attack, "accuracy": accuracy + more}
                rows.append({**row, "w_robust": merit})
        return {"networks": {"first": {}, "second": {}}, "results": rows}

    made = page.table({"at": [report(0.4, 0.2), report(0.44, 0.24)], "sglr": [report(0.5, 0.25)]})
    assert "| at | last | 2 | 42.0 [40.0, 44.0] | 22.0 [20.0, 24.0] | 32.0 [30.0, 34.0] |" in made
    assert "| sglr | last | 1 | 50.0 | 25.0 | 37.5 |" in made
    assert "best" not in made


def test_a_best_checkpoint_that_is_the_last_has_one_row():
    rows = [
        {"network": "n", "checkpoint": checkpoint, "attack": attack, "accuracy": 0.5, "w_robust": 0.5}
        for checkpoint in ("best", "last")
        for attack in ("clean", "apgd_ce")
    ]
    made = page.table({"at": [{"networks": {"n": {}}, "results": rows}]}).splitlines()
    assert made[2:] == ["| at | best = last | 1 | 50.0 | 50.0 | 50.0 |"]
