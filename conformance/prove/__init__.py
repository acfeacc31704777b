"""Proof of the suite: mutants of ``normkernels`` that it must kill, planted bugs that it must find, and the score.

Everything here needs the checkout. ``mutants`` makes mutants, ``codes`` tells which of them are the same program,
and ``copies`` writes them. ``reach`` records which cases run which lines, ``order`` puts the cases that reach a
mutant in order, and ``judging`` judges one in a process of its own; ``running`` starts these processes, and
``company`` judges those that live together. ``score`` counts what was found. ``seeds`` judges the planted bugs
under other seeds, and ``others`` shows them to models of other projects' tests.
"""
