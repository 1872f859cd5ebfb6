"""The class that wraps a library's frozen module into an `Encoder`.

A backend hands over the module, a function from pixels to a `TokenGrid` for each layer, the preprocessing and
what defines the architecture; this adds pooling, joined layers, precision, compilation, views, boxes and the
fingerprint. A model that is loaded for several encoders has its weights in memory once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from encoders.base import Encoder, digest_json, digest_of, fingerprint_of, one_line
from encoders.compiled import Forward, compiled
from encoders.errors import EncoderError
from encoders.pooling import TokenGrid, join_tokens, join_width, pool_grid, view_boxes
from encoders.precision import whole_float32
from encoders.preprocess import Preprocess
from encoders.spec import EncoderSpec
from encoders.transfer import as_stored

__all__ = ["Forward", "ModuleEncoder", "tokens_together"]

_IN_USE: WeakValueDictionary[tuple[str, str, str], nn.Module] = WeakValueDictionary()
"""Modules of living encoders, by digest of weights, device and layout; their tensors alone are shared."""


class ModuleEncoder(Encoder):
    """A library's module, frozen.

    Args:
        spec: how the user named it.
        module: the image tower; its state dict is what the fingerprint covers.
        forward: pixels and layers to tokens with their layout.
        architecture: what beside the weights decides the values (such as the number of heads), as JSON
            values.

    Raises:
        EncoderError: a layer does not exist, layers do not fit the way they are joined, or the grid is smaller
            than `pool`.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        *,
        module: nn.Module,
        forward: Forward,
        preprocess: Preprocess,
        architecture: Mapping[str, Any],
        device: str,
    ) -> None:
        options = spec.settings()
        if len(options.layers) > 1 and options.join is None:
            raise EncoderError(
                f"encoder {spec} names {len(options.layers)} layers: add join=width or join=tokens, or name one "
                f"encoder a layer, such as {spec.entries()[0]}"
            )
        self.alias = spec.alias
        self.name = f"{spec.backend}:{spec.local.resolve().name if spec.local else spec.name}"
        self.dtype = options.dtype
        self.preprocess = preprocess
        self.views = options.views
        self._options = options
        self._architecture = dict(architecture)
        self._view = 0
        self._device = torch.device(device)
        self._memory = torch.channels_last if options.layout == "channels_last" else torch.preserve_format
        frozen: Any = module.eval().requires_grad_(False).to(self._device)
        self._module: nn.Module = frozen.to(memory_format=self._memory)
        self._forward = forward
        self._way = _way(forward)
        self._measure(spec)
        if options.compile == "yes":
            self._forward = compiled(forward, name=str(spec))
        self.num_params = sum(parameter.numel() for parameter in module.parameters())
        self._digest = digest_of(self.weights())
        _share_weights(self._module, key=(self._digest, str(self._device), options.layout))
        self.fingerprint = fingerprint_of(self, weights=self._digest)

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.tokens_of([self], images)[0]

    @torch.no_grad()
    def tokens_of(self, members: Sequence[ModuleEncoder], images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """The tokens of encoders that share this one's `pass_key`, from one pass."""
        assert {member.pass_key for member in members} == {self.pass_key}
        layers = list(dict.fromkeys(layer for member in members for layer in member._options.layers))
        pixels = images.to(self._device, non_blocking=True, memory_format=self._memory)
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.dtype == "bf16")
        with whole_float32(), autocast:
            raw = self._forward(pixels, layers)
        found = {
            layer: TokenGrid(grid.prefix.float(), grid.grid.float()) for layer, grid in zip(layers, raw, strict=True)
        }
        return [member._finished([found[layer] for layer in member._options.layers]) for member in members]

    def weights(self) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = self._module.state_dict()
        return state

    def settings(self) -> Mapping[str, Any]:
        options = self._options
        return {
            "architecture": self._architecture,
            "layers": list(options.layers),
            "join": options.join,
            "pool": options.pool,
            "prefix": options.prefix,
            **self._kernels(),
        }

    def view(self, number: int) -> Encoder:
        if not 0 <= number < self.views:
            raise EncoderError(f"encoder {self.alias} has no view {number}: its views are 0 to {self.views - 1}")
        if number == self._view:
            return self
        other = copy.copy(self)
        other._view = number
        other.preprocess = replace(self.preprocess, view=number)
        other.fingerprint = fingerprint_of(other, weights=self._digest)
        return other

    @property
    def pass_key(self) -> str:
        precision = "bfloat16" if self.dtype == "bf16" else "float32"
        described = [self._architecture, self.preprocess.describe(), precision, self._digest, self._kernels()]
        return digest_json({"pass": [*described, self.code, self._way]})

    @property
    def boxes(self) -> Float[Tensor, "n 4"]:
        return view_boxes(super().boxes, self.preprocess.window)

    def _kernels(self) -> dict[str, str]:
        """What chooses other kernels, whose last digits differ; empty for the library's own."""
        chosen = {"compile": self._options.compile, "layout": self._options.layout}
        return {key: value for key, value in chosen.items() if value not in ("no", "contiguous")}

    def _finished(self, layers: Sequence[TokenGrid]) -> Float[Tensor, "b n d"]:
        """Layers pooled and joined."""
        pooled = self._pooled(layers)
        return join_tokens(pooled) if self._options.join == "tokens" else join_width(pooled).flat()

    def _pooled(self, layers: Sequence[TokenGrid]) -> list[TokenGrid]:
        if self._options.prefix == "drop":
            layers = [TokenGrid(layer.prefix[:, :0], layer.grid) for layer in layers]
        return [pool_grid(layer, self._options.pool) for layer in layers]

    @torch.no_grad()
    def _measure(self, spec: EncoderSpec) -> None:
        """One image through the model, twice: the library itself says which layers and shapes there are."""
        height, width = self.preprocess.output
        options = self._options
        ramp = torch.linspace(-1, 1, 3 * height * width, device=self._device).reshape(1, 3, height, width)
        try:
            raw, again = (self._forward(ramp, options.layers) for _ in range(2))
            if not all(layer.grid.numel() for layer in raw):
                raise ValueError("the image is smaller than one token")
        except (AssertionError, AttributeError, LookupError, ValueError, RuntimeError, TypeError) as error:
            raise EncoderError(f"encoder {spec} fails on a {height}x{width} image: {one_line(error)}") from error
        for layer, other in zip(raw, again, strict=True):
            rows, columns = layer.grid.shape[1:3]
            if not torch.allclose(layer.flat(), other.flat(), rtol=0.01, atol=0.01):  # kernels differ by less
                raise EncoderError(f"encoder {spec} gives other tokens for the same image when it is asked again")
            if options.pool is not None and (options.pool[0] > rows or options.pool[1] > columns):
                wanted = "x".join(map(str, options.pool))
                raise EncoderError(
                    f"pool={wanted} in encoder {spec} is larger than its grid, which is {rows}x{columns}"
                )
        pooled = self._pooled(raw)
        try:
            tokens = join_tokens(pooled) if options.join == "tokens" else join_width(pooled).flat()
        except ValueError as error:
            raise EncoderError(f"encoder {spec}: {error}") from error
        self.width = tokens.shape[2]
        self.grid = (pooled[0].grid.shape[1], pooled[0].grid.shape[2])
        self.num_grids = len(pooled) if options.join == "tokens" else 1
        self.num_prefix = tokens.shape[1] - self.num_grids * self.grid[0] * self.grid[1]


def tokens_together(encoders: Sequence[Encoder], images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n d"]]:
    """Each encoder's tokens of the same pixels; encoders with one `pass_key` (one model at several layers,
    poolings or joins, or under several names) share a forward pass. Values are those of `tokens`; on a GPU they are
    rounded there as the store would round them (`encoders.transfer.as_stored`)."""
    groups: dict[str, list[int]] = {}
    for position, encoder in enumerate(encoders):
        groups.setdefault(encoder.pass_key, []).append(position)
    found: dict[int, Tensor] = {}
    for positions in groups.values():
        members = [encoders[position] for position in positions]
        modules = [member for member in members if isinstance(member, ModuleEncoder)]
        if len(modules) == len(members) > 1:
            tokens = modules[0].tokens_of(modules, images)
        else:
            once = {member.fingerprint: member for member in members}
            own = {fingerprint: member.tokens(images) for fingerprint, member in once.items()}
            tokens = [own[member.fingerprint] for member in members]
        found.update(zip(positions, tokens, strict=True))
    return [as_stored(found[position], dtype=encoder.dtype) for position, encoder in enumerate(encoders)]


def _way(forward: Forward) -> str:
    """Which forward function it is: where it is written, so that loading twice gives one; else the very object."""
    name = getattr(forward, "__qualname__", None)
    return f"object {id(forward)}" if name is None else f"{forward.__module__}:{name}"


def _share_weights(module: nn.Module, *, key: tuple[str, str, str]) -> None:
    """Lets a module use the tensors of an earlier one with the same values, such as one model's of another layer.

    Values are compared, for an earlier module may have been altered since its digest was taken.
    """
    earlier = _IN_USE.get(key)
    theirs = {} if earlier is None else earlier.state_dict()
    own = module.state_dict(keep_vars=True)
    if own.keys() != theirs.keys() or not all(torch.equal(tensor, theirs[name]) for name, tensor in own.items()):
        _IN_USE[key] = module
        return
    for name, tensor in own.items():
        tensor.data = theirs[name]
