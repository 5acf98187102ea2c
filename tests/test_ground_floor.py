"""Files that nobody sees half of, and errors of one line that name their place."""

import os

import pytest

from advjax.errors import InputError, unknown, within
from advjax.files import read_json, write_atomically, write_json


def test_a_file_is_there_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_json(path, {"a": [1, "x"]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    "x"\n  ]\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})

    def fails(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="no space left"):
            write_atomically(path, "other")
    assert read_json(tmp_path, "report.json") == {"a": [1, "x"]}
    write_atomically(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode() and [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "half.json").write_text('{"a": ')
    (tmp_path / "folder.json").mkdir()
    for name, message in {
        "none.json": "is not the folder of a run: it has no none.json",
        "list.json": "holds no JSON object",
        "half.json": "cannot be read: Expecting value",
        "folder.json": "cannot be read: .*directory",
        "list.json/x": "is not the folder of a run",
    }.items():
        with pytest.raises(InputError, match=message):
            read_json(tmp_path, name)


def test_a_place_is_put_before_the_field_and_only_before_a_field():
    with pytest.raises(InputError, match=r"^method\.base\.beta must be at least 0$") as error:  # noqa: SIM117
        with within("method."), within("base."):
            raise InputError("must be at least 0", "beta")
    assert (error.value.field, error.value.tail) == ("method.base.beta", "must be at least 0")
    assert error.value.__cause__ is None and error.value.__suppress_context__
    with pytest.raises(InputError, match=r"^the whole line$"), within("method."):
        raise InputError("the whole line")
    with pytest.raises(KeyError), within("method."):
        raise KeyError("not ours")
    assert issubclass(InputError, ValueError)


def test_names_near_an_unknown_one():
    assert str(unknown("network", "resnt", ["resnet", "vit"])) == (
        "unknown network 'resnt'; did you mean resnet? allowed: resnet, vit"
    )
    assert str(unknown("optimizer", "x", ["sgd"], "name")) == "name must be an optimizer, it is 'x'; allowed: sgd"
    assert str(unknown("writer", "x", [])) == "unknown writer 'x'; allowed: none"
    many = [f"field{i}" for i in range(30)]
    assert str(unknown("field", "field3x", many)).startswith("unknown field 'field3x'; did you mean field3")
    assert "allowed" not in str(unknown("field", "field3x", many)) and "allowed" in str(unknown("field", "zzz", many))
