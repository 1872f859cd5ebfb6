"""Encoder specs as typed: what they mean, and what is refused with which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.errors import EncoderError
from encoders.options import Settings
from encoders.spec import EncoderSpec, parse_specs


def test_full_spec_is_read() -> None:
    spec = EncoderSpec.parse("clip=open_clip:ViT-B-32/openai?pool=4x3&layer=-2&dtype=bf16")
    assert (spec.alias, spec.backend, spec.name) == ("clip", "open_clip", "ViT-B-32/openai")
    assert spec.settings() == Settings(layers=(-2,), pool=(4, 3), dtype="bf16")
    assert str(spec) == "clip=open_clip:ViT-B-32/openai?pool=4x3&layer=-2&dtype=bf16"


def test_defaults() -> None:
    expected = Settings((None,), join=None, pool=None, prefix="keep", size=None, dtype="fp16", views=1)
    assert EncoderSpec.parse("demo:vit").settings() == expected


@pytest.mark.parametrize(
    ("text", "alias"),
    [
        ("demo:vit", "vit"),
        ("timm:vit_small_patch16_224.augreg_in1k", "vit_small_patch16_224-augreg_in1k"),
        ("open_clip:ViT-B-32/openai", "vit-b-32"),
        ("open_clip:hf-hub:laion/CLIP-A", "clip-a"),
        ("open_clip:hf-hub:laion/CLIP-B?size=64", "clip-b"),
        ("open_clip:/data/CLIP-C", "clip-c"),
        ("hf:facebook/dinov2-small", "dinov2-small"),
        ("hf:./some/Folder/", "folder"),
        ("timm:/data/A+B", "a-b"),
        ("file:lab/My_Net.py", "my_net"),
        ("file:My_Net.py:load_large?any=1", "my_net"),
    ],
)
def test_alias_is_derived(text: str, alias: str) -> None:
    assert EncoderSpec.parse(text).alias == alias


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vit_small", "names no backend"),
        ("tim:vit_small", "did you mean 'timm'"),
        ("demo:vit?pol=4x4", "did you mean 'pool'"),
        ("demo:vit?pool=4", "ROWSxCOLUMNS"),
        ("demo:vit?pool=0x4", "ROWSxCOLUMNS"),
        ("demo:vit?layer=last", "whole number"),
        ("demo:vit?dtype=bf61", "did you mean 'bf16'"),
        ("demo:vit?pool", "option=value"),
        ("demo:vit?pool=4x4&pool=2x2", "twice"),
        ("Clip=demo:clip", "alias 'Clip'"),
        ("a=b=demo:clip", "alias 'a=b'"),
        ("demo:", "no usable name"),
        ("=demo:vit", "alias ''"),
    ],
)
def test_refusals_name_the_value(text: str, words: str) -> None:
    with pytest.raises(EncoderError, match=words):
        EncoderSpec.parse(text)


def test_one_spec_twice_needs_two_aliases() -> None:
    with pytest.raises(EncoderError, match="share the alias 'vit'"):
        parse_specs(["demo:vit", "vit=demo:clip"])
    assert [spec.alias for spec in parse_specs(["demo:vit", "vit2=demo:vit"])] == ["vit", "vit2"]


def test_which_names_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "repo").mkdir(parents=True)
    assert EncoderSpec.parse("hf:org/repo").local == Path("org/repo")
    assert EncoderSpec.parse("hf:org/other").local is None
    assert EncoderSpec.parse("hf:./absent").local == Path("absent")
    assert EncoderSpec.parse("timm:~/x").local == Path.home() / "x"


@given(
    st.text(st.sampled_from("abZ=:?&/.-_14xp ol\n\\é"), max_size=24).map(lambda tail: f"demo{tail}")
    | st.text()
)
def test_any_text_is_read_back_or_refused(text: str) -> None:
    try:
        spec = EncoderSpec.parse(text)
    except EncoderError as error:
        assert "\n" not in str(error)
        return
    assert EncoderSpec.parse(str(spec)) == spec


def test_reading_a_spec_imports_nothing_heavy() -> None:
    code = (
        "import sys; import encoders; from encoders.spec import EncoderSpec; EncoderSpec.parse('demo:vit');"
        "print([m for m in ('torch', 'timm', 'PIL', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
