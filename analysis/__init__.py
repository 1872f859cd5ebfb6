"""Statistics and the report of a finished run.

Handed a run folder (DESIGN.md): per-example answers and small side files. Hands on `results.json`,
`report.html`, `report.md` and `figures/`. Nothing of this needs a model or an encoder: every number can be computed
again from the folder alone, and images only illustrate. `results.assemble` is the statistics, `report.write_report` the
files, `leaderboard` several runs side by side, `terminal` the summary, `controls` the definition of the controls; the
`live` modules and `gradients` look at a model that a caller hands them. Importing this package loads nothing heavy.
"""

SECTIONS: dict[str, str] = {
    "answers": "analysis.answers:load_answers",
    "results": "analysis.results:assemble",
    "report": "analysis.report:write_report",
    "leaderboard": "analysis.leaderboard:leaderboard",
    "leaderboard page": "analysis.leaderboard_page:write_leaderboard",
    "summary": "analysis.terminal:summary_lines",
    "similarity": "analysis.similarity:similarity_table",
    "streamed similarity": "analysis.streamed:StreamedSimilarity",
    "controls": "analysis.controls:CONTROLS",
    "sampled coalitions": "analysis.sampled:sampled_coalitions",
    "live coalitions": "analysis.live:live_shapley",
    "live attention": "analysis.live_attention:live_attention",
    "gradients": "analysis.gradients:integrated_gradients",
}
"""What the folder offers, as lazy "module:object" strings."""
