"""The machine as Linux describes it: topology, cgroups, memory policies, measured bandwidth."""
