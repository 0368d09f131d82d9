"""Binding a process to its node, and proof of where its pages lie."""
