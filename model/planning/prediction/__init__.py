"""How long a step of a plan would take, and the plan that is predicted to be fastest."""
