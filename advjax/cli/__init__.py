"""What the command lines share: config flags with one clear line for whatever is wrong, exit statuses, `--list`."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import io
import logging
import os
import pathlib
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from advjax.errors import Gone, InputError, Stopped, unknown

if TYPE_CHECKING:  # importing it loads JAX, which a wrong flag need not wait for
    from advjax.runs import Config
    from advjax.runs.display import Display

FLAGS = flags.FLAGS
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
config_flags.DEFINE_config_file(
    "config", None, "NAME[:variant] or FILE[:variant], e.g. trades:digits or experiments/configs/trades.py:digits"
)


class Parser(argparse.ArgumentParser):
    """Flags of a command line that takes no config; wrong ones are an `InputError`."""

    def __init__(self, module: str, documentation: str | None) -> None:
        super().__init__(
            prog=program(module),
            description=documentation,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

        self.add_argument("--quiet", action="store_true", help="print only warnings and the table of results")
        self.add_argument("--json", action="store_true", help="print one JSON object a line")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The flags; where there is `--set=FIELD=VALUE`, `--config.FIELD=VALUE` says the same."""
        if any("--set" in action.option_strings for action in self._actions):
            args = [f"--set={a.removeprefix('--config.')}" if a.startswith("--config.") else a for a in args or ()]
        return super().parse_args(args, namespace)

    def error(self, message: str) -> Any:
        raise InputError(message)


def program(module: str) -> str:
    """What a command is called: `advjax-evaluate` where that was typed, `python -m experiments.evaluate` otherwise."""
    typed = pathlib.Path(sys.argv[0]).name
    return typed if typed.startswith("advjax-") else f"python -m {module}"


def display(quiet: bool, as_json: bool) -> Display:
    """The terminal as `--quiet` or `--json` have it; of several processes only the first says anything.

    Raises:
        InputError: both at once.
    """
    from advjax import hosts
    from advjax.runs.display import Display, Silent

    if quiet and as_json:
        raise InputError("--quiet and --json exclude each other")
    if not hosts.is_first():
        return Silent()
    return Display(form="quiet" if quiet else "json" if as_json else "text")


def guarded(command: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Runs a command, whose exit status is 0 unless it returns another; bad input is one line and status 2, a failure a
    traceback and status 1."""
    # What Orbax's threads log as an error is raised, too, and said in one line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        # A terminal without the letters of a path must not cost the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = command(argv) or 0
        sys.stdout.flush()
        return status
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Gone as gone:
        print(f"error: {gone}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone, as `| head -1` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (IsADirectoryError, NotADirectoryError) as error:
        name, kind = error.filename2 or error.filename, error.strerror or "is of another kind"
        print(f"error: {name}: {kind[:1].lower()}{kind[1:]}; allowed: what a run has there", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"error: {error.filename or 'a file'}: {error.strerror or error}; the same command goes on", file=sys.stderr
        )
        return 1
    except MemoryError as error:
        print(f"error: this machine has not enough memory: {error or 'none is left'}", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1


_SHOW_OTHERS = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
    """Shows a `UserWarning`, as this library gives them, in one line, without the line of code that gave it."""
    if category is UserWarning:
        print(f"warning: {message}", file=sys.stderr)
    else:
        _SHOW_OTHERS(message, category, *args, **kwargs)


def wants_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks what there is to ask for."""
    return any(argument in ("--help", "-h", "-help", "--helpfull", "--helpshort") for argument in argv[1:])


RUN_FLAGS = ("config", "workdir", "dry_run", "quiet", "json", "list")


def print_help(documentation: str | None, names: Sequence[str] = RUN_FLAGS) -> None:
    """Prints a command's documentation, its flags, and every field that a config has."""
    from advjax.runs import schema

    print((documentation or "").strip(), "\n\nflags")
    for name in names:
        print(f"  --{name:<13} {FLAGS[name].help.splitlines()[0]}")
    print("\nfields of a config (--config.FIELD=VALUE); a method and its attack have their own defaults")
    for name, default, allowed, help in schema.describe():
        print(f"  {name} = {default!r}\n      {help}{f' ({allowed})' if allowed else ''}")


def parse(argv: Sequence[str], required: Sequence[str] = (), names: Sequence[str] = RUN_FLAGS) -> Config | None:
    """Parses the flags and returns the config; None where `--list` is asked for.

    Args:
        argv: the command line.
        required: flags without which nothing can be done (but `--list` and `--dry_run`, which need no workdir).
        names: the command's flags.

    Raises:
        InputError: a flag, config file, variant, field or value that is wrong.
    """
    _check_config(argv)
    try:
        rest = FLAGS(_with_config_file(argv))
    except flags.Error as error:
        raise _flag_error(error, names) from None
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}: flags are written --name=value")
    if "list" in FLAGS and FLAGS.list:
        return None
    if FLAGS.config is None:
        raise InputError("--config is missing: --config=NAME[:variant], see --list")
    for name in required:
        if not FLAGS[name].value and not ("dry_run" in FLAGS and FLAGS.dry_run):
            raise InputError(f"--{name} is missing: --{name}=FOLDER")
    from advjax.runs import schema

    return schema.read(FLAGS.config)


def assign(config: ConfigDict, field: str, value: str) -> None:
    """Sets `field` (`attack.eps`) to what `value` says, read as the field's type.

    Raises:
        InputError: no such field, or a value of another type.
    """
    known = _fields(config)
    if field not in known:
        raise unknown("config field", field, known)
    *path, name = field.split(".")
    group = _field(config, path)
    current = group[name]
    try:
        group[name] = value if isinstance(current, str) else ast.literal_eval(value)
    except (TypeError, ValueError, SyntaxError):
        raise InputError(f"{field} must be of type {type(current).__name__}, it is {value!r}") from None


def _config_argument(argv: Sequence[str]) -> str | None:
    """The value of the last `--config`, the one that counts."""
    found = None
    for index, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            found = value if equals else next(iter(argv[index + 1 : index + 2]), "")
    return found


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """The command line with the packaged config's file where its name stands: ml_collections opens files."""
    resolved, after = [], False
    for argument in argv:
        name, equals, value = argument.partition("=")
        if after or (equals and name.lstrip("-") == "config" and argument.startswith("-")):
            file, colon, variant = (argument if after else value).partition(":")
            path = f"{config_file(file)}{colon}{variant}"
            argument = path if after else f"{name}={path}"
        after = argument in ("--config", "-config")
        resolved.append(argument)
    return resolved


def config_file(name: str) -> pathlib.Path:
    """The file of a config: a path, or the packaged one of that name (`trades`, `experiments/configs/trades.py`).

    Raises:
        InputError: neither is there.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    packaged = {file.stem: file for file in config_files()}
    if path.stem in packaged and str(path) in (path.stem, _shown(packaged[path.stem])):
        return packaged[path.stem]
    known = [*packaged] if path.suffix != ".py" else [_shown(file) for file in packaged.values()]
    raise unknown("config (--config)", name, known)


def load_config(argument: str) -> ConfigDict:
    """The config that `NAME[:variant]` or `FILE[:variant]` names.

    Raises:
        InputError: no such file, no such variant, or a file without `get_config`.
    """
    name, colon, variant = argument.partition(":")
    path = config_file(name)
    spec = importlib.util.spec_from_file_location("advjax_config", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--config must be a Python file with get_config(variant), {name} is not")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(variant) if colon else module.get_config()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"--config={argument}: {type(error).__name__}: {error}") from error


def _check_config(argv: Sequence[str]) -> None:
    """Names what ml_collections would only trace: a missing file, an unknown variant, an unknown field."""
    argument = _config_argument(argv)
    if argument is None:
        return
    known = [f"config.{field}" for field in _fields(load_config(argument))]
    for other in argv:
        name = other.lstrip("-").partition("=")[0]
        if other.startswith("-") and name.startswith("config.") and name not in known:
            raise unknown("config field", name, known)


def _shown(file: pathlib.Path) -> str:
    return f"experiments/configs/{file.name}"


def _flag_error(error: flags.Error, names: Sequence[str]) -> InputError:
    if isinstance(error, flags.UnrecognizedFlagError):
        return unknown("flag", f"--{error.flagname}", [f"--{name}" for name in names])
    text = str(error)
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


def _fields(config: Any, prefix: str = "") -> list[str]:
    names = []
    for key, value in config.items():
        names += [prefix + key, *(_fields(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [])]
    return names


def config_files() -> list[pathlib.Path]:
    """The files that are configs: those with a `get_config` of their own."""
    return sorted(file for file in CONFIGS.glob("*.py") if file.stem not in ("__init__", "common"))


def print_list() -> None:
    """Prints everything that has a name, a line each."""
    from advjax import data, methods, models
    from advjax.evaluate import PROTOCOLS
    from advjax.models import published

    print("configs (--config=NAME:VARIANT, or a file: --config=experiments/configs/NAME.py:VARIANT)")
    for file in config_files():
        title = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
        module = importlib.import_module(f"advjax.configs.{file.stem}")
        print(f"  {file.stem:<12} {title}  [{', '.join(module.VARIANTS)}]")
    print("\nmethods (method.name)")
    for name, title in methods.describe().items():
        print(f"  {name:<12} {title}")
    print("\nnetworks (network.name)")
    for name in models.names():
        fields = [field for field in models.options(name) if field not in ("dtype", "forward_mode")]
        print(f"  {name:<18} options: {', '.join(fields)}")
    print("\npublished teachers (teachers.NAME.network.name, with the file as teachers.NAME.path)")
    for line in published.lines():
        print(f"  {line}")
    print("\ndata sets (data.name)")
    for name in data.names():
        print(f"  {name}")
    print("\nprotocols (evaluation.protocol)")
    for name, function in PROTOCOLS.items():
        print(f"  {name:<12} {(function.__doc__ or '').splitlines()[0]}")
