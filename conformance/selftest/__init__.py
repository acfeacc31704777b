"""Would the suite notice? Its own tests: fakes, golden values, the rules of the tree. Not in the wheel."""
