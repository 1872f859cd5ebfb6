"""The fusion room: tokens of several frozen encoders and strings go in, one fused stream comes out.

`fusion.model.FusionModel` is the entry; `fusion.types` holds what crosses the room's borders (features,
coalitions, encoded streams). Operators say how the streams are fused and are named in `OPERATORS`, each as
"module:class", loaded only when used; `OPTIONS` says which settings each of them takes. `ALIGNMENTS` names the
ways from an encoder's tokens to the cells of a common grid. `fusion.ve_dropout` draws which encoders a training
group sees. Importing this package loads no torch.
"""

OPERATORS: dict[str, str] = {
    "concat": "fusion.concat:Concat",
    "coattention": "fusion.coattention:CoAttention",
    "channel": "fusion.channel:Channel",
    "resampler": "fusion.resampler:Resampler",
    "gated": "fusion.gated:Gated",
    "window": "fusion.window:Window",
    "late": "fusion.late:Late",
}

OPTIONS: dict[str, tuple[str, ...]] = {
    "concat": (),
    "coattention": (),
    "channel": ("grid", "align"),
    "resampler": ("queries", "reads"),
    "gated": ("grid", "align"),
    "window": ("grid", "reads"),
    "late": (),
}

ALIGNMENTS: dict[str, str] = {
    "area": "fusion.alignment:area",
    "bilinear": "fusion.alignment:bilinear",
    "nearest": "fusion.alignment:nearest",
}
