"""Proof of the suite: mutants of ``normkernels`` that it must kill, planted bugs that it must find, and the score.

Everything here needs the checkout. ``mutants`` makes mutants, ``copies`` writes them, ``judging`` judges one in a
process of its own, ``running`` starts these processes, and ``score`` counts what they found. ``others`` shows the
planted bugs to models of other projects' tests.
"""
