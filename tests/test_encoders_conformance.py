"""The conformance test is green for what keeps the contract, and red, by name, for each way of breaking it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders_checkpoints import hf_checkpoint, open_clip_checkpoint, timm_checkpoint
from encoders_regions import butd_tsv
from torch import Tensor

from encoders import load_encoder
from encoders.conformance import check, main
from encoders.demo import demo_names
from encoders.errors import EncoderError
from encoders.module import ModuleEncoder, tokens_together
from encoders.options import Layer
from encoders.pooling import TokenGrid, from_map
from encoders.spec import EncoderSpec

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "own_encoder.md"


def broken(spec: str) -> dict[str, str]:
    findings = check(spec, second_process="no")
    return {finding.name: finding.detail for finding in findings if finding.result == "broken"}


def written(folder: Path) -> Path:
    """The guide's files, each a code block whose first line is its name."""
    for block in re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL):
        (folder / block[0]).write_text(block[1])
    return folder


def outside(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in another folder, where only an installed package is found."""
    more = {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **more}, check=False)


@pytest.mark.parametrize("name", demo_names())
def test_shipped_encoders_conform(name: str) -> None:
    assert broken(f"demo:{name}") == {}
    assert broken(f"a=demo:{name}?dtype=bf16&pool=2x2&views=3") == {}


def test_each_backend_conforms(tmp_path: Path) -> None:
    small = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
    timm_checkpoint(tmp_path / "timm", "vit_tiny_patch16_224", args=small)
    vision = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    open_clip_checkpoint(tmp_path / "clip", vision)
    hf_checkpoint(tmp_path / "hf", "dinov3_convnext")
    butd_tsv(tmp_path / "regions" / "karpathy.tsv")
    assert broken(f"timm:{tmp_path}/timm?layer=0,final&join=tokens&size=48x80") == {}
    assert broken(f"open_clip:{tmp_path}/clip?layer=0,1&join=width&dtype=fp32") == {}
    assert broken(f"hf:{tmp_path}/hf?prefix=drop") == {}
    assert broken(f"regions:{tmp_path}/regions") == {}


def test_command_tells_one_line_a_property(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo:vit"]) == 0
    out = capsys.readouterr().out
    assert "12 of 12 properties hold" in out and "ok      in another process: the same fingerprint" in out
    assert main(["demo:no_such"]) == 1
    assert "unknown demo encoder 'no_such'" in capsys.readouterr().err


def test_the_other_process_has_the_device_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is another name of the processor stands for a GPU, which may not be here."""
    commands, fingerprint = [], load_encoder("demo:vit").fingerprint

    def stubbed(command: list[str], **_more: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command[3:])
        return subprocess.CompletedProcess(command, 0, stdout=fingerprint, stderr="")

    monkeypatch.setattr("encoders.conformance.subprocess.run", stubbed)
    assert [finding for finding in check("demo:vit", device="cpu:0") if finding.result == "broken"] == []
    assert commands == [["--device", "cpu:0", "--fingerprint", "demo:vit"]]


def test_guide_by_file(tmp_path: Path) -> None:
    written(tmp_path)
    assert broken(f"colours=file:{tmp_path}/colours.py") == {}
    encoder = load_encoder(f"colours=file:{tmp_path}/colours.py")
    # Worked by hand: a grey image of level 0.25 everywhere has that colour in all 17 tokens.
    sums = torch.randn(3, 12, generator=torch.Generator().manual_seed(0)).sum(0)
    assert torch.allclose(encoder.tokens(torch.full((1, 3, 64, 64), 0.25)), (0.25 * sums).expand(1, 17, 12), atol=1e-6)
    with pytest.raises(EncoderError, match="colours have no options"):
        load_encoder(f"colours=file:{tmp_path}/colours.py?pool=2x2")


def test_guide_by_installed_package(tmp_path: Path) -> None:
    package, site = written(tmp_path), tmp_path / "site"
    flags = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    done = outside("-m", "pip", "install", *flags, "--target", str(site), ".", path=site, cwd=package)
    assert done.returncode == 0, done.stderr
    for name in ("edge_encoder.py", "pyproject.toml"):
        (package / name).unlink()
    spec = "wide=edges:small?layer=0,1&join=width&pool=4x4"
    done = outside("-m", "encoders.conformance", spec, path=site, cwd=package)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 properties hold" in done.stdout and "edges:small, 16 tokens of width 32" in done.stdout
    done = outside("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_edges.py", path=site, cwd=package)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


class Breaking:
    """Ways to break the guide's encoder, each as a change to the loaded object."""

    @staticmethod
    def tokens(change: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
        def apply(encoder: Any) -> None:
            right = encoder.tokens
            encoder.tokens = lambda images: change(right(images))

        return apply

    @staticmethod
    def attribute(name: str, value: Any) -> Callable[[Any], None]:
        return lambda encoder: setattr(encoder, name, value)


def random_noise(tokens: Tensor) -> Tensor:
    return tokens + 1e-3 * torch.rand(tokens.shape)


def batch_statistics(tokens: Tensor) -> Tensor:
    return tokens - tokens.mean(0)


def flipped(encoder: Any) -> None:
    boxes = encoder.boxes.flip(0)
    encoder.__class__ = type("Flipped", (encoder.__class__,), {"boxes": boxes})


def stray_boxes(encoder: Any) -> None:
    encoder.__class__ = type("Stray", (encoder.__class__,), {"boxes": encoder.boxes + 0.5})


def blind_to_weights(encoder: Any) -> None:
    """Shows tensors that it does not hash."""
    shown = {name: value.clone() for name, value in encoder.weights().items()}
    hashed = encoder.identity
    right = encoder.weights

    def identity() -> str:
        encoder.weights = right
        value: str = hashed()
        encoder.weights = lambda: shown
        return value

    encoder.weights, encoder.identity = (lambda: shown), identity


def blind_to_pixels(encoder: Any) -> None:
    encoder.identity = lambda known=encoder.fingerprint: known


def alias_inside(encoder: Any) -> None:
    encoder.settings = lambda: {"alias": encoder.alias}
    encoder.fingerprint = encoder.identity()


def unjson(encoder: Any) -> None:
    encoder.settings = lambda: {"cells": {4}}


def gradient(encoder: Any) -> None:
    encoder.mix.requires_grad_(True)


def uneven_pixels(encoder: Any) -> None:
    encoder.preprocess = replace(encoder.preprocess, resize="none", crop=None)


CASES: list[tuple[str, Callable[[Any], None], str, str]] = [
    ("shape", Breaking.tokens(lambda tokens: tokens[:, :-1]), "tokens", r"not \(5, 17, 12\)"),
    ("width", Breaking.attribute("width", 13), "tokens", r"not \(5, 17, 13\)"),
    ("prefix", Breaking.attribute("num_prefix", 0), "tokens", r"not \(5, 16, 12\)"),
    ("dtype", Breaking.tokens(Tensor.double), "tokens", "float64, not float32"),
    ("infinite", Breaking.tokens(lambda tokens: tokens / 0), "tokens", "not finite"),
    ("range", Breaking.tokens(lambda tokens: tokens * 1e6), "tokens", "do not fit fp16"),
    ("image ignored", Breaking.tokens(lambda tokens: tokens[:1].expand_as(tokens)), "tokens", "equal tokens"),
    ("gradient", gradient, "tokens", "carry a gradient"),
    ("random", Breaking.tokens(random_noise), "determinism", "differs by"),
    ("batch", Breaking.tokens(batch_statistics), "batch invariance", "differs by"),
    ("boxes", flipped, "boxes", "prefix token's box"),
    ("boxes outside", stray_boxes, "boxes", "leaves the image"),
    ("weights", blind_to_weights, "weights in fingerprint", "ignores mix"),
    ("no weights", Breaking.attribute("weights", dict), "weights in fingerprint", "weights.. is empty"),
    ("pixels", blind_to_pixels, "preprocessing described", "same fingerprint"),
    ("alias", alias_inside, "fingerprint", "changes with the alias"),
    ("settings", unjson, "fingerprint", "not JSON serializable"),
    ("stale", Breaking.attribute("fingerprint", "0" * 64), "fingerprint", "is not identity"),
    ("uneven", uneven_pixels, "pixels", "no fixed size"),
    ("path", Breaking.attribute("name", "/home/me/net"), "attributes", "machine's path"),
    ("precision", Breaking.attribute("dtype", "float"), "attributes", "none of fp32, fp16, bf16"),
]


@pytest.mark.parametrize(("change", "name", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_breakage_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None], name: str, words: str
) -> None:
    spec = f"colours=file:{written(tmp_path)}/colours.py"

    def load(text: str, *, device: str = "cpu") -> Any:
        encoder = load_encoder(text, device=device)
        change(encoder)
        return encoder

    monkeypatch.setattr("encoders.load_encoder", load)
    found = broken(spec)
    assert name in found and re.search(words, found[name]), found


def test_fingerprint_that_a_process_makes_up_is_found(tmp_path: Path) -> None:
    written(tmp_path)
    code = (tmp_path / "colours.py").read_text()
    (tmp_path / "colours.py").write_text(code.replace('{"cells": [4, 4]}', '{"cells": hash("colours")}'))
    findings = {finding.name: finding for finding in check(f"colours=file:{tmp_path}/colours.py")}
    assert findings["in another process"].result == "broken" and findings["loaded again"].result == "ok"


def test_file_is_named_in_every_refusal(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "wrong.py").write_text("def load_encoder(spec, *, device):\n    return 3\nraise_here = 1 / 1\n")
    (tmp_path / "fails.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "later.py").write_text("def load_encoder(spec, *, device):\n    return [][1]\n")
    cases = {
        "colour.py": "did you mean 'colours.py'",
        "colours.py:load_encode": "did you mean 'load_encoder'",
        "wrong.py": "gives a int, not an Encoder",
        "fails.py": "fails.py fails: ModuleNotFoundError",
        "later.py": "load_encoder of .*later.py fails: IndexError",
    }
    for name, words in cases.items():
        with pytest.raises(EncoderError, match=words) as caught:
            load_encoder(f"x=file:{tmp_path}/{name}")
        assert "\n" not in str(caught.value)


def test_edited_file_has_another_fingerprint(tmp_path: Path) -> None:
    file = written(tmp_path) / "colours.py"
    before = load_encoder(f"x=file:{file}").fingerprint
    assert load_encoder(f"y=file:{file}:load_encoder").fingerprint == before
    file.write_text(file.read_text().replace("images.mean((2, 3))", "images.amax((2, 3))"))
    assert load_encoder(f"x=file:{file}").fingerprint != before


TWO_WAYS = """
import torch
from torch import nn

from encoders.module import ModuleEncoder
from encoders.pooling import from_map
from encoders.preprocess import Preprocess


def made(spec, device, forward_of):
    torch.manual_seed(0)
    net = nn.Conv2d(3, 8, 16, 16)
    seen = Preprocess(
        resize="exact", size=(32, 32), interpolation="bicubic", crop=None, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return ModuleEncoder(
        spec, module=net, forward=forward_of(net), preprocess=seen, architecture={"net": "conv"}, device=device
    )


def plain(net):
    def forward(images, layers):
        return [from_map(net(images)) for _ in layers]

    return forward


def load_encoder(spec, *, device):
    return made(spec, device, plain)


def squared(spec, *, device):
    return made(spec, device, lambda net: lambda images, layers: [from_map(net(images) ** 2) for _ in layers])
"""


def test_encoders_that_differ_in_their_code_alone_share_nothing(tmp_path: Path) -> None:
    """One network and three functions that run it, in two files: each encoder's tokens are its own."""
    path, other = tmp_path / "ways.py", tmp_path / "other.py"
    path.write_text(TWO_WAYS)
    other.write_text(TWO_WAYS.replace("net(images)) for", "net(images).abs()) for"))
    specs = [f"plain=file:{path}", f"squared=file:{path}:squared", f"abs=file:{other}", f"pooled=file:{path}?pool=1x1"]
    encoders = [load_encoder(spec) for spec in specs]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, squared, absolute, pooled = tokens_together(encoders, images)
    assert plain.min() < 0
    assert torch.allclose(squared, plain**2) and torch.allclose(absolute, plain.abs())
    assert torch.allclose(pooled, plain.mean(1, keepdim=True), atol=1e-6)
    assert len({encoder.fingerprint for encoder in encoders}) == 4
    assert len({encoder.pass_key for encoder in encoders}) == 3 and encoders[0].pass_key == encoders[3].pass_key
    code = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [encoder.code for encoder in encoders[:2]] == [code, f"{code}:squared"]  # of the first, as it always was


def test_callable_objects_share_a_pass_with_themselves_alone() -> None:
    class Way:
        def __init__(self, power: int) -> None:
            self.power = power

        def __call__(self, images: Tensor, layers: Sequence[Layer]) -> list[TokenGrid]:
            return [from_map(images**self.power) for _ in layers]

    def key(way: Way) -> str:
        spec, net = EncoderSpec.parse("timm:x"), torch.nn.Conv2d(1, 1, 1)
        more: dict[str, Any] = {"architecture": {}, "device": "cpu", "preprocess": seen}
        net.load_state_dict(weights)
        return ModuleEncoder(spec, module=net, forward=way, **more).pass_key

    seen, weights = load_encoder("demo:vit").preprocess, torch.nn.Conv2d(1, 1, 1).state_dict()
    one, other = Way(1), Way(2)
    assert key(one) == key(one) != key(other)
