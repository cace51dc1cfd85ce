"""Pure values and rules: records, outcomes, profile state, problem codes."""
