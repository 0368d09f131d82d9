"""A machine as Linux describes it: topology, memory policy, measured bandwidth."""
