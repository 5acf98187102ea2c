"""Outcomes per example, rows, sanity checks and reports."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import evaluate, losses
from advjax.data import Split, load, to_float
from advjax.errors import InputError
from advjax.evaluate import Outcome

WEIGHTS = jax.random.normal(jax.random.key(0), (64, 10)) / 8


def network(x):
    return jnp.sin(3 * x.reshape(len(x), -1)) @ WEIGHTS


@pytest.fixture(scope="module")
def split():
    """Digits relabelled by the network itself, so that all are right until attacked."""
    image = load("digits").test.image[:50]
    return Split(image, np.asarray(jnp.argmax(network(to_float(image)), -1), np.int32))


ATTACK = evaluate.pgd_attack("pgd3", norm="linf", eps=0.02, steps=3, step_size=0.01)


def test_outcomes_do_not_depend_on_batches_or_devices(split):
    reference = evaluate.attack_dataset(network, ATTACK, split, batch_size=50, devices=jax.devices()[:1])
    assert 0 < reference.accuracy < 1
    for batch_size, devices in ((1, 1), (7, 1), (64, 1), (16, 4), (50, 4)):
        outcome = evaluate.attack_dataset(
            network, ATTACK, split, batch_size=batch_size, devices=jax.devices()[:devices]
        )
        np.testing.assert_array_equal(outcome.robust, reference.robust)


def test_outcome_is_that_of_the_attack_itself(split):
    """By hand, with the key that the row's name gives; of a random start alone, so that the seed shows."""
    start = evaluate.pgd_attack("start", norm="linf", eps=0.05, steps=0, step_size=0.01)
    outcome = evaluate.attack_dataset(network, start, split, seed=3)
    x, y = to_float(jnp.asarray(split.image)), jnp.asarray(split.label)
    from advjax.attacks import pgd
    from advjax.evaluate.attack_dataset import attack_key

    def by_hand(seed):
        x_adv = pgd(network, attack_key(seed, "start"), x, y, norm="linf", eps=0.05, steps=0, step_size=0.01)
        return losses.correct(network(x_adv), y) > 0

    np.testing.assert_array_equal(outcome.robust, by_hand(3))
    assert not np.array_equal(outcome.robust, by_hand(4))
    np.testing.assert_array_equal(evaluate.attack_dataset(network, start, split, seed=4).robust, by_hand(4))
    for seed in (2**32, -1, 1.5, True):
        with pytest.raises(InputError, match="seed must be a whole number from 0 to 4294967295"):
            evaluate.attack_dataset(network, ATTACK, split, seed=seed)


def test_a_record_knows_the_network_the_surrogate_and_the_images(split, tmp_path):
    """By itself: weights where the function carries them, its logits on fixed images where it does not."""
    path = tmp_path / "record.jsonl"

    def scaled(factor):
        return lambda x: network(x) * factor

    def carrying(factor):
        return jax.tree_util.Partial(lambda w, x: network(x) @ w, factor * jnp.eye(10))

    for make in (scaled, carrying):
        for attack in (ATTACK, evaluate.protocols.stages("two", "linf", 0.02, "apgd_ce")):
            options = {"record_path": path, "batch_size": 50}
            first = evaluate.attack_dataset(make(1.0), attack, split, **options)
            devices = {"batch_size": 20, "devices": jax.devices()[:1]}
            resumed = evaluate.attack_dataset(make(1.0), attack, split, **{**options, **devices})
            np.testing.assert_array_equal(resumed.robust, first.robust)
            with pytest.raises(InputError, match="is the record of another network"):
                evaluate.attack_dataset(make(1.01), attack, split, **options)
            moved = Split(split.image[::-1].copy(), split.label[::-1].copy())
            with pytest.raises(InputError, match="made with another image or label"):
                evaluate.attack_dataset(make(1.0), attack, moved, **options)
            path.unlink()
            path.with_name("record.jsonl.x_adv").unlink(missing_ok=True)
    evaluate.attack_dataset(network, ATTACK, split, surrogate=scaled(-1.0), record_path=path)
    with pytest.raises(InputError, match="is the record of another surrogate"):
        evaluate.attack_dataset(network, ATTACK, split, surrogate=scaled(-2.0), record_path=path)


def test_flags_of_a_clean_row(split):
    def purified(x):
        return network(x - 0.01 * jax.grad(lambda x: jnp.sum(network(x) ** 2))(x))

    assert evaluate.attack_dataset(purified, evaluate.clean(), split).flags[0].startswith("gradients: ")
    (flag,) = evaluate.attack_dataset(lambda x: 0 * network(x), evaluate.clean(), split).flags
    assert flag.startswith("constant: ")
    with pytest.raises(InputError, match="split must hold uint8 images"):
        evaluate.attack_dataset(network, evaluate.clean(), Split(split.image / 255, split.label))


def test_clean_and_transfer(split):
    assert evaluate.attack_dataset(network, evaluate.clean(), split).accuracy == 1.0
    own = evaluate.attack_dataset(network, ATTACK, split).accuracy

    def surrogate(x):
        return -network(x)

    transferred = evaluate.attack_dataset(network, ATTACK, split, surrogate=surrogate)
    assert own < transferred.accuracy
    staged = evaluate.protocols.stages("apgd_ce", "linf", 0.02)
    with pytest.raises(InputError, match=r"'apgd_ce' is made of stages.*takes no surrogate"):
        evaluate.attack_dataset(network, staged, split, surrogate=surrogate)


def test_logits_that_are_not_finite_or_are_probabilities(split, tmp_path):
    def broken(x):
        return jnp.where(x[:, 3:4, 3, 0] > 0.9, jnp.nan, network(x))

    with pytest.raises(InputError, match="NaN or infinite, first on test image"):
        evaluate.attack_dataset(broken, evaluate.clean(), split)
    for _ in range(2):  # the second time from the record
        outcome = evaluate.attack_dataset(
            lambda x: jax.nn.softmax(network(x)), evaluate.clean(), split, record_path=tmp_path / "clean.jsonl"
        )
        assert "look like probabilities" in outcome.flags[0]
    assert evaluate.attack_dataset(network, evaluate.clean(), split).flags == ()
    with pytest.raises(InputError, match="must map images"):
        evaluate.attack_dataset(lambda x: network(x)[0], evaluate.clean(), split)
    with pytest.raises(InputError, match=r"labels in 0\.\.2"):
        evaluate.attack_dataset(lambda x: network(x)[:, :3], evaluate.clean(), split)


@pytest.mark.parametrize("counted", ["broken", "robust"])
def test_logits_of_an_attacked_image_that_are_not_finite_are_flagged(split, tmp_path, counted):
    """They count against the network unless told otherwise, and the report says how many; a resumed run, too."""

    def fragile(x):
        """Finite on clean images, which are bytes over 255, only."""
        moved = jnp.abs(255 * x - jnp.round(255 * x)).max((1, 2, 3)) > 0.01
        return jnp.where(moved[:, None], jnp.nan, network(x))

    options = {"batch_size": 50, "devices": jax.devices()[:1], "record_path": tmp_path / "record.jsonl"}
    options |= {"non_finite": counted} if counted != "broken" else {}
    for _ in range(2):
        outcome = evaluate.attack_dataset(fragile, ATTACK, split, **options)
        assert (outcome.robust == (counted == "robust")).all()
        (flag,) = outcome.flags
        assert flag.startswith("non_finite: the logits of 50 of 50 attacked images") and flag.endswith(counted)
    assert evaluate.attack_dataset(network, ATTACK, split).flags == ()


def test_progress_reaches_the_end(split):
    seen = []
    evaluate.attack_dataset(
        network, evaluate.clean(), split, batch_size=16, progress=lambda done, total, standing: seen.append(done)
    )
    assert seen[-1] == 50
    assert seen == sorted(seen)
    seen.clear()
    attack = evaluate.protocols.stages("two", "linf", 0.02, "apgd_ce", "square_50")
    evaluate.attack_dataset(
        network, attack, split, batch_size=50, progress=lambda done, total, standing: seen.append((done, total))
    )
    assert seen == sorted(seen)
    assert 0 < seen[0][0] < seen[-1][0] <= 50 == seen[0][1]
    with pytest.raises(InputError, match=r"^batch_size"):
        evaluate.attack_dataset(network, evaluate.clean(), split, batch_size=-1)


def test_quick_protocol_and_counts():
    attacks = evaluate.protocol("quick", "linf", "8/255")
    assert [attack.name for attack in attacks] == ["clean", "pgd20", "apgd_ce"]
    pgd20 = attacks[1]
    assert pgd20.params["steps"] == 20
    assert pgd20.params["step_size"] == pytest.approx(2 / 255)
    assert (pgd20.forwards, pgd20.backwards) == (21, 20)
    with pytest.raises(InputError, match="did you mean quick"):
        evaluate.protocol("qick", "linf", 0.1)


def rows(**accuracy):
    made = []
    for name, value in accuracy.items():
        robust = np.arange(100) < 100 * value
        made.append(
            evaluate.result_row(
                evaluate.Attack(name, "linf", "8/255"),
                Outcome(robust, 1.0, np.full(100, 21), np.full(100, 20)),
                accuracy["clean"],
                network="model",
                checkpoint="last",
                protocol="quick",
                seed=0,
                dtype="float32",
                device="cpu",
            )
        )
    return made


def test_sanity_checks_name_what_cannot_be():
    assert evaluate.warnings(rows(clean=0.9, pgd10=0.5, pgd20=0.5, pgd100=0.4, autoattack=0.3)) == []
    for accuracy, stronger in (
        ({"clean": 0.5, "pgd20": 0.6}, "pgd20"),
        ({"clean": 0.9, "pgd20": 0.5, "pgd100": 0.6}, "pgd100"),
        ({"clean": 0.9, "pgd20": 0.5, "autoattack": 0.6}, "autoattack"),
        ({"clean": 0.9, "pgd10": 0.5, "pgd20": 0.6}, "pgd20"),
    ):
        (warning,) = evaluate.warnings(rows(**accuracy))
        assert f"under {stronger}" in warning


def test_sanity_checks_of_black_box_attacks_and_of_flags():
    (warning,) = evaluate.warnings(rows(clean=0.9, pgd20=0.5, square100=0.4))
    assert "masked gradients" in warning
    flagged = rows(clean=0.9, autoattack=0.5)
    flagged[1]["flags"] = ["masking: Square broke more"]
    assert evaluate.warnings(flagged) == ["model (last), autoattack: masking: Square broke more"]


def test_curve_that_does_not_reach_zero_is_suspicious(split):
    attacks = evaluate.protocol("curve", "linf", 0.02)
    outcomes = evaluate.run_protocol(network, attacks, split, batch_size=50)
    accuracy = [outcome.accuracy for outcome in outcomes.values()]
    assert accuracy == sorted(accuracy, reverse=True)
    assert accuracy[0] == 1
    assert accuracy[-1] < 0.2


def test_interrupted_records_resume_with_the_same_numbers(split, tmp_path):
    """Half of the lines and half a line more: what is known stays, the rest is done again, nothing twice."""
    attacks = [evaluate.clean(), ATTACK, evaluate.protocols.stages("apgd_ce", "linf", 0.02)]
    options = {"batch_size": 16, "directory": tmp_path, "network_hash": "weights"}
    first = evaluate.run_protocol(network, attacks, split, **options)
    for path in tmp_path.glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: len(lines) // 2]) + lines[len(lines) // 2][:9])
    crafted = []

    def counted(logits_fn, key, x, y, ids):
        crafted.append(np.asarray(ids))
        return ATTACK.craft(logits_fn, key, x, y, ids)

    watched = [attacks[0], dataclasses.replace(ATTACK, craft=counted), attacks[2]]
    again = evaluate.run_protocol(network, watched, split, **options)
    for name in first:
        np.testing.assert_array_equal(again[name].robust, first[name].robust)
        np.testing.assert_array_equal(again[name].forwards, first[name].forwards)
    assert 20 <= len(np.unique(np.concatenate(crafted))) <= 30
    with pytest.raises(InputError, match="network"):
        evaluate.run_protocol(network, attacks, split, **{**options, "network_hash": "other"})


def test_union_survives_only_what_survives_every_norm(split):
    small = Split(split.image[:8], split.label[:8])
    radii = {"linf": 0.3, "l2": 0.05, "l1": 0.2}
    attacks = evaluate.protocol("union", "linf", 0.01, radii)
    assert attacks[-1].name == "union"
    assert len(attacks[-1].all_of) == 6
    cheap = [
        evaluate.clean(),
        evaluate.pgd_steps(1, "linf", 0.01, name="a"),
        evaluate.pgd_steps(2, "l2", 0.1, name="b"),
    ]
    both = evaluate.Attack("both", "union", 0.01, all_of=("a", "b"))
    outcomes = evaluate.run_protocol(network, [*cheap, both], small)
    np.testing.assert_array_equal(outcomes["both"].robust, outcomes["a"].robust & outcomes["b"].robust)


def test_per_example_record(split):
    outcomes = evaluate.run_protocol(network, [evaluate.clean(), ATTACK], split)
    examples = list(evaluate.per_example(outcomes))
    assert [example["id"] for example in examples] == list(range(50))
    for example, robust in zip(examples, outcomes["pgd3"].robust, strict=True):
        assert example["clean"]
        assert example["attacks"] == {"pgd3": bool(robust)}
        assert example["broken_by"] == (None if robust else "pgd3")
        assert (example["forwards"], example["backwards"]) == (5, 3)


def test_union_tests_every_network_at_the_same_radii():
    def radii(norm, eps, *given):
        return [(a.name, a.norm, a.radius) for a in evaluate.protocol("union", norm, eps, *given)[1:]]

    expected = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}
    assert radii("linf", 0.03) == radii("l2", 1.0) == radii("l1", 12) == radii("linf", 0.03, {"linf": "8/255"})
    assert {norm: eps for name, norm, eps in radii("l2", 1.0) if name.startswith("pgd50_10_")} == expected
    assert {name: eps for name, _, eps in radii("l2", 1.0, {"linf": 0.2})}["apgd_linf"] == 0.2
    with pytest.raises(InputError, match=r"radii\.l2 must be at least 0, it is -1"):
        evaluate.protocol("union", "linf", 0.1, {"l2": -1})
    with pytest.raises(InputError, match="unknown norm in radii 'l3'"):
        evaluate.protocol("union", "linf", 0.1, {"l3": 1})


@pytest.mark.parametrize("eps", ["8/255", 0.031, 0.03])
def test_protocols_of_papers_test_as_their_authors_do(eps):
    """Whatever the radius of the training."""
    dynat = {a.name: a for a in evaluate.protocol("dynat", "linf", eps)}
    for name in ("fgsm", "pgd10", "pgd20", "pgd50", "cw20", "autoattack"):
        assert dynat[name].eps == "8/255"
    for name in ("pgd10", "pgd20", "pgd50", "cw20"):
        assert dynat[name].params["step_size"] == 2 / 255 and dynat[name].params["start"] == "uniform"
    theirs = dynat["autoattack_0.031"]
    assert (theirs.radius, theirs.examples, theirs.stages) == (0.031, 1000, dynat["autoattack"].stages)
    sglr = {a.name: a for a in evaluate.protocol("sglr", "linf", eps)}
    assert sglr["pgd20_trades"].radius == 0.031 and sglr["pgd20"].eps == sglr["autoattack"].eps == eps
    assert sglr["pgd20_trades"].params == {
        "steps": 20, "step_size": 0.003, "start": "uniform", "objective": "ce", "restarts": 1, "freeze": False,
    }  # fmt: skip
    bmtard = {a.name: a for a in evaluate.protocol("bmtard", "linf", eps)}
    for name in ("pgd20_trades", "transfer_pgd20_trades"):
        assert bmtard[name].params["start"] == "uniform" and bmtard[name].eps == eps
        assert bmtard[name].params["step_size"] == pytest.approx(0.003, rel=0.04)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 0.5)])
def test_elsewhere_protocols_of_papers_keep_to_the_radius_of_the_training(norm, eps):
    for name in ("dynat", "sglr", "bmtard"):
        attacks = evaluate.protocol(name, norm, eps)
        assert {a.radius for a in attacks} == {eps} and not any(a.examples for a in attacks)
    assert {a.name: a for a in attacks}["pgd20_trades"].params["step_size"] == pytest.approx(eps * 0.003 / 0.031)


def test_an_attack_on_the_first_images_only(split):
    few = dataclasses.replace(ATTACK, name="few", examples=7)
    outcomes = evaluate.run_protocol(network, [evaluate.clean(), few], split)
    assert len(outcomes["few"].robust) == 7
    examples = list(evaluate.per_example(outcomes))
    assert [sorted(example["attacks"]) for example in examples] == [["few"]] * 7 + [[]] * 43
    assert (examples[6]["forwards"], examples[7]["forwards"]) == (5, 1)


def test_a_benchmark_is_the_protocols_row(split, capsys):
    row = evaluate.protocols.stages("autoattack_fast", "linf", 0.02, "apgd_ce", "apgd_t")
    outcome = evaluate.attack_dataset(network, row, Split(*(part[:40] for part in split)), seed=3)
    options = {"examples": 40, "version": "fast", "seed": 3}
    result = evaluate.benchmark(network, split, eps=0.02, **options)
    np.testing.assert_array_equal(result.attack.robust, outcome.robust)
    lines = capsys.readouterr().out.splitlines()
    assert "the first 40 of 50 test images" in lines[0] and "eps = 0.02;" in lines[0]
    assert lines[1] == "Clean accuracy: 100.00%" and lines[2] == f"Adversarial accuracy: {outcome.accuracy:.2%}"
    assert lines[4].split() == ["attack", "accuracy", "broken", "seconds"]
    for wrong, message in (
        ({}, "eps must be given .* cifar10 8/255"),
        ({"eps": 0.1, "examples": 51}, "at most the 50"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate.benchmark(network, split, **wrong)


def test_transfer_rows_need_a_surrogate(split):
    attacks = [evaluate.clean(), evaluate.pgd_steps(3, "linf", 0.02, name="transfer", transfer=True)]
    assert list(evaluate.run_protocol(network, attacks, split)) == ["clean"]
    assert list(evaluate.run_protocol(network, attacks, split, surrogate=network)) == ["clean", "transfer"]


@pytest.mark.parametrize("name", sorted(evaluate.PROTOCOLS))
def test_protocols_have_unique_names_and_say_what_they_run(name):
    attacks = evaluate.protocol(name, "linf", "8/255")
    assert len({attack.name for attack in attacks}) == len(attacks)
    assert attacks[0].name == "clean"
    for attack in attacks:
        assert sum(map(bool, (attack.craft, attack.stages, attack.all_of))) == 1
        assert attack.name == "clean" or attack.params
    json.dumps([dict(attack.params) for attack in attacks])


def test_hash_is_over_paths_shapes_and_values():
    variables = {"params": {"b": jnp.ones(2), "a": jnp.zeros((1, 2))}, "batch_stats": {}}
    import hashlib

    digest = hashlib.sha256()
    for path, shape, values in (("params/a", [1, 2], [0, 0]), ("params/b", [2], [1, 1])):
        digest.update(f"{path}{shape}".encode() + np.asarray(values, "<f4").tobytes())
    assert evaluate.params_sha256(variables) == digest.hexdigest()
    changed = {"params": {"b": jnp.ones(2), "a": jnp.zeros((1, 2)).at[0, 0].set(1e-7)}, "batch_stats": {}}
    assert evaluate.params_sha256(changed) != digest.hexdigest()
