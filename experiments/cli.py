"""What the command lines share: config flags with one clear line for whatever is wrong, exit statuses, `--list`."""

from __future__ import annotations

import ast
import importlib
import json
import logging
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from advjax.errors import InputError, unknown

FLAGS = flags.FLAGS
CONFIGS = pathlib.Path(__file__).parent / "configs"
config_flags.DEFINE_config_file("config", None, "FILE[:variant], e.g. experiments/configs/trades.py:digits")


def guarded(command: Callable[[list[str]], None], argv: list[str]) -> int:
    """Runs a command; bad input is one line and status 2, a failure a traceback and status 1."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        command(argv)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def parse(argv: Sequence[str], required: Sequence[str] = ()) -> dict[str, Any]:
    """Parses the flags and returns the config as nested plain values, in the form that JSON keeps.

    Args:
        argv: the command line.
        required: flags without which nothing can be done (but `--list` and `--dry_run`, which need no workdir).

    Raises:
        InputError: a flag, config file, variant, field or value that is wrong.
    """
    _check_config_file(argv)
    try:
        rest = FLAGS(list(argv))
    except flags.Error as error:
        raise _flag_error(error) from None
    except AttributeError:
        raise _field_error(argv) from None
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}: flags are written --name=value")
    if "list" in FLAGS and FLAGS.list:
        return {}
    if FLAGS.config is None:
        raise InputError("--config is missing: --config=FILE[:variant], see --list")
    for name in required:
        if not FLAGS[name].value and not ("dry_run" in FLAGS and FLAGS.dry_run):
            raise InputError(f"--{name} is missing: --{name}=FOLDER")
    return plain(FLAGS.config)


def plain(config: ConfigDict) -> dict[str, Any]:
    """A config as nested dicts of numbers, strings and lists, as it is after a round trip through JSON."""
    return json.loads(json.dumps(config.to_dict()))


def _config_argument(argv: Sequence[str]) -> str | None:
    for index, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            return value if equals else next(iter(argv[index + 1 : index + 2]), "")
    return None


def _check_config_file(argv: Sequence[str]) -> None:
    """ml_collections reports a missing file only when the config is first used; here it is said at once."""
    value = _config_argument(argv)
    if value is None:
        return
    path = pathlib.Path(value.split(":")[0])
    if not path.is_file():
        raise unknown("config file (--config)", str(path), [f"{_shown(file)}" for file in config_files()])


def _shown(file: pathlib.Path) -> str:
    return f"experiments/configs/{file.name}"


def _flag_error(error: flags.Error) -> InputError:
    cause = error.__context__
    if isinstance(cause, InputError):
        return cause
    if isinstance(error, flags.UnrecognizedFlagError):
        return unknown(
            "flag", f"--{error.flagname}", [f"--{name}" for name in ("config", "workdir", "dry_run", "list")]
        )
    text = str(error)
    if "parsing config file" in text:
        return InputError(f"--config={_config_argument(sys.argv)}: {text.strip().splitlines()[-1]}")
    if text.startswith("flag --config."):
        name, _, value = text[len("flag --") :].partition(":")[0].partition("=")
        current = _field(FLAGS["config"].value, name.split(".")[1:])
        kind = {"str": "text", "ConfigDict": "a group of fields: name one"}.get(
            type(current).__name__, f"a value of type {type(current).__name__}"
        )
        return InputError(f"{name} must be {kind} (such as {_example(current)}), it is {value!r}")
    return InputError(text.splitlines()[0])


def _example(value: Any) -> str:
    return ", ".join(value) if isinstance(value, ConfigDict) else repr(value)


def _field(config: Any, path: Sequence[str]) -> Any:
    for part in path:
        config = config[part]
    return config


def _field_error(argv: Sequence[str]) -> InputError:
    """Which `--config.a.b` names no field of the config."""
    config = FLAGS["config"].value
    known = [f"config.{field}" for field in _flatten(config)]
    for argument in argv:
        name = argument.lstrip("-").partition("=")[0]
        if name.startswith("config.") and name not in known:
            return unknown("config field", name, known)
    return InputError("a --config.field names no field of this config")


def _flatten(config: Any, prefix: str = "") -> list[str]:
    names = []
    for key, value in config.items():
        names += [prefix + key, *(_flatten(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [])]
    return names


def config_files() -> list[pathlib.Path]:
    """The files that are configs: those with a `get_config` of their own."""
    return sorted(file for file in CONFIGS.glob("*.py") if file.stem not in ("__init__", "common"))


def print_list() -> None:
    """Prints everything that has a name, a line each."""
    from advjax import data, methods, models
    from advjax.evaluate import PROTOCOLS

    print("configs (--config=experiments/configs/NAME.py:VARIANT)")
    for file in config_files():
        title = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
        module = importlib.import_module(f"experiments.configs.{file.stem}")
        print(f"  {file.stem:<12} {title}  [{', '.join(module.VARIANTS)}]")
    print("\nmethods (method.name)")
    for name, title in methods.describe().items():
        print(f"  {name:<12} {title}")
    print("\nnetworks (network.name)")
    for name in models.names():
        fields = [field for field in models.options(name) if field not in ("dtype", "forward_mode")]
        print(f"  {name:<18} options: {', '.join(fields)}")
    print("\ndata sets (data.name)")
    for name in data.names():
        print(f"  {name}")
    print("\nprotocols (evaluation.protocol)")
    for name, function in PROTOCOLS.items():
        print(f"  {name:<12} {(function.__doc__ or '').splitlines()[0]}")
