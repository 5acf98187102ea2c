"""The record on its own: what is written is read back, what a kill leaves half written is cut off."""

import json

import numpy as np
import pytest

from advjax.attacks.engine.record import Record, checksum, read_record
from advjax.errors import InputError

CONFIG = {"attacks": {"a": "1", "b": "2"}, "eps": 0.1, "probe": [1.0, -2.0]}
SHAPE = (2, 1, 1)


def entry(example, attack, robust, trial=0):
    return {"id": example, "attack": attack, "trial": trial, "robust": robust, "forwards": 10, "backwards": 5}


def image(value):
    return np.full(SHAPE, value, np.float32)


@pytest.fixture
def path(tmp_path):
    record = Record(tmp_path / "deep" / "record.jsonl", CONFIG, SHAPE)
    record.add([(entry(3, "clean", True), None), (entry(4, "clean", False), None)])
    record.add([(entry(3, "a", True), None), (entry(3, "b", False, 1), image(0.25))])
    record.add([(entry(5, "a", False), image(0.5))])
    record.close()
    return tmp_path / "deep" / "record.jsonl"


def test_entries_and_images_come_back(path):
    record = Record(path, CONFIG, SHAPE)
    assert len(record.entries) == 5
    np.testing.assert_array_equal(record.image(record.entries[5, "a", 0]), image(0.5))
    record.add([(entry(6, "a", False), image(0.75))])
    record.close()
    record = Record(path, CONFIG, SHAPE)
    for key, value in (((3, "b", 1), 0.25), ((5, "a", 0), 0.5), ((6, "a", 0), 0.75)):
        np.testing.assert_array_equal(record.image(record.entries[key]), image(value))
    record.close()


def test_halves_are_cut_off(path):
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"id": 9, "at')
    with open(f"{path}.x_adv", "ab") as file:
        file.write(b"abc")
    record = Record(path, CONFIG, SHAPE)
    record.close()
    assert path.read_bytes() == whole
    assert (path.parent / "record.jsonl.x_adv").stat().st_size == 2 * 4 * 2


def test_a_record_of_something_else_is_refused(path):
    with pytest.raises(InputError, match=r"its eps is 0\.1, this one's 0\.2"):
        Record(path, {**CONFIG, "eps": 0.2}, SHAPE)
    Record(path, {**CONFIG, "probe": [1.0, -2.0 + 1e-6]}, SHAPE).close()  # the rounding of another machine
    for probe in ([1.0, -2.01], [1.0], None, [1.0, float("nan")]):
        with pytest.raises(InputError, match="is the record of another network"):
            Record(path, {**CONFIG, "probe": probe}, SHAPE)
    with pytest.raises(InputError, match="is the record of another surrogate"):
        Record(path, {**CONFIG, "surrogate": {"weights": "a"}}, SHAPE)
    path.write_text(path.read_text() + "[]\n")
    with pytest.raises(InputError, match="line 7, is no entry"):
        Record(path, CONFIG, SHAPE)
    path.write_text("hello\n")
    with pytest.raises(InputError, match="no record"):
        Record(path, CONFIG, SHAPE)


def test_reading_stops_at_what_broke_the_image(path):
    images = read_record(path)
    assert images[3] == {
        "clean": True, "attacks": {"a": True, "b": False}, "broken_by": "b", "forwards": 30, "backwards": 15,
    }  # fmt: skip
    assert images[4]["broken_by"] == "clean" and images[4]["clean"] is False
    assert json.dumps(images)


def test_without_a_file_nothing_is_kept(tmp_path):
    record = Record(None, CONFIG, SHAPE)
    record.add([(entry(0, "a", False), image(0.5))])
    record.close()
    assert not list(tmp_path.iterdir())


def test_checksums_tell_images_and_labels_apart():
    assert len({checksum(image(0.5), 1), checksum(image(0.5), 2), checksum(image(0.25), 1)}) == 3
    assert checksum(image(0.5), 1) == checksum(image(0.5)[::-1], np.int32(1))
