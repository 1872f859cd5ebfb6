"""Training: batches as a pure function of seed and step in, a trained model and its record out.

`loop.train_model` is the entry; `settings` holds what can be set (no torch is loaded for it). A step flows from
`sampler` (which examples) through `batches` (which coalitions, whose features) and `reader` (read ahead) to the loop;
`optimizer`, `schedule`, `average` and `progress` are its parts. `checkpoint` writes all of it, and brings it back.
"""
