"""What slows models down on a machine: findings, with cost and remedy."""
