"""Checks that take minutes and have make targets of their own."""
