"""Configs as typed values: one declaration of every field, one way of checking, and recipes as their authors have them."""

import dataclasses
import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from advjax import fields, methods, runs
from advjax.errors import InputError
from advjax.runs import schema
from advjax.runs.build import create_optimizer
from advjax.runs.networks import create_method


def recipe(name, variant):
    """A config of `experiments/configs`, read."""
    return runs.read(importlib.import_module(f"advjax.configs.{name}").get_config(variant))


def test_a_config_survives_the_way_to_json_and_back():
    for name in (*methods.names(), "trades_awp", "sglr_awp"):
        config = runs.read(runs.default(name))
        assert runs.read(json.loads(json.dumps(schema.plain(config)))) == config
        assert create_method(config) == methods.create(name, methods.default_attack(name))


def test_a_default_config_has_every_field_and_takes_no_other():
    config = runs.default("trades", beta=5.0)
    assert isinstance(config, ConfigDict)
    assert (config.method.beta, config.attack.eps, config.attack.start) == (5.0, "0.031", "normal")
    with pytest.raises(TypeError):
        config.epochs = "many"
    config.epohcs = 3
    with pytest.raises(InputError, match=r"^unknown config field 'epohcs'; did you mean epochs"):
        runs.read(config)
    with pytest.raises(InputError, match=r"^betta must be a hyperparameter of method trades"):
        runs.default("trades", betta=1.0)


ENDLESS = {}
ENDLESS["a"] = ENDLESS

# One of every kind of field; the rules themselves are tested below.
WRONG = [
    ({"seed": 2**32}, r"^seed must be a whole number from 0 to 4294967295, it is 4294967296"),
    ({"seed": -1}, r"^seed must be a whole number from 0"),
    ({"epochs": 0}, r"^epochs must be between 1 and 1,000,000"),
    ({"epochs": 1.5}, r"^epochs must be a whole number, it is 1.5"),
    ({"epochs": True}, r"^epochs must be a whole number, it is True"),
    ({"batch_norm": "local"}, r"^batch_norm must be a choice, it is 'local'; .*global"),
    ({"optimizer": {"momentum": 1.0}}, r"^optimizer\.momentum must be at least 0 and below 1"),
    ({"optimizer": {"weight_decay": float("nan")}}, r"^optimizer\.weight_decay must be a finite number"),
    ({"optimizer": {"learning_rate": 10**400}}, r"^optimizer\.learning_rate must be a finite number"),
    ({"optimizer": {"name": "package:Adam"}}, r"^optimizer\.name must be an optimizer, it is 'package:Adam'"),
    ({"schedule": {"name": "cosin"}}, r"^schedule\.name must be a schedule, it is 'cosin'; did you mean cosine"),
    ({"optimizer": 3}, r"^optimizer must be a group of fields, it is 3"),
    ({"schedule": {"milestones": [0.8, 0.5]}}, r"^schedule\.milestones must ascend"),
    ({"schedule": {"milestones": "0.5"}}, r"^schedule\.milestones must be a list"),
    ({"schedule": {"peak_at": 1.0}}, r"^schedule\.peak_at must be above 0 and below 1"),
    ({"evaluation": {"radii": {"l2": "-1"}}}, r"^evaluation\.radii\.l2 must be at least 0"),
    ({"evaluation": {"seed": 2**40}}, r"^evaluation\.seed must be"),
    ({"attack": {"eps": "8/0"}}, r"^attack\.eps must be a number or a fraction"),
    ({"attack": {"step_size": -0.1}}, r"^attack\.step_size must be at least 0"),
    ({"attack": {"norm": 2}}, r"^attack\.norm must be text"),
    ({"epohcs": 3}, r"^unknown config field 'epohcs'; did you mean epochs"),
    ({"data": {"nmae": "x"}}, r"^unknown config field 'data\.nmae'; did you mean data\.name"),
    ({"network": {"width": 3}}, r"^network\.name must be a name, it is None"),
    ({"method": {"name": None}}, r"^method\.name must be a name, it is None"),
    ({"attack": {"steps": 2**31}}, r"^attack\.steps must be a whole number below 2147483648, it is 2147483648"),
    ({"epochs": 2**70}, r"^epochs must be a whole number of at most 64 bits, it is 1180591620717411303424"),
    ({"batch_size": 10**5000}, r"^batch_size must be a whole number of at most 64 bits, it is a number of 16610 bits"),
    ({"data": {"path": "a\0b"}}, r"^data\.path must be text, it is 'a.x00b'"),
    (
        {"network": {"name": "resnet18", "mean": [b"x"]}},
        r"^network\.mean must be a finite number, text, .*, it is b'x'",
    ),
    ({"network": {"name": "resnet18", "width": 2**70}}, r"^network\.width must be a whole number of at most 64 bits"),
    ({"network": {"name": "resnet18", 3: 4}}, r"^network must be fields whose names are text, it is 3"),
    ({"networks": {"peer1": (3,)}}, r"^networks\.peer1 must be a group of fields, it is \(3,\)"),
    ({"networks": ENDLESS}, r"^networks\.a\.a.* must be a finite number, text"),
    (
        {"teachers": {"clean": {"train": {"epochs": object}}}},
        r"^teachers\.clean\.train\.epochs must be a finite number",
    ),
    ({"teachers": {"clean": {"checkpoint": "first"}}}, r"^teachers\.clean\.checkpoint must be a checkpoint"),
    ({"teachers": {"clean": {"path": 3}}}, r"^teachers\.clean\.path must be text"),
    ({"teachers": {"clean": 3}}, r"^teachers\.clean must be a group of fields"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_values_are_one_line_that_names_the_field(values, message):
    with pytest.raises(InputError, match=message) as caught:
        runs.read(values)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "trads"}, r"^method\.name must be a method, it is 'trads'; did you mean trades"),
        ({"name": "trades", "beta": -1.0}, r"^method\.beta must be at least 0, it is -1"),
        ({"name": "trades", "beta": float("inf")}, r"^method\.beta must be a finite number"),
        ({"name": "trades_awp", "awp_gamma": -1.0}, r"^method\.awp_gamma must be at least 0"),
        ({"name": "sglr", "base": {"name": "mart", "beta": "x"}}, r"^method\.base\.beta must be a finite number"),
        ({"name": "msd", "l2": {"eps": -1}}, r"^method\.l2\.eps must be at least 0"),
        ({"name": "msd", "l2": "x"}, r"^method\.l2 must be a group of fields, it is 'x'"),
        ({"name": "sglr", "base": 3.0}, r"^method\.base must be a method's name and hyperparameters, it is 3\.0"),
        ({"name": "sglr", "base": {"name": [1]}}, r"^method\.base\.name must be a method's name, it is \(1,\)"),
        ({"name": "trades", "attack": {}}, r"^method\.attack is no hyperparameter"),
        ({"name": "sglr", "base": {"name": "trades", "attack": 1}}, r"^method\.base\.attack is no hyperparameter"),
        ({"name": "advjax.methods:Wrapper"}, r"^method\.base\.name must be a method's name, it is None"),
    ],
)
def test_wrong_hyperparameters_are_named_as_the_config_has_them(values, message):
    with pytest.raises(InputError, match=message):
        create_method(runs.read({"method": values}))


def test_every_field_says_what_it_is_and_its_default_obeys_its_own_rule():
    described = list(schema.describe())
    assert {"seed", "attack.eps", "optimizer.momentum", "evaluation.radii.l1"} <= {name for name, *_ in described}
    assert all(help for *_, help in described)
    for name in methods.names():
        for field, each in methods.hyperparameters(methods.class_of(name)).items():
            assert each.metadata.get("help") or field in ("l2", "l1"), (name, field)


def test_rules():
    for rule, inside, outside in (
        (fields.at_least(0), (0, 5), (-1e-9,)),
        (fields.above(0), (1e-9,), (0,)),
        (fields.between(0, 1), (0, 1), (-0.1, 1.1)),
        (fields.strictly_between(0, 1), (0.5,), (0, 1)),
        (fields.at_least_below(0, 1), (0,), (1,)),
        (fields.above_up_to(0, 1), (1,), (0,)),
        (fields.SEED, (0, 2**32 - 1), (-1, 2**32)),
    ):
        for value in inside:
            fields.obey(value, rule, "x")
        for value in outside:
            with pytest.raises(InputError, match=r"^x must be "):
                fields.obey(value, rule, "x")


def test_only_what_changes_the_training_counts_as_a_difference():
    old = schema.plain(runs.read(runs.default()))
    watched = runs.default()
    watched.evaluation.examples, watched.devices, watched.parallel.mapping = 10, 1, "shard_map"
    assert schema.training_differences(old, schema.plain(runs.read(watched))) == []
    watched.optimizer.momentum = 0.8
    assert schema.training_differences(old, schema.plain(runs.read(watched))) == ["optimizer.momentum: 0.9 -> 0.8"]


def test_several_updates_in_a_step_share_its_learning_rate():
    config = runs.default("avg")
    config.epochs, config.schedule.name = 2, "cosine"
    config.optimizer.update({"learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0})
    config = runs.read(config)
    optimizer, rate = create_optimizer(config, 2, create_method(config))
    params = jnp.zeros(())
    state, moved = optimizer.init(params), []
    for _ in range(6):
        update, state = optimizer.update(jnp.ones(()), state, params)
        moved.append(-float(update))
    assert moved == pytest.approx([float(rate(0))] * 3 + [float(rate(1))] * 3)
    assert moved[3] < moved[2]


# ---- recipes as the authors' code has them (specs/baselines.md, sglr.md, evaluation.md)


def test_only_the_l1_attack_of_the_union_has_a_restart():
    for name in ("p_inf", "p_2", "p_1", "avg", "max"):
        method = create_method(recipe(name, "cifar10"))
        assert method.restart
    made = importlib.import_module("advjax.methods.union")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            made, "steepest_examples", lambda *a, restart, **k: (seen.append((list(a[3]), restart)), a[2])[1:] * 2
        )
        context = dataclasses.make_dataclass("C", ["nets"])({"model": jnp.zeros(())})
        create_method(recipe("max", "cifar10")).examples(context, __import__("jax").random.key(0), made.ORDER)
        for name in ("p_inf", "p_2", "p_1"):
            create_method(recipe(name, "cifar10")).perturb(context, None)
    assert seen == [
        (["l1"], True),
        (["l2"], False),
        (["linf"], False),
        (["linf"], False),
        (["l2"], False),
        (["l1"], True),
    ]


def test_the_schedule_of_the_union_is_one_epoch_ahead():
    config = recipe("msd", "cifar10")
    _, rate = create_optimizer(config, 10, create_method(config))
    assert (float(rate(0)), float(rate(190)), float(rate(499))) == pytest.approx((0.005, 0.1, 0.0), abs=1e-7)


def test_sglr_drops_at_epochs_100_and_150_counted_from_1():
    config = recipe("sglr", "cifar10")
    _, rate = create_optimizer(config, 1, create_method(config))
    assert [float(rate(epoch - 1)) for epoch in (99, 100, 149, 150)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_fgsm_rs_cycles_its_momentum():
    config = recipe("fgsm_rs", "cifar10")
    assert (config.schedule.name, config.schedule.low_momentum, config.optimizer.momentum) == ("cyclic", 0.8, 0.9)
    with pytest.raises(
        InputError, match=r"^schedule\.low_momentum must be 0 unless schedule\.name is cyclic or onecycle"
    ):
        wrong = runs.read({"schedule": {"low_momentum": 0.8}})
        create_optimizer(wrong, 10, create_method(wrong))


def test_adamw_has_no_nesterov():
    wrong = runs.read({"optimizer": {"name": "adamw", "nesterov": True}})
    with pytest.raises(InputError, match=r"^optimizer\.nesterov must be 0 or False, since optimizer\.name is adamw$"):
        create_optimizer(wrong, 10, create_method(wrong))


def test_a_warmup_that_nothing_reads_is_refused():
    wrong = runs.read({"schedule": {"name": "cyclic", "warmup": 0.1}})
    with pytest.raises(InputError, match=r"^schedule\.warmup must be 0 unless schedule\.name is piecewise or cosine"):
        create_optimizer(wrong, 10, create_method(wrong))


@pytest.mark.parametrize("name", ["pgd_at", "at_awp"])
def test_pgd_at_on_cifar100_has_its_own_statistics_border_and_rotation(name):
    ten, hundred = recipe(name, "cifar10"), recipe(name, "cifar100")
    assert (ten.network["mean"][0], hundred.network["mean"][0]) == (0.4914, 0.5071)
    assert (ten.data.augment, hundred.data.augment) == ("reflect_crop_flip", "crop+flip+rotate15")


def test_the_best_checkpoint_of_bmtard_is_by_the_mean_of_clean_and_robust():
    assert {create_method(recipe(name, "cifar10")).best_by for name in ("bmtard", "mtard")} == {"mean"}
    from advjax.runs.train import score

    record = {"validation_clean_accuracy": 0.8, "validation_robust_accuracy": 0.5}
    assert [score(record, by) for by in ("mean", "clean", "robust")] == pytest.approx([0.65, 0.8, 0.5])
    assert score({}, "mean") is None


def test_trades_awp_has_its_authors_network():
    assert recipe("trades_awp", "cifar10").network["name"] == "wrn_34_10"


def test_one_cycle_moves_the_momentum_along_half_cosines():
    config = recipe("hat", "cifar10")
    optimizer, _ = create_optimizer(config, 8, create_method(config))  # 400 steps, the peak after 100
    state, seen = optimizer.init(jnp.zeros(())), {}
    for step in range(101):
        _, state = optimizer.update(jnp.zeros(()), state, jnp.zeros(()))
        seen[step] = float(state[1].hyperparams["momentum"])
    # A quarter of the way up a half cosine has come 14.6 % of the way, a line 25 %.
    assert (seen[0], seen[100]) == pytest.approx((0.95, 0.85), abs=1e-6)
    assert seen[25] == pytest.approx(0.95 - 0.1 * (1 - np.cos(np.pi / 4)) / 2, abs=1e-6)
