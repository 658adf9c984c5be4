"""An agent's next action: read gestures (asked for in words), costs (as a number to be small), planner; and what else plans."""
