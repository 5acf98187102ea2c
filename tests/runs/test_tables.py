"""Tables of many runs: their numbers by hand, and what the seeds tell apart."""

import csv
import io

import numpy as np
import pytest

from advjax.errors import InputError
from advjax.runs import tables
from advjax.runs.tables import Entry


def report(clean, robust, warnings=()):
    """A report whose best checkpoint and second network must not be looked at."""
    rows = []
    for network, checkpoint, shift in (("a", "best", 0.3), ("a", "last", 0.0), ("b", "last", 0.2)):
        for attack, accuracy in (("clean", clean), ("pgd20", robust)):
            row = {"network": network, "checkpoint": checkpoint, "attack": attack, "accuracy": accuracy + shift}
            rows.append({**row, "norm": "linf", "eps_text": "8/255", "n": 100})
    networks, data = {"a": {}, "b": {}}, {"test_sha256": "same"}
    return {"norm": "linf", "eps": 0.1, "data": data, "networks": networks, "results": rows, "warnings": list(warnings)}


def rows(label, *accuracies, seeds=(0, 1, 2), warnings=()):
    pairs = zip(seeds, accuracies, strict=False)
    return [Entry(label, seed, report(*pair, warnings), 60.0 + 60 * seed) for seed, pair in pairs]


AT = rows("pgd_at", (0.50, 0.30), (0.54, 0.34), (0.52, 0.32))
# Ahead under attack by 0.029, 0.030, 0.031; on clean images by -0.10, 0.10, 0.00.
AHEAD = rows("trades", (0.40, 0.329), (0.64, 0.37), (0.52, 0.351))
SINGLE = rows("natural", (0.60, 0.0), warnings=["odd"])


def test_the_table_has_mean_deviation_and_merits_of_the_first_network_at_its_last_checkpoint():
    page = tables.markdown(tables.summarise([*AT, *SINGLE]))
    assert "linf 8/255, 100 test images, last checkpoint" in page
    # W-Robust 0.40, 0.44, 0.42; NRR 0.375, 0.41727, 0.39619
    assert "| pgd_at | 3 | 52.0 +- 2.0 | 32.0 +- 2.0 | 42.0 +- 2.0 | 39.6 +- 2.1 | 2.0 |" in page
    assert "| natural | 1 | 60.0 | 0.0 | 30.0 | 0.0 | 1.0 |" in page
    assert "**Warning:** natural: odd" in page
    assert "ifference" not in page


def test_differences_are_paired_over_the_seeds_and_one_seed_tells_nothing():
    content = tables.summarise([*AT, *AHEAD, *SINGLE], "pgd_at")
    assert set(content["differences"]) == {"trades"}
    robust, clean = (content["differences"]["trades"][column] for column in ("pgd20", "clean"))
    # t = 0.03 / (0.001 / sqrt 3), two degrees of freedom: p = 1 - t / sqrt(t^2 + 2); half-width 4.30265 * 0.001 / sqrt 3
    t = 30 * 3**0.5
    assert (robust["test"], robust["n"], robust["mean"]) == ("paired", 3, pytest.approx(0.03))
    assert robust["p"] == pytest.approx(1 - t / (t * t + 2) ** 0.5)
    assert (robust["low"], robust["high"]) == pytest.approx((0.03 - 0.0024841, 0.03 + 0.0024841), abs=1e-6)
    assert clean["p"] == pytest.approx(1.0)
    page = tables.markdown(content)
    assert "| trades | 3 | +0.0 [-24.8, 24.8] 1 | +3.0 [2.8, 3.2] 0.00037 |" in page
    assert "- pgd20: trades\n" in page and "- clean: none\n" in page and "2.5 standard deviations" in page


def test_welch_without_common_seeds_and_no_verdict_without_spread():
    welch = tables.difference({0: 0.5, 1: 0.6}, {2: 0.3, 3: 0.4, 4: 0.5})
    assert (welch["test"], welch["n"], welch["mean"]) == ("welch", 2, pytest.approx(0.15))
    # t = 0.15 / sqrt(0.005/2 + 0.01/3) = 1.964; Welch-Satterthwaite 2.882 degrees of freedom
    assert welch["p"] == pytest.approx(0.148, abs=1e-4)
    constant = tables.difference({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5})
    assert constant["mean"] == pytest.approx(0.1) and constant["p"] is None
    assert tables.difference({0: 0.5, 1: 0.6, 2: 0.7}, {1: 0.5, 2: 0.5})["n"] == 2
    assert tables.difference({0: 0.5}, {0: 0.4}) is None


def test_other_formats_say_the_same():
    content = tables.summarise([*AT, *AHEAD], "pgd_at")
    tex = tables.latex(content)
    assert r"pgd\_at & $52.0 \pm 2.0$ & $32.0 \pm 2.0$ & $42.0 \pm 2.0$ & $39.6 \pm 2.1$ \\" in tex
    assert r"$35.0 \pm 2.1^\dagger$" in tex and tex.count("dagger") == 1
    read = {(row["method"], row["quantity"]): row for row in csv.DictReader(io.StringIO(tables.as_csv(content)))}
    row = read["trades", "pgd20"]
    assert float(row["difference"]) == pytest.approx(0.03) and row["test"] == "paired" and row["eps"] == "8/255"
    assert float(row["sd"]) == pytest.approx(np.std([0.329, 0.37, 0.351], ddof=1))
    assert float(row["p_holm"]) == float(row["p"])
    assert read["pgd_at", "w_robust"]["p"] == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.update(norm="l2"), "norm is linf in the one and l2"),
        (lambda report: report.update(eps=0.2), "eps is 0.1 in the one and 0.2"),
        (lambda report: report["data"].update(test_sha256="other"), "the test set is same"),
        (lambda report: report.update(results=report["results"][:1]), "the set of attacks is clean, pgd20 in the one"),
        (lambda report: report["results"][-1].update(n=50), "n of pgd20 is 100 in the one and 50"),
        (lambda report: report["results"][-1].update(params={"steps": 10}), "params of pgd20 is"),
    ],
)
def test_what_is_not_comparable_is_refused_or_has_a_table_of_its_own(change, message):
    other = Entry("other", 0, report(0.5, 0.3))
    change(other.report)
    with pytest.raises(InputError, match="cannot stand in one table") as raised:
        tables.check_comparable([AT[0], other])
    assert message in str(raised.value)
    assert tables.groups([AT[0], other, AT[1]]) == [[AT[0], AT[1]], [other]]


def test_a_part_of_a_page_is_filled_and_can_be_filled_again():
    text = "before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n"
    once = tables.fill(text, "x", "new")
    assert once == tables.fill(once, "x", "new") == "before\n<!-- x -->\n\nnew\n<!-- end of x -->\nafter\n"
    with pytest.raises(InputError, match="no part y"):
        tables.fill(text, "y", "new")
