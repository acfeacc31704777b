"""What a contract allows: intervals, a model of the machine, contracts. Imports nothing of the judged package."""
