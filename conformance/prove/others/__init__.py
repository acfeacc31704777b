"""Models of other projects' tests, and the planted bugs that each model catches.

These are models, and not the suites: no test of theirs runs here. A model has the shapes, dtypes, values and
tolerances that its suite is known to use, a reference of this repository, and forward calls alone. Gradients,
compiled calls, and tests of other operations are left out; sizes and values that are not known are plain ones.
``suites`` has the models, ``comparing`` their calls and comparisons, ``memory`` the memory of these calls, and
``python -m conformance.prove.others`` judges the bugs.
"""
