"""Statistics and the report of a finished run.

Handed a run folder (DESIGN.md): per-example answers and small side files. Hands on `results.json`,
`report.html`, `report.md` and `figures/`. Nothing here needs a model, an encoder or an image: every number
can be computed again from the folder alone. `results.assemble` is the statistics, `report.write_report` the
files, `terminal` the summary. Importing this package loads nothing heavy.
"""

SECTIONS: dict[str, str] = {
    "answers": "analysis.answers:load_answers",
    "results": "analysis.results:assemble",
    "report": "analysis.report:write_report",
    "summary": "analysis.terminal:summary_lines",
    "cka": "analysis.similarity:similarity_table",
}
"""What the folder offers, as lazy "module:object" strings."""
