"""The suite's own tests: fakes, golden values and the rules of the tree. They are not in the wheel."""
