"""`python -m encoders.conformance SPEC…`: whether an encoder keeps the contract that the toolkit builds on.

For people who bring an encoder of their own, by entry point or by file; every built-in passes it too. `check`
is the same from Python. Handed a spec; hands on one line a property (`encoders.contract`): what was looked at,
and what was found.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from encoders.base import Encoder


class Finding(NamedTuple):
    """One property of the contract: what was found, in numbers where there are any."""

    name: str
    result: Literal["ok", "broken"]
    detail: str

    def __str__(self) -> str:
        return f"{self.result:7} {self.name}: {self.detail}"


def check(spec: str, *, device: str = "cpu", second_process: Literal["yes", "no"] = "yes") -> list[Finding]:
    """Every property of the contract for the encoder that a spec names.

    Args:
        second_process: whether to load the encoder in another process, to see that its fingerprint is the same.

    Raises:
        EncoderError: the encoder cannot be loaded at all.
    """
    from encoders import load_encoder
    from encoders.contract import BASIC, FILES, PIXELS, same

    encoder = load_encoder(spec, device=device)
    properties = {**BASIC, **(FILES if encoder.reads == "files" else PIXELS)}
    properties["loaded again"] = lambda one: same(one, load_encoder(spec, device=device))
    if second_process == "yes":
        properties["in another process"] = lambda one: _elsewhere(one, spec, device=device)
    return [_finding(name, look, encoder) for name, look in properties.items()]


def _finding(name: str, look: Callable[[Encoder], str], encoder: Encoder) -> Finding:
    from encoders.contract import Broken

    try:
        return Finding(name, "ok", look(encoder))
    except Broken as error:
        return Finding(name, "broken", str(error))
    except Exception as error:  # a third party's code may raise anything, and the other properties still count
        return Finding(name, "broken", f"it raises {type(error).__name__}: {' '.join(str(error).split())}")


def _elsewhere(encoder: Encoder, spec: str, *, device: str) -> str:
    from encoders.contract import require

    command = [sys.executable, "-m", "encoders.conformance", "--device", device, "--fingerprint", spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"it cannot be loaded there: {done.stderr.strip()[-300:]}")
    other = done.stdout.split()[-1]
    require(other == encoder.fingerprint, f"it has the fingerprint {other}")
    return "the same fingerprint"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m encoders.conformance", description=__doc__)
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="such as mine=file:my_encoder.py or demo:vit")
    parser.add_argument("--device", default="cpu", help="such as cuda or cuda:1 (default: cpu)")
    parser.add_argument("--fingerprint", action="store_true", help="print the fingerprints and check nothing")
    args = parser.parse_args(argv)
    from encoders import load_encoder
    from encoders.errors import EncoderError
    from encoders.spec import parse_specs

    broken = 0
    try:
        for spec in map(str, parse_specs(args.specs)):
            if args.fingerprint:
                print(load_encoder(spec, device=args.device).fingerprint)
                continue
            findings = check(spec, device=args.device)
            failed = sum(finding.result == "broken" for finding in findings)
            broken += failed
            print(spec, *findings, sep="\n  ")
            print(f"  {len(findings) - failed} of {len(findings)} properties hold")
    except EncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
