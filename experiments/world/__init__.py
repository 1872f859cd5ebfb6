"""The embedded world: rendered scenes, and six datasets about them in the official on-disk formats.

`scene` says what there is, `renderer` paints it, `language` talks about it, one `write_*` module per
format puts it on disk, and `factors.json` beside each dataset records which factor decides each record.
"""
