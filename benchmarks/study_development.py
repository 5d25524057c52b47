"""Write docs/study_development.md: the gradient scores on sets made to choose a default on.

Command: python benchmarks/study_development.py [--models NAME ...] [--zoo DIR] [--data-root DIR] [--work DIR]
[--limit N]

THE RULE, set down before any of these scores was seen: a default is chosen by the mean of its mean AUROC at B = 1 and at
B = 5, over the zoo's models of the three families and, of each, nine sets (``development_sets``). The present default is
replaced only by a score that is better by that measure with the paired interval of the difference above 0. The
development pairs of the study are told beside it and must not lose.
"""
