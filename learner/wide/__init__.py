"""The wide part: FTRL-Proximal, and which keys get a weight."""
