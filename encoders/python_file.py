"""Encoders from a Python file that the user names: `file:PATH.py` or `file:PATH.py:FUNCTION`.

The function (by default `load_encoder`) takes an `EncoderSpec` and the keyword `device` and returns an `Encoder`,
just as an entry point does. Naming the file is what runs it: no spec from elsewhere can name code by accident.
The bytes of the file are part of the fingerprint, so that edited code never returns old features; so is the name of
a function other than `load_encoder`, for functions of one file may give encoders that differ in their code alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from encoders.base import Encoder, one_line
from encoders.errors import EncoderError, nearest
from encoders.spec import EncoderSpec

DEFAULT = "load_encoder"


def load_python_file(spec: EncoderSpec, *, device: str) -> Encoder:
    """The encoder that the file's function gives.

    Raises:
        EncoderError: the file or function does not exist, fails, or gives no `Encoder`.
    """
    path, function = split_name(spec)
    if not path.is_file():
        siblings = sorted(file.name for file in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise EncoderError(f"encoder {spec}: there is no file {path}; {nearest(path.name, siblings)}")
    code = hashlib.sha256(path.read_bytes()).hexdigest()
    module = _run(spec, path, code)
    load = getattr(module, function, None)
    if not callable(load):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise EncoderError(f"encoder {spec}: {path} has no function {function!r}; {nearest(function, names)}")
    try:
        encoder = load(spec, device=device)
    except EncoderError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise EncoderError(f"encoder {spec}: {function} of {path} fails: {what}") from error
    if not isinstance(encoder, Encoder):
        raise EncoderError(f"encoder {spec}: {function} of {path} gives a {type(encoder).__name__}, not an Encoder")
    encoder.code = code if function == DEFAULT else f"{code}:{function}"
    encoder.fingerprint = encoder.identity()
    return encoder


def split_name(spec: EncoderSpec) -> tuple[Path, str]:
    """The file and the function that a spec's name means."""
    path, colon, function = spec.name.rpartition(":")
    return (Path(path).expanduser(), function) if colon else (Path(spec.name).expanduser(), DEFAULT)


def _run(spec: EncoderSpec, path: Path, code: str) -> ModuleType:
    name = f"encoder_file_{code[:16]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise EncoderError(f"encoder {spec}: {path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise EncoderError(f"encoder {spec}: {path} fails: {type(error).__name__}: {one_line(error)}") from error
    return module
