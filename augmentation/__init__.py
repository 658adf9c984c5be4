"""Makes training data for `action_ddim`."""
