"""Reading lines: each line of an export becomes a typed row, or a reject that says why."""
