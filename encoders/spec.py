"""How an encoder is named: `ALIAS=BACKEND:NAME?option=value&option=value`, as people type it and as configs
keep it.

Handed strings, hands on `EncoderSpec`; the options are `encoders.options`. Everything that can be checked
without loading a model is checked here, so that a mistyped flag fails at once; nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from encoders.errors import EncoderError, nearest
from encoders.options import Settings, layer_name, read_settings

ALIAS = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """One encoder as the user named it.

    Attributes:
        alias: the name that runs and reports use, of a-z 0-9 _ -.
        backend: which library loads it, a name in `encoders.BACKENDS` or another package's.
        name: a hub name, or the path of a local checkpoint folder, of region features, or of a Python file.
        options: what follows the question mark, as typed.
    """

    alias: str
    backend: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not ALIAS.fullmatch(self.alias):
            raise EncoderError(f"encoder alias {self.alias!r} must be made of a-z, 0-9, _ and -")
        if not self.name.strip() or "?" in self.name or not self.name.isprintable():
            raise EncoderError(f"encoder {self.backend}:{self.name!r} has no usable name (BACKEND:NAME?options)")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @classmethod
    def parse(cls, text: str) -> EncoderSpec:
        """Reads `clip=open_clip:ViT-B-32/openai?pool=4x4&layer=-2`; without an alias one is derived from the
        name.

        Raises:
            EncoderError: the text is malformed, or names a backend or a built-in option that does not exist.
        """
        head, _, query = text.partition("?")
        left, colon, name = head.partition(":")
        given, equals, backend = left.rpartition("=")
        if not colon:
            raise EncoderError(f"encoder {text!r} names no backend: write ALIAS=BACKEND:NAME, {_backend_hint(left)}")
        if backend not in _builtin() and backend not in (table := _backends()):
            raise EncoderError(f"unknown backend {backend!r} in encoder {text!r}: {nearest(backend, table)}")
        alias = given if equals else _derived_alias(backend, name)
        spec = cls(alias, backend, name, _parse_options(query, text))
        if backend in _strict():
            spec.settings()
        return spec

    def __str__(self) -> str:
        query = "&".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.alias}={self.backend}:{self.name}" + (f"?{query}" if query else "")

    @property
    def local(self) -> Path | None:
        """The folder that the name means, or None where it is a hub name.

        A path starts with ./ ../ ~ or /, or has a separator and exists.
        """
        looks_local = self.name.startswith(("./", "../", "~", "/")) or self.name in (".", "..")
        path = Path(self.name).expanduser()
        return path if looks_local or ("/" in self.name and path.exists()) else None

    def settings(self) -> Settings:
        """The options that every built-in backend understands.

        Raises:
            EncoderError: an option is unknown or has a value that it cannot have.
        """
        return read_settings(self.options, backend=self.backend, source=str(self))

    def entries(self) -> list[EncoderSpec]:
        """The encoders that this one spec names: several layers that are not joined are one each.

        `vit=timm:NAME?layer=3,-2` names `vit-layer3` and `vit-layer-2`.
        """
        if self.backend not in _strict():
            return [self]
        settings = self.settings()
        if len(settings.layers) == 1 or settings.join:
            return [self]
        names = [layer_name(layer) for layer in settings.layers]
        return [
            replace(
                self,
                alias=f"{self.alias}-{name}" if layer is None else f"{self.alias}-layer{name}",
                options={**self.options, "layer": name},
            )
            for layer, name in zip(settings.layers, names, strict=True)
        ]

    def at(self, backend: str, path: Path, defaults: Mapping[str, str]) -> EncoderSpec:
        """The same encoder from a folder by another backend; the user's options go before the defaults."""
        return replace(self, backend=backend, name=str(path), options={**defaults, **self.options})


def parse_specs(texts: Iterable[str]) -> list[EncoderSpec]:
    """Reads several specs, in order; one that names several layers without `join` gives one spec a layer.

    Raises:
        EncoderError: one is malformed, or two have one alias.
    """
    specs: dict[str, EncoderSpec] = {}
    for spec in (entry for text in texts for entry in EncoderSpec.parse(text).entries()):
        if spec.alias in specs:
            raise EncoderError(
                f"encoders {specs[spec.alias]} and {spec} share the alias {spec.alias!r}: "
                f"give one another, such as {spec.alias}2={spec.backend}:{spec.name}"
            )
        specs[spec.alias] = spec
    return list(specs.values())


def _parse_options(query: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        if not (key and equals and value) or not pair.isprintable():
            raise EncoderError(f"option {pair!r} in encoder {text!r} must be written option=value")
        if key in options:
            raise EncoderError(f"option {key!r} is given twice in encoder {text!r}")
        options[key] = value
    return options


def _derived_alias(backend: str, name: str) -> str:
    """`open_clip:ViT-B-32/openai` is vit-b-32, a path is its last folder, a hub repository (also after `hf-hub:`)
    its last part, a Python file its stem."""
    if backend == "file":
        name = re.sub(r"\.py(:[^/]*)?$", "", name)
    parts = [part for part in name.split("/") if part not in ("", ".", "..", "~")]
    if not parts:
        return backend
    is_name = not name.startswith((".", "/", "~", "hf-hub:")) and not Path(name).expanduser().exists()
    word = parts[0] if backend == "open_clip" and len(parts) == 2 and is_name else parts[-1]
    return re.sub(r"[^a-z0-9_-]+", "-", word.lower()).strip("-") or backend


def _backends() -> Mapping[str, str]:
    from encoders import backend_table

    return backend_table()


def _builtin() -> Mapping[str, str]:
    from encoders import BACKENDS

    return BACKENDS


def _strict() -> set[str]:
    """Backends whose options are known here; code from a file, or of another package, may have its own."""
    return set(_builtin()) - {"file"}


def _backend_hint(word: str) -> str:
    from encoders import backend_table

    return nearest(word.rpartition("=")[2], backend_table())
