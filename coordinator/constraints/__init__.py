"""Grammars that answers obey: compiled by llguidance, followed token by token."""
