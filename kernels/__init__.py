"""Pure computation: arrays in, arrays out; imports nothing of ours."""
