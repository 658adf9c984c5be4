"""An agent's next action: read gestures (what is asked for in words), costs (as a number to be small), planner; baselines."""
