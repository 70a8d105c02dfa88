"""Measures inference: Sippet's engine builds against other engines, on the same weights, in one run.

`cases` says what is measured, `subjects` by which engines, `browser` and `native` run them, `rounds` in which order,
`report` what comes out of it. The page's half is ``static/js/bench/``.
"""
