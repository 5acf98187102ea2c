"""Pages say what was done, in words, and stand for themselves; looked at by a browser where there is one."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from advjax import evaluate
from advjax.cli import report as report_command
from advjax.data import Dataset, Split
from advjax.evaluate.protocols import adaptive
from advjax.runs import exhibits, pages, wording
from advjax.runs.evaluate import doubts
from advjax.runs.pages import Material

HOSTILE = "<script>alert(1)</script>"
EPS = 8 / 255


def row(attack, accuracy, checkpoint="best", network="model", **changes):
    clean = 0.8
    mean = None if attack == "clean" else (clean + accuracy) / 2
    made = {"network": network, "checkpoint": checkpoint, "protocol": "quick", "attack": attack, "norm": "linf"}
    made |= {"eps": EPS, "eps_text": "8/255", "params": {}, "surrogate": None, "n": 400, "accuracy": accuracy}
    made |= {"w_robust": mean, "nrr": mean, "seed": 0, "dtype": "float32", "device": "1 x cpu", "seconds": 75.0}
    return {**made, "forwards": 400, "backwards": 0, "flags": [], "ece": 0.1, **changes}


def report(rows, **changes):
    networks = {each["network"]: {"architecture": "resnet18", "params_sha256": "0" * 64} for each in rows}
    made = {"method": "bmtard", "config_hash": "abc", "version": "0", "eps": EPS, "norm": "linf", "networks": networks}
    return {**made, "results": rows, "warnings": [], "merits": {"unknown": 1}, **changes}


ROWS = [
    row("clean", 0.8),
    row("pgd20", 0.5, params={"steps": 20, "step_size": 0.01, "start": "uniform", "objective": "ce", "restarts": 1}),
    row("autoattack", 0.45, params={"attacks": ["apgd_ce", "apgd_t", "fab_t", "square"]}),
    *(row(f"pgd20@{eps:.4g}", max(0.0, 0.8 - 10 * eps), eps=eps, eps_text=f"{eps:.4g}") for eps in (0.01, 0.03, 0.1)),
]


def records(epochs=5):
    names = ("adv_temperature", "nat_temperature", "loss", "learning_rate")
    kinds = [f"{part}_{kind}_accuracy" for part in ("train", "validation") for kind in ("clean", "robust")]
    return [
        {"step": 10 * e, "epoch": e, "seconds": 60.0 * e, **{name: 0.1 * e for name in (*names, *kinds)}}
        for e in range(1, epochs + 1)
    ]


def shown(classes, size=8, n=400):
    rng = np.random.default_rng(0)
    label = rng.integers(0, len(classes), n)
    clean, adv = (np.where(rng.random(n) < share, label, 0).astype(np.int32) for share in (0.8, 0.5))
    confidence = rng.uniform(0.3, 1, n).astype(np.float32)
    rows = exhibits.pick(label, clean, adv)
    image = rng.integers(0, 255, (len(rows), size, size, 3)).astype(np.uint8)
    noise = rng.uniform(-EPS, EPS, image.shape).astype(np.float32)
    return exhibits.Exhibits(
        label, clean, confidence, "pgd20", adv, confidence, rows, image, noise, np.array(classes, dtype=np.str_)
    )


def material(**changes):
    config = {"seed": 3, "epochs": 5, "batch_size": 128, "attack": {"norm": "linf", "eps": "8/255", "steps": 10}}
    config["attack"]["step_size"] = "2/255"
    data = {"name": "cifar10", "train": 49000, "validation": 1000, "test": 10000, "num_classes": 10}
    about = {"finished": "2030-02-03T04:05:06+00:00", "jax": "0.99"}
    base = Material(report(ROWS), config, {**data, "image_shape": [32, 32, 3]}, records(), (), None, about, 40)
    return base._replace(**changes)


def words(page):
    """What a reader sees of a page, outside of its figures."""
    page = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_page_says_what_was_done_in_words():
    page = pages.report_page(material(shown=shown([f"class {k}" for k in range(10)])))
    text = words(page)
    for said in (
        "B-MTARD", "= 8/255", "80.0 %", "45.0 %", "62.5 %", "57.6 %", "under AutoAttack", "cifar10; 49,000 training",
        "5 epochs in batches of 128, in 5 min, seed 3", "2030-02-03 04:05 UTC", "AutoAttack, standard version",
        "fixed steps, white box", "robust teacher", "Against the radius", "Expected calibration error", "0.99",
    ):  # fmt: skip
        assert said in text, said
    assert "upper bound" not in text and "Warning" not in text
    assert "best, epoch 4" in page  # of step 40
    assert "<i>τ</i><sub>adv</sub>" in page and "adv_temperature" not in page.replace("adv_temperature-", "")
    assert text.index("Attacks Best") < text.index("Training Accuracy") < text.index("Settings and versions")


def test_warnings_come_first_and_what_is_missing_is_left_out():
    page = pages.report_page(Material(report(ROWS[:1], warnings=["something is odd"])))
    text = words(page)
    assert text.index("something is odd") < text.index("Clean accuracy")
    for section in ("Training", "Predictions", "Before and after", "Teachers", "Against the radius", "NRR 5"):
        assert section not in text


def test_checkpoints_of_the_same_results_stand_there_once():
    same = [row("clean", 0.8, c) for c in ("best", "last")]
    assert words(pages.report_page(Material(report(same)))).count("no attack") == 1
    text = words(pages.report_page(Material(report([*same, row("pgd20", 0.5), row("pgd20", 0.4, "last")]))))
    assert text.count("no attack") == 2 and "PGD-20 -10.0 points, which is robust overfitting" in text


def test_networks_that_are_equals_stand_side_by_side_and_their_mean_above():
    rows = [row(a, v, network=f"peer{k}") for k in (0, 1) for a, v in (("clean", 0.8), ("pgd20", 0.4 + 0.1 * k))]
    text = words(pages.report_page(Material(report(rows, mean=evaluate.mean_over_networks(rows)))))
    assert "Robust accuracy 45.0 %" in text and "mean of 2 networks" in text
    assert "PGD-20 40.0 50.0 45.0" in text and "peer 1" in text


def test_hostile_names_are_escaped_and_nothing_is_fetched():
    hostile = [f"{HOSTILE}{k}" for k in range(4)]
    teachers = {HOSTILE: {"architecture": HOSTILE, "source": "$\\foo$", "trained_by": HOSTILE, "params_sha256": "1"}}
    rows = [row("clean", 0.8, network=HOSTILE), row(HOSTILE, 0.4, network=HOSTILE, surrogate=HOSTILE)]
    made = material(
        report=report(rows, method=HOSTILE, warnings=[HOSTILE], teachers=teachers),
        config={**material().config, "network": {"name": HOSTILE}},
        data={"name": HOSTILE},
        records=[{**record, f"{HOSTILE}_$loss": 1.0, "$": 2.0} for record in records()],
        shown=shown(hostile),
    )
    page = pages.report_page(made)
    assert page.count("<script>") == 1 and HOSTILE not in page and "&lt;script&gt;alert(1)" in page
    methods = {HOSTILE: {"network": HOSTILE, "accuracy": {"clean": [0.9], HOSTILE: [0.4]}, "warnings": [HOSTILE]}}
    content = {"norm": "linf", "eps_text": HOSTILE, "n": 100, "methods": methods}
    comparison = pages.comparison_page(content, {HOSTILE: [records()]}, {HOSTILE: [{"network.name": HOSTILE}]})
    assert comparison.count("<script>") == 2 and HOSTILE not in comparison
    for each in (page, comparison):
        assert not re.search(r"https?:|//[a-z]|@import|src=\"(?!data:)|url\((?!#)", each)


def test_many_classes_and_large_images_do_not_blow_a_page_up():
    rng = np.random.default_rng(1)
    large = rng.integers(0, 255, (12, 224, 224, 3)).astype(np.uint8)
    small = exhibits.smaller(large)
    assert small.shape[1:3] == (74, 74)
    np.testing.assert_allclose(small[0, 0, 0], large[0, :3, :3].mean((0, 1)), rtol=1e-5)
    many = shown([f"n{k:08d} a name of some length" for k in range(1000)], n=3000)
    many = many._replace(image=small.round().astype(np.uint8), perturbation=np.zeros_like(small))
    page = pages.report_page(material(shown=many))
    assert len(page) < 1_500_000
    assert "The 20 classes of the least robust accuracy" in page and "Most frequent confusions" in page


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pgd20_trades", "PGD-20, TRADES' steps"),
        ("transfer_cw30", "Transfer, CW-30"),
        ("pgd50_10_l2", r"PGD-50 x 10 in $\ell_2$"),
        ("square100", "Square, 100 queries"),
        ("autoattack_0.031", r"AutoAttack at $\epsilon$ = 0.031"),
        ("my_own", "my own"),
    ],
)
def test_attacks_go_by_the_names_that_people_use(name, said):
    assert wording.attack(name) == said


def test_symbols_become_html_and_text():
    assert wording.to_html(r"$L_{12}$ & 3\$") == "<i>L</i><sub>12</sub> &amp; 3$"
    assert wording.to_html("a $ alone") == "a $ alone"
    assert wording.to_text(r"$\ell_\infty$, $\epsilon$ < 1") == "ℓ∞, ε < 1"


def test_exhibits_are_of_no_attack_that_wants_more_than_the_network():
    rows = {each.name: each for each in adaptive("linf", EPS)}
    assert exhibits.chosen([rows["clean"], rows["pgd100_own"], rows["adaptive"]], EPS) is None
    assert exhibits.chosen(list(rows.values()), EPS) is rows["pgd20"]


def test_exhibits_are_of_the_attack_that_was_scored_and_are_made_once(tmp_path):
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (30, 4, 4, 1)).astype(np.uint8), (np.arange(30) % 3).astype(np.int32))
    weights = rng.normal(size=(16, 3)).astype(np.float32)
    dataset = Dataset("toy", split, split, 3)

    def logits_fn(x):
        return x.reshape(len(x), -1) @ weights

    attacks = evaluate.protocol("quick", "linf", "0.1")
    options = {"seed": 5, "batch_size": 16, "devices": None}
    exhibits.collect(logits_fn, attacks, dataset, tmp_path, network_hash="a", eps=0.1, examples=28, **options)
    found = exhibits.read(tmp_path)
    assert found.attack == "pgd20" and list(found.classes) == ["0", "1", "2"]
    few = Split(*(array[:28] for array in split))
    for attack, predicted in ((attacks[0], found.clean_class), (attacks[1], found.adv_class)):
        outcome = evaluate.attack_dataset(logits_fn, attack, few, **options)
        np.testing.assert_array_equal(predicted == few.label, outcome.robust)
    assert 0.09 < np.abs(found.perturbation).max() < 0.1001
    np.testing.assert_array_equal(found.image, few.image[found.shown])
    assert ((found.clean_confidence > 0.33) & (found.clean_confidence <= 1)).all()
    before = (tmp_path / exhibits.FILE).stat().st_mtime_ns
    exhibits.collect(logits_fn, attacks, dataset, tmp_path, network_hash="a", eps=0.1, examples=28, **options)
    assert (tmp_path / exhibits.FILE).stat().st_mtime_ns == before
    (tmp_path / exhibits.FILE).write_bytes(b"no archive")
    assert exhibits.read(tmp_path) is None


def test_what_is_shown_goes_through_the_classes_and_is_mostly_broken():
    label = np.arange(40) % 4
    after = np.where(np.arange(40) < 20, (label + 1) % 4, label)
    chosen = exhibits.pick(label, label, after, most=8)
    assert sorted(label[chosen[:4]]) == [0, 1, 2, 3] and (chosen[:6] < 20).all() and (chosen[6:] >= 20).all()
    assert len(exhibits.pick(label[:3], label, label)) == 3


def test_chance_and_rows_left_out_are_warned_of():
    attacks = evaluate.protocol("bmtard", "linf", "8/255")
    rows = [row("clean", 0.12), *(row(a.name, 0.1) for a in attacks[1:] if not a.transfer)]
    found = doubts(rows, attacks, 10)
    assert any("transfer_pgd20_trades, transfer_cw30" in line and "surrogate" in line for line in found)
    assert any("12.00%, near chance for 10 classes" in line for line in found)
    assert doubts([row("clean", 0.9)], attacks[:1], 10) == []


def test_a_run_has_its_pages_and_they_are_made_again_without_what_was_kept(small_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(small_run, workdir)
    page, text = (workdir / "report.html").read_text(), (workdir / "report.md").read_text()
    assert "2 epochs in batches of 32" in page and json.loads((workdir / "evaluation/about.json").read_text())["jax"]
    for said in ("- Data: npz; 96 training", "- Training: 2 epochs", "- Date: 20", "](training.png)"):
        assert said in text
    before = (workdir / "report.json").read_bytes()
    for each in ("report.html", "report.md", "evaluation/about.json", *workdir.glob("evaluation/*/exhibits.npz")):
        (workdir / each).unlink()
    assert report_command.main(["report", f"--workdir={workdir}"]) == 0
    assert words((workdir / "report.html").read_text()).startswith(words(page)[:200])
    assert list(workdir.glob("evaluation/*/exhibits.npz")) and (workdir / "figures" / "loss.pdf").exists()
    assert (workdir / "report.json").read_bytes() == before
    assert report_command.main(["report"]) == 2
    assert report_command.main(["report", f"--workdir={tmp_path}"]) == 2


HARNESS = """<!DOCTYPE html><title>waiting</title><body><script>
const pages = %s, results = [];
for (const [name, text] of Object.entries(pages)) for (const width of [380, 1400]) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 4000px; border: 0`;
  frame.srcdoc = text;
  frame.onload = () => {
    const page = frame.contentDocument, seen = frame.contentWindow;
    const outside = [...page.querySelectorAll("main *")].filter((each) => {
      const box = each.getBoundingClientRect();
      return !each.closest(".scroll") && box.width > 0 && (box.right > width + 1 || box.left < -1);
    });
    const empty = [...page.querySelectorAll("figure svg:not(.key)")].filter((each) => each.getBBox().height < 20);
    const button = page.querySelector("#methods th:nth-child(2) button");
    const order = () => [...page.querySelectorAll("#methods tbody th")].map((each) => each.innerText.trim());
    const before = order();
    if (button) button.click();
    const once = order();
    if (button) button.click();
    results.push({ name, width, inner: seen.innerWidth, scroll: page.documentElement.scrollWidth,
      outside: outside.map((each) => each.outerHTML.slice(0, 80)), empty: empty.length,
      images: [...page.images].every((each) => each.naturalWidth > 0), before, once, after: order() });
    if (results.length === 2 * Object.keys(pages).length) document.title = JSON.stringify(results);
  };
  document.body.append(frame);
}
</script></body>"""


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="needs a Chromium")
def test_a_browser_renders_the_pages_without_an_error_and_within_their_width(tmp_path):
    run = material(shown=shown([f"class {k}" for k in range(10)]), examples=())
    rows = [*ROWS, *(row(each["attack"], 0.4, "last", params=each["params"]) for each in ROWS[:3])]
    long = report(
        rows, warnings=["x" * 300], teachers={"robust": {"source": "/a/long/path" * 20, "trained_by": "trades"}}
    )
    methods = {
        name: {"network": "model", "accuracy": {"clean": [clean] * 2, "pgd20": [0.3, 0.5]}, "warnings": []}
        for name, clean in (("trades", 0.8), ("pgd_at", 0.9), ("mat", 0.7))
    }
    content = {"norm": "linf", "eps_text": "8/255", "n": 100, "methods": methods}
    courses = {name: [records(), records()] for name in methods}
    configs = {name: [{"epochs": k, "schedule.milestones": [1 / 3] * 9}] for k, name in enumerate(methods)}
    made = {
        "report": pages.report_page(run._replace(report=long)),
        "compare": pages.comparison_page(content, courses, configs),
    }
    text = json.dumps(made).replace("</", "<\\/")
    (tmp_path / "all.html").write_text(HARNESS % text)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    flags = [
        "--headless",
        "--no-sandbox",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
    ]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [browser, *flags, profile, "--dump-dom", str(tmp_path / "all.html")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in result.stderr, result.stderr
    results = json.loads(html.unescape(re.search("<title>(.*?)</title>", result.stdout, re.DOTALL)[1]))
    assert {(each["name"], each["width"]) for each in results} == {(n, w) for n in made for w in (380, 1400)}
    for each in results:
        assert each["inner"] == each["width"] == each["scroll"], each
        assert (each["outside"], each["empty"], each["images"]) == ([], 0, True), each
        if each["name"] == "compare":  # sorted by the clean accuracy, falling, then rising
            assert (each["before"], each["once"]) == (["TRADES", "PGD-AT", "MAT"], ["PGD-AT", "TRADES", "MAT"])
            assert each["after"] == ["MAT", "TRADES", "PGD-AT"]
