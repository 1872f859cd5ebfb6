"""The fusion room: tokens of several frozen encoders and strings go in, one fused stream comes out.

`fusion.model.FusionModel` is the entry; `fusion.types` holds what crosses the room's borders (features,
coalitions, encoded streams). Operators say how the streams are fused and are named in `OPERATORS`, each as
"module:class", loaded only when used. `fusion.ve_dropout` draws which encoders a training group sees.
Importing this package loads no torch.
"""

OPERATORS: dict[str, str] = {
    "concat": "fusion.concat:Concat",
}
