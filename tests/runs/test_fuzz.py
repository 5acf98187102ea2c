"""Wrong configs and damaged files by the hundred: each is taken, or refused in one line that names what is wrong.

`experiments/soak/fuzz.py` does the same with whole command lines, for as long as one likes.
"""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advjax import data, models
from advjax.errors import InputError
from advjax.runs import build
from advjax.runs.train import state_bytes
from experiments.soak import wrong_input

MOST = 500  # together with the damaged files
fuzz = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.large_base_example],
)


def refused(call, *names):
    """Whether a call refuses its input; if so in one line, in which one of the names stands, and not after a minute."""
    started = time.monotonic()
    try:
        call()
    except InputError as error:
        line = str(error)
        assert len(line.splitlines()) == 1 and len(line) < 2000
        assert any(name in line for name in names), (names, line)
        return True
    finally:
        assert time.monotonic() - started < 60
    return False


@settings(fuzz, max_examples=MOST - 100)
@given(config=wrong_input.configs())
def test_a_config_is_taken_or_refused_in_one_line_that_names_the_field(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The field, or the group that it is in: two fields may be wrong only together.
    names = {str(part) for path in config.changed for part in (path[0], path[-1])}
    refused(lambda: state_bytes(build(config.values)), *names)
    assert not list(tmp_path.iterdir())


@settings(fuzz, max_examples=100)
@given(drawn=st.data())
def test_a_damaged_file_is_taken_or_refused_in_one_line_that_names_it(drawn, good_files):
    folder, contents = good_files
    name = drawn.draw(st.sampled_from(sorted(contents)))
    place = folder / "pictures/train/a" / name if name.startswith("picture") else folder / name
    place.write_bytes(drawn.draw(wrong_input.damaged(contents[name])))
    if name.startswith("picture"):
        refused(lambda: data.load("image_folder", folder / "pictures", image_size=8), name, "data.path")
        place.unlink()
    elif name.startswith("weights"):
        refused(lambda: models.load_torch(place, wrong_input.network(), wrong_input.SHAPE), name)
    else:
        refused(lambda: data.load("npz", place), name)


@pytest.fixture(scope="module")
def good_files(tmp_path_factory):
    """A folder, and the files that are damaged in it; three good pictures beside the bad one."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("damaged")
    contents = wrong_input.files(folder)
    for place in ("train/a/0.png", "train/b/1.png", "test/a/2.png"):
        (folder / "pictures" / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "pictures" / place).write_bytes(contents["picture.png"])
    return folder, contents
