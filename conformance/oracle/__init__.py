"""The oracle: intervals, a model of the machine, contracts. It imports nothing of the judged package."""
